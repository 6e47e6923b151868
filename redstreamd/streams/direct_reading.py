"""Reads streams and groups at Redis's own positions, without leases."""

from __future__ import annotations

from functools import partial
from operator import attrgetter
from typing import Any, Final

from redstreamd.policy import Principal
from redstreamd.redisio import Role, reply_parsing
from redstreamd.redisio.client import Redis
from redstreamd.redisio.reply_parsing import GroupInfo, RawEntry
from redstreamd.redisio.unexpected_replies import readable
from redstreamd.streams import entry_ids
from redstreamd.streams.entry_encryption import Encryption
from redstreamd.streams.entry_pages import Batch, Pages
from redstreamd.streams.error_context import check_exists
from redstreamd.streams.long_lists import FEW, read_in_parts
from redstreamd.streams.ownership import consumer_operands
from redstreamd.streams.plans import Plan, UnfinishedError
from redstreamd.streams.scripts import load

_DELIVER = load("consumer_owner", "read_group")
_NAME: Final = attrgetter("name")


class DirectReader:
    """Reads and delivers entries; an answer has at most `max_bytes` of content, and at least one entry."""

    def __init__(self, redis: Redis, pages: Pages, encryption: Encryption, *, max_bytes: int) -> None:
        """Read through `redis` and `pages`, deliver through `redis`, open with `encryption`."""
        self._encryption = encryption
        self._redis = redis
        self._pages = pages
        self._max_bytes = max_bytes

    def reconfigure(self, *, max_bytes: int) -> None:
        """End answers at another size from now on."""
        self._max_bytes = max_bytes

    def plan_read(
        self, stream: str, start: str, count: int, *, max_bytes: int | None = None
    ) -> Plan[list[RawEntry]]:
        """Plan to read up to `count` entries from an entry ID, ``-`` or ``+`` on.

        `max_bytes` is for callers who may have less than others.

        Raises:
            BusError: INVALID_START; running it also STREAM_NOT_FOUND, WRONG_TYPE; CONNECTION_ERROR.
        """
        first = start if start in ("-", "+") else entry_ids.position(start, argument="start")

        async def empty() -> list[RawEntry]:
            await check_exists(self._redis, stream)
            return []

        def read(page: Batch) -> list[RawEntry]:
            if not page.entries:
                raise UnfinishedError(empty)
            return self._encryption.open_page(stream, page.entries, list)

        most = max_bytes or self._max_bytes
        return self._pages.plan(stream, first, "+", max_entries=count, max_bytes=most).then(read)

    def plan_deliver(
        self,
        stream: str,
        group: str,
        consumer: str,
        count: int,
        principal: Principal,
        *,
        max_bytes: int | None = None,
    ) -> Plan[list[RawEntry]]:
        """Plan to deliver up to `count` new entries to a consumer; they stay pending until acknowledged.

        The consumer is the principal's own; see `ownership`. `max_bytes` is as in `plan_read`.

        Running it raises STREAM_NOT_FOUND, GROUP_NOT_FOUND, WRONG_TYPE; CONNECTION_ERROR; OUTCOME_UNKNOWN,
        after which entries may be pending that nobody received.
        """
        operands = {
            "stream": stream,
            "group": group,
            **consumer_operands(principal, consumer),
            "max_entries": count,
            "max_bytes": max_bytes or self._max_bytes,
        }

        def opened(entries: list[RawEntry]) -> list[RawEntry]:
            return self._encryption.open_page(stream, entries, list)

        return Plan(_DELIVER.call(operands), stream, reply_parsing.entries, group=group, role=Role.BULK).then(
            opened
        )

    def plan_groups(self, stream: str) -> Plan[list[GroupInfo]]:
        """Plan to list the groups of a stream, sorted by name.

        Running it raises STREAM_NOT_FOUND, WRONG_TYPE; CONNECTION_ERROR.
        """

        def read(reply: Any) -> list[GroupInfo]:
            if len(reply) > FEW:
                raise UnfinishedError(partial(_by_name, reply))
            return sorted(map(reply_parsing.group_info, reply), key=_NAME)

        # One at a time: other programs may have made thousands.
        return Plan(("XINFO", "GROUPS", stream), stream, read, retry_safe=True, role=Role.LARGE)


@readable
async def _by_name(reply: list[Any]) -> list[GroupInfo]:
    """Read many groups in parts, and return them sorted by name."""
    groups = await read_in_parts(reply, reply_parsing.group_info)
    # They come by the bytes of their names, and sorting what is in order takes little.
    groups.sort(key=_NAME)
    return groups
