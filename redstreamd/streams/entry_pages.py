"""Reading ranges of entries, bounded in number and bytes, whatever their writers put into them.

A script looks at the size of what it reads. What was just added (`stream_ends`), and what was read before
(`measured_ranges`), is read by XRANGE. So is an entry that was found to exceed a page by itself, alone, once
a script has told whether another one follows, which may be as large. A script takes Redis four times as long
to look at 16 MiB as XRANGE to return them.

Replies come over the bulk connection, so that no short reply waits behind them. A stream that had a large
page is read over another one from then on, so that pages of other streams do not wait behind its.

Redis executes what one connection has sent without serving others in between. So of a stream of which nothing
is known one page is looked at, over the bulk connection. Those who ask meanwhile send a short command behind
it in the place of their reads; once that is answered they read as is right for what was found. A stream that
had a large page is read over the other connection, where one command is sent at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import Any, Final, TypeVar

import msgspec
import trio

from redstreamd.admission.turns import next_turn
from redstreamd.redisio import Role, reply_parsing
from redstreamd.redisio.client import Redis
from redstreamd.redisio.reply_parsing import RawEntry
from redstreamd.stream_io import Flush, end_of_pass
from redstreamd.streams.measured_ranges import MeasuredRanges
from redstreamd.streams.plans import Plan, UnfinishedError, run_plan
from redstreamd.streams.scripts import load
from redstreamd.streams.stream_ends import PageKey, StreamEnds

_PAGE = load("ids", "read_page")
_READ_PAGE = _PAGE.bound("stream", "command", "first", "last", "max_entries", "max_bytes", "most_bytes")

K = TypeVar("K")
T = TypeVar("T")

#: Bytes of a page that count as large: a reply of so many takes Redis and the reader 0.5 ms.
_LARGE_BYTES: Final = 32_768
#: Bytes of a page beyond which Redis is asked again over the other connection. It reads the page twice then,
#: but nobody waits for that on the first one.
_MOST_BYTES: Final = 262_144
#: Entries that are read at once although their sizes are not known; as many as the script reads so.
_MOST_UNMEASURED: Final = 32
#: Streams that are remembered for a large page; those for a small one; those for a read without an answer.
_MAX_REMEMBERED: Final = 1_024


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
        self._ends = StreamEnds()
        self._ranges = MeasuredRanges()
        # Streams that had a large page, the last one last.
        self._large: dict[str, None] = {}
        # Streams that had small pages only, and when a stream of which nothing is known was asked for.
        self._small: dict[str, None] = {}
        self._asked: dict[str, float] = {}
        # Pages of one entry that is larger than they may be, and its ID.
        self._oversized: dict[PageKey, str] = {}
        # What takes note of what was read in this pass of trio's scheduler.
        self._unnoted: list[Callable[[], None]] = []
        # In the run of trio, once one is known.
        self._at_end_of_pass: Callable[[Flush], None] | None = None

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
        key = PageKey(stream, "XRANGE" if forward else "XREVRANGE", first, last, max_entries, max_bytes)
        return self._plan(key)

    def _plan(self, key: PageKey, *, may_wait: bool = True) -> Plan[Batch]:
        """Plan to read a page, or to wait for the first look at its stream, and then to read it."""
        if self._unnoted:
            self._note_all()
        stream, last, max_entries = key.stream, key.last, key.max_entries
        now = trio.current_time()
        if self._ends.begins_at_end(key, now):
            end, count = last, min(max_entries, _MOST_UNMEASURED)
            read = partial(self._new_batch, key, now)
        elif (known := self._ranges.end_for(key)) is not None:
            end, count = known, max_entries
            read = partial(self._known_batch, key)
        elif (alone := self._oversized.get(key)) is not None:
            return self._oversized_plan(key, alone)
        elif may_wait and self._is_looked_at(stream, now):
            return self._behind_look(key)
        else:
            return self._measured(key)
        write = (key.command, stream, key.first, end, "COUNT", count + 1)
        return Plan(write, stream, read, retry_safe=True, role=self._role(stream, now))

    def plan_bounded(
        self, stream: str, last_id: str, max_entries: int, max_bytes: int, convert: Callable[[Batch], T]
    ) -> Plan[T] | None:
        """Plan to read what follows an entry, 256 KiB of names and values at most; it may be sent much later.

        The reply has their JSON, which takes up to six bytes for each. A larger page is read over another
        connection after that. None if the stream is not known for small pages. As `_measured`, in fewer
        steps: those who wait are told the later.

        Args:
            stream: The stream.
            last_id: The entry's ID.
            max_entries: See `read`.
            max_bytes: See `read`.
            convert: Makes the result.
        """
        if stream not in self._small:
            return None
        first = f"({last_id}"
        write = _READ_PAGE(stream, "XRANGE", first, "+", max_entries, max_bytes, _MOST_BYTES)
        key = PageKey(stream, "XRANGE", first, "+", max_entries, max_bytes)
        read = partial(self._measured_batch, key, trio.current_time())
        return Plan(write, stream, read, (convert,), retry_safe=True, role=Role.BULK)

    def _role(self, stream: str, now: float) -> Role:
        if stream in self._small:
            return Role.BULK
        if stream in self._large:
            return Role.LARGE
        if self._is_looked_at(stream, now):
            return Role.LARGE
        _remember(self._asked, stream, now)
        return Role.BULK

    def _is_looked_at(self, stream: str, now: float) -> bool:
        """Return whether a stream of which nothing is known was asked for, and the reply has not come."""
        asked = self._asked.get(stream)
        # One whose reply is lost is over by then, too.
        return asked is not None and now < asked + self._redis.command_timeout

    def _behind_look(self, key: PageKey) -> Plan[Batch]:
        """Plan to read a page of a stream that is looked at for somebody else, behind that."""

        def read(_length: Any) -> Batch:
            raise UnfinishedError(partial(self._read_known, key))

        return Plan(("XLEN", key.stream), key.stream, read, retry_safe=True, role=Role.BULK)

    async def _read_known(self, key: PageKey) -> Batch:
        # The reply to the look was read in the same pass, and its task may come later in it.
        await trio.lowlevel.checkpoint()
        return await run_plan(self._redis, self._plan(key, may_wait=False))

    def _measured(self, key: PageKey) -> Plan[Batch]:
        """Plan to read a page whose size is not known."""
        now = trio.current_time()
        role = self._role(key.stream, now)
        most_bytes = 0 if role is Role.LARGE else _MOST_BYTES
        write = _READ_PAGE(
            key.stream, key.command, key.first, key.last, key.max_entries, key.max_bytes, most_bytes
        )
        read = partial(self._measured_batch, key, now)
        return Plan(write, key.stream, read, retry_safe=True, role=role)

    async def _read_measured(self, key: PageKey) -> Batch:
        return await run_plan(self._redis, self._measured(key))

    def _measured_batch(self, key: PageKey, asked: float, raw: Any) -> Batch:
        reply = _PAGE.read(raw)
        size = _size(reply.entries)
        self._note(key.stream, is_large=reply.large or size > _LARGE_BYTES)
        if reply.large:
            if reply.alone is not None:
                _remember(self._oversized, key, reply.alone)
            raise UnfinishedError(partial(self._read_known, key))
        batch = Batch(reply_parsing.entries(reply.entries), has_more=reply.beyond is not None)
        if len(batch.entries) == 1 and size > max(key.max_bytes, _MOST_BYTES):
            _remember(self._oversized, key, batch.entries[0].id)
        self._note_later(partial(self._note_measured, key, asked, batch, reply, size))
        return batch

    def _note_measured(self, key: PageKey, asked: float, batch: Batch, reply: Any, size: int) -> None:
        sizes = _sizes(batch.entries, size)
        # A character of text has up to four bytes.
        is_ascii = not isinstance(reply.entries, bytes) or reply.entries.isascii()
        largest = max(sizes, default=0) * (1 if is_ascii else 4)
        self._ranges.note(key, batch.entries, largest, reply.beyond)
        if not batch.has_more:
            self._ends.note_end(key, batch.entries[-1].id if batch.entries else None, asked)

    def _known_batch(self, key: PageKey, raw: Any) -> Batch:
        entries = reply_parsing.entries(raw)
        is_whole = len(entries) > key.max_entries
        if is_whole and sum(map(len, entries[-1].words)) > _LARGE_BYTES:
            self._ranges.leave_out(key.stream, entries[-1].id)
        del entries[key.max_entries :]
        size = sum(map(len, chain.from_iterable([entry.words for entry in entries])))
        if not is_whole or size > key.max_bytes:
            # Some were deleted, or these are other entries.
            self._ranges.forget(key.stream)
            raise UnfinishedError(partial(self._read_measured, key))
        return Batch(entries, has_more=True)

    def _oversized_plan(self, key: PageKey, alone: str) -> Plan[Batch]:
        """Plan to ask whether an entry follows the one that exceeds a page, and then to read that one."""
        write = _READ_PAGE(key.stream, key.command, f"({alone}", key.last, 0, key.max_bytes, 0)

        def read(raw: Any) -> Batch:
            has_more = _PAGE.read(raw).beyond is not None
            raise UnfinishedError(partial(self._read_oversized, key, alone, has_more=has_more))

        return Plan(write, key.stream, read, retry_safe=True, role=Role.LARGE)

    async def _read_oversized(self, key: PageKey, alone: str, *, has_more: bool) -> Batch:
        write = (key.command, key.stream, key.first, key.last, "COUNT", 1)

        def read(raw: Any) -> Batch:
            entries = reply_parsing.entries(raw)
            if not entries or entries[0].id != alone or sum(map(len, entries[0].words)) < key.max_bytes:
                # Something else is there now.
                self._oversized.pop(key, None)
                raise UnfinishedError(partial(self._read_measured, key))
            raise UnfinishedError(partial(_later, Batch(entries, has_more)))

        plan: Plan[Batch] = Plan(write, key.stream, read, retry_safe=True, role=Role.LARGE)
        return await run_plan(self._redis, plan)

    def _new_batch(self, key: PageKey, asked: float, raw: Any) -> Batch:
        entries = reply_parsing.entries(raw)
        if _MOST_UNMEASURED < len(entries) <= key.max_entries:
            raise UnfinishedError(partial(self._read_measured, key))
        sizes = [sum(map(len, entry.words)) for entry in entries]
        fitting, size = 0, 0
        for each in sizes[: key.max_entries]:
            if size >= key.max_bytes:
                break
            size += each
            fitting += 1
        beyond = entries[fitting].id if fitting < len(entries) else None
        batch = Batch(entries if beyond is None else entries[:fitting], has_more=beyond is not None)
        self._note_later(partial(self._note_new, key, asked, batch.entries, sizes, beyond))
        return batch

    def _note_new(
        self, key: PageKey, asked: float, entries: list[RawEntry], sizes: list[int], beyond: str | None
    ) -> None:
        self._note(key.stream, is_large=sum(sizes) > _LARGE_BYTES)
        self._ranges.note(key, entries, max(sizes[: len(entries)], default=0), beyond)
        if beyond is None:
            self._ends.note_end(key, entries[-1].id if entries else None, asked)

    def _note_later(self, note: Callable[[], None]) -> None:
        """Take note of what was read at the end of this pass: those who wait for it have it first."""
        if not self._unnoted:
            if self._at_end_of_pass is None:
                self._at_end_of_pass = end_of_pass()
            self._at_end_of_pass(self._note_all)
        self._unnoted.append(note)

    def _note_all(self) -> bool:
        unnoted, self._unnoted = self._unnoted, []
        for note in unnoted:
            note()
        return False

    def _note(self, stream: str, *, is_large: bool) -> None:
        """Take note of a page of a stream."""
        if is_large:
            self._small.pop(stream, None)
            _remember(self._large, stream, None)
        elif stream not in self._small and stream not in self._large:
            _remember(self._small, stream, None)
        else:
            return
        self._asked.pop(stream, None)


async def _later(batch: Batch) -> Batch:
    """Return a large page when others had their turn: its reply has held them up already."""
    await next_turn()
    return batch


def _remember(remembered: dict[K, T], what: K, value: T) -> None:
    """Put something last, in the place of the first if there is too much."""
    remembered.pop(what, None)
    if len(remembered) >= _MAX_REMEMBERED:
        del remembered[next(iter(remembered))]
    remembered[what] = value


def _sizes(entries: Sequence[RawEntry], together: int) -> list[int]:
    """Return how many bytes or characters each entry has, of about so many bytes together."""
    each = [entry.words for entry in entries]
    if together > _MOST_BYTES:
        return [sum(map(len, words)) for words in each]
    # Small ones are copied in less time.
    return [len(words[0][:0].join(words)) if words else 0 for words in each]


def _size(entries: bytes | list[Any]) -> int:
    """Return how many bytes a page has, about."""
    if isinstance(entries, bytes):
        return len(entries)
    return sum(map(len, chain.from_iterable([words for _, words in entries])))
