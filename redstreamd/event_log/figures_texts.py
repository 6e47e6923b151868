"""What the figures, and groups that need attention, mean to an administrator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from redstreamd.errors.remedies import setting, shortened
from redstreamd.event_log.declaration import declared
from redstreamd.metrics import figures_events as figures
from redstreamd.metrics.group_attention import Trouble
from redstreamd.service.log_record import Severity

_NONE: Final = "None."
_ONCE: Final = "It is reported once, and again when it is over."


@declared(
    figures.FiguresTaken,
    "c60f9a84761a4db69ea455c0cadcd874",
    Severity.DEBUG,
    when=lambda event: event.is_quiet,
    cause="Since the last record of figures no call ended, no client came or went, and no group changed.",
    remedy=_NONE,
)
def nothing_happened(event: figures.FiguresTaken) -> str:
    return f"nothing happened in {_minutes(event.seconds)}; {_state(event)}"


@declared(
    figures.FiguresTaken,
    "2fc99a46507347a0b32d6d8a6243b02c",
    Severity.INFO,
    cause="The figures of the daemon, for sites that watch by the journal alone. REDSTREAMD_CALLS_TOTAL and "
    "REDSTREAMD_ERRORS_TOTAL count from the start of the daemon, REDSTREAMD_PENDING, REDSTREAMD_LAG and "
    "REDSTREAMD_DEAD_LETTERS are sums over the groups with most to do. Where nothing happened there is no "
    "record.",
    remedy=f"None. {setting('metrics.journal_seconds')} says how often, and 0 turns it off. "
    "`journalctl -u redstreamd REDSTREAMD_EVENT=figures_taken -o json` gives them to a program.",
)
def figures_taken(event: figures.FiguresTaken) -> str:
    p99 = "" if event.p99_seconds is None else f", the 99th percentile in {event.p99_seconds * 1000:.3g} ms"
    return (
        f"in {_minutes(event.seconds)} {event.calls:,} calls, {event.failed:,} failed{p99}; {_state(event)}"
    )


def _state(event: figures.FiguresTaken) -> str:
    daemon = (
        f"{event.connection_count:,} connections, {event.memory_bytes / (1 << 20):.0f} MiB, "
        f"loop lag {event.loop_lag_seconds * 1000:.0f} ms"
    )
    if event.stream_count is None:
        return f"{daemon}; Redis does not tell of streams"
    return (
        f"{daemon}; {event.stream_count:,} streams, {event.pending:,} entries pending, "
        f"{event.lag:,} undelivered, {event.dead_letters:,} dead letters"
    )


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _is(trouble: Trouble) -> Callable[[figures.GroupInTrouble], bool]:
    return lambda event: event.trouble is trouble


@declared(
    figures.GroupInTrouble,
    "b812686fa05e402fa2bf566e117e51ed",
    Severity.WARNING,
    when=_is(Trouble.NO_CONSUMER),
    cause="Entries wait in a group that has no consumer: no worker ever took work for it, or all were "
    f"removed. {_ONCE}",
    remedy="Start a worker that calls work_take, or remove the group with group_manage if nobody needs it; "
    "while it is there, retention keeps its entries. `redstreamd call stream_health` says more.",
)
def group_has_no_consumer(event: figures.GroupInTrouble) -> str:
    waiting = event.pending + event.lag
    return f"{_place(event)} has no consumer, and {waiting:,} entries wait for one"


@declared(
    figures.GroupInTrouble,
    "eb4ba00ead1c4fbab40c1a113332f4fc",
    Severity.WARNING,
    when=_is(Trouble.MANY_PENDING),
    cause=f"More entries of a group are pending than {setting('metrics.warn_pending')} allows: they were "
    f"taken and are not acknowledged. Work is slow, or its consumers are gone. {_ONCE}",
    remedy="`redstreamd call pending_list` names who holds them. work_take hands out what a consumer that is "
    "gone holds, once its lease has ended.",
)
def group_has_many_pending(event: figures.GroupInTrouble) -> str:
    return (
        f"{_place(event)} has {event.pending:,} pending entries, more than {event.limit:,} "
        f"({setting('metrics.warn_pending')})"
    )


@declared(
    figures.GroupInTrouble,
    "263ca21dda104bc581b5e9fbba359d59",
    Severity.WARNING,
    cause=f"Entries failed as often as they may; each letter has its reason. {_ONCE}",
    remedy="`redstreamd call dead_letter_replay` lists them, and replays or deletes them.",
)
def group_has_dead_letters(event: figures.GroupInTrouble) -> str:
    return f"{_place(event)} has {event.dead_letters:,} dead letters"


@declared(
    figures.GroupOutOfTrouble,
    "c817e41f041f488d9890014d82ee2268",
    Severity.INFO,
    cause="What was reported of a group is over, or the group was removed.",
    remedy=_NONE,
)
def group_recovered(event: figures.GroupOutOfTrouble) -> str:
    return f"{_place(event)}: {_OVER[event.trouble]}, after {_minutes(event.lasted_seconds)}"


@declared(
    figures.MoreGroupsInTrouble,
    "9e212160237b4f5298650bea27c493b3",
    Severity.WARNING,
    cause="Many groups began to need attention at the same time; only some have a record each.",
    remedy="`redstreamd status` shows the worst. Look for what they have in common, such as workers on one "
    "host.",
)
def more_groups_in_trouble(event: figures.MoreGroupsInTrouble) -> str:
    return f"{event.count:,} more groups need attention"


#: What is over.
_OVER: Final = {
    Trouble.NO_CONSUMER: "it has a consumer, or nothing waits for one",
    Trouble.MANY_PENDING: "no more are pending than may be",
    Trouble.DEAD_LETTERS: "it has no dead letters any more",
    Trouble.OLD_PENDING: "no entry is pending for long",
    Trouble.LAGGING: "few entries are undelivered",
}


def _place(event: figures.GroupInTrouble | figures.GroupOutOfTrouble) -> str:
    return f"group {shortened(event.group)} of stream {shortened(event.stream)}"
