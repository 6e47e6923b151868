"""The consumers of a group, listed once for all who ask; see `long_lists`."""

from __future__ import annotations

import msgspec
import trio

from redstreamd.redisio import reply_parsing
from redstreamd.redisio.reply_parsing import ConsumerInfo
from redstreamd.streams.long_lists import LongLists


class ConsumerList(msgspec.Struct, frozen=True, eq=False):
    """The consumers of one group.

    Attributes:
        consumers: By name, in the server's order.
        taken_at: When the server was asked, in trio's time.
    """

    consumers: dict[str, ConsumerInfo]
    taken_at: float

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.consumers)


class ConsumerLists(LongLists[tuple[str, str], ConsumerList]):
    """Lists consumers, by stream and group; one for each `Redis`, by `Redis.shared`."""

    async def _list(self, key: tuple[str, str]) -> ConsumerList:
        taken_at = trio.current_time()
        found = await self._by_name(key[0], "XINFO", "CONSUMERS", *key, read=reply_parsing.consumer_info)
        return ConsumerList(found, taken_at)

    def forget_stream(self, stream: str) -> None:
        """Forget the consumers of all groups of a stream; see `forget`."""
        for key in [key for key in (*self._kept, *self._asked) if key[0] == stream]:
            self.forget(key)
