"""group_manage: destroys or changes a consumer group, each action with a dry run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import attrs
from msgspec import Meta

from redstreamd.errors import BusError, Code
from redstreamd.policy import Permission
from redstreamd.streams.admin.counting import Count
from redstreamd.streams.admin.group_admin import GroupState
from redstreamd.streams.bus import Bus
from redstreamd.streams.names import RELEASED
from redstreamd.tools import shared_arguments
from redstreamd.tools.action_arguments import check_arguments, missing_argument
from redstreamd.tools.annotations import no, writing, yes
from redstreamd.tools.argument_types import NameOf
from redstreamd.tools.definition import Call, Profile, needs_on, tool
from redstreamd.tools.effects import Marked

_ARGUMENTS_BY_ACTION = {
    "destroy": ("delete_dead_letters",),
    "set_position": ("start",),
    "set_max_deliveries": ("max_deliveries",),
    "remove_consumer": ("consumer", "pending", "to_consumer"),
}


@attrs.frozen
class GroupManageArguments:
    """Arguments of group_manage."""

    stream: shared_arguments.Stream
    group: shared_arguments.Group
    action: Annotated[
        Literal["destroy", "set_position", "set_max_deliveries", "remove_consumer"], Marked.ACTION
    ]
    start: (
        Annotated[
            str,
            Meta(
                max_length=64,
                description="set_position: what is delivered next; forms as in group_create.",
            ),
        ]
        | None
    ) = None
    max_deliveries: (
        Annotated[
            shared_arguments.MaxDeliveries,
            Meta(description="set_max_deliveries: dead-letter after this many deliveries; 0 for never."),
        ]
        | None
    ) = None
    consumer: Annotated[shared_arguments.Name, Meta(description="remove_consumer: its name.")] | None = None
    pending: Annotated[
        Literal["refuse", "release", "hand_over", "lose"],
        Meta(
            description="remove_consumer: what becomes of its pending entries: refuse if there are any, "
            "release them to anyone now, hand_over to to_consumer, or lose them."
        ),
        Marked.REMOVES,
    ] = "refuse"
    to_consumer: Annotated[shared_arguments.Name, NameOf.CONSUMER] | None = None
    delete_dead_letters: Annotated[
        bool, Meta(description="destroy: also delete the group's dead letters."), Marked.REMOVES
    ] = False
    dry_run: shared_arguments.DryRun = True


@attrs.frozen
class GroupManaged:
    """Answer of group_manage."""

    dry_run: bool
    effect: shared_arguments.Effect
    note: str | None = None


@tool(
    title="Manage a consumer group",
    profile=Profile.OPERATOR,
    permission=Permission.MANAGE,
    needs=needs_on(Permission.MANAGE, "stream"),
    hints=writing(
        "It removes groups and consumers, and sets positions, unless dry_run is true.",
        destructive=yes(
            "destroy discards the pending entries and the position of the group; set_position skips entries; "
            "remove_consumer can lose what the consumer held."
        ),
        idempotent=no(
            "A second destroy removes a group that a consumer created again, and a second set_position "
            "repeats or skips what was delivered since."
        ),
    ),
)
async def group_manage(call: Call[Bus], args: GroupManageArguments) -> GroupManaged:
    """Destroy a consumer group, set its position or max_deliveries, or remove a consumer.

    Reports what would be lost, skipped or repeated, and does it only if dry_run is false.
    """
    check_arguments(args, _ARGUMENTS_BY_ACTION)
    state = await call.bus.groups.state(args.stream, args.group)
    if args.action == "destroy":
        return await _destroy(call, args, state)
    if args.action == "set_position":
        return await _set_position(call, args, state)
    if args.action == "set_max_deliveries":
        return await _set_max_deliveries(call, args)
    return await _remove_consumer(call, args)


async def _destroy(call: Call[Bus], args: GroupManageArguments, state: GroupState) -> GroupManaged:
    effect: dict[str, Any] = {
        "destroyed": args.group,
        "pending_lost": state.info.pending,
        **Count(state.lag.least, state.lag.exact).json("not_delivered"),
        "consumers": state.info.consumers,
        "dead_letters_deleted" if args.delete_dead_letters else "dead_letters_kept": state.dead_letters,
    }
    if not args.dry_run:
        await call.bus.groups.destroy(args.stream, args.group, delete_dead_letters=args.delete_dead_letters)
    return GroupManaged(
        args.dry_run,
        effect,
        "The entries stay in the stream. A consumer that calls work_take creates the group again.",
    )


async def _set_position(call: Call[Bus], args: GroupManageArguments, state: GroupState) -> GroupManaged:
    if args.start is None:
        raise missing_argument("start", "It says which entry is delivered next.")
    move = await call.bus.groups.plan_position(args.stream, state, args.start)
    if not args.dry_run:
        await call.bus.groups.set_position(args.stream, args.group, move.position)
    return GroupManaged(
        args.dry_run,
        {
            "last_delivered_id": move.position,
            "last_delivered_id_before": state.info.last_delivered_id,
            **move.skipped.json("skipped"),
            **move.repeated.json("repeated"),
            "pending_kept": state.info.pending,
        },
        "Pending entries stay pending; a repeated entry that is pending is delivered in addition."
        if move.repeated.entries and state.info.pending
        else None,
    )


async def _set_max_deliveries(call: Call[Bus], args: GroupManageArguments) -> GroupManaged:
    if args.max_deliveries is None:
        raise missing_argument("max_deliveries", "It says when entries are dead-lettered.")
    before = await call.bus.groups.max_deliveries(args.stream, args.group)
    if not args.dry_run:
        await call.bus.groups.set_max_deliveries(args.stream, args.group, args.max_deliveries)
    lower = args.max_deliveries > 0 and (before == 0 or args.max_deliveries < before)
    return GroupManaged(
        args.dry_run,
        {"max_deliveries": args.max_deliveries, "max_deliveries_before": before},
        f"pending_list with min_deliveries {args.max_deliveries} shows the entries that the next take "
        "dead-letters when they are due."
        if lower
        else None,
    )


async def _remove_consumer(call: Call[Bus], args: GroupManageArguments) -> GroupManaged:
    if args.consumer is None:
        raise missing_argument("consumer", "It says which one to remove.")
    _check_pending(args)
    # Where nothing may be pending, an entry that the consumer takes just now is released.
    heir = args.to_consumer or (RELEASED if args.pending in ("release", "refuse") else None)
    info = await call.bus.groups.consumer(args.stream, args.group, args.consumer)
    if args.pending == "refuse" and info.pending and not args.dry_run:
        raise BusError(
            Code.INVALID_ARGUMENT,
            f"Consumer {args.consumer[:80]!r} holds {info.pending} pending entries; it was not removed.",
            cause="Removing a consumer removes its pending entries from the group: nobody would get them.",
            next_step="Give pending: 'release' to let anyone take them now, 'hand_over' with to_consumer, "
            "or 'lose'.",
        )
    effect: dict[str, Any] = {
        "removed": args.consumer,
        "idle_seconds": info.idle_seconds,
        {"release": "released", "hand_over": "handed_over", "lose": "lost"}.get(
            args.pending, "pending"
        ): info.pending,
    }
    if args.dry_run:
        refused = args.pending == "refuse" and info.pending > 0
        return GroupManaged(
            True, effect, "It would be refused: say in pending what becomes of them." if refused else None
        )
    done = await call.bus.groups.remove_consumer(
        args.stream,
        args.group,
        args.consumer,
        heir=heir,
        heir_seconds=call.bus.settings.leases.lease_seconds if args.pending == "hand_over" else None,
    )
    effect = {
        "removed": args.consumer,
        "handed_over" if args.pending == "hand_over" else "released": done.moved,
        "lost": done.lost,
        "content_gone": done.deleted,
    }
    return GroupManaged(
        False,
        {name: value for name, value in effect.items() if value},
        "work_take with resume: true gives the other consumer its entries."
        if args.pending == "hand_over" and done.moved
        else None,
    )


def _check_pending(args: GroupManageArguments) -> None:
    """Check that pending, consumer and to_consumer go together."""
    if (args.pending == "hand_over") != (args.to_consumer is not None):
        raise BusError(
            Code.INVALID_ARGUMENT,
            "pending: 'hand_over' and to_consumer go together.",
            cause="One says that entries are handed over, the other to whom.",
            next_step="Give both, or neither.",
        )
    if args.pending in ("release", "refuse") and args.consumer == RELEASED:
        raise BusError(
            Code.INVALID_ARGUMENT,
            f"The entries of {RELEASED!r} are released already: anyone may take them.",
            cause="Entries that a removed consumer held are pending under this name until they are taken.",
            next_step="Call work_take to get them, or give pending: 'hand_over' with to_consumer, or 'lose'.",
        )
    if args.to_consumer is not None and args.to_consumer == args.consumer:
        raise BusError(
            Code.INVALID_ARGUMENT,
            "consumer and to_consumer are the same.",
            cause="A consumer that is removed cannot keep its entries.",
            next_step="Name another consumer, or give pending: 'release'.",
        )


TOOLS = (group_manage,)
