"""Looking at a group's pending entries: who holds what, since when, and until when."""

from __future__ import annotations

import attrs

from redstreamd.redisio import reply_parsing
from redstreamd.redisio.commands import Commands
from redstreamd.redisio.connection_manager import Manager
from redstreamd.redisio.reply_parsing import PendingEntry
from redstreamd.streams.durations import milliseconds
from redstreamd.streams.error_context import explained
from redstreamd.streams.group_clocks import GroupClocks
from redstreamd.streams.names import Kind, companion_key
from redstreamd.streams.scripts import load

_PENDING = load("clock", "lease_deadlines", "pending")

#: Pending entries that one call looks at before it answers with a cursor to go on from. They cost the
#: server 4 to 7 ms at worst, and nobody else is served meanwhile.
MAX_LOOKED_AT = 5_000


@attrs.frozen
class Held:
    """A pending entry and its lease.

    Attributes:
        entry: What the pending entries list says.
        due: Server time in milliseconds at which it may be taken again; None if redstreamd does not
            know, since another program holds it.
        put_off: Nobody works on it: it is a retry that waits for `due`.
    """

    entry: PendingEntry
    due: int | None
    put_off: bool


@attrs.frozen
class HeldPage:
    """Some pending entries of one group.

    Attributes:
        held: The entries, by growing ID.
        now: The server's time in milliseconds.
        total: Pending entries in the group, whatever was asked for.
        next_cursor: The last entry ID looked at; None if there was none.
        has_more: Whether there may be more beyond it.
    """

    held: list[Held]
    now: int
    total: int
    next_cursor: str | None
    has_more: bool


class PendingLister:
    """Pages through pending entries lists."""

    def __init__(self, manager: Manager, commands: Commands, clocks: GroupClocks) -> None:
        """Ask through `manager`; due times are told with the help of `clocks`."""
        self._manager = manager
        self._clocks = clocks
        self._commands = commands

    async def page(
        self,
        stream: str,
        group: str,
        *,
        cursor: str | None = None,
        count: int = 10,
        consumer: str | None = None,
        min_idle_seconds: float = 0.0,
        min_deliveries: int = 0,
    ) -> HeldPage:
        """Read pending entries, by growing ID.

        A page may have fewer entries than `count`, even none, although there are more: a call looks
        at `MAX_LOOKED_AT` entries and no further.

        Args:
            stream: The stream.
            group: Its consumer group.
            cursor: An entry ID; the page begins after it.
            count: The most entries to return.
            consumer: Only what this consumer holds.
            min_idle_seconds: Only what was last delivered so long ago.
            min_deliveries: Only what was delivered so often.

        Raises:
            BusError: STREAM_NOT_FOUND, GROUP_NOT_FOUND, WRONG_TYPE, PERMISSION_DENIED.
        """
        async with explained(self._commands, stream, group):
            now, total, found, last, more = await self._manager.run_script(
                _PENDING,
                keys=[stream, *(companion_key(stream, kind, group) for kind in (Kind.DUE, Kind.GROUP))],
                args=[
                    group,
                    "-" if cursor is None else f"({cursor}",
                    count,
                    consumer or "",
                    milliseconds(min_idle_seconds),
                    min_deliveries,
                    MAX_LOOKED_AT,
                    *self._clocks.told(stream, group),
                ],
                retry_safe=True,
            )
        return HeldPage(
            held=[_held(reply_parsing.pending_entry(line[:4]), *line[4:]) for line in found],
            now=now,
            total=total,
            next_cursor=last.decode() or None,
            has_more=bool(more),
        )


def _held(entry: PendingEntry, due: bytes, put_off: int) -> Held:
    return Held(entry, due=int(due) if due else None, put_off=bool(put_off))
