"""A look at the counters of all groups of a stream, to choose those to examine."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import islice
from typing import Final

import msgspec
import trio

from redstreamd.redisio.reply_parsing import GroupInfo
from redstreamd.streams.diagnosis.findings import Finding, Severity
from redstreamd.streams.diagnosis.group_findings import MANY_LAGGING, MANY_PENDING
from redstreamd.streams.diagnosis.lag import Lag, StreamInfo, compute_lag
from redstreamd.streams.group_lists import GroupList

#: Groups examined by one call.
MAX_GROUPS: Final = 10
#: Groups named in the finding about groups that were not examined.
_NAMED: Final = 5
#: Groups looked at between two checkpoints: 1 ms.
_AT_ONCE: Final = 50


class Surveyed(msgspec.Struct, frozen=True):
    """A group, its lag by the server's counters, and how many entries it has not finished."""

    info: GroupInfo
    lag: Lag
    unfinished: int


class Survey(msgspec.Struct):
    """What the counters of all groups say.

    Attributes:
        listed: The groups.
        unknown_lag: How many have a lag that the server does not tell.
        busiest: Those with most unfinished entries, most first; at most `MAX_GROUPS`.
        unattended: The same, of those without consumers that have any.
        idle, waiting, burdened: How many have no consumers; of these, have unfinished entries; have many
            pending or undelivered entries. And the first of each, in the server's order.
    """

    listed: GroupList
    unknown_lag: int = 0
    busiest: list[Surveyed] = []
    unattended: list[Surveyed] = []
    idle: tuple[int, list[str]] = (0, [])
    waiting: tuple[int, list[str]] = (0, [])
    burdened: tuple[int, list[str]] = (0, [])

    def selected(self) -> dict[str, Surveyed]:
        """Return the groups to examine: those with most unfinished entries, and those without consumers."""
        chosen = {each.info.name: each for each in self.busiest[: MAX_GROUPS // 2]}
        for each in (*self.unattended, *self.busiest):
            if len(chosen) == MAX_GROUPS:
                break
            chosen[each.info.name] = each
        return chosen

    def left_out(self, chosen: dict[str, Surveyed]) -> Iterator[Finding]:
        """Sum up the groups that were not examined."""
        others = len(self.listed.groups) - len(chosen)
        if not others:
            return
        infos = [each.info for each in chosen.values()]
        kinds = {
            "idle": (self.idle, [one.name for one in infos if _is_idle(one)]),
            "waiting": (
                self.waiting,
                [one.info.name for one in chosen.values() if _is_idle(one.info) and one.unfinished],
            ),
            "burdened": (
                self.burdened,
                [one.info.name for one in chosen.values() if _is_burdened(one.info, one.lag)],
            ),
        }
        count = {kind: known[0] - len(examined) for kind, (known, examined) in kinds.items()}
        names = {
            kind: [name for name in known[1] if name not in chosen][:_NAMED]
            for kind, (known, _) in kinds.items()
        }
        rest = [name for name in islice(self.listed.groups, _NAMED + MAX_GROUPS) if name not in chosen]
        severity = Severity.NOTICE
        if count["idle"] or count["burdened"]:
            severity = Severity.CRITICAL if count["waiting"] else Severity.WARNING
        examined_unknown = sum(one.lag.unknown_because is not None for one in chosen.values())
        yield Finding(
            severity,
            "groups_not_examined",
            f"Only the {MAX_GROUPS} groups with the worst figures were examined; name another to examine it.",
            {
                "groups": others,
                "such_as": names["waiting"] or names["burdened"] or names["idle"] or rest[:_NAMED],
                "without_consumers": count["idle"],
                "without_consumers_and_waiting": count["waiting"],
                "over_100_pending_or_lagging": count["burdened"],
                "unknown_lag": self.unknown_lag - examined_unknown,
            },
        )


async def survey(stream: StreamInfo, listed: GroupList) -> Survey:
    """Look at the groups of a stream, a part at a time."""
    found = Survey(listed)
    groups = iter(listed.groups.values())
    while infos := list(islice(groups, _AT_ONCE)):
        part = []
        for info in infos:
            lag = compute_lag(stream, info, counted=None)
            part.append(Surveyed(info, lag, info.pending + lag.entries))
        _note(found, part)
        if len(infos) == _AT_ONCE:
            await trio.lowlevel.checkpoint()
    return found


def _note(found: Survey, part: list[Surveyed]) -> None:
    found.unknown_lag += sum(each.lag.unknown_because is not None for each in part)
    # Of equal ones the first stay first.
    found.busiest = heapq.nlargest(MAX_GROUPS, (*found.busiest, *part), key=lambda each: each.unfinished)
    unattended = [each for each in part if _is_idle(each.info) and each.unfinished]
    found.unattended = heapq.nlargest(
        MAX_GROUPS, (*found.unattended, *unattended), key=lambda each: each.unfinished
    )
    found.idle = _counted(found.idle, [each.info.name for each in part if _is_idle(each.info)])
    found.waiting = _counted(found.waiting, [each.info.name for each in unattended])
    burdened = [each.info.name for each in part if _is_burdened(each.info, each.lag)]
    found.burdened = _counted(found.burdened, burdened)


def _counted(known: tuple[int, list[str]], names: list[str]) -> tuple[int, list[str]]:
    # As many names as may be examined, and those to show.
    return known[0] + len(names), (known[1] + names)[: MAX_GROUPS + _NAMED]


def _is_idle(info: GroupInfo) -> bool:
    return not info.consumers


def _is_burdened(info: GroupInfo, lag: Lag) -> bool:
    return info.pending > MANY_PENDING or lag.entries > MANY_LAGGING
