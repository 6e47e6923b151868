"""Waits for the next entries of streams."""

from __future__ import annotations

import functools
import zlib
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any

import msgspec
import trio

from redstreamd.errors import BusError
from redstreamd.redisio.client import Redis
from redstreamd.redisio.reply_parsing import RawEntry
from redstreamd.streams import entry_ids
from redstreamd.streams.concurrency import gather
from redstreamd.streams.entry_pages import Batch
from redstreamd.streams.error_context import explain_errors
from redstreamd.streams.filters import Filter
from redstreamd.streams.listing import Lister
from redstreamd.streams.places import Places
from redstreamd.streams.plans import Plan
from redstreamd.streams.reading import Page, Reader
from redstreamd.streams.waiting import TRANSIENT, Look, ReadResult, Wait, run_wait, unchanged


class Waited(msgspec.Struct, frozen=True):
    """Result of a wait.

    Attributes:
        entries: Stream and entry, one of each stream in turn; empty if nothing came in time.
        start: The position in each stream before the last read of the wait.
        positions: The position in each stream after it, past entries that did not match the filter.
        absent: Streams that did not exist when the wait began.
    """

    entries: list[tuple[str, RawEntry]]
    start: dict[str, str]
    positions: dict[str, str]
    absent: list[str]

    def cursor_after(self, returned: int) -> str:
        """Return the cursor for the next wait if only the first `returned` entries are returned."""
        if returned == len(self.entries):
            positions = self.positions
        else:
            last_ids = {stream: entry.id for stream, entry in self.entries[:returned]}
            left_out = {stream for stream, _ in self.entries[returned:]}
            positions = {
                stream: last_ids.get(stream, self.start[stream]) if stream in left_out else position
                for stream, position in self.positions.items()
            }
        return entry_ids.join_cursor(list(positions), list(positions.values()))


class NextEntries:
    """Waits for what is added to streams.

    Attributes:
        reader: Reads it.
    """

    def __init__(self, redis: Redis, reader: Reader, lister: Lister, places: Places) -> None:
        """Read with `reader`, wait at `places`."""
        self.reader = reader
        self._encryption = reader.encryption
        self._redis = redis
        self._lister = lister
        self._places = places
        # Searches without a filter. Clients wait for the same again and again.
        self._search = functools.lru_cache(maxsize=256)(partial(_Search, self))
        # Many wait for the same, and then have the same value.
        self._unfiltered = functools.lru_cache(maxsize=256)(self._wait_from)

    async def wait(
        self,
        streams: Sequence[str],
        *,
        cursor: str | None = None,
        count: int = 10,
        timeout_seconds: float = 20.0,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - the argument's public name
    ) -> Waited:
        """Wait until one of `streams` has entries after `cursor`; they need not exist yet.

        Args:
            streams: Distinct names.
            cursor: Where to begin; None for what is added after this call.
            count: The most entries to return, of all streams together.
            timeout_seconds: How long to wait. An empty result is not an error.
            filter: Only entries with members equal to these.

        Raises:
            BusError: CONNECTION_ERROR if Redis cannot be reached when the wait begins. A later outage is
                waited out, and nothing that was added meanwhile is missed. Where the streams are on several
                nodes of which some are away: if none of the others has entries after `cursor`, or without
                one.

        Cancellation: leaves nothing behind; the same cursor can be used again.
        """
        if cursor is None:
            wait = await self.begin_wait(streams, count, timeout_seconds, filter)
        else:
            wait = self.wait_after(streams, cursor, count, timeout_seconds, filter)
        waited: Waited = await run_wait(wait)
        return waited

    def wait_after(
        self,
        streams: Sequence[str],
        cursor: str,
        count: int,
        timeout_seconds: float,
        wanted: Mapping[str, Any] | None,
        convert: Callable[[Waited], object] = unchanged,
    ) -> Wait:
        """Return a wait for what comes after a cursor; see `wait`.

        Args:
            streams: See `wait`, as for the others.
            cursor: Where to begin.
            count: The most entries.
            timeout_seconds: How long to wait, from when the wait begins.
            wanted: The filter.
            convert: Makes the result; those who give the same function share what it makes.

        Raises:
            BusError: INVALID_ARGUMENT for a malformed cursor.
        """
        names = tuple(streams)
        if not wanted:
            return self._unfiltered(names, cursor, count, timeout_seconds, convert)
        self._encryption.check_filter(names, wanted)
        return self._wait_from(names, cursor, count, timeout_seconds, convert, wanted)

    def _wait_from(
        self,
        names: tuple[str, ...],
        cursor: str,
        count: int,
        seconds: float,
        convert: Callable[[Waited], object],
        wanted: Mapping[str, Any] | None = None,
    ) -> Wait:
        search = _Search(self, names, count, wanted) if wanted else self._search(names, count)
        position = tuple(entry_ids.split_cursor(names, cursor))
        return Wait(
            partial(self._places.join, search, position), convert=convert, same=convert, seconds=seconds
        )

    async def begin_wait(
        self,
        streams: Sequence[str],
        count: int,
        timeout_seconds: float,
        wanted: Mapping[str, Any] | None,
        convert: Callable[[Waited], object] = unchanged,
    ) -> Wait:
        """Find out where streams end, and return a wait for what comes then; see `wait_after`.

        Raises:
            BusError: As `Lister.position`.
        """
        deadline = trio.current_time() + timeout_seconds
        if wanted:
            self._encryption.check_filter(streams, wanted)
        summaries = await gather(self._lister.position, streams)
        absent = [stream for stream in streams if summaries[stream] is None]
        ends = (summaries[stream] for stream in streams)
        position = tuple([entry_ids.ZERO if end is None else end.last_id for end in ends])
        search = _Search(self, tuple(streams), count, wanted)
        if not absent:
            return Wait(partial(self._places.join, search, position), deadline, convert, convert)

        def naming_absent(waited: Waited) -> object:
            return convert(msgspec.structs.replace(waited, absent=absent))

        return Wait(partial(self._places.join, search, position), deadline, naming_absent, (convert, *absent))

    async def read_next(
        self,
        streams: Sequence[str],
        positions: dict[str, str],
        found: list[tuple[str, RawEntry]],
        count: int,
        wanted: Filter | None,
    ) -> bool:
        """Add to `found` what comes after `positions`, and advance these; return whether there is more.

        A stream that cannot be read now, because its node is away, stays where it is while there is something
        in others.

        Raises:
            BusError: As `read`. Nothing was found then.
        """
        away: list[BusError] = []

        async def after(stream: str) -> Page:
            at = positions[stream]
            try:
                async with explain_errors(self._redis, stream):
                    return await self.reader.page(
                        stream, f"({at}", "+", at, count, wanted, forward=True, is_wait=True
                    )
            except BusError as error:
                if error.code not in TRANSIENT:
                    raise
                away.append(error)
                return Page([], at, has_more=False)

        pages = await gather(after, streams)
        if away and not any(page.entries for page in pages.values()):
            raise away[0]
        entries = {stream: page.entries for stream, page in pages.items()}
        chosen = _round_robin(streams, entries, positions)[:count]
        for stream, entry in chosen:
            found += [(stream, opened) for opened in await self._encryption.open_entries(stream, [entry])]
        taken = Counter(stream for stream, _ in found)
        for stream, page in pages.items():
            # Entries beyond `count` are read again by the next call.
            whole = taken[stream] == len(page.entries)
            if whole:
                positions[stream] = page.next_cursor
            elif taken[stream]:
                positions[stream] = page.entries[taken[stream] - 1].id
        return any(page.has_more for page in pages.values())


