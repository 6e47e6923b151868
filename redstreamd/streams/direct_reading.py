"""Reads streams and groups at Redis's own positions, without leases."""

from __future__ import annotations

from redstreamd.redisio.commands import Commands
from redstreamd.redisio.reply_parsing import GroupInfo, RawEntry
from redstreamd.streams import entry_ids
from redstreamd.streams.entry_pages import Pages
from redstreamd.streams.error_context import explained, stream_not_found


class DirectReader:
    """Reads and delivers entries; an answer has at most `max_bytes` of content, and at least one entry."""

    def __init__(self, commands: Commands, pages: Pages, *, max_bytes: int) -> None:
        """Read through `commands` and `pages`."""
        self._commands = commands
        self._pages = pages
        self._max_bytes = max_bytes

    async def read(self, stream: str, start: str, count: int) -> list[RawEntry]:
        """Return up to `count` entries from an entry ID, ``-`` or ``+`` on.

        Raises:
            BusError: INVALID_START, STREAM_NOT_FOUND, WRONG_TYPE; CONNECTION_ERROR.
        """
        first = start if start in ("-", "+") else entry_ids.position(start, argument="start")
        async with explained(self._commands, stream):
            page = await self._pages.read(stream, first, "+", most=count, most_bytes=self._max_bytes)
            if not page.entries and await self._commands.key_type(stream) == "none":
                raise await stream_not_found(self._commands, stream)
        return page.entries

    async def deliver(self, stream: str, group: str, consumer: str, count: int) -> list[RawEntry]:
        """Deliver up to `count` new entries to a consumer; they stay pending until acknowledged.

        Raises:
            BusError: STREAM_NOT_FOUND, GROUP_NOT_FOUND, WRONG_TYPE; CONNECTION_ERROR; OUTCOME_UNKNOWN, after
                which entries may be pending that nobody received.
        """
        async with explained(self._commands, stream, group):
            return await self._pages.deliver(stream, group, consumer, most=count, most_bytes=self._max_bytes)

    async def groups(self, stream: str) -> list[GroupInfo]:
        """Return the groups of a stream, sorted by name.

        Raises:
            BusError: STREAM_NOT_FOUND, WRONG_TYPE; CONNECTION_ERROR.
        """
        async with explained(self._commands, stream):
            return sorted(await self._commands.xinfo_groups(stream), key=lambda group: group.name)
