"""The groups of a stream, listed once for all who ask.

XINFO GROUPS has no pages: of 10,000 groups, which another program may have made, it takes some 10 ms of the
server's time, and as much of ours to read. So a long list is read in parts, and used again for a while. Short
ones are asked for each time.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import trio

from redstreamd.redisio import Role, reply_parsing
from redstreamd.redisio.client import Redis
from redstreamd.redisio.redis_errors import ServerReplied
from redstreamd.redisio.reply_parsing import GroupInfo
from redstreamd.streams.shared_requests import SharedRequest

#: Groups up to which a list is short; and groups read at a time, which takes 0.5 ms.
FEW_GROUPS: Final = 256
#: Seconds for which a long list is used.
FRESH_SECONDS: Final = 2.0
#: Long lists that are kept, with about 0.5 KiB for each group.
_KEPT: Final = 4


class GroupList(msgspec.Struct, frozen=True, eq=False):
    """The groups of one stream.

    Attributes:
        groups: By name, in the server's order.
        taken_at: When the server was asked, in trio's time.
    """

    groups: dict[str, GroupInfo]
    taken_at: float


class GroupLists:
    """Lists groups; one for each `Redis`, by `Redis.shared`."""

    def __init__(self, redis: Redis) -> None:
        """Ask `redis`."""
        self._redis = redis
        self._asked: dict[str, SharedRequest[GroupList]] = {}
        # Long lists only, the oldest first.
        self._kept: dict[str, GroupList] = {}

    async def of(self, stream: str) -> GroupList:
        """Return the groups of a stream; of many groups as they were `FRESH_SECONDS` ago at most.

        Raises:
            ServerReplied: There is no such stream, or the key is none.
            BusError: CONNECTION_ERROR and the like.
        """
        kept = self._fresh(stream)
        if kept is not None:
            return kept
        asked = self._asked.get(stream)
        if asked is None:

            async def ask() -> GroupList:
                # Made for those who asked while these waited.
                return self._fresh(stream) or await self._list(stream)

            asked = self._asked[stream] = SharedRequest(ask)
        try:
            return await asked.answer()
        finally:
            if not asked.in_use:
                self._asked.pop(stream, None)

    async def find(self, stream: str, group: str) -> GroupInfo | None:
        """Return one group of a stream; None if there is no such group. Raises as `of`."""
        listed = await self.of(stream)
        found = listed.groups.get(group)
        if found is not None or len(listed.groups) <= FEW_GROUPS:
            return found
        # It may have been created since.
        try:
            await self._redis.xpending_range(stream, group, start="-", end="+", count=1)
        except ServerReplied as refusal:
            if refusal.kind == "NOGROUP":
                return None
            raise
        self._kept.pop(stream, None)
        return (await self.of(stream)).groups.get(group)

    def forget_all(self) -> None:
        """Forget what was listed; lists that are being made are not affected."""
        self._kept.clear()

    def _fresh(self, stream: str) -> GroupList | None:
        kept = self._kept.get(stream)
        if kept is None or trio.current_time() < kept.taken_at + FRESH_SECONDS:
            return kept
        del self._kept[stream]
        return None

    async def _list(self, stream: str) -> GroupList:
        taken_at = trio.current_time()
        # Over the bulk connection, so that no short reply waits behind it.
        raw: list[Any] = await self._redis.execute(
            "XINFO", "GROUPS", stream, key=stream, role=Role.BULK, retry_safe=True
        )
        groups: dict[str, GroupInfo] = {}
        for at in range(0, len(raw), FEW_GROUPS):
            if at:
                await trio.lowlevel.checkpoint()
            for each in raw[at : at + FEW_GROUPS]:
                info = reply_parsing.group_info(each)
                groups[info.name] = info
        listed = GroupList(groups, taken_at)
        if len(groups) > FEW_GROUPS:
            if len(self._kept) >= _KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[stream] = listed
        return listed
