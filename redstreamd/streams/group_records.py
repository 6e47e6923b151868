"""Creating consumer groups, and their limits of deliveries.

Owns the hash beside each group (``lua/group_record.lua``). The limit belongs to the group: one consumer's
argument must not dead-letter the work of others.
"""

from __future__ import annotations

from typing import Any

import msgspec

from redstreamd.redisio.client import Redis
from redstreamd.streams.call_records import call_record
from redstreamd.streams.group_counts import GroupCounts, no_more_groups
from redstreamd.streams.names import Kind, companion_key
from redstreamd.streams.plans import Plan
from redstreamd.streams.scripts import load

_CREATE = load("info", "group_count", "group_limit", "group_record", "create_group")
#: The greatest limit; what another program wrote beyond is ignored.
MAX_LIMIT = 1_000_000


class Creation(msgspec.Struct, frozen=True):
    """Result of creating a group.

    Attributes:
        created: This call created it. False if it existed; nothing was changed then.
        max_deliveries: Deliveries after which an entry of the group is dead-lettered; 0 for never.
    """

    created: bool
    max_deliveries: int


class GroupRecords:
    """Creates groups, and reads and sets their limits."""

    def __init__(self, redis: Redis, *, max_deliveries: int, max_groups: int) -> None:
        """Work through `redis`.

        Args:
            redis: Where the groups are.
            max_deliveries: The limit of groups that have none of their own.
            max_groups: How many groups a stream may have.
        """
        self._redis = redis
        self.reconfigure(max_deliveries=max_deliveries, max_groups=max_groups)

    def reconfigure(self, *, max_deliveries: int, max_groups: int) -> None:
        """Apply other values from now on."""
        self._max_groups = max_groups
        self._default = max_deliveries

    def plan_create(
        self, stream: str, group: str, position: str, *, max_deliveries: int | None = None
    ) -> Plan[Creation]:
        """Plan to create a group, and its stream if that does not exist. Idempotent.

        Args:
            stream: The stream.
            group: The group.
            position: Its last-delivered ID, as XGROUP CREATE takes it.
            max_deliveries: Its limit; None: the setting's.

        Running it raises TOO_LARGE if the stream has too many groups.
        """
        operands = {
            "stream": stream,
            "group": group,
            "position": position,
            "max_deliveries": max_deliveries,
            "default": self._default,
            **self._redis.shared(GroupCounts).operands(stream, self._max_groups),
            **call_record(self._redis, stream),
        }

        def read(raw: Any) -> Creation:
            reply = _CREATE.read(raw)
            if reply.too_many is not None:
                raise no_more_groups(stream, reply.too_many)
            return Creation(reply.created, reply.max_deliveries)

        return Plan(_CREATE.call(operands), stream, read, retry_safe=True)

    async def max_deliveries(self, stream: str, group: str) -> int:
        """Return the limit of a group, which need not exist; the setting's if it has none."""
        key = companion_key(stream, Kind.GROUP, group)
        kept = await self._redis.execute("HGET", key, "max_deliveries", key=key, retry_safe=True)
        # Another program may have written anything.
        limit = int(kept) if kept is not None and kept.isdigit() and len(kept) < 8 else MAX_LIMIT + 1
        return limit if limit <= MAX_LIMIT else self._default

    async def set_max_deliveries(self, stream: str, group: str, max_deliveries: int) -> None:
        """Set the limit of a group, from the next take or failure on."""
        key = companion_key(stream, Kind.GROUP, group)
        # A hash with only the record of the clock expires; one with a limit does not. PERSIST comes first,
        # too, so that a user who may not run it sets nothing.
        await self._redis.execute("PERSIST", key, key=key, retry_safe=True)
        await self._redis.execute("HSET", key, "max_deliveries", max_deliveries, key=key, retry_safe=True)
        await self._redis.execute("PERSIST", key, key=key, retry_safe=True)
