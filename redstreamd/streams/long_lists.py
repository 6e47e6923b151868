"""Lists that the server gives as a whole, asked for once for all who ask.

XINFO GROUPS and XINFO CONSUMERS have no pages: of 10,000, which other programs or many workers may have made,
each takes some 10 ms of the server's time, and as much of ours to read. So a long list is read in parts, and
used again for a while. Short ones are asked for each time.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, Final, Generic, Protocol, TypeVar

import trio

from redstreamd.redisio import Role
from redstreamd.redisio.client import Redis
from redstreamd.streams.shared_requests import SharedRequest

#: Up to so many a list is short; and so many are read at a time, which takes 0.5 ms.
FEW: Final = 256
#: Seconds for which a long list is used.
FRESH_SECONDS: Final = 2.0
#: Long lists of a kind that are kept, with about 0.5 KiB for each item.
_KEPT: Final = 4


class Listed(Protocol):
    """A list of one key."""

    @property
    def taken_at(self) -> float:
        """When the server was asked, in trio's time."""
        ...

    def __len__(self) -> int:
        """Return how many there are."""
        ...


KeyT = TypeVar("KeyT", bound=Hashable)
ListedT = TypeVar("ListedT", bound=Listed)
ItemT = TypeVar("ItemT")


class LongLists(abc.ABC, Generic[KeyT, ListedT]):
    """The lists of one kind; one for each `Redis`, by `Redis.shared`."""

    def __init__(self, redis: Redis) -> None:
        """Ask `redis`."""
        self._redis = redis
        self._asked: dict[KeyT, SharedRequest[ListedT]] = {}
        # Long lists only, the oldest first.
        self._kept: dict[KeyT, ListedT] = {}

    @abc.abstractmethod
    async def _list(self, key: KeyT) -> ListedT:
        """Ask the server."""

    async def of(self, key: KeyT) -> ListedT:
        """Return a list; a long one as it was `FRESH_SECONDS` ago at most.

        Raises:
            ServerReplied: There is nothing to be listed.
            BusError: CONNECTION_ERROR and the like.
        """
        kept = self._fresh(key)
        if kept is not None:
            return kept
        asked = self._asked.get(key)
        if asked is None:
            asked = self._asked[key] = SharedRequest(partial(self._ask, key))
        try:
            return await asked.answer()
        finally:
            if not asked.in_use:
                self._asked.pop(key, None)

    def forget_all(self) -> None:
        """Forget what was listed; lists that are being made are not affected."""
        self._kept.clear()

    def forget(self, key: KeyT) -> None:
        """Forget one list, likewise."""
        self._kept.pop(key, None)

    async def _ask(self, key: KeyT) -> ListedT:
        # Made for those who asked while these waited.
        if (kept := self._fresh(key)) is not None:
            return kept
        listed = await self._list(key)
        if len(listed) > FEW:
            if len(self._kept) >= _KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = listed
        return listed

    def _fresh(self, key: KeyT) -> ListedT | None:
        kept = self._kept.get(key)
        if kept is None or trio.current_time() < kept.taken_at + FRESH_SECONDS:
            return kept
        del self._kept[key]
        return None

    async def _items(self, stream: str, *command: str, read: Callable[[Any], ItemT]) -> list[ItemT]:
        """Return what a command about a stream lists, read in parts."""
        # Over the bulk connection, so that no short reply waits behind it.
        raw: list[Any] = await self._redis.execute(*command, key=stream, role=Role.BULK, retry_safe=True)
        items: list[ItemT] = []
        for at in range(0, len(raw), FEW):
            if at:
                await trio.lowlevel.checkpoint()
            items += map(read, raw[at : at + FEW])
        return items
