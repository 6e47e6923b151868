"""stream_health: diagnoses a stream and its groups."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import attrs
import msgspec
from msgspec import Meta

from redstreamd.policy import Permission
from redstreamd.presentation.truncation import fitting
from redstreamd.streams import entry_ids
from redstreamd.streams.bus import Bus
from redstreamd.streams.diagnosis.encrypted_entries import figures as encrypted_figures
from redstreamd.streams.diagnosis.findings import Finding, Severity, by_severity
from redstreamd.streams.diagnosis.group_facts import GroupFacts
from redstreamd.streams.diagnosis.group_findings import age_seconds
from redstreamd.streams.diagnosis.server_figures import STANDING, server_summary
from redstreamd.streams.diagnosis.stream_health import Diagnosis
from redstreamd.streams.quarantine import Waiting
from redstreamd.tools import (
    dead_letters,
    group_admin,
    publishing,
    quarantine,
    shared_arguments,
    stream_admin,
    work,
)
from redstreamd.tools.annotations import reading
from redstreamd.tools.argument_types import NameOf
from redstreamd.tools.definition import Call, Profile, needs_on, tool

#: Findings in a concise answer; the most severe come first.
_CONCISE = 10
#: Tools that most installations do not offer. A finding that recommends one names the profile.
_OPERATOR_TOOLS = frozenset(
    one.name for one in (*dead_letters.TOOLS, *quarantine.TOOLS, *group_admin.TOOLS, *stream_admin.TOOLS)
)
#: What tools need that a finding may recommend and that do more than read.
_NEEDED = {
    one.name: one.permission
    for one in (
        *dead_letters.TOOLS,
        *quarantine.TOOLS,
        *group_admin.TOOLS,
        *stream_admin.TOOLS,
        *publishing.TOOLS,
        *work.TOOLS,
    )
}


@attrs.frozen
class StreamHealthArguments:
    """Arguments of stream_health."""

    stream: shared_arguments.Stream
    group: Annotated[shared_arguments.Name, Meta(description="Default: all groups."), NameOf.GROUP] | None = (
        None
    )
    detail: Annotated[
        Literal["concise", "full"],
        Meta(description="full adds figures of each group and the server, and the server's configuration."),
    ] = "concise"


@attrs.frozen
class StreamHealth:
    """Answer of stream_health."""

    status: Annotated[str, Meta(description="ok, notice, warning or critical: the worst finding.")]
    findings: Annotated[
        list[dict[str, Any]],
        Meta(
            description="{severity, code, group?, evidence, cause, next_call?: {tool, arguments, profile?}}; "
            "profile: the one that offers the tool, if the default does not."
        ),
    ]
    stream: dict[str, Any]
    groups: list[dict[str, Any]] | None = None
    server: dict[str, Any] | None = None
    left_out: Annotated[dict[str, Any], Meta(description="What was not examined or not shown.")] | None = None


@tool(
    title="Diagnose a stream",
    profile=Profile.OBSERVER,
    permission=Permission.READ,
    needs=needs_on(Permission.READ, "stream"),
    hints=reading("It asks for figures of the stream, its groups and the server."),
)
async def stream_health(call: Call[Bus], args: StreamHealthArguments) -> StreamHealth:
    """Diagnose a stream and its groups: lag, stuck work, dead consumers, dead letters, growth, persistence.

    Each finding says its cause and the next call. Rates appear from the second call on.
    """
    diagnosis = await call.bus.diagnoser.diagnose(args.stream, args.group)
    # Others do not learn that anything waits.
    offered = Profile.OPERATOR.value in call.bus.settings.tools.profile
    manages = offered and call.may(args.stream, Permission.MANAGE)
    waiting = await call.bus.quarantine.waiting(args.stream) if manages else None
    full = args.detail == "full"
    # Half for the findings, a quarter for the groups; the rest is small.
    room = call.bus.quotas.result_bytes(call.principal)
    findings = [one for one in diagnosis.findings if full or one.code not in STANDING]
    if waiting is not None and waiting.oldest_id is not None:
        findings = by_severity([*findings, _in_quarantine(waiting, diagnosis.stream.now)])
    lines = [_finding(call, args.stream, one) for one in findings]
    shown = fitting(lines if full else lines[:_CONCISE], room // 2)
    groups = fitting([_group(facts) for facts in diagnosis.groups], room // 4) if full else None
    left_out: dict[str, Any] = dict(diagnosis.server.unreadable)
    if len(shown) < len(lines):
        left_out["findings"] = len(lines) - len(shown)
    if missing := diagnosis.not_examined + len(diagnosis.groups) - len(groups or diagnosis.groups):
        left_out["groups"] = missing
    return StreamHealth(
        status=findings[0].severity.value if findings else "ok",
        findings=shown,
        stream=_stream(diagnosis),
        groups=groups,
        server=server_summary(diagnosis.server) if full else None,
        left_out=left_out or None,
    )


def _in_quarantine(waiting: Waiting, now: int) -> Finding:
    return Finding(
        Severity.NOTICE,
        "in_quarantine",
        "Entries of principals that the policy does not trust wait for a release; nobody sees them before.",
        {
            "entries": waiting.entries,
            "oldest_age_seconds": age_seconds(now, waiting.oldest_id or entry_ids.ZERO),
        },
        tool="quarantine_release",
        arguments={"stream": waiting.stream},
    )


def _finding(call: Call[Bus], stream: str, finding: Finding) -> dict[str, Any]:
    line: dict[str, Any] = {"severity": finding.severity.value, "code": finding.code}
    if finding.group is not None:
        line["group"] = finding.group
    line |= {"evidence": finding.evidence, "cause": finding.cause}
    if finding.tool is not None and call.may(stream, _NEEDED.get(finding.tool, Permission.READ)):
        line["next_call"] = {"tool": finding.tool, "arguments": finding.arguments}
        if finding.tool in _OPERATOR_TOOLS:
            line["next_call"]["profile"] = Profile.OPERATOR.value
    return line


def _stream(diagnosis: Diagnosis) -> dict[str, Any]:
    stream, rates = diagnosis.stream, diagnosis.rates
    figures: dict[str, Any] = {
        "stream": stream.stream,
        "length": stream.length,
        "groups": stream.groups,
        "last_entry_id": stream.last_id,
    }
    if stream.last_id != entry_ids.ZERO:
        figures["last_entry_age_seconds"] = age_seconds(stream.now, stream.last_id)
    if stream.memory_bytes is not None:
        figures["memory_bytes"] = stream.memory_bytes
    if diagnosis.encrypted is not None:
        figures["encrypted"] = encrypted_figures(diagnosis.encrypted)
    if rates is not None:
        figures["rates_over_seconds"] = round(rates.window_seconds, 3)
        figures["growth_per_second"] = round(rates.growth_per_second, 3)
        if rates.added_per_second is not None:
            figures["added_per_second"] = round(rates.added_per_second, 3)
    return figures


def _group(facts: GroupFacts) -> dict[str, Any]:
    examined, rates = facts.examination, facts.rates
    line: dict[str, Any] = {"group": facts.info.name, "consumers": facts.worker_count}
    if rates is not None and rates.active_consumers is not None:
        line["active_consumers"] = rates.active_consumers
    line |= {
        "lag": facts.lag.entries,
        "pending": facts.info.pending,
        "dead_letters": examined.dead_letters,
        "last_delivered_id": facts.info.last_delivered_id,
        "max_deliveries": examined.max_deliveries,
    }
    if not facts.lag.exact:
        line["lag_between"] = [facts.lag.least, facts.lag.most]
    if examined.oldest is not None:
        line |= {
            "leased": examined.leased,
            "put_off": examined.retries,
            "overdue": examined.overdue,
            "held_outside": examined.unleased,
            "oldest_pending_age_seconds": age_seconds(examined.now, examined.oldest.id),
            "oldest_pending_idle_seconds": examined.oldest.idle_seconds,
            "most_deliveries": examined.most_deliveries,
        }
    if rates is not None:
        measured = msgspec.structs.asdict(rates) | {"processing_seconds": facts.processing_seconds}
        del measured["finishing"]
        line |= {name: round(value, 3) for name, value in measured.items() if value is not None}
    return line


TOOLS = (stream_health,)
