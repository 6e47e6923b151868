"""work_done, work_extend, work_fail: finish entries of a lease, renew the lease, or give entries back."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Protocol

import attrs
from msgspec import Meta

from redstreamd.errors import BusError, Code
from redstreamd.policy import Need, Permission
from redstreamd.streams import entry_ids
from redstreamd.streams.bus import Bus
from redstreamd.streams.error_context import append_to_errors
from redstreamd.streams.lease_tokens import Lease
from redstreamd.streams.leases import Action, Outcome, Settled
from redstreamd.streams.plans import Plan, run_plan
from redstreamd.streams.replies import Replied
from redstreamd.tools import shared_arguments
from redstreamd.tools.annotations import no, writing, yes
from redstreamd.tools.argument_types import Holds
from redstreamd.tools.definition import Call, Profile, tool
from redstreamd.tools.effects import Marked
from redstreamd.tools.lease_duration import lease_seconds
from redstreamd.tools.results import Result, ResultForm

_SHORTENED = "lease_seconds is less than was left: {count} of these entries come due earlier than before."

AlreadyDone = Annotated[
    list[str],
    Meta(
        description="Settled before, as far as Redis tells: no longer pending, or given back by this lease."
    ),
]


class _Arguments(Protocol):
    """What the arguments of these tools have in common: the lease names the stream and the group."""

    @property
    def stream(self) -> str | None: ...

    @property
    def group(self) -> str | None: ...


def _needs_of_lease(arguments: _Arguments, lease: Lease) -> tuple[Need]:
    """Return what settling entries of a lease needs.

    Raises:
        BusError: INVALID_ARGUMENT if the caller names another stream or group than that of the lease.
    """
    for what, given, held in (
        ("stream", arguments.stream, lease.stream),
        ("group", arguments.group, lease.group),
    ):
        if given is not None and given != held:
            raise BusError(
                Code.INVALID_ARGUMENT,
                f"{what}={given[:80]!r} is not that of the lease.",
                cause=f"The lease is on {what} {held!r}.",
                next_step=f"Leave {what} out: the lease names it.",
            )
    return (Need(lease.stream, Permission.CONSUME),)


@attrs.frozen
class WorkDoneArguments:
    """Arguments of work_done."""

    lease: shared_arguments.LeaseToken
    entry_ids: shared_arguments.EntryIds | None = None
    stream: shared_arguments.Stream | None = None
    group: shared_arguments.Group | None = None
    delete: Annotated[
        bool, Meta(description="Also delete those that no other group needs."), Marked.REMOVES
    ] = False
    reply: Annotated[dict[str, Any], Meta(description="Answer to the one entry's reply_to.")] | None = None


@attrs.frozen
class WorkDone:
    """Answer of work_done."""

    done: list[str]
    already_done: AlreadyDone
    lost: Annotated[
        list[str],
        Meta(
            description="Another attempt owns these now; or they are no longer pending, and whether "
            "somebody finished them is not known. Leave them alone."
        ),
    ]
    reply: (
        Annotated[
            dict[str, Any],
            Meta(
                description="{stream, id, duplicate}; no id: an earlier attempt published another reply; "
                "waiting: it is in quarantine until an operator releases it."
            ),
        ]
        | None
    ) = None
    kept_for: (
        Annotated[str, Meta(description="Group that still needs entries; those were not deleted.")] | None
    ) = None


def _plan_done(call: Call[Bus], args: WorkDoneArguments) -> Plan[WorkDone | Result] | None:
    """Plan to finish work without a reply, which is another round trip."""
    if args.reply is not None:
        return None
    return _settle_done(call, args).then(_answered)


#: The answers for an entry that is done. Its ID is one that Redis gave.
_ONE_DONE: Final = ResultForm(lambda entry_id: WorkDone([entry_id], [], []))


def _answered(settled: Settled) -> WorkDone | Result:
    outcomes = settled.outcomes
    if len(outcomes) == 1 and settled.kept_for is None:
        ((entry_id, outcome),) = outcomes.items()
        if outcome is Outcome.DONE:
            return _ONE_DONE.filled(entry_id.encode())
    return _done_unless_lost(settled)


def _settle_done(call: Call[Bus], args: WorkDoneArguments) -> Plan[Settled]:
    return call.bus.work.plan_settle(
        call.held_lease, Action.DONE, entry_ids=args.entry_ids, delete=args.delete
    )


def _done_unless_lost(settled: Settled) -> WorkDone:
    _refuse_if_all_lost(settled)
    return _done(settled)


def _done(settled: Settled, reply: dict[str, Any] | None = None) -> WorkDone:
    if settled.all_are(Outcome.DONE):
        return WorkDone(list(settled.outcomes), [], [], reply, settled.kept_for)
    return WorkDone(
        done=settled.ids(Outcome.DONE),
        already_done=settled.ids(Outcome.ALREADY),
        lost=settled.lost,
        reply=reply,
        kept_for=settled.kept_for,
    )


@tool(
    title="Finish work",
    profile=Profile.WORKER,
    permission=Permission.CONSUME,
    needs=_needs_of_lease,
    hints=writing(
        "It acknowledges entries, adds the reply, and with delete deletes entries.",
        destructive=yes(
            "delete removes entries from the stream, also for readers without a group. Acknowledged entries "
            "are no longer pending. A reply trims the reply stream to its newest 10,000."
        ),
        idempotent=yes(
            "The same call does not change acknowledged entries, also with delete, and a reply is added once."
        ),
    ),
    plan=_plan_done,
)
async def work_done(call: Call[Bus], args: WorkDoneArguments) -> WorkDone:
    """Acknowledge entries of a lease: they are finished and nobody gets them again.

    A reply is published once, however often this is called.
    """
    answered = None
    if args.reply is not None:
        answered = await call.bus.replies.publish(
            call.held_lease,
            args.entry_ids,
            args.reply,
            authorise=call.authorise,
            quarantines=call.quarantines,
        )
    if answered is None:
        return _done_unless_lost(await run_plan(call.bus.redis, _settle_done(call, args)))

    def done_before() -> str:
        if answered.id is None or answered.duplicate:
            return ""
        return f"Before that, this call published the reply to {answered.stream!r}."

    with append_to_errors(done_before):
        settled = await run_plan(call.bus.redis, _settle_done(call, args))
    # Also if all entries are lost: the call had an effect, which the result must report.
    return _done(settled, _published(answered))


def _published(answered: Replied) -> dict[str, Any]:
    reply: dict[str, Any] = {"stream": answered.stream, "duplicate": answered.duplicate}
    if answered.waits:
        reply["waiting"] = True
    return reply if answered.id is None else reply | {"id": answered.id}


@attrs.frozen
class WorkExtendArguments:
    """Arguments of work_extend."""

    lease: shared_arguments.LeaseToken
    lease_seconds: shared_arguments.LeaseSeconds | None = None
    entry_ids: shared_arguments.EntryIds | None = None
    stream: shared_arguments.Stream | None = None
    group: shared_arguments.Group | None = None


@attrs.frozen
class WorkExtended:
    """Answer of work_extend."""

    extended: list[str]
    already_done: AlreadyDone
    lost: list[str]
    lease_expires: Annotated[str, Meta(description="Absent if nothing was extended.")] | None = None
    warning: str | None = None


def _plan_extend(call: Call[Bus], args: WorkExtendArguments) -> Plan[WorkExtended]:
    seconds = None if args.lease_seconds is None else lease_seconds(call, args.lease_seconds)
    return call.bus.work.plan_settle(
        call.held_lease, Action.EXTEND, entry_ids=args.entry_ids, delay_seconds=seconds
    ).then(_extended)


def _extended(settled: Settled) -> WorkExtended:
    _refuse_if_all_lost(settled)
    return WorkExtended(
        extended=settled.ids(Outcome.EXTENDED),
        already_done=settled.ids(Outcome.ALREADY),
        lost=settled.lost,
        lease_expires=None if settled.due is None else entry_ids.iso_time(settled.due),
        warning=_SHORTENED.format(count=settled.shortened) if settled.shortened else None,
    )


@tool(
    title="Extend a lease",
    profile=Profile.WORKER,
    permission=Permission.CONSUME,
    needs=_needs_of_lease,
    hints=writing(
        "It changes the time at which the caller's own lease runs out.",
        destructive=no("It removes no entry and gives none to another consumer."),
        idempotent=no("The lease is renewed from the time of the call, so a later call makes it end later."),
    ),
    plan=_plan_extend,
)
async def work_extend(call: Call[Bus], args: WorkExtendArguments) -> WorkExtended:
    """Renew a lease: it runs lease_seconds from now. The token stays the same.

    Without lease_seconds it is renewed by its own length and never ends earlier than it would have.
    """
    return await run_plan(call.bus.redis, _plan_extend(call, args))


@attrs.frozen
class WorkFailArguments:
    """Arguments of work_fail."""

    lease: shared_arguments.LeaseToken
    action: Annotated[
        Literal["retry", "release", "dead_letter"],
        Meta(description="retry after delay_seconds, release for anyone now, or dead_letter for good."),
    ] = "retry"
    reason: Annotated[
        str, Meta(max_length=2_000, description="Why; recorded with a dead letter."), Holds.CONTENT
    ] = ""
    delay_seconds: Annotated[float, Meta(ge=0, le=30 * 86_400)] = 10.0
    entry_ids: shared_arguments.EntryIds | None = None
    stream: shared_arguments.Stream | None = None
    group: shared_arguments.Group | None = None


@attrs.frozen
class WorkFailed:
    """Answer of work_fail."""

    retried: list[str]
    dead_lettered: list[str]
    already_done: AlreadyDone
    lost: list[str]
    retry_at: Annotated[str, Meta(description="When the last of those retried comes due.")] | None = None


def _plan_fail(call: Call[Bus], args: WorkFailArguments) -> Plan[WorkFailed]:
    dead = args.action == "dead_letter"
    return call.bus.work.plan_settle(
        call.held_lease,
        Action.DEAD_LETTER if dead else Action.RETRY,
        entry_ids=args.entry_ids,
        delay_seconds=args.delay_seconds if args.action == "retry" else 0.0,
        reason=args.reason or ("work_fail" if dead else ""),
    ).then(_failed)


def _failed(settled: Settled) -> WorkFailed:
    _refuse_if_all_lost(settled)
    return WorkFailed(
        retried=settled.ids(Outcome.RETRIED),
        dead_lettered=settled.ids(Outcome.DEAD_LETTERED),
        already_done=settled.ids(Outcome.ALREADY),
        lost=settled.lost,
        retry_at=None if settled.due is None else entry_ids.iso_time(settled.due),
    )


@tool(
    title="Give work back",
    profile=Profile.WORKER,
    permission=Permission.CONSUME,
    needs=_needs_of_lease,
    hints=writing(
        "It gives the caller's own entries back to the group, or makes them dead letters.",
        destructive=yes(
            "No consumer of the group gets an entry that is a dead letter; a retry after too many deliveries "
            "makes one, too."
        ),
        idempotent=yes(
            "What an attempt gave back is settled for that attempt, and the same call does not change it."
        ),
    ),
    plan=_plan_fail,
    unaudited="It settles what the caller holds itself, and dead letters are kept.",
)
async def work_fail(call: Call[Bus], args: WorkFailArguments) -> WorkFailed:
    """Give entries of a lease back: to be retried later, at once by anyone, or as dead letters.

    Too many deliveries turn a retry into a dead letter.
    """
    return await run_plan(call.bus.redis, _plan_fail(call, args))


def _refuse_if_all_lost(settled: Settled) -> None:
    lost = settled.lost
    if not lost or len(lost) < len(settled.outcomes):
        return
    owned, gone = settled.ids(Outcome.LOST), settled.ids(Outcome.GONE)
    others = f"another attempt owns {', '.join(owned[:10])} now"
    if gone:
        raise BusError(
            Code.LEASE_LOST,
            f"Nothing was changed: {', '.join(gone[:10])} are not pending any more"
            f"{f', and {others}' if owned else ''}.",
            cause=f"Consumer {settled.lease.consumer!r} is no longer in the group: it was removed, or the "
            "group was made anew. Whether somebody finished what is not pending is not known.",
            next_step="Call work_take: the group may deliver it again. If it does not, find out whether "
            "it was done before you add it anew.",
        )
    raise BusError(
        Code.LEASE_LOST,
        f"Nothing was changed: {others}.",
        cause="The lease ran out and the entries were taken again, a newer lease replaced it, or an operator "
        "moved them to another consumer.",
        next_step="Drop these entries; call work_take for more, and extend leases in time.",
    )


TOOLS = (work_done, work_extend, work_fail)
