"""What was agreed for a consumer group, and creating groups with it.

Owns the record that lies beside each group (``lua/group_record.lua``). Its `max_deliveries` is the group's,
whoever takes work: one consumer's wish must not dead-letter the work of the others.
"""

from __future__ import annotations

import attrs

from redstreamd.redisio.connection_manager import Manager
from redstreamd.streams.call_records import CallRecord
from redstreamd.streams.names import Kind, companion_key
from redstreamd.streams.scripts import load

_CREATE = load("group_record", "create_group")
#: The most deliveries that can be set; what another program wrote beyond counts as nothing.
MOST_DELIVERIES = 1_000_000


@attrs.frozen
class Creation:
    """What became of the wish for a group.

    Attributes:
        created: This call created it. False if it existed; then nothing was changed.
        max_deliveries: Deliveries after which an entry of the group is dead-lettered; 0 for never.
    """

    created: bool
    max_deliveries: int


class GroupRecords:
    """Creates groups, and reads and writes what was agreed for them."""

    def __init__(self, manager: Manager, *, max_deliveries: int) -> None:
        """Work through `manager`; groups for which nothing was set have the setting's `max_deliveries`."""
        self._manager = manager
        self._default = max_deliveries

    async def create(
        self, stream: str, group: str, position: str, *, max_deliveries: int | None = None
    ) -> Creation:
        """Create a group, and its stream if there is none.

        Args:
            stream: The stream.
            group: The group.
            position: Its last-delivered ID, as XGROUP CREATE takes it.
            max_deliveries: What to agree for it; None: it goes by the setting.

        Raises:
            ServerReplied: WRONGTYPE among others.
            RedisUnavailable, CommandTimedOut: see `Manager.execute`. Repeating the call is harmless.
        """
        sending = CallRecord.of(self._manager, stream)
        created, limit = await self._manager.run_script(
            _CREATE,
            keys=[stream, sending.key, companion_key(stream, Kind.GROUP, group)],
            args=[
                group,
                position,
                "" if max_deliveries is None else max_deliveries,
                self._default,
                sending.keep_ms,
            ],
            retry_safe=True,
        )
        return Creation(bool(created), limit)

    async def max_deliveries(self, stream: str, group: str) -> int:
        """Return the limit of a group, which need not exist; the setting's if none was set for it."""
        key = companion_key(stream, Kind.GROUP, group)
        kept = await self._manager.execute("HGET", key, "max_deliveries", retry_safe=True)
        # Another program may have written anything.
        limit = int(kept) if kept is not None and kept.isdigit() and len(kept) < 8 else MOST_DELIVERIES + 1
        return limit if limit <= MOST_DELIVERIES else self._default

    async def set_max_deliveries(self, stream: str, group: str, max_deliveries: int) -> None:
        """Set the limit of a group, from the next take or failure on."""
        key = companion_key(stream, Kind.GROUP, group)
        # A record that only says how clocks stand expires; a setting does not. Asked for before, too: a user
        # who may not do it sets nothing.
        await self._manager.execute("PERSIST", key, retry_safe=True)
        await self._manager.execute("HSET", key, "max_deliveries", max_deliveries, retry_safe=True)
        await self._manager.execute("PERSIST", key, retry_safe=True)
