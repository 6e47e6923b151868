"""What the polite client saw and what the daemon used beside an attacker, and whether that is the goal."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import attrs

from tests.fairness.rows import MIB, Row

KINDS: Final = ("server/discover", "stream_add", "stream_read")
#: Milliseconds of each kind of call beside any attacker, on two cores.
GOALS_P50: Final = (3.0, 5.0, 5.0)
GOALS_P99: Final = (20.0, 25.0, 25.0)
#: Until the waits of who has left are gone. A second is the goal; a machine that is full takes twice the CPU
#: time for the same.
FREED_SECONDS: Final = 2.0
#: Until a client that connects is answered.
CONNECT_SECONDS: Final = 0.2
#: Medians of the polite client alone on the machine that the goals are for, in milliseconds.
USUAL_P50: Final = (0.7, 1.0, 1.0)
GOAL_PEAK: Final = 512 * MIB
#: Errors of calls for which Redis took longer than it has, as their causes say. A connection that is lost in
#: another way is none of them.
_OF_DEADLINES: Final = re.compile(
    r'"code":"(?:OUTCOME_UNKNOWN|TIMEOUT|CONNECTION_ERROR)".*"cause":"'
    r"(?:no reply to [^\"]+|the server accepted the connection but did not answer the login) within [0-9.]+ s"
)
#: Memory of a daemon that no row was run with, or a little more.
FRESH: Final = 80 * MIB
#: What may be left of the memory afterwards: so much more than before, or this many times that.
GOAL_LEFT: Final = 32 * MIB, 1.3


def quantile(values: Sequence[float], share: float) -> float:
    """Return a quantile of times in seconds, in milliseconds; NaN of none."""
    ordered = sorted(values)
    return ordered[int((len(ordered) - 1) * share)] * 1e3 if ordered else float("nan")


#: Beside a light attacker: so many times what the polite client took alone, or longer by a turn of the loop.
LIGHT_TIMES: Final = 2.0
LONGEST_TURN: Final = 5.0


@attrs.frozen
class Polite:
    """What the polite client saw.

    Attributes:
        times: Seconds from request to answer, of each kind of call.
        fair: The same without what the daemon, Redis and the client waited for a core.
        ran: How long the daemon was running meanwhile.
        late: Seconds by which the client's own sleeps ended late.
        refused: Answers that are errors.
        lost: Calls without an answer.
    """

    times: tuple[list[float], ...]
    fair: tuple[list[float], ...]
    ran: tuple[list[float], ...]
    late: list[float]
    refused: list[str]
    lost: int

    def p50(self, *, fair: bool = False) -> list[float]:
        """Medians of the kinds in milliseconds."""
        return [quantile(each, 0.5) for each in (self.fair if fair else self.times)]

    def p99(self, *, fair: bool = False) -> list[float]:
        """99th percentiles of the kinds in milliseconds."""
        return [quantile(each, 0.99) for each in (self.fair if fair else self.times)]

    def failures(self, *, timely: bool = False) -> list[str]:
        """Return which of its calls were not served at all.

        Args:
            timely: Leave out those that a deadline ended: a machine without time for Redis brings that about.
                A connection that was lost before its time is a defect on any machine.
        """
        refused = [each for each in self.refused if not (timely and _OF_DEADLINES.search(each))]
        failed = []
        if refused:
            failed.append(f"{len(refused)} refused: {refused[0][:600]}")
        if self.lost:
            failed.append(f"{self.lost} lost")
        return failed

    @property
    def longest(self) -> list[float]:
        """The longest of each kind in milliseconds."""
        return [quantile(each, 1.0) for each in self.times]

    @property
    def calls(self) -> int:
        """How many were answered."""
        return sum(map(len, self.times))


@attrs.frozen
class Beside:
    """What was measured beside an attacker.

    Attributes:
        row: The attacker.
        polite: What the polite client saw.
        attack: What the attacker counted.
        seconds: For how long.
        cores: CPU seconds in a second: of the daemon, of Redis, of the attacker, and of all others.
        memory: Bytes of the daemon: before, at the most, and afterwards.
        rest_seconds: How long the daemon went on working when the attacker had left.
        broken: Promises of the row that were not kept.
        freed_seconds: How long its waits were there after it had left; 0 where that is not promised.
        frames: Who had the loop, if that was asked for: share and function.
        connect_seconds: How long who connected waited for an answer at the most; 0 where nothing is promised.
    """

    row: Row
    polite: Polite
    attack: Mapping[str, Any]
    seconds: float
    cores: Mapping[str, float]
    memory: tuple[int, int, int]
    rest_seconds: float
    broken: Sequence[str]
    freed_seconds: float
    frames: Sequence[tuple[float, str]]
    connect_seconds: float = 0.0

    def shortfalls(
        self,
        alone: Polite,
        *,
        fair: bool = False,
        scaled: bool = False,
        times: float = 1.0,
        left_mib: float = 0.0,
    ) -> list[str]:
        """Return what of the goals is not reached.

        Args:
            alone: What the polite client saw alone.
            fair: Compare the times without what was waited for a core.
            scaled: Allow as many times more as the polite client alone took longer than usual.
            times: Allow so many times the goals of the times.
            left_mib: Allow so many MiB afterwards, if that is more than the goal.
        """
        p50, p99 = ([times * each for each in of] for of in goals(self.row, alone, scaled=scaled))
        short = [
            f"{kind} {name} {value:.1f} ms > {goal:.3g}"
            for name, values, goals in (
                ("p50", self.polite.p50(fair=fair), p50),
                ("p99", self.polite.p99(fair=fair), p99),
            )
            for kind, value, goal in zip(KINDS, values, goals, strict=True)
            if not value <= goal
        ]
        short += [*self.polite.failures(), *self.broken]
        if self.freed_seconds > FREED_SECONDS:
            short.append(f"its waits were gone after {self.freed_seconds:.1f} s")
        if self.connect_seconds > times * CONNECT_SECONDS:
            short.append(f"who connects is answered after {self.connect_seconds:.2f} s")
        before, peak, left = self.memory
        # What rows before it have left is none of this one's.
        most = GOAL_PEAK + max(0, before - FRESH)
        if peak > most:
            short.append(f"memory {peak / MIB:.0f} MiB > {most / MIB:.0f}")
        if left > (allowed := max(allowed_left(before), left_mib * MIB)):
            short.append(f"memory afterwards {left / MIB:.0f} MiB > {allowed / MIB:.0f}")
        return short


def goals(row: Row, alone: Polite, *, scaled: bool) -> tuple[list[float], list[float]]:
    """Return the goals of medians and 99th percentiles beside the attacker of a row, in milliseconds.

    Args:
        row: The attacker.
        alone: What the polite client saw alone.
        scaled: Whether they grow with the median that it saw.
    """
    slower = [
        max(1.0, each / usual) if scaled else 1.0 for each, usual in zip(alone.p50(), USUAL_P50, strict=True)
    ]
    p50 = [(goal + row.round_ms) * times for goal, times in zip(GOALS_P50, slower, strict=True)]
    if row.is_light:
        return p50, [max(LIGHT_TIMES * each, each + LONGEST_TURN) for each in alone.p99()]
    return p50, [(goal + 2 * row.round_ms) * times for goal, times in zip(GOALS_P99, slower, strict=True)]


def allowed_left(before: float) -> float:
    """Return how many bytes a daemon may have after an attack."""
    more, times = GOAL_LEFT
    return max(before + more, before * times)


def pooled(polites: Sequence[Polite]) -> Polite:
    """Return several runs of the polite client as one."""

    def kinds(of: Callable[[Polite], tuple[list[float], ...]]) -> tuple[list[float], ...]:
        return tuple([value for each in polites for value in of(each)[kind]] for kind in range(len(KINDS)))

    return Polite(
        kinds(lambda each: each.times),
        kinds(lambda each: each.fair),
        kinds(lambda each: each.ran),
        [value for each in polites for value in each.late],
        [value for each in polites for value in each.refused],
        sum(each.lost for each in polites),
    )
