"""Lists that the server gives as a whole, asked for once for all who ask.

XINFO GROUPS and XINFO CONSUMERS have no pages: of 10,000, which other programs or many workers may have made,
each takes some 10 ms of the server's time, and as much of ours to read. So a list is read in parts, and a
long one is used again for a while, unless it is known to be wrong. Others are asked for each time.
"""

from __future__ import annotations

import abc
from collections.abc import AsyncIterator, Callable, Hashable
from functools import partial
from typing import Any, Final, Generic, Protocol, TypeVar

import trio

from redstreamd.redisio import Role
from redstreamd.redisio.client import Redis
from redstreamd.streams.deadlines import Deadlines
from redstreamd.streams.shared_requests import SharedRequest

#: So many are read at a time, which takes 0.5 ms.
FEW: Final = 256
#: Up to so many a list is asked for each time, which takes the server 1 ms.
SHORT: Final = 1_000
#: Seconds for which a longer list is used.
FRESH_SECONDS: Final = 2.0
#: Items of all lists of a kind that are kept, each of about 0.5 KiB.
_MAX_KEPT: Final = 50_000


class Listed(Protocol):
    """A list of one key."""

    @property
    def taken_at(self) -> float:
        """When the server was asked, in trio's time."""
        ...

    def __len__(self) -> int:
        """Return how many there are."""
        ...


class _Named(Protocol):
    @property
    def name(self) -> str: ...


KeyT = TypeVar("KeyT", bound=Hashable)
ListedT = TypeVar("ListedT", bound=Listed)
ItemT = TypeVar("ItemT")
NamedT = TypeVar("NamedT", bound=_Named)


class LongLists(abc.ABC, Generic[KeyT, ListedT]):
    """The lists of one kind; one for each `Redis`, by `Redis.shared`.

    Attributes:
        deadlines: Drops lists at their time; None: they are dropped when something is asked.
    """

    def __init__(self, redis: Redis) -> None:
        """Ask `redis`."""
        self.deadlines: Deadlines | None = None
        self._redis = redis
        # Who asks joins the request that is here. Invariant: it began after its list was last forgotten.
        self._asked: dict[KeyT, SharedRequest[ListedT]] = {}
        # Long lists only, in the order in which they came.
        self._kept: dict[KeyT, ListedT] = {}
        self._is_drop_due = False

    @property
    def kept_items(self) -> int:
        """How many items are kept."""
        return sum(map(len, self._kept.values()))

    @abc.abstractmethod
    async def _list(self, key: KeyT) -> ListedT:
        """Ask the server."""

    async def of(self, key: KeyT) -> ListedT:
        """Return a list; a long one as it was `FRESH_SECONDS` ago at most.

        Raises:
            ServerReplied: There is nothing to be listed.
            BusError: CONNECTION_ERROR and the like.
        """
        self._drop_old()
        if (kept := self._kept.get(key)) is not None:
            return kept
        asked = self._asked.get(key)
        if asked is None:
            asked = self._asked[key] = SharedRequest(partial(self._ask, key))
        try:
            return await asked.answer()
        finally:
            if not asked.in_use and self._asked.get(key) is asked:
                del self._asked[key]

    def forget_all(self) -> None:
        """Forget what is kept to save time."""
        self._kept.clear()

    def forget(self, key: KeyT) -> None:
        """Forget one list, which may be wrong: who asks from now on gets one that is made from now on."""
        self._kept.pop(key, None)
        # Those who asked before may still share the one that is being made.
        self._asked.pop(key, None)

    async def _ask(self, key: KeyT) -> ListedT:
        # Made for those who asked while these waited.
        self._drop_old()
        if (kept := self._kept.get(key)) is not None:
            return kept
        asked = self._asked.get(key)
        listed = await self._list(key)
        # Else it was forgotten meanwhile.
        if asked is not None and self._asked.get(key) is asked and SHORT < len(listed) <= _MAX_KEPT:
            self._keep(key, listed)
        return listed

    def _keep(self, key: KeyT, listed: ListedT) -> None:
        room = _MAX_KEPT - len(listed) - self.kept_items
        while room < 0:
            room += len(self._kept.pop(next(iter(self._kept))))
        self._kept[key] = listed
        self._drop_in_time()

    def _drop_old(self) -> None:
        """Drop the lists of all keys whose time is over."""
        now = trio.current_time()
        for key in [key for key, kept in self._kept.items() if kept.taken_at + FRESH_SECONDS <= now]:
            del self._kept[key]

    def _drop_in_time(self) -> None:
        if self.deadlines is not None and not self._is_drop_due:
            self._is_drop_due = True
            first = min(kept.taken_at for kept in self._kept.values())
            self.deadlines.add(first + FRESH_SECONDS, self._on_time)

    def _on_time(self) -> None:
        self._is_drop_due = False
        self._drop_old()
        if self._kept:
            self._drop_in_time()

    async def _by_name(self, stream: str, *command: str, read: Callable[[Any], NamedT]) -> dict[str, NamedT]:
        """Return what a command about a stream lists by name, read in parts."""
        # Over the bulk connection, so that no short reply waits behind it.
        raw: list[Any] = await self._redis.execute(*command, key=stream, role=Role.BULK, retry_safe=True)
        by_name: dict[str, NamedT] = {}
        async for some in _parts(raw, read):
            by_name.update((each.name, each) for each in some)
        return by_name


async def read_in_parts(raw: list[Any], read: Callable[[Any], ItemT]) -> list[ItemT]:
    """Return what is read of each; others have their turn between the parts. The given list is emptied."""
    items: list[ItemT] = []
    async for some in _parts(raw, read):
        items += some
    return items


async def _parts(raw: list[Any], read: Callable[[Any], ItemT]) -> AsyncIterator[list[ItemT]]:
    while raw:
        yield [read(each) for each in raw[:FEW]]
        # To free what was read takes as long as to read it.
        del raw[:FEW]
        if raw:
            await trio.lowlevel.checkpoint()
