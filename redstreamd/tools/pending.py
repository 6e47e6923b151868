"""pending_list: the entries that were taken from a consumer group and are not finished."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import attrs
from msgspec import Meta

from redstreamd.policy import Permission
from redstreamd.presentation.truncation import fitting
from redstreamd.streams import entry_ids
from redstreamd.streams.bus import Bus
from redstreamd.streams.pending import PendingItem, PendingPage
from redstreamd.streams.plans import Plan, run_plan
from redstreamd.tools import shared_arguments
from redstreamd.tools.annotations import reading
from redstreamd.tools.argument_types import NameOf
from redstreamd.tools.definition import Call, Profile, needs_on, tool


@attrs.frozen
class PendingListArguments:
    """Arguments of pending_list."""

    stream: shared_arguments.Stream
    group: shared_arguments.Group
    consumer: (
        Annotated[str, Meta(max_length=65_536, description="Only what this consumer holds."), NameOf.CONSUMER]
        | None
    ) = None
    min_idle_seconds: Annotated[
        float, Meta(ge=0, le=10**10, description="Only entries last delivered at least this long ago.")
    ] = 0.0
    min_deliveries: Annotated[int, Meta(ge=0, description="Only entries delivered at least this often.")] = 0
    cursor: shared_arguments.Cursor | None = None
    count: shared_arguments.Count = 10


@attrs.frozen
class PendingList:
    """Answer of pending_list."""

    entries: Annotated[
        list[dict[str, Any]],
        Meta(
            description="{id, time, consumer, idle_seconds, deliveries, lease_expires | retry_at}; with "
            "neither, another program holds it."
        ),
    ]
    pending: Annotated[int, Meta(description="Pending entries in the whole group.")]
    next_cursor: str
    has_more: bool


def _plan(call: Call[Bus], args: PendingListArguments) -> Plan[PendingList]:
    at = None if args.cursor is None else entry_ids.split_cursor(("",), args.cursor)[0]
    plan = call.bus.pending.plan_page(
        args.stream,
        args.group,
        call.principal,
        manages=call.may(args.stream, Permission.MANAGE),
        cursor=at,
        count=args.count,
        consumer=args.consumer,
        min_idle_seconds=args.min_idle_seconds,
        min_deliveries=args.min_deliveries,
    )
    return plan.then(partial(_answer, call, at))


def _answer(call: Call[Bus], at: str | None, page: PendingPage) -> PendingList:
    shown = fitting([_line(item) for item in page.items], call.bus.quotas.result_bytes(call.principal))
    cut = len(shown) < len(page.items)
    reached = shown[-1]["id"] if cut else page.next_cursor
    return PendingList(shown, page.total, reached or at or entry_ids.ZERO, page.has_more or cut)


@tool(
    title="List pending entries",
    profile=Profile.OBSERVER,
    permission=Permission.READ,
    needs=needs_on(Permission.READ, "stream"),
    hints=reading("It asks for the pending entries and their due times."),
    plan=_plan,
)
async def pending_list(call: Call[Bus], args: PendingListArguments) -> PendingList:
    """List entries that consumers of a group took and did not finish: who holds them, since and until when.

    A page may be short or empty while has_more is true: go on with next_cursor.
    """
    return await run_plan(call.bus.redis, _plan(call, args))


def _line(item: PendingItem) -> dict[str, Any]:
    entry = item.entry
    line = {
        "id": entry.id,
        "time": entry_ids.time_of(entry.id),
        "consumer": entry.consumer,
        "idle_seconds": entry.idle_seconds,
        "deliveries": entry.deliveries,
    }
    if item.due is not None:
        line["retry_at" if item.is_retry else "lease_expires"] = entry_ids.iso_time(item.due)
    return line


TOOLS = (pending_list,)
