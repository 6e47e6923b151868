"""The groups of a stream, listed once for all who ask; see `long_lists`."""

from __future__ import annotations

from typing import Final

import msgspec
import trio

from redstreamd.redisio import reply_parsing
from redstreamd.redisio.redis_errors import ServerReplied
from redstreamd.redisio.reply_parsing import GroupInfo
from redstreamd.streams.long_lists import FEW, SHORT, LongLists

#: Groups up to which a list is read in one part.
FEW_GROUPS: Final = FEW


class GroupList(msgspec.Struct, frozen=True, eq=False):
    """The groups of one stream.

    Attributes:
        groups: By name, in the server's order.
        taken_at: When the server was asked, in trio's time.
    """

    groups: dict[str, GroupInfo]
    taken_at: float

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.groups)


class GroupLists(LongLists[str, GroupList]):
    """Lists groups, by stream; one for each `Redis`, by `Redis.shared`."""

    async def find(self, stream: str, group: str) -> GroupInfo | None:
        """Return one group of a stream; None if there is no such group. Raises as `of`."""
        listed = await self.of(stream)
        found = listed.groups.get(group)
        if found is not None or len(listed.groups) <= SHORT:
            return found
        # It may have been created since.
        try:
            await self._redis.xpending_range(stream, group, start="-", end="+", count=1)
        except ServerReplied as refusal:
            if refusal.kind == "NOGROUP":
                return None
            raise
        self.forget(stream)
        return (await self.of(stream)).groups.get(group)

    async def _list(self, key: str) -> GroupList:
        taken_at = trio.current_time()
        found = await self._by_name(key, "XINFO", "GROUPS", key, read=reply_parsing.group_info)
        return GroupList(found, taken_at)
