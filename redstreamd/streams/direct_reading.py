"""Reads streams and groups at Redis's own positions, without leases."""

from __future__ import annotations

from redstreamd.redisio import Role, reply_parsing
from redstreamd.redisio.client import Redis
from redstreamd.redisio.reply_parsing import GroupInfo, RawEntry
from redstreamd.streams import entry_ids
from redstreamd.streams.entry_pages import Pages
from redstreamd.streams.error_context import explain_errors, stream_not_found
from redstreamd.streams.scripts import load

_DELIVER = load("read_group")


class DirectReader:
    """Reads and delivers entries; an answer has at most `max_bytes` of content, and at least one entry."""

    def __init__(self, redis: Redis, pages: Pages, *, max_bytes: int) -> None:
        """Read through `redis` and `pages`, deliver through `redis`."""
        self._redis = redis
        self._pages = pages
        self._max_bytes = max_bytes

    async def read(self, stream: str, start: str, count: int) -> list[RawEntry]:
        """Return up to `count` entries from an entry ID, ``-`` or ``+`` on.

        Raises:
            BusError: INVALID_START, STREAM_NOT_FOUND, WRONG_TYPE; CONNECTION_ERROR.
        """
        first = start if start in ("-", "+") else entry_ids.position(start, argument="start")
        async with explain_errors(self._redis, stream):
            page = await self._pages.read(stream, first, "+", max_entries=count, max_bytes=self._max_bytes)
            if not page.entries and await self._redis.key_type(stream) == "none":
                raise await stream_not_found(self._redis, stream)
        return page.entries

    async def deliver(self, stream: str, group: str, consumer: str, count: int) -> list[RawEntry]:
        """Deliver up to `count` new entries to a consumer; they stay pending until acknowledged.

        Raises:
            BusError: STREAM_NOT_FOUND, GROUP_NOT_FOUND, WRONG_TYPE; CONNECTION_ERROR; OUTCOME_UNKNOWN, after
                which entries may be pending that nobody received.
        """
        async with explain_errors(self._redis, stream, group):
            delivered = await _DELIVER.run(
                self._redis,
                stream=stream,
                group=group,
                consumer=consumer,
                max_entries=count,
                max_bytes=self._max_bytes,
                retry_safe=False,
                role=Role.BULK,
            )
        return reply_parsing.entries(delivered)

    async def groups(self, stream: str) -> list[GroupInfo]:
        """Return the groups of a stream, sorted by name.

        Raises:
            BusError: STREAM_NOT_FOUND, WRONG_TYPE; CONNECTION_ERROR.
        """
        async with explain_errors(self._redis, stream):
            return sorted(await self._redis.xinfo_groups(stream), key=lambda group: group.name)
