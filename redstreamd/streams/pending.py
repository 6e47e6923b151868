"""Listing a group's pending entries: who holds each, since when, and until when."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from redstreamd.policy import Principal
from redstreamd.redisio import Role, reply_parsing
from redstreamd.redisio.client import Redis
from redstreamd.redisio.reply_parsing import PendingEntry
from redstreamd.streams.bounds import DEFAULT_BOUNDS, Bounds
from redstreamd.streams.durations import milliseconds
from redstreamd.streams.group_clocks import GroupClocks
from redstreamd.streams.group_counts import FEW, GroupCounts
from redstreamd.streams.ownership import consumer_operands
from redstreamd.streams.plans import Plan
from redstreamd.streams.scripts import load

_PENDING = load(
    "ids",
    "info",
    "group_count",
    "server_time",
    "clock",
    "due_members",
    "lease_expiry",
    "consumer_owner",
    "pending",
)
#: The operands of a page of all consumers.
_NOBODYS: Final = {"consumer": "", "owner": "", "former": "", "alias": ""}


class PendingItem(msgspec.Struct, frozen=True):
    """A pending entry and its due time.

    Attributes:
        entry: Its record of the pending entries list.
        due: When it may be taken again, in milliseconds by the server's clock; None if it has no lease, since
            another program holds it.
        is_retry: Nobody holds it: it is a retry that waits for `due`.
    """

    entry: PendingEntry
    due: int | None
    is_retry: bool


class PendingPage(msgspec.Struct, frozen=True):
    """Some pending entries of one group.

    Attributes:
        items: The entries, by growing ID.
        now: The server's time in milliseconds.
        total: All pending entries of the group.
        next_cursor: The last entry ID scanned; None if there was none.
        has_more: Whether there may be more after it.
    """

    items: list[PendingItem]
    now: int
    total: int
    next_cursor: str | None
    has_more: bool


class PendingLister:
    """Pages through pending entries lists."""

    def __init__(self, redis: Redis, clocks: GroupClocks, limits: Bounds = DEFAULT_BOUNDS) -> None:
        """List from `redis`; `clocks` know the groups' clocks."""
        self._groups = redis.shared(GroupCounts)
        self._max_scanned = limits.pending_scanned
        self._clocks = clocks

    def plan_page(
        self,
        stream: str,
        group: str,
        principal: Principal,
        *,
        manages: bool = True,
        cursor: str | None = None,
        count: int = 10,
        consumer: str | None = None,
        min_idle_seconds: float = 0.0,
        min_deliveries: int = 0,
    ) -> Plan[PendingPage]:
        """Plan to read pending entries, by growing ID.

        A page may have fewer entries than `count`, even none, although there are more: one call scans at most
        `Bounds.pending_scanned` entries.

        Args:
            stream: The stream.
            group: Its consumer group.
            principal: Who asks.
            manages: Whether it may ask for the consumers of others by name.
            cursor: An entry ID; the page begins after it.
            count: The most entries to return.
            consumer: Only what this consumer holds. The name means the principal's own, as in a take; if it
                has none that holds anything, and manages the group, that of another.
            min_idle_seconds: Only what was last delivered at least so long ago.
            min_deliveries: Only what was delivered at least so often.

        Running it raises STREAM_NOT_FOUND, GROUP_NOT_FOUND, WRONG_TYPE, PERMISSION_DENIED.
        """
        operands = {
            "stream": stream,
            "group": group,
            "start": "-" if cursor is None else f"({cursor}",
            "count": count,
            **_NOBODYS,
            **({} if consumer is None else consumer_operands(principal, consumer)),
            "asked": consumer,
            "manages": manages,
            "min_idle_ms": milliseconds(min_idle_seconds),
            "min_deliveries": min_deliveries,
            "max_scanned": self._max_scanned,
            **self._groups.operands(stream, FEW),
            **self._clocks.operands(stream, group),
        }
        # What is filtered may take the server milliseconds: one at a time, so that nobody waits for several.
        role = Role.LARGE if min_idle_seconds or min_deliveries else Role.COMMAND
        return Plan(_PENDING.call(operands), stream, _page, group=group, retry_safe=True, role=role)


def _page(raw: Any) -> PendingPage:
    reply = _PENDING.read(raw)
    items = [
        PendingItem(reply_parsing.pending_entry(line), int(due) if due else None, bool(is_retry))
        for *line, due, is_retry in reply.entries
    ]
    return PendingPage(items, reply.now, reply.total, reply.last_scanned, reply.more)
