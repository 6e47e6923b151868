"""One diagnosis of a stream: gathers what is to be known, at a bounded cost, and says what stands out.

However many groups a stream has, a bounded number of them is looked at closely: those that look
worst from the outside. What was left out is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from redstreamd.redisio.commands import Commands
from redstreamd.redisio.manager import Lane, Manager
from redstreamd.redisio.replies import GroupInfo
from redstreamd.streams.concurrently import gather
from redstreamd.streams.diagnosis.findings import Finding, Severity, by_severity
from redstreamd.streams.diagnosis.group_facts import GroupFacts, facts_of
from redstreamd.streams.diagnosis.group_findings import MANY_LAGGING, MANY_PENDING, Limits, group_findings
from redstreamd.streams.diagnosis.sampler import Rates, Sampler
from redstreamd.streams.diagnosis.server_health import ServerFacts, server_facts, server_findings
from redstreamd.streams.diagnosis.shape import Lag, Shape, lag_of, shape_of
from redstreamd.streams.problems import explained, group_not_found, stream_not_found

#: Groups looked at closely by one call, and the pending entries looked at in each; a single group that
#: was asked for gets them all. Either takes 3 to 10 ms of the server's time, in pieces of at most 7.
MAX_GROUPS = 10
_LOOK_AT_EACH = 200
_LOOK_AT_ONE = 2_000
#: Length from which growth without trimming is worth a warning, and from which length alone is a notice.
_LONG, _VERY_LONG = 100_000, 1_000_000


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


class Doctor:
    """Diagnoses streams."""

    def __init__(self, manager: Manager, commands: Commands, sampler: Sampler, limits: Limits) -> None:
        """Ask through `manager`; rates come from `sampler`."""
        self._manager = manager
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
            infos = await self._commands.xinfo_groups(stream, lane=Lane.BULK)
        if group is not None:
            infos = [info for info in infos if info.name == group]
            if not infos:
                raise await group_not_found(self._commands, stream, group)
        # What the server tells is not taken at its word here either; see `lag_of`.
        lags = {info.name: lag_of(shape, info, counted=None) for info in infos}
        ordered = sorted(infos, key=lambda info: _badness(info, lags[info.name]), reverse=True)
        chosen = {info.name: info for info in ordered[:MAX_GROUPS]}

        async def examine(name: str) -> GroupFacts:
            return await facts_of(
                self._manager,
                self._commands,
                shape,
                chosen[name],
                max_deliveries=self._limits.max_deliveries,
                look_at=_LOOK_AT_ONE if group is not None else _LOOK_AT_EACH,
                rates=None if rates is None else rates.groups.get(name),
            )

        examined: Mapping[str, GroupFacts] = await gather(examine, list(chosen)) if chosen else {}
        groups = [examined[name] for name in chosen]
        server = await server_facts(self._commands)
        findings = [
            *(found for facts in groups for found in group_findings(stream, facts, self._limits)),
            *_left_out(ordered[MAX_GROUPS:], lags),
            *_stream_findings(shape, rates, groups),
            *server_findings(server),
        ]
        return Diagnosis(
            shape=shape,
            groups=groups,
            not_examined=len(ordered) - len(groups),
            rates=rates,
            server=server,
            findings=by_severity(findings),
        )


def _badness(info: GroupInfo, lag: Lag) -> tuple[bool, int]:
    waiting = info.pending + lag.entries
    return (waiting > 0 and not info.consumers, waiting)


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
            "without_consumers": len(idle),
            "without_consumers_and_waiting": len(standing),
            "over_100_pending_or_lagging": len(burdened),
            "unknown_lag": sum(lags[info.name].unknown_because is not None for info in infos),
        },
    )


def _stream_findings(shape: Shape, rates: Rates | None, groups: list[GroupFacts]) -> Iterator[Finding]:
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
    growing = shape.length >= _LONG and growth > 0
    if not growing and shape.length < _VERY_LONG:
        return
    severity = Severity.WARNING if growing else Severity.NOTICE
    long = "The stream is long and " + ("grows" if growing else "stays so")
    evidence: dict[str, Any] = {"length": shape.length, "memory_bytes": shape.memory_bytes}
    if rates is not None:
        evidence |= {"growth_per_second": round(growth, 3)}
    holding = max(groups, key=_unfinished, default=None)
    if holding is not None and _unfinished(holding) > shape.length // 2:
        yield Finding(
            severity,
            "held_by_group",
            f"{long}: a group has not finished most of it, and stream_add never trims what a group has not "
            "finished. Let consumers work for the group, or destroy it if nobody needs it.",
            evidence | {"unfinished": _unfinished(holding), **holding.lag.evidence()},
            group=holding.info.name,
            tool="group_manage",
            arguments={"stream": shape.stream, "group": holding.info.name, "action": "destroy"},
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


def _unfinished(facts: GroupFacts) -> int:
    return facts.lag.entries + facts.info.pending
