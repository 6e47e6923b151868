"""Which streams have most to do, of all that there are.

Owns a look at every stream, over and over while somebody asks. The look is cheap, so that 10,000 streams take
a second, in turns of a millisecond; the pauses between are so long that it is never more than a small part of
the time. What is found out about the chosen ones is no concern of this module.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import islice
from typing import Any, Final

import msgspec
import trio

from redstreamd.redisio.client import Redis
from redstreamd.redisio.error_replies import KEY_DENIED
from redstreamd.redisio.redis_errors import ServerReplied
from redstreamd.streams.batches import AT_ONCE, UNAVAILABLE, ask_in_batches
from redstreamd.streams.listing import Lister
from redstreamd.streams.scripts import load

_GLANCE = load("info", "glance")

#: Groups of a stream up to which they are looked at.
_MAX_GROUPS: Final = 64
#: A pause is at least so many times as long as the look took, and so many seconds.
_PAUSE_SHARE: Final = 50.0
_SHORTEST_PAUSE: Final = 0.5
#: A look that took no longer is waited for, so that streams are known as soon as they are there.
_QUICK_SECONDS: Final = 0.25
#: How long the first look is waited for.
_FIRST_SECONDS: Final = 5.0


class Ranked(msgspec.Struct, frozen=True):
    """A stream and how much there is to do.

    Attributes:
        stream: Its name.
        groups: Number of its groups.
        work: Entries that its groups have not finished, and those added since the look before.
        length: Entries in it.
    """

    stream: str
    groups: int
    work: int
    length: int


class Ranks(msgspec.Struct, frozen=True):
    """What a look found.

    Attributes:
        first: The streams with most to do, the first first; at most as many as were asked for.
        streams: How many there are in all.
        groups: How many groups they have together.
        taken_at: When the look began, in trio's time.
        seconds: How long it took.
    """

    first: Sequence[Ranked]
    streams: int
    groups: int
    taken_at: float
    seconds: float


class Ranking:
    """Looks at all streams while somebody asks; a supervised child runs it.

    Attributes:
        failures: Looks so far that failed.
    """

    def __init__(self, redis: Redis, lister: Lister, *, count: int) -> None:
        """Choose `count` streams of those that `lister` lists."""
        self.failures = 0
        self._redis = redis
        self._lister = lister
        self._count = count
        self._asked = trio.Event()
        self._looked = trio.Event()
        self._last: Ranks | None = None
        # Entries ever added to each stream, at the last look.
        self._added: dict[str, int] = {}

    def reconfigure(self, *, count: int) -> None:
        """Choose another number of streams from the next look on."""
        self._count = count

    async def ranks(self) -> Ranks | None:
        """Return what the last look found, and have another one begun if it is due.

        A quick look is waited for, and so is the first, for `_FIRST_SECONDS` at most; None if there was none.
        """
        last = self._last
        if last is not None and trio.current_time() < last.taken_at + _pause_after(last.seconds):
            return last
        looked = self._looked
        self._asked.set()
        if last is None or last.seconds <= _QUICK_SECONDS:
            with trio.move_on_after(_FIRST_SECONDS):
                await looked.wait()
        return self._last

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look when asked, until cancelled. That Redis is not there is no error."""
        task_status.started()
        while True:
            await self._asked.wait()
            self._asked = trio.Event()
            began = trio.current_time()
            try:
                self._last = await self._look(began)
            except UNAVAILABLE:
                self.failures += 1
                self._last = None
            looked, self._looked = self._looked, trio.Event()
            looked.set()
            await trio.sleep(_pause_after(trio.current_time() - began))

    async def _look(self, began: float) -> Ranks:
        listing = await self._lister.names("*")
        if not self._count:
            return Ranks((), listing.total, 0, began, trio.current_time() - began)
        names = iter(listing)
        first: list[Ranked] = []
        added: dict[str, int] = {}
        groups = 0
        while batch := list(islice(names, AT_ONCE)):
            found = []
            for name, seen in (await self._glance(batch)).items():
                added[name] = seen.added
                groups += seen.groups
                new = max(0, seen.added - self._added.get(name, seen.added))
                found.append(Ranked(name, seen.groups, seen.pending + seen.lag + new, seen.length))
            # Of equal ones the first stay first.
            first = heapq.nlargest(self._count, (*first, *found), key=lambda each: (each.work, each.length))
        self._added = added
        return Ranks(first, len(added), groups, began, trio.current_time() - began)

    async def _glance(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the reply for each stream that there is, and that our user of Redis may read."""
        calls = [(name, _GLANCE.call({"stream": name, "max_groups": _MAX_GROUPS})) for name in names]
        replies = await ask_in_batches(self._redis, calls)
        seen = {}
        for name, reply in zip(names, replies, strict=True):
            if isinstance(reply, ServerReplied):
                if reply.kind != KEY_DENIED:
                    raise reply
            elif reply:
                seen[name] = _GLANCE.read(reply)
        return seen


def _pause_after(seconds: float) -> float:
    """Return how long no look begins after one that took so long."""
    return max(_SHORTEST_PAUSE, _PAUSE_SHARE * seconds)
