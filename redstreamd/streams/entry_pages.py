"""Reading ranges of entries, bounded in number and bytes, whatever their writers put into them.

Replies come over the bulk connection, so that no short reply waits behind them.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import msgspec

from redstreamd.redisio import Role, reply_parsing
from redstreamd.redisio.client import Redis
from redstreamd.redisio.reply_parsing import RawEntry
from redstreamd.streams.plans import Plan, run_plan
from redstreamd.streams.scripts import load

_PAGE = load("ids", "read_page")


class Words(msgspec.Struct, frozen=True):
    """The words of all entries of a batch together.

    Attributes:
        most: How many an entry has at the most.
        all: All of them; None if some are ``str`` and others ``bytes``, and if there are none.
    """

    most: int
    all: frozenset[Any] | None


class Batch(msgspec.Struct):
    """Entries of one reply; not to be changed, because several may have it.

    Attributes:
        entries: In the direction of reading.
        has_more: The range holds more: the limit of number or size was reached.
    """

    entries: list[RawEntry]
    has_more: bool
    _words: Words | None = None

    @property
    def words(self) -> Words:
        """The words of all entries."""
        if self._words is None:
            each = [entry.words for entry in self.entries if entry.words]
            is_one_kind = len({type(words[0]) for words in each}) == 1
            every = frozenset(chain.from_iterable(each)) if is_one_kind else None
            self._words = Words(max(map(len, each), default=0), every)
        return self._words


class Pages:
    """Reads ranges of streams."""

    def __init__(self, redis: Redis) -> None:
        """Read through `redis`."""
        self._redis = redis

    async def read(
        self, stream: str, first: str, last: str, *, max_entries: int, max_bytes: int, forward: bool = True
    ) -> Batch:
        """Read entries from `first` to `last`, inclusive unless prefixed with ``(``.

        Args:
            stream: The stream; one that does not exist is empty.
            first: Where to begin, in the direction of reading.
            last: Where to end.
            max_entries: The most entries.
            max_bytes: No further entry is read once the content reaches this size. The last entry may exceed
                it by any amount, since entries are read whole.
            forward: By growing ID, else newest first.

        Raises:
            BusError: As `run_plan`.
        """
        plan = self.plan(stream, first, last, max_entries=max_entries, max_bytes=max_bytes, forward=forward)
        return await run_plan(self._redis, plan)

    def plan(
        self, stream: str, first: str, last: str, *, max_entries: int, max_bytes: int, forward: bool = True
    ) -> Plan[Batch]:
        """Plan to read entries; see `read`."""
        operands = {
            "stream": stream,
            "command": "XRANGE" if forward else "XREVRANGE",
            "first": first,
            "last": last,
            "max_entries": max_entries,
            "max_bytes": max_bytes,
        }
        return Plan(_PAGE.call(operands), stream, _batch, retry_safe=True, role=Role.BULK)


def _batch(raw: Any) -> Batch:
    reply = _PAGE.read(raw)
    return Batch(reply_parsing.entries(reply.entries), reply.more)
