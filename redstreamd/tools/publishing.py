"""stream_add: publishes entries."""

from __future__ import annotations

from functools import partial
from operator import attrgetter
from typing import Annotated, Any, Final, Literal

import attrs
from msgspec import Meta

from redstreamd.policy import Permission
from redstreamd.streams.bus import Bus
from redstreamd.streams.durability import Confirmation, Durability
from redstreamd.streams.entry_encoding import Stamp
from redstreamd.streams.plans import Plan
from redstreamd.streams.publishing import Added
from redstreamd.tools import shared_arguments
from redstreamd.tools.annotations import no, writing, yes
from redstreamd.tools.argument_text import ONLY_REQUIRED
from redstreamd.tools.argument_types import NameOf
from redstreamd.tools.definition import Call, Profile, needs_on, tool
from redstreamd.tools.effects import Marked
from redstreamd.tools.new_streams import naming_warning
from redstreamd.tools.results import Result, ResultForm


@attrs.frozen
class StreamAddArguments:
    """Arguments of stream_add."""

    stream: shared_arguments.Stream
    entries: Annotated[
        list[dict[str, Any]],
        Meta(
            min_length=1, max_length=100, description="JSON objects, one for each entry; added all or none."
        ),
    ]
    idempotency_key: shared_arguments.IdempotencyKey | None = None
    max_length: (
        Annotated[
            int,
            Meta(
                ge=1,
                description="Trim the stream to this many of its newest entries, and those that a group has "
                "not finished.",
            ),
            Marked.REMOVES,
        ]
        | None
    ) = None
    max_age_seconds: (
        Annotated[
            float, Meta(ge=0.001, le=10**10, description="Trim older entries, likewise."), Marked.REMOVES
        ]
        | None
    ) = None
    durability: Annotated[
        Literal["memory", "replicated", "fsynced"],
        Meta(
            description="replicated: answer once a replica has the entries; fsynced: once Redis has them on "
            "disk. The answer says whether that was confirmed."
        ),
    ] = "memory"
    correlation_id: (
        Annotated[str, Meta(max_length=256, description="Ties a reply to its request.")] | None
    ) = None
    reply_to: (
        Annotated[str, Meta(max_length=512, description="Stream to send the reply to."), NameOf.STREAM] | None
    ) = None


@attrs.define
class StreamAdded:
    """Answer of stream_add."""

    ids: Annotated[list[str], Meta(description="Entry IDs, in the order of entries.")]
    waiting: shared_arguments.Waiting | None = None
    duplicate: Annotated[bool, Meta(description="The key was used before; nothing was added now.")] = False
    deduplicated_for_seconds: float | None = None
    durability: (
        Annotated[
            dict[str, Any],
            Meta(
                description="{asked, confirmed, replicas?, reason?}. Unconfirmed entries are in the stream, "
                "too: adding them again would duplicate them."
            ),
        ]
        | None
    ) = None
    kept_for: (
        Annotated[str, Meta(description="Group that needs entries, which were therefore not trimmed.")] | None
    ) = None
    warning: Annotated[str, Meta(description="What is unusual about the new stream's name.")] | None = None


def _plan(call: Call[Bus], args: StreamAddArguments) -> Plan[StreamAdded] | Plan[Result] | None:
    """Return the call as one round trip; None if the handler is to run. A `Result` is encoded already."""
    bus, stream = call.bus, args.stream
    creatable = bus.names.creatable
    if stream not in creatable:
        return None
    waits = call.quarantines(stream)
    entries = args.entries
    if len(entries) == 1 and not waits and (type(args) in ONLY_REQUIRED or _asked(args) == _NOTHING):
        return bus.publisher.single.plan(stream, entries[0], call.principal.name, _ONE_ADDED)
    if args.durability != "memory" or (args.reply_to is not None and args.reply_to not in creatable):
        return None
    plan = bus.publisher.plan_add(
        stream,
        entries,
        Stamp(sender=call.principal.name, correlation_id=args.correlation_id, reply_to=args.reply_to),
        idempotency_key=args.idempotency_key,
        owner=call.principal,
        max_length=args.max_length,
        max_age_seconds=args.max_age_seconds,
        waits=waits,
    )
    return plan.then(partial(_answer, call, args))


# What is asked for beside the entries; most calls ask for nothing.
_MORE: Final = attrs.fields(StreamAddArguments)[2:]
_asked: Final = attrgetter(*(field.name for field in _MORE))
_NOTHING: Final = tuple(field.default for field in _MORE)
#: Of the answers for an entry that was added with nothing asked for but that. An ID is digits and a dash.
ONE_ADDED_FORM: Final = ResultForm(lambda entry_id: StreamAdded([entry_id]))
_ONE_ADDED: Final = (ONE_ADDED_FORM.filled,)


@tool(
    title="Add entries",
    profile=Profile.WORKER,
    permission=Permission.PUBLISH,
    needs=needs_on(Permission.PUBLISH, "stream", "reply_to", creates=True),
    hints=writing(
        "It adds entries, and creates the stream if it does not exist.",
        destructive=yes(
            "max_length and max_age_seconds trim entries of others, except those that a group has not "
            "finished."
        ),
        idempotent=no(
            "Without an idempotency_key each call adds the entries again; with one, after its window."
        ),
    ),
    plan=_plan,
)
async def stream_add(call: Call[Bus], args: StreamAddArguments) -> StreamAdded:
    """Publish 1 to 100 entries to a stream, which is created if it does not exist.

    The server gives each entry its ID and time, and the daemon stamps the sender. Give an
    idempotency_key whenever a repeated publication would do harm.
    """
    warning = await naming_warning(call, args.stream)
    if args.reply_to is not None:
        # The reply creates this stream, and whoever replies cannot change its name.
        await naming_warning(call, args.reply_to)
    added = await call.bus.publisher.add(
        args.stream,
        args.entries,
        Stamp(sender=call.principal.name, correlation_id=args.correlation_id, reply_to=args.reply_to),
        idempotency_key=args.idempotency_key,
        owner=call.principal,
        max_length=args.max_length,
        max_age_seconds=args.max_age_seconds,
        durability=Durability(args.durability),
        waits=call.quarantines(args.stream),
    )
    return _answer(call, args, added, warning)


def _answer(
    call: Call[Bus], args: StreamAddArguments, added: Added, warning: str | None = None
) -> StreamAdded:
    window = call.bus.settings.leases.idempotency_window_seconds
    return StreamAdded(
        ids=[] if added.waits else added.ids,
        waiting=added.ids if added.waits else None,
        duplicate=added.duplicate,
        deduplicated_for_seconds=None if args.idempotency_key is None else window,
        durability=None if added.confirmation is None else _shown(added.confirmation),
        kept_for=added.kept_for,
        warning=warning,
    )


def _shown(confirmation: Confirmation) -> dict[str, Any]:
    shown: dict[str, Any] = {"asked": confirmation.asked.value, "confirmed": confirmation.confirmed}
    if confirmation.replicas is not None:
        shown["replicas"] = confirmation.replicas
    if confirmation.reason is not None:
        shown["reason"] = confirmation.reason
    return shown


TOOLS = (stream_add,)
