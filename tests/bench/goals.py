"""What the daemon is to reach beside its peers, and which cells of a run show it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs

from tests.bench.peers import ERAS, OFFICIAL, ORIGINAL
from tests.bench.report import Figures, Run, by_place, markdown, number
from tests.bench.rows import Cell

#: Table, row and column of a cell, and the name of one of its figures.
Place = tuple[str, str, str, str]


@attrs.frozen
class Goal:
    """One row.

    Attributes:
        what: What is measured.
        target: What is to be reached; None where a row is only shown.
        ours: Where it is found: one place for each of `ERAS`, or one alone where the era makes no difference.
        peer: What it is compared with, or shown beside.
        beside: What that is called.
        relative: Whether ours counts as a multiple of the peer's.
        unit: Of ours, and of the peer's.
        lower: Whether less is better.
    """

    what: str
    target: float | None
    ours: tuple[Place, ...]
    peer: Place | None = None
    beside: str = ""
    relative: bool = False
    unit: str = ""
    lower: bool = False

    def places(self) -> Iterator[Place]:
        """Yield all that it needs."""
        yield from self.ours
        if self.peer is not None:
            yield self.peer

    def reached(self, found: dict[tuple[str, str, str], Figures]) -> tuple[list[float], float | None] | None:
        """Return what is reached in each era, and the peer's figure; None unless all of it was measured."""
        if any(place[:3] not in found or place[3] not in found[place[:3]] for place in self.places()):
            return None
        *ours, last = (found[place[:3]][place[3]][0] for place in self.places())
        if self.peer is None:
            return [*ours, last], None
        return [each / last for each in ours] if self.relative else ours, last

    def worst(self, values: Sequence[float]) -> float:
        """Return the value that counts."""
        return max(values) if self.lower else min(values)

    def ratio(self, values: Sequence[float]) -> float | None:
        """Return what is reached as a part of the goal: 1 and more reaches it."""
        if self.target is None:
            return None
        worst = self.worst(values)
        return self.target / worst if self.lower else worst / self.target


def _eras(table: str, row: str, column: str, figure: str = "rate") -> tuple[Place, ...]:
    return tuple((table, row.format(era), column, figure) for era in ERAS)


def _adding(column: str, target: float, peer: str, what: str) -> Goal:
    ours = _eras("add", "redstreamd, {}", column)
    label = "the rebuilt original" if peer == ORIGINAL else peer
    return Goal(what, target, ours, ("add", peer, column, "rate"), label, relative=True, unit="calls/s")


def _alone(table: str, row: str, figure: str) -> tuple[Place, ...]:
    return ((table, row, "", figure),)


def _waking(what: str, target: float | None, row: str, figure: str) -> Goal:
    return Goal(what, target, _alone("waits", row, figure), unit="ms", lower=True)


def _polite(quantile: str, target: float, figure: str) -> Goal:
    what = f"a polite client beside a greedy one with 50 connections, {quantile}"
    beside = ("polite", "alone", "", figure)
    return Goal(what, target, _alone("polite", _GREEDY, figure), beside, "alone", unit="ms", lower=True)


_PIPELINED: Place = ("add", "redis-benchmark XADD -P16", "1", "rate")
_ONE_CLIENT = "redis-benchmark -P16, one client"
_EIGHT = "8 clients of 8"
_ONE_STREAM = "1,000 waiters on one stream"
_MANY_STREAMS = "1,000 waiters on 100 streams"
_SUBSCRIBERS = "resource updates, 1,000 subscribers"
_EIGHT_DEMANDS = "8 clients with 8 to 2,560 in flight"
_GREEDY = "beside 50 greedy connections"

