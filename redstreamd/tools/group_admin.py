"""group_manage: the rare and dangerous deeds on a consumer group, each with a dry run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import attrs
from msgspec import Meta

from redstreamd.errors import BusError, Code
from redstreamd.policy import Permission
from redstreamd.streams.admin.counting import Count
from redstreamd.streams.admin.group_admin import GroupState
from redstreamd.streams.bus import Bus
from redstreamd.streams.names import RELEASED, check_consumer, check_group, check_stream
from redstreamd.tools import shared_arguments
from redstreamd.tools.action_arguments import check_arguments
from redstreamd.tools.annotations import no, writing, yes
from redstreamd.tools.definition import Call, Profile, named_by, tool

_OWN = {
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
    action: Literal["destroy", "set_position", "set_max_deliveries", "remove_consumer"]
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
            int,
            Meta(
                ge=0,
                le=1_000_000,
                description="set_max_deliveries: dead-letter after as many deliveries; 0 for never.",
            ),
        ]
        | None
    ) = None
    consumer: (
        Annotated[str, Meta(min_length=1, max_length=65_536, description="remove_consumer: who goes.")] | None
    ) = None
    pending: Annotated[
        Literal["refuse", "release", "hand_over", "lose"],
        Meta(
            description="remove_consumer: what becomes of its pending entries: refuse if there are any, "
            "release them to anyone now, hand_over to to_consumer, or lose them."
        ),
    ] = "refuse"
    to_consumer: Annotated[str, Meta(min_length=1, max_length=65_536)] | None = None
    delete_dead_letters: Annotated[bool, Meta(description="destroy: the group's dead letters go, too.")] = (
        False
    )
    dry_run: shared_arguments.DryRun = True


@attrs.frozen
class GroupManaged:
    """Answer of group_manage."""

    dry_run: bool
    effect: Annotated[dict[str, Any], Meta(description="What happened, or in a dry run would happen.")]
    note: str | None = None


@tool(
    title="Manage a consumer group",
    profile=Profile.OPERATOR,
    permission=Permission.MANAGE,
    streams=named_by("stream"),
    hints=writing(
        "It removes groups and consumers, and sets positions, unless dry_run is true.",
        destructive=yes(
            "destroy forgets what is pending and where the group was; set_position skips entries; "
            "remove_consumer can lose what the consumer held."
        ),
        idempotent=no(
            "A second destroy removes the group that a consumer made anew, and a second set_position undoes "
            "what was delivered since."
        ),
    ),
)
async def group_manage(call: Call[Bus], args: GroupManageArguments) -> GroupManaged:
    """Destroy a consumer group, set its position or max_deliveries, or remove a consumer.

    Tells what would be lost, skipped or repeated, and does it only if dry_run is false.
    """
    check_arguments(args, _OWN)
    longest = call.bus.settings.streams.max_name_bytes
    check_stream(args.stream, max_bytes=longest)
    check_group(args.group, max_bytes=longest)
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
        "The entries stay in the stream. A consumer that goes on calling work_take creates the group anew.",
    )


async def _set_position(call: Call[Bus], args: GroupManageArguments, state: GroupState) -> GroupManaged:
    if args.start is None:
        raise _missing("start", "It says which entry is delivered next.")
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
        "What is pending stays so; a repeated entry that is pending is then delivered beside it."
        if move.repeated.entries and state.info.pending
        else None,
    )


async def _set_max_deliveries(call: Call[Bus], args: GroupManageArguments) -> GroupManaged:
    if args.max_deliveries is None:
        raise _missing("max_deliveries", "It says after how many deliveries entries are dead-lettered.")
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
    longest = call.bus.settings.streams.max_name_bytes
    if args.consumer is None:
        raise _missing("consumer", "It says which one to remove.")
    heir = _heir(args, longest)
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
    if args.pending == "refuse":
        # Should it take an entry just now, that one is released.
        heir = RELEASED
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
        "content_gone": done.gone,
    }
    return GroupManaged(
        False,
        {name: value for name, value in effect.items() if value},
        "work_take with resume: true gives the other consumer its entries."
        if args.pending == "hand_over" and done.moved
        else None,
    )


def _heir(args: GroupManageArguments, longest: int) -> str | None:
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
            f"What {RELEASED!r} holds is released already: nobody works on it, and anybody may take it.",
            cause="Entries that a removed consumer held are pending in this name until somebody takes them.",
            next_step="Call work_take to get them, or give pending: 'hand_over' with to_consumer, or 'lose'.",
        )
    if args.to_consumer is None:
        return RELEASED if args.pending == "release" else None
    if args.to_consumer == args.consumer:
        raise BusError(
            Code.INVALID_ARGUMENT,
            "consumer and to_consumer are the same.",
            cause="A consumer that goes cannot keep its entries.",
            next_step="Name another consumer, or give pending: 'release'.",
        )
    return check_consumer(args.to_consumer, max_bytes=longest)


def _missing(argument: str, why: str) -> BusError:
    return BusError(
        Code.INVALID_ARGUMENT,
        f"{argument} is missing.",
        cause=why,
        next_step=f"Give {argument} with this action.",
    )


TOOLS = (group_manage,)