class _Search:
    """The search of a wait. A position is an entry ID for each stream."""

    __slots__ = ("_count", "_reader", "_waits", "_wanted", "is_eager", "key", "streams")

    def __init__(
        self,
        waits: NextEntries,
        streams: tuple[str, ...],
        count: int,
        wanted: Mapping[str, Any] | None = None,
    ) -> None:
        self._waits = waits
        self._reader = waits.reader
        self.streams = streams
        self._count = count
        self._wanted = Filter(wanted) if wanted else None
        # What is added matches where there is no filter.
        self.is_eager = not wanted
        self.key: Hashable = (streams, count, _canonical(wanted) if wanted else None)

    def last_id(self, position: tuple[str, ...]) -> str | None:
        return position[0] if len(position) == 1 else None

    def plan(self, position: tuple[str, ...]) -> Plan[Look] | None:
        if self._wanted is not None or len(self.streams) > 1:
            return None
        (stream,), (at,) = self.streams, position
        return self._reader.plan_next(stream, at, self._count).then(self._looking(position))

    def plan_bounded(self, position: tuple[str, ...]) -> Plan[Look] | None:
        if self._wanted is not None or len(self.streams) > 1:
            return None
        (stream,), (at,) = self.streams, position
        reader = self._reader
        return reader.plan_bounded(stream, at, self._count, reader.max_bytes, self._looking(position))

    def _looking(self, position: tuple[str, ...]) -> Callable[[Batch], Look]:
        """Return what makes the outcome of a page of the only stream that follows a position."""
        (stream,), (at,) = self.streams, position

        def read(batch: Batch) -> Look:
            if not batch.entries:
                return Look(ReadResult.EMPTY, position, end=None if batch.has_more else at)
            last_id = batch.entries[-1].id
            end = None if batch.has_more else last_id

            def found(entries: list[RawEntry]) -> Look:
                waited = Waited([(stream, entry) for entry in entries], {stream: at}, {stream: last_id}, [])
                return Look(ReadResult.FOUND, (last_id,), waited, end)

            return self._reader.encryption.open_page(stream, batch.entries, found)

        return read

    async def read(self, position: tuple[str, ...]) -> Look:
        start = dict(zip(self.streams, position, strict=True))
        positions = dict(start)
        found: list[tuple[str, RawEntry]] = []
        more = await self._waits.read_next(self.streams, positions, found, self._count, self._wanted)
        # With a filter there may be more although nothing matched.
        result = ReadResult.FOUND if found else ReadResult.MORE if more else ReadResult.EMPTY
        reached = tuple(positions.values())
        end = self.last_id(reached) if result is ReadResult.EMPTY else None
        return Look(result, reached, Waited(found, start, positions, []), end)

    def nothing(self, position: tuple[str, ...]) -> Waited:
        at = dict(zip(self.streams, position, strict=True))
        return Waited([], at, at, [])


def _canonical(wanted: Mapping[str, Any]) -> Hashable:
    """Return a value that is equal only for equal filters; of some it is equal to nothing else."""
    try:
        return msgspec.json.encode(wanted, order="deterministic")
    except (TypeError, ValueError, OverflowError):
        # A lone surrogate, or an integer beyond those of msgspec.
        return object()


def _round_robin(
    streams: Sequence[str], entries: Mapping[str, Sequence[RawEntry]], positions: Mapping[str, str]
) -> list[tuple[str, RawEntry]]:
    """Return the entries of all streams, one of each in turn.

    A result may hold fewer entries than there are streams. So that each gets its turn, another stream begins
    after each result that changed a position; the same positions give the same order.
    """
    begin = zlib.crc32(repr(list(positions.values())).encode()) % len(streams)
    rounds = zip_longest(*([(stream, one) for one in entries[stream]] for stream in streams))
    return [one for each in rounds for one in (*each[begin:], *each[:begin]) if one is not None]
