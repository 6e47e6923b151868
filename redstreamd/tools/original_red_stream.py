"""The six tools of the original Red-Stream server, under their names, for its existing users.

Names, arguments, defaults and answers are those of the original; an answer is one text of JSON. Each tool is
an adapter to the domain. Positions are Redis's own (``0``, ``$``). There are no leases: what `read_group`
delivers stays pending until it is acknowledged; work_take may deliver it again after
leases.foreign_idle_seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Final, TypeVar

import attrs
import msgspec
from msgspec import Meta

from redstreamd.admission.turns import next_turn
from redstreamd.errors import BusError, Code
from redstreamd.policy import Permission
from redstreamd.policy.quotas import Quantity
from redstreamd.redisio.reply_parsing import GroupInfo, RawEntry
from redstreamd.streams import entry_ids
from redstreamd.streams.bus import Bus
from redstreamd.streams.entry_decoding import decode
from redstreamd.streams.entry_encoding import Stamp
from redstreamd.streams.entry_encryption import why_not_opened
from redstreamd.streams.group_records import Creation
from redstreamd.streams.name_listing import json_bytes
from redstreamd.streams.plans import Plan, UnfinishedError, run_plan
from redstreamd.streams.publishing import Added
from redstreamd.tools import shared_arguments
from redstreamd.tools.annotations import no, reading, writing, yes
from redstreamd.tools.definition import NO_NEEDS, Call, Profile, needs_on, tool
from redstreamd.tools.long_results import PART_BYTES, list_in_parts, member_in_parts
from redstreamd.tools.new_streams import naming_warning
from redstreamd.tools.results import Result
from redstreamd.tools.work import CREATES_A_GROUP

ItemT = TypeVar("ItemT")
Items = list[dict[str, Any]] | Result
"""A list, or what it is encoded to where it is long."""

#: Items that a result is made of in one step, and bytes of names and values of entries; more in parts.
_FEW: Final = 100
_FEW_BYTES: Final = PART_BYTES
#: Names whose sizes are added up in one step.
_NAMES_AT_ONCE: Final = 1_000

#: The original had no limit. If messages are large, fewer are returned, so that an answer fits a message.
MostMessages = Annotated[int, Meta(ge=1, le=1_000, description="Most messages to return.")]


@attrs.frozen
class AddStreamMessageArguments:
    """Arguments of add_stream_message."""

    stream: shared_arguments.Stream
    message: Annotated[dict[str, Any], Meta(description="The message, a JSON object.")]


def _plan_add(call: Call[Bus], args: AddStreamMessageArguments) -> Plan[dict[str, Any]] | None:
    return _add(call, args) if args.stream in call.bus.names.creatable else None


def _add(call: Call[Bus], args: AddStreamMessageArguments) -> Plan[dict[str, Any]]:
    plan = call.bus.publisher.plan_add(
        args.stream,
        [args.message],
        Stamp(sender=call.principal.name),
        waits=call.quarantines(args.stream),
    )
    return plan.then(_added)


def _added(added: Added) -> dict[str, Any]:
    return {"id": added.ids[0], "waiting": True} if added.waits else {"id": added.ids[0]}


@tool(
    title="Add a message (Red-Stream)",
    profile=Profile.RED_STREAM,
    permission=Permission.PUBLISH,
    needs=needs_on(Permission.PUBLISH, "stream", creates=True),
    hints=writing(
        "It adds an entry, and creates the stream if it does not exist.",
        destructive=no("It only adds: it has no argument that trims."),
        idempotent=no("Each call adds the message again."),
    ),
    plan=_plan_add,
)
async def add_stream_message(call: Call[Bus], args: AddStreamMessageArguments) -> dict[str, Any]:
    """Add a message to a stream. New clients use stream_add."""
    await naming_warning(call, args.stream)
    return await run_plan(call.bus.redis, _add(call, args))


@attrs.frozen
class GetStreamMessagesArguments:
    """Arguments of get_stream_messages."""

    stream: shared_arguments.Stream
    count: MostMessages = 1
    start: Annotated[str, Meta(max_length=64, description="Entry ID to begin with.")] = "0"


def _plan_messages(call: Call[Bus], args: GetStreamMessagesArguments) -> Plan[Items]:
    plan = call.bus.direct.plan_read(args.stream, args.start, args.count, max_bytes=_own_result_bytes(call))
    return plan.then(_messages)


@tool(
    title="Read messages (Red-Stream)",
    profile=Profile.RED_STREAM,
    permission=Permission.READ,
    needs=needs_on(Permission.READ, "stream"),
    hints=reading("It reads with XRANGE, which does not affect groups."),
    plan=_plan_messages,
)
async def get_stream_messages(call: Call[Bus], args: GetStreamMessagesArguments) -> Items:
    """Read messages of a stream from an entry ID on. New clients use stream_read."""
    return await run_plan(call.bus.redis, _plan_messages(call, args))


@attrs.frozen
class CreateConsumerGroupArguments:
    """Arguments of create_consumer_group."""

    stream: shared_arguments.Stream
    group: shared_arguments.Group
    start: Annotated[str, Meta(max_length=64, description="Last delivered entry ID; $ for new only.")] = "$"


def _plan_create(call: Call[Bus], args: CreateConsumerGroupArguments) -> Plan[dict[str, Any]] | None:
    return _create(call, args) if args.stream in call.bus.names.creatable else None


def _create(call: Call[Bus], args: CreateConsumerGroupArguments) -> Plan[dict[str, Any]]:
    if args.start != "$" and entry_ids.parse(args.start) is None:
        raise BusError(
            Code.INVALID_START,
            f"start={args.start!r} is not a position to create a group at.",
            cause="It is neither $ nor an entry ID.",
            next_step="Give $ for new messages only, 0 for all, or an entry ID.",
        )
    return call.bus.work.plan_create_group(args.stream, args.group, args.start).then(_created)


def _created(creation: Creation) -> dict[str, Any]:
    if not creation.created:
        return {"success": True, "note": "Consumer group already exists"}
    return {"success": True}


@tool(
    title="Create a consumer group (Red-Stream)",
    profile=Profile.RED_STREAM,
    permission=Permission.CONSUME,
    needs=needs_on(Permission.CONSUME, "stream", creates=True),
    hints=CREATES_A_GROUP,
    plan=_plan_create,
)
async def create_consumer_group(call: Call[Bus], args: CreateConsumerGroupArguments) -> dict[str, Any]:
    """Create a consumer group, and the stream if it does not exist. New clients use group_create."""
    await naming_warning(call, args.stream)
    return await run_plan(call.bus.redis, _create(call, args))


@attrs.frozen
class ReadGroupArguments:
    """Arguments of read_group."""

    stream: shared_arguments.Stream
    group: shared_arguments.Group
    consumer: shared_arguments.Consumer
    count: MostMessages = 1


def _plan_deliver(call: Call[Bus], args: ReadGroupArguments) -> Plan[Items]:
    who, most = call.principal, _own_result_bytes(call)
    plan = call.bus.direct.plan_deliver(
        args.stream, args.group, args.consumer, args.count, who, max_bytes=most
    )
    return plan.then(_messages)


@tool(
    title="Read as a consumer (Red-Stream)",
    profile=Profile.RED_STREAM,
    permission=Permission.CONSUME,
    needs=needs_on(Permission.CONSUME, "stream"),
    hints=writing(
        "It delivers messages to the consumer, and makes them pending.",
        destructive=yes(
            "No other consumer of the group gets what it delivers, and no tool of this profile finishes it."
        ),
        idempotent=no("Each call delivers the next messages."),
    ),
    plan=_plan_deliver,
    unaudited="What it delivers is offered to each consumer of the group, and stays pending.",
)
async def read_group(call: Call[Bus], args: ReadGroupArguments) -> Items:
    """Read new messages as a consumer of a group. New clients use work_take, which can be finished."""
    return await run_plan(call.bus.redis, _plan_deliver(call, args))


@attrs.frozen
class ListGroupsArguments:
    """Arguments of list_groups."""

    stream: shared_arguments.Stream


def _plan_groups(call: Call[Bus], args: ListGroupsArguments) -> Plan[Items]:
    return call.bus.direct.plan_groups(args.stream).then(_groups)


def _groups(groups: list[GroupInfo]) -> Items:
    return _listed(groups, _group, is_few=len(groups) <= _FEW)


def _group(group: GroupInfo) -> dict[str, Any]:
    return {
        "name": group.name,
        "consumers": group.consumers,
        "pending": group.pending,
        "lastDeliveredId": group.last_delivered_id,
    }


@tool(
    title="List consumer groups (Red-Stream)",
    profile=Profile.RED_STREAM,
    permission=Permission.READ,
    needs=needs_on(Permission.READ, "stream"),
    hints=reading("It asks with XINFO GROUPS."),
    plan=_plan_groups,
)
async def list_groups(call: Call[Bus], args: ListGroupsArguments) -> Items:
    """List the consumer groups of a stream."""
    return await run_plan(call.bus.redis, _plan_groups(call, args))


@attrs.frozen
class ListStreamsArguments:
    """Arguments of list_streams."""

    pattern: Annotated[str, Meta(min_length=1, max_length=512, description="Glob pattern of names.")] = "*"


@tool(
    title="List streams (Red-Stream)",
    profile=Profile.RED_STREAM,
    permission=Permission.READ,
    needs=NO_NEEDS,
    hints=reading("It asks for keys."),
)
async def list_streams(call: Call[Bus], args: ListStreamsArguments) -> Result:
    """List the names of streams. New clients use stream_list."""
    listing = await call.bus.lister.names(args.pattern, readable=call.readable)
    max_bytes = _own_result_bytes(call) or call.bus.settings.limits.max_message_bytes // 2
    names, is_all = await call.bus.lister.permitted(listing, listing.names(), listing.total, max_bytes)
    if not is_all and await _json_bytes(names) > max_bytes:
        raise BusError(
            Code.TOO_LARGE,
            "The names of these streams do not fit one answer.",
            cause=f"An answer holds at most {max_bytes} bytes of them.",
            next_step="Give a narrower pattern, or page through them with stream_list.",
        )
    if not is_all:
        raise BusError(
            Code.TOO_LARGE,
            "Redis does not let its user access many of these streams.",
            cause="Which ones is asked for a bounded number of them.",
            next_step="Give a narrower pattern, or page through them with stream_list.",
        )
    return await member_in_parts("streams", names)


async def _json_bytes(names: Sequence[str]) -> int:
    size = 0
    for first in range(0, len(names), _NAMES_AT_ONCE):
        size += json_bytes(names[first : first + _NAMES_AT_ONCE])
        await next_turn()
    return size


def _own_result_bytes(call: Call[Bus]) -> int | None:
    """Return how large a result may be by a quota; None for what these tools return otherwise."""
    most = call.bus.quotas.most(Quantity.RESULT_BYTES, call.principal.name)
    return None if most.quota is None else most.number


def _messages(entries: list[RawEntry]) -> Items:
    is_few = len(entries) <= _FEW and sum(sum(map(len, entry.words)) for entry in entries) <= _FEW_BYTES
    return _listed(entries, _message, is_few=is_few)


def _listed(items: Sequence[ItemT], made: Callable[[ItemT], dict[str, Any]], *, is_few: bool) -> Items:
    """Return what is made of each; a step of a plan.

    Raises:
        UnfinishedError: They are many, and are made in parts.
    """
    if is_few:
        return [made(item) for item in items]
    raise UnfinishedError(partial(list_in_parts, map(made, items)))


def _message(entry: RawEntry) -> dict[str, Any]:
    decoded = decode(entry.fields)
    message = {"id": entry.id, "message": decoded.members}
    if decoded.encrypted is not None:
        message["unreadable"] = msgspec.structs.asdict(why_not_opened(entry, decoded.encrypted))
    return message


TOOLS = (
    add_stream_message,
    get_stream_messages,
    create_consumer_group,
    read_group,
    list_groups,
    list_streams,
)