GOALS = (
    _adding("64", 2.0, ORIGINAL, "stream_add, 64 in flight"),
    _adding("16", 1.4, ORIGINAL, "stream_add, 16 in flight"),
    _adding("1", 1.0, ORIGINAL, "stream_add, 1 in flight"),
    _adding(_EIGHT, 3.5, ORIGINAL, "stream_add, 8 clients of 8 in flight"),
    _adding("64", 100, OFFICIAL, "stream_add, 64 in flight"),
    Goal(
        "stream_add of 100 entries, 16 in flight",
        1.2,
        _eras("batches", "stream_add of 100, {}", "16"),
        _PIPELINED,
        _ONE_CLIENT,
        relative=True,
        unit="entries/s",
    ),
    Goal(
        "stream_read of 100 entries, 16 in flight",
        0.9,
        _eras("batches", "reading 100: redstreamd, {}", "16"),
        _PIPELINED,
        _ONE_CLIENT,
        relative=True,
        unit="entries/s",
    ),
    Goal(
        "work_take of 10 + work_done, 16 in flight",
        20_000,
        _eras("batches", "work_take of 10 + work_done, {}", "16"),
        unit="entries/s",
    ),
    Goal(
        "add → take → done of one entry, 64 in flight",
        5_000,
        _eras("cycles", "add → take → done, {}", "64"),
        unit="cycles/s",
    ),
    Goal(
        "waking 1 waiter, p50",
        0.5,
        _eras("waits", "stream_wait, 1 waiter, {}", "", "p50_ms"),
        ("waits", "XREAD BLOCK on Redis, 1 waiter", "", "p50_ms"),
        "XREAD BLOCK",
        unit="ms",
        lower=True,
    ),
    Goal(
        "stream_add of 32 KiB, 16 in flight",
        250,
        _eras("large", "stream_add of 32 KiB, {}", "16"),
        ("large", "redis-benchmark XADD of 32 KiB", "16", "rate"),
        _ONE_CLIENT,
        unit="MB/s",
    ),
    Goal("start: listening", 400, _alone("start", "redstreamd", "listening_ms"), unit="ms", lower=True),
    Goal(
        "start: first answer to a call without a handshake",
        500,
        _alone("start", "redstreamd", "direct_ms"),
        unit="ms",
        lower=True,
    ),
    Goal(
        "start: first answer to a handshake",
        900,
        _alone("start", "redstreamd", "handshake_ms"),
        ("start", ORIGINAL, "", "handshake_ms"),
        "the rebuilt original",
        unit="ms",
        lower=True,
    ),
    Goal("memory after a call", 75, _alone("start", "redstreamd", "mib"), unit="MiB", lower=True),
    Goal(
        "an idle connection",
        12,
        (("memory", "redstreamd", "", "handshake_kib"), ("memory", "redstreamd", "", "modern_kib")),
        unit="KiB",
        lower=True,
    ),
    Goal("a blocked wait", 16, _alone("memory", "redstreamd", "wait_kib"), unit="KiB", lower=True),
    _waking("1,000 waiters on one stream: the daemon's time for an entry", 40, _ONE_STREAM, "server_ms"),
    # The rest of that time are their next waits.
    _waking("the same, until all are told", None, _ONE_STREAM, "told_ms"),
    _waking("1,000 waiters on one stream: the last is told", 60, _ONE_STREAM, "last_ms"),
    _waking("1,000 waiters on 100 streams, p50", 1, _MANY_STREAMS, "p50_ms"),
    _waking("1,000 waiters on 100 streams, p99", 5, _MANY_STREAMS, "p99_ms"),
    _waking("1,000 subscribers: the last is told", 25, _SUBSCRIBERS, "last_ms"),
    Goal("1,000 subscribers: notifications", 40_000, _alone("waits", _SUBSCRIBERS, "rate"), unit="/s"),
    *(
        Goal(
            f"pauses of the collector, {what}",
            5,
            _alone("collector", what, "longest_ms"),
            unit="ms",
            lower=True,
        )
        for what in (
            "1,000 waits at 100 streams, each woken once",
            "1,000 waits at one stream, woken 3 times",
        )
    ),
    Goal(
        "a page of stream_list after the first, 100,000 streams",
        5,
        (("streams", "stream_list, page of 50", "100,000", "next_ms"),),
        unit="ms",
        lower=True,
    ),
    Goal(
        "one greedy client with admission, of without",
        95,
        _alone("sharing", "one client, adds, 256 in flight", "percent"),
        unit="%",
    ),
    Goal("8 clients together, of one alone", 90, _alone("sharing", _EIGHT_DEMANDS, "percent"), unit="%"),
    Goal(
        "8 clients with different demands: the furthest from an equal share",
        20,
        _alone("sharing", _EIGHT_DEMANDS, "deviation_percent"),
        unit="%",
        lower=True,
    ),
    _polite("p50", 5, "p50_ms"),
    _polite("p99", 25, "p99_ms"),
    Goal(
        "the daemon's memory beside 50 greedy connections",
        512,
        _alone("polite", _GREEDY, "mib"),
        unit="MiB",
        lower=True,
    ),
)

#: Table, row and column of every cell that a goal needs.
CELLS = {place[:3] for goal in GOALS for place in goal.places()}


def wants(cell: Cell, only: Sequence[str]) -> bool:
    """Tell whether a cell belongs to the goals, and these are asked for."""
    return "goals" in only and (cell.table, cell.row, cell.column) in CELLS


def table(run: Run) -> str:
    """Return the goals beside what a run reached; the era that counts is bold."""
    found = by_place(run)
    return markdown(
        ["", "goal", "reached", "ratio to goal", *ERAS, "beside"],
        (_row(goal, goal.reached(found)) for goal in GOALS),
    )


def _row(goal: Goal, reached: tuple[list[float], float | None] | None) -> list[str]:
    unit = "times" if goal.relative else goal.unit
    what = f"{goal.what}, against {goal.beside}" if goal.relative else goal.what
    target = "" if goal.target is None else f"{'≤' if goal.lower else '≥'} {number(goal.target)} {unit}"
    if reached is None:
        return [what, target, "not measured", "", "", "", ""]
    values, peer = reached
    worst, ratio = goal.worst(values), goal.ratio(values)
    eras = [f"**{number(each)}**" if each == worst else number(each) for each in values]
    return [
        what,
        target,
        f"{number(worst)} {unit}",
        "" if ratio is None else number(ratio),
        *(eras if len(eras) == len(ERAS) else ["", ""]),
        "" if peer is None else f"{goal.beside}: {number(peer)} {goal.unit}",
    ]
