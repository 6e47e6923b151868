"""Diagnosis of a stream: gathers facts at a bounded cost and derives findings.

A bounded number of groups is examined: those that look worst by their counters. A finding sums up the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import trio

from redstreamd.errors import BusError, Code
from redstreamd.redisio.client import Redis
from redstreamd.settings import LeasesSettings
from redstreamd.streams import entry_ids
from redstreamd.streams.bounds import DEFAULT_BOUNDS, Bounds
from redstreamd.streams.concurrency import gather
from redstreamd.streams.diagnosis.encrypted_entries import EncryptedEntries, encrypted_entries
from redstreamd.streams.diagnosis.findings import Finding, Severity, by_severity
from redstreamd.streams.diagnosis.group_facts import GroupFacts, gather_facts
from redstreamd.streams.diagnosis.group_findings import group_findings
from redstreamd.streams.diagnosis.group_survey import Survey, Surveyed, survey
from redstreamd.streams.diagnosis.lag import StreamInfo, read_stream_info
from redstreamd.streams.diagnosis.sampler import Rates, Sampler
from redstreamd.streams.diagnosis.server_figures import ServerFacts, server_facts, server_findings
from redstreamd.streams.entry_encryption import Encryption
from redstreamd.streams.entry_pages import Pages
from redstreamd.streams.error_context import explain_errors, find_group
from redstreamd.streams.group_clocks import GroupClocks
from redstreamd.streams.group_lists import FEW_GROUPS, GroupList, GroupLists

#: Pending entries scanned in each of the groups, or in a single group that was asked for. Either takes 3 to
#: 10 ms of the server's time, in parts of at most 7.
_PENDING_OF_EACH = 200
_PENDING_OF_ONE = 2_000
#: Length from which growth without trimming gives a warning, and from which length alone gives a notice.
_LONG, _VERY_LONG = 100_000, 1_000_000
#: Part of the added entries by which a trimmed stream may grow, as its length varies.
_STEADY = 0.05
#: Milliseconds by which an entry ID may be ahead of the server's clock.
_AHEAD_MS = 1_000


class Diagnosis(msgspec.Struct, frozen=True):
    """Result of a diagnosis.

    Attributes:
        stream: The stream.
        groups: The examined groups, the worst first.
        not_examined: Number of further groups.
        rates: Recent rates; None if the stream was not sampled before.
        server: Facts about the server.
        encrypted: Which keys entries need; None if none is encrypted.
        findings: The findings, the most severe first.
    """

    stream: StreamInfo
    groups: list[GroupFacts]
    not_examined: int
    rates: Rates | None
    server: ServerFacts
    encrypted: EncryptedEntries | None
    findings: list[Finding]


class Diagnoser:
    """Diagnoses streams."""

    def __init__(
        self,
        redis: Redis,
        clocks: GroupClocks,
        sampler: Sampler,
        leases: LeasesSettings,
        pages: Pages,
        encryption: Encryption,
        limits: Bounds = DEFAULT_BOUNDS,
    ) -> None:
        """Ask through `redis`; rates come from `sampler`, and `clocks` know the groups' clocks."""
        self._pages = pages
        self._encryption = encryption
        self._bounds = limits
        self._redis = redis
        self._clocks = clocks
        self._sampler = sampler
        self._leases = leases
        self._surveying = trio.Lock()
        self._surveyed: Survey | None = None

    def reconfigure(self, leases: LeasesSettings) -> None:
        """Judge by other defaults of leases from now on."""
        self._leases = leases

    async def diagnose(self, stream: str, group: str | None = None) -> Diagnosis:
        """Diagnose a stream with all its groups, or with one.

        Afterwards the stream is sampled for a while, so that the next diagnosis has rates.

        Raises:
            BusError: STREAM_NOT_FOUND, GROUP_NOT_FOUND, WRONG_TYPE; CONNECTION_ERROR.
        """
        info = await read_stream_info(self._redis, stream)
        rates = self._sampler.rates(stream)
        async with explain_errors(self._redis, stream):
            listed = await self._redis.shared(GroupLists).of(stream)
        surveyed = await self._survey(info, listed)
        selected = {name: each.info for name, each in surveyed.selected().items()}
        if group is not None:
            selected = {group: await find_group(self._redis, stream, group)}

        async def examine(name: str) -> GroupFacts | None:
            try:
                return await gather_facts(
                    self._redis,
                    info,
                    selected[name],
                    max_deliveries=self._leases.max_deliveries,
                    clock=self._clocks.operands(stream, name),
                    max_pending=_PENDING_OF_ONE if group is not None else _PENDING_OF_EACH,
                    rates=None if rates is None else rates.groups.get(name),
                    limits=self._bounds,
                )
            except BusError as error:
                # Of many groups, one may have been destroyed since they were listed.
                if group is None and error.code is Code.GROUP_NOT_FOUND:
                    return None
                raise

        examined = await gather(examine, list(selected)) if selected else {}
        groups = [facts for name in selected if (facts := examined[name]) is not None]
        left_out = [] if group is not None else list(surveyed.left_out(surveyed.selected()))
        server = await server_facts(self._redis, stream)
        encrypted = await encrypted_entries(self._pages, self._encryption, stream)
        # Findings about the server and the stream come before those about groups of the same severity.
        findings = [
            *server_findings(server),
            *_ids_ahead(info),
            *([] if encrypted is None else encrypted.findings),
            *_stream_findings(info, rates, surveyed.busiest[0] if surveyed.busiest else None),
            *left_out,
            *(
                found
                for facts in groups
                for found in group_findings(stream, facts, self._leases, self._bounds)
            ),
        ]
        return Diagnosis(
            stream=info,
            groups=groups,
            not_examined=0 if group is not None else len(listed.groups) - len(selected),
            rates=rates,
            server=server,
            encrypted=encrypted,
            findings=by_severity(findings),
        )

    async def _survey(self, info: StreamInfo, listed: GroupList) -> Survey:
        """Survey the groups; once for all who have the same long list."""
        if len(listed.groups) <= FEW_GROUPS:
            return await survey(info, listed)
        async with self._surveying:
            if self._surveyed is None or self._surveyed.listed is not listed:
                self._surveyed = await survey(info, listed)
            return self._surveyed


