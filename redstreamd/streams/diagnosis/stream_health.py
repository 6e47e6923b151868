"""One diagnosis of a stream: gathers what is to be known, at a bounded cost, and says what stands out.

However many groups a stream has, a bounded number of them is looked at closely: those that look
worst from the outside. What was left out is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from redstreamd.redisio.commands import Commands
from redstreamd.redisio.connection_manager import Manager, Role
from redstreamd.redisio.reply_parsing import GroupInfo
from redstreamd.streams import entry_ids
from redstreamd.streams.concurrency import gather
from redstreamd.streams.diagnosis.findings import Finding, Severity, by_severity
from redstreamd.streams.diagnosis.group_facts import GroupFacts, facts_of
from redstreamd.streams.diagnosis.group_findings import MANY_LAGGING, MANY_PENDING, Limits, group_findings
from redstreamd.streams.diagnosis.lag import Lag, Shape, lag_of, shape_of
from redstreamd.streams.diagnosis.sampler import Rates, Sampler
from redstreamd.streams.diagnosis.server_figures import ServerFacts, server_facts, server_findings
from redstreamd.streams.error_context import explained, group_not_found, stream_not_found
from redstreamd.streams.group_clocks import GroupClocks

#: Groups looked at closely by one call, and the pending entries looked at in each; a single group that
#: was asked for gets them all. Either takes 3 to 10 ms of the server's time, in pieces of at most 7.
MAX_GROUPS = 10
_LOOK_AT_EACH = 200
_LOOK_AT_ONE = 2_000
#: Length from which growth without trimming is worth a warning, and from which length alone is a notice.
_LONG, _VERY_LONG = 100_000, 1_000_000
#: Part of what is added by which a stream that is trimmed may still grow, as its length goes up and down.
_STEADY = 0.05
#: Milliseconds by which an entry ID may be ahead of the server's clock.
_AHEAD_MS = 1_000
#: Groups that are named though they were not looked at closely.
_NAMED = 5


@attrs.frozen
class Diagnosis:
    """What was found.

    Attributes:
        shape: The stream.
        groups: The groups that were looked at closely, the worst first.
        not_examined: Further groups, of which only the figures in `findings` are known.
        rates: What happened lately; None if the stream was not sampled before.
        server: What the server says about itself.
        findings: What stands out, the worst first.
    """

    shape: Shape
    groups: list[GroupFacts]
    not_examined: int
    rates: Rates | None
    server: ServerFacts
    findings: list[Finding]


class Diagnoser:
    """Diagnoses streams."""

    def __init__(
        self, manager: Manager, commands: Commands, clocks: GroupClocks, sampler: Sampler, limits: Limits
    ) -> None:
        """Ask through `manager`; rates come from `sampler`, and `clocks` help to tell what is due."""
        self._manager = manager
        self._clocks = clocks
        self._commands = commands
        self._sampler = sampler
        self._limits = limits

    async def diagnose(self, stream: str, group: str | None = None) -> Diagnosis:
        """Diagnose a stream with all its groups, or with one.

        From then on the stream is sampled for a while, so that the next diagnosis has rates.

        Raises:
            BusError: STREAM_NOT_FOUND, GROUP_NOT_FOUND, WRONG_TYPE; CONNECTION_ERROR.
        """
        shape = await shape_of(self._manager, self._commands, stream)
        if shape is None:
            raise await stream_not_found(self._commands, stream)
        rates = self._sampler.rates(stream)
        async with explained(self._commands, stream):
            infos = await self._commands.xinfo_groups(stream, role=Role.BULK)
        # What the server tells is not taken at its word here either; see `lag_of`.
        lags = {info.name: lag_of(shape, info, counted=None) for info in infos}
        if group is None:
            chosen = _worst(infos, lags)
            others = [info for info in infos if info.name not in chosen]
        else:
            chosen, others = {info.name: info for info in infos if info.name == group}, []
            if not chosen:
                raise await group_not_found(self._commands, stream, group)

        async def examine(name: str) -> GroupFacts:
            return await facts_of(
                self._manager,
                self._commands,
                shape,
                chosen[name],
                max_deliveries=self._limits.max_deliveries,
                told=self._clocks.told(stream, name),
                look_at=_LOOK_AT_ONE if group is not None else _LOOK_AT_EACH,
                rates=None if rates is None else rates.groups.get(name),
            )

        examined: Mapping[str, GroupFacts] = await gather(examine, list(chosen)) if chosen else {}
        groups = [examined[name] for name in chosen]
        server = await server_facts(self._commands)
        # What concerns all comes before what concerns one, where they are equally bad.
        findings = [
            *server_findings(server),
            *_ids_ahead(shape),
            *_stream_findings(shape, rates, infos, lags),
            *_left_out(others, lags),
            *(found for facts in groups for found in group_findings(stream, facts, self._limits)),
        ]
        return Diagnosis(
            shape=shape,
            groups=groups,
            not_examined=len(others),
            rates=rates,
            server=server,
            findings=by_severity(findings),
        )


def _worst(infos: list[GroupInfo], lags: Mapping[str, Lag]) -> dict[str, GroupInfo]:
    """Choose the groups to look at closely: those with most to do, and those where nobody does it."""

    def unfinished(info: GroupInfo) -> int:
        return info.pending + lags[info.name].entries

    busiest = sorted(infos, key=unfinished, reverse=True)
    # A stable sort: among the deserted those with most to do come first.
    deserted = sorted(busiest, key=lambda info: unfinished(info) > 0 and not info.consumers, reverse=True)
    chosen = {info.name: info for info in busiest[: MAX_GROUPS // 2]}
    for info in deserted:
        if len(chosen) == MAX_GROUPS:
            break
        chosen[info.name] = info
    return chosen


def _left_out(infos: list[GroupInfo], lags: Mapping[str, Lag]) -> Iterator[Finding]:
    """Sum up the groups that were not looked at closely."""
    if not infos:
        return
    idle = [info for info in infos if not info.consumers]
    standing = [info for info in idle if info.pending or lags[info.name].entries]
    burdened = [
        info for info in infos if info.pending > MANY_PENDING or lags[info.name].entries > MANY_LAGGING
    ]
    severity = Severity.NOTICE
    if idle or burdened:
        severity = Severity.CRITICAL if standing else Severity.WARNING
    yield Finding(
        severity,
        "groups_not_examined",
        f"Only the {MAX_GROUPS} groups that looked worst were examined; ask for another by name.",
        {
            "groups": len(infos),
            "such_as": [info.name for info in (standing or burdened or idle or infos)[:_NAMED]],
            "without_consumers": len(idle),
            "without_consumers_and_waiting": len(standing),
            "over_100_pending_or_lagging": len(burdened),
            "unknown_lag": sum(lags[info.name].unknown_because is not None for info in infos),
        },
    )


def _ids_ahead(shape: Shape) -> Iterator[Finding]:
    """Say if entry IDs are no times any more."""
    milliseconds, _ = entry_ids.parse(shape.last_id) or (0, 0)
    if milliseconds - shape.now < _AHEAD_MS:
        return
    yield Finding(
        Severity.NOTICE,
        "ids_ahead_of_clock",
        "The last entry ID lies ahead of the clock of the Redis server: that clock was set back, or an entry "
        "was added under an ID of its own. IDs of new entries follow the last one, so until the clock has "
        "reached it they are not the times at which entries were added. If nobody chose that ID, check the "
        "time synchronisation of the server's host.",
        {
            "last_entry_id": shape.last_id,
            "ahead_seconds": (milliseconds - shape.now) / 1000,
            "server_time": entry_ids.iso_time(shape.now),
        },
        tool="stream_read",
        arguments={"stream": shape.stream, "direction": "backward", "count": 1},
    )


def _stream_findings(
    shape: Shape, rates: Rates | None, infos: list[GroupInfo], lags: Mapping[str, Lag]
) -> Iterator[Finding]:
    if not shape.groups:
        yield Finding(
            Severity.NOTICE,
            "no_groups",
            "The stream has no consumer group. That is right if everybody only reads it.",
            {"length": shape.length},
            tool="stream_read",
            arguments={"stream": shape.stream},
        )
    growth = 0.0 if rates is None else rates.growth_per_second
    added = 0.0 if rates is None else rates.added_per_second or 0.0
    growing = shape.length >= _LONG and growth > _STEADY * added
    if not growing and shape.length < _VERY_LONG:
        return
    severity = Severity.WARNING if growing else Severity.NOTICE
    long = "The stream is long and " + ("grows" if growing else "stays so")
    evidence: dict[str, Any] = {"length": shape.length, "memory_bytes": shape.memory_bytes}
    if rates is not None:
        evidence |= {"growth_per_second": round(growth, 3), "added_per_second": round(added, 3)}
    unfinished = {info.name: lags[info.name].entries + info.pending for info in infos}
    holding = max(unfinished, key=unfinished.__getitem__, default=None)
    if holding is not None and unfinished[holding] > shape.length // 2:
        yield Finding(
            severity,
            "held_by_group",
            f"{long}: a group has not finished most of it, and stream_add never trims what a group has not "
            "finished. Let consumers work for the group, or destroy it if nobody needs it.",
            evidence | {"unfinished": unfinished[holding], **lags[holding].evidence()},
            group=holding,
            tool="group_manage",
            arguments={"stream": shape.stream, "group": holding, "action": "destroy"},
        )
    elif added and not growing:
        yield Finding(
            severity,
            "long",
            "The stream is long, and trimmed at about this length. If fewer entries will do, lower the bound "
            "that its writers give.",
            evidence,
            tool="stream_read",
            arguments={"stream": shape.stream},
        )
    else:
        yield Finding(
            severity,
            "untrimmed",
            f"{long}: nothing trims it. "
            "Trim it, and let writers give stream_add a max_length or max_age_seconds.",
            evidence,
            tool="stream_manage",
            arguments={"stream": shape.stream, "action": "trim", "max_length": _LONG},
        )