def _ids_ahead(stream: StreamInfo) -> Iterator[Finding]:
    """Check whether entry IDs are times."""
    milliseconds, _ = entry_ids.parse(stream.last_id) or (0, 0)
    if milliseconds - stream.now < _AHEAD_MS:
        return
    yield Finding(
        Severity.NOTICE,
        "ids_ahead_of_clock",
        "The last entry ID is ahead of the clock of the Redis server: that clock was set back, or an entry "
        "was added with an explicit ID. IDs of new entries follow the last one, so until the clock has "
        "reached it they are not the times at which entries were added. If nobody chose that ID, check the "
        "time synchronisation of the server's host.",
        {
            "last_entry_id": stream.last_id,
            "ahead_seconds": (milliseconds - stream.now) / 1000,
            "server_time": entry_ids.iso_time(stream.now),
        },
        tool="stream_read",
        arguments={"stream": stream.stream, "direction": "backward", "count": 1},
    )


def _stream_findings(stream: StreamInfo, rates: Rates | None, busiest: Surveyed | None) -> Iterator[Finding]:
    if not stream.groups:
        yield Finding(
            Severity.NOTICE,
            "no_groups",
            "The stream has no consumer group, which is right if it is only read.",
            {"length": stream.length},
            tool="stream_read",
            arguments={"stream": stream.stream},
        )
    growth = 0.0 if rates is None else rates.growth_per_second
    added = 0.0 if rates is None else rates.added_per_second or 0.0
    growing = stream.length >= _LONG and growth > _STEADY * added
    if not growing and stream.length < _VERY_LONG:
        return
    severity = Severity.WARNING if growing else Severity.NOTICE
    long = "The stream is long and " + ("grows" if growing else "remains so")
    evidence: dict[str, Any] = {"length": stream.length, "memory_bytes": stream.memory_bytes}
    if rates is not None:
        evidence |= {"growth_per_second": round(growth, 3), "added_per_second": round(added, 3)}
    if busiest is not None and busiest.unfinished > stream.length // 2:
        holding = busiest.info.name
        yield Finding(
            severity,
            "held_by_group",
            f"{long}: a group has not finished most of it, and stream_add never trims what a group has not "
            "finished. Let consumers work for the group, or destroy it if nobody needs it.",
            evidence | {"unfinished": busiest.unfinished, **busiest.lag.evidence()},
            group=holding,
            tool="group_manage",
            arguments={"stream": stream.stream, "group": holding, "action": "destroy"},
        )
    elif added and not growing:
        yield Finding(
            severity,
            "long",
            "The stream is long, and trimmed to about this length. If fewer entries do, lower the limit "
            "that its writers give.",
            evidence,
            tool="stream_read",
            arguments={"stream": stream.stream},
        )
    else:
        yield Finding(
            severity,
            "untrimmed",
            f"{long}: nothing trims it. "
            "Trim it, and let writers give stream_add a max_length or max_age_seconds.",
            evidence,
            tool="stream_manage",
            arguments={"stream": stream.stream, "action": "trim", "max_length": _LONG},
        )
