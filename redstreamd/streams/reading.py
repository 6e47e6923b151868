"""Reading entries without side effects: pages, and waits for the next entries."""

from __future__ import annotations

import functools
import zlib
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import islice, zip_longest
from typing import Any, Final, Literal

import msgspec
import trio

from redstreamd.admission.turns import next_turn
from redstreamd.errors import BusError, Code
from redstreamd.redisio.client import Redis
from redstreamd.redisio.reply_parsing import RawEntry
from redstreamd.streams import entry_ids
from redstreamd.streams.bounds import DEFAULT_BOUNDS, Bounds
from redstreamd.streams.concurrency import gather
from redstreamd.streams.entry_encryption import Encryption
from redstreamd.streams.entry_pages import Batch, Pages
from redstreamd.streams.error_context import check_exists, explain_errors
from redstreamd.streams.filters import Filter
from redstreamd.streams.listing import Lister
from redstreamd.streams.places import Places
from redstreamd.streams.plans import Plan, UnfinishedError, run_plan
from redstreamd.streams.shared_pages import SharedPages
from redstreamd.streams.waiting import TRANSIENT, Look, ReadResult, Wait, run_wait, unchanged

#: With a filter: the size at which a reply ends early, and the replies of one call, for large entries. It
#: takes a millisecond to read one.
_SCANNED_BYTES, _MAX_REPLIES = 131_072, 64
#: Replies that are asked for at a time, of all reads with a filter together: other replies wait behind them.
_SCANS_AT_ONCE = 2

Direction = Literal["forward", "backward"]


class Page(msgspec.Struct, frozen=True):
    """Some entries of one stream.

    Attributes:
        entries: In the direction of reading.
        next_cursor: The last ID that was read; the next page begins after it.
        has_more: Whether there are entries after it.
    """

    entries: list[RawEntry]
    next_cursor: str
    has_more: bool


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


class Reader:
    """Reads streams and waits for their next entries.

    Attributes:
        encryption: Opens what was read.
        max_bytes: The size at which a page ends.
    """

    def __init__(
        self,
        redis: Redis,
        lister: Lister,
        pages: Pages,
        places: Places,
        encryption: Encryption,
        *,
        max_bytes: int,
        limits: Bounds = DEFAULT_BOUNDS,
    ) -> None:
        """Read through `pages`, wait at `places`; a page ends once its content reaches `max_bytes`."""
        self.encryption = encryption
        self._max_scanned, self._at_once = limits.filter_scanned, limits.scanned_at_once
        self._redis = redis
        self._lister = lister
        self._pages = SharedPages(redis, pages)
        self._places = places
        #: As `Pages.plan_bounded`.
        self.plan_bounded: Final = pages.plan_bounded
        # Searches without a filter. Clients wait for the same again and again.
        self._search = functools.lru_cache(maxsize=256)(partial(_NextEntries, self))
        # Many wait for the same, and then have the same value.
        self._unfiltered = functools.lru_cache(maxsize=256)(self._wait_from)
        self.max_bytes = max_bytes
        self._scanning = trio.Semaphore(_SCANS_AT_ONCE)

    def reconfigure(self, *, max_bytes: int) -> None:
        """End pages at another size from now on."""
        self.max_bytes = max_bytes

    async def read(
        self,
        stream: str,
        *,
        start: str | None = None,
        end: str | None = None,
        cursor: str | None = None,
        direction: Direction = "forward",
        count: int = 10,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - the argument's public name
    ) -> Page:
        """Read a page of entries.

        Args:
            stream: The stream.
            start: The first position, inclusive, in the direction of reading; see
                `entry_ids.position`. Default: earliest forward, latest backward.
            end: The last position, inclusive.
            cursor: ``next_cursor`` of the last page, after which to begin. Excludes `start`.
            direction: ``forward`` is by growing ID.
            count: The most entries to return; fewer if they are large.
            filter: Only entries with members equal to these.

        Raises:
            BusError: STREAM_NOT_FOUND, WRONG_TYPE, INVALID_START, INVALID_ARGUMENT, also for a filter of
                fields that are encrypted.
        """
        if filter:
            self.encryption.check_filter((stream,), filter)
        plan = None
        if not filter:
            plan = self.plan_read(
                stream, start=start, end=end, cursor=cursor, direction=direction, count=count
            )
        if plan is not None:
            return await run_plan(self._redis, plan)
        forward = direction == "forward"
        at, first = _first(start, cursor, forward=forward)
        if forward and first == "+":
            # Without an ID for the end, entries that come after it would be skipped.
            summary = await self._lister.position(stream)
            at = summary.last_id if summary is not None else entry_ids.ZERO
            first = f"({at}"
        last = _last_position(end, forward=forward)
        async with explain_errors(self._redis, stream):
            wanted = Filter(filter) if filter else None
            page = await self._page(stream, first, last, at, count, wanted, forward=forward)
        if not page.entries and not page.has_more:
            await check_exists(self._redis, stream)
        return Page(await self.encryption.open_entries(stream, page.entries), page.next_cursor, page.has_more)

    def plan_read(
        self,
        stream: str,
        *,
        start: str | None = None,
        end: str | None = None,
        cursor: str | None = None,
        direction: Direction = "forward",
        count: int = 10,
    ) -> Plan[Page] | None:
        """Plan to read a page without a filter; see `read`. None if Redis has to be asked where to begin.

        Raises:
            BusError: INVALID_START, INVALID_ARGUMENT.
        """
        forward = direction == "forward"
        at, first = _first(start, cursor, forward=forward)
        last = _last_position(end, forward=forward)
        if forward and first == "+":
            return None

        async def empty() -> Page:
            await check_exists(self._redis, stream)
            return Page([], at, has_more=False)

        def read(batch: Batch) -> Page:
            if not batch.entries:
                raise UnfinishedError(empty)
            last_id, more = batch.entries[-1].id, batch.has_more
            return self.encryption.open_page(
                stream, batch.entries, lambda entries: Page(entries, last_id, more)
            )

        return self._pages.plan(
            stream, first, last, max_entries=count, max_bytes=self.max_bytes, forward=forward
        ).then(read)

    async def _page(
        self,
        stream: str,
        first: str,
        last: str,
        at: str,
        count: int,
        wanted: Filter | None,
        *,
        forward: bool,
        is_wait: bool = False,
    ) -> Page:
        if wanted is None:
            batch = await self._pages.read(
                stream, first, last, max_entries=count, max_bytes=self.max_bytes, forward=forward
            )
            return Page(batch.entries, _last(batch.entries, at), batch.has_more)
        found: list[RawEntry] = []
        scanned = replies = 0
        while scanned < self._max_scanned and replies < _MAX_REPLIES:
            if replies:
                await next_turn()
            # Those who want to read take turns, for one reply each. Waits share their reads.
            async with nullcontext() if is_wait else self._scanning:
                batch = await self._pages.read(
                    stream,
                    first,
                    last,
                    max_entries=min(self._max_scanned - scanned, self._at_once),
                    max_bytes=_SCANNED_BYTES,
                    forward=forward,
                )
            if is_wait:
                # Many may wait with filters for one change, each at the expense of its own client.
                await next_turn()
            matching = filter(wanted.matches, batch.entries if wanted.may_match_any(batch) else ())
            found += islice(matching, count - len(found))
            if len(found) == count:
                last_id = found[-1].id
                return Page(found, last_id, batch.has_more or last_id != batch.entries[-1].id)
            at = _last(batch.entries, at)
            if not batch.has_more:
                return Page(found, at, has_more=False)
            scanned += len(batch.entries)
            replies += 1
            first = f"({at}"
            # Thousands may wait for their next turn.
            del batch, matching
        return Page(found, at, has_more=True)

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
        self.encryption.check_filter(names, wanted)
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
        search = _NextEntries(self, names, count, wanted) if wanted else self._search(names, count)
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
            self.encryption.check_filter(streams, wanted)
        summaries = await gather(self._lister.position, streams)
        absent = [stream for stream in streams if summaries[stream] is None]
        ends = (summaries[stream] for stream in streams)
        position = tuple([entry_ids.ZERO if end is None else end.last_id for end in ends])
        search = _NextEntries(self, tuple(streams), count, wanted)
        if not absent:
            return Wait(partial(self._places.join, search, position), deadline, convert, convert)

        def naming_absent(waited: Waited) -> object:
            return convert(msgspec.structs.replace(waited, absent=absent))

        return Wait(partial(self._places.join, search, position), deadline, naming_absent, (convert, *absent))

    def plan_next(self, stream: str, at: str, count: int) -> Plan[Batch]:
        """Plan to read what comes after an entry ID, without a filter."""
        return self._pages.plan(stream, f"({at}", "+", max_entries=count, max_bytes=self.max_bytes)

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
                    return await self._page(
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
            found += [(stream, opened) for opened in await self.encryption.open_entries(stream, [entry])]
        taken = Counter(stream for stream, _ in found)
        for stream, page in pages.items():
            # Entries beyond `count` are read again by the next call.
            whole = taken[stream] == len(page.entries)
            left_at = _last(page.entries[: taken[stream]], positions[stream])
            positions[stream] = page.next_cursor if whole else left_at
        return any(page.has_more for page in pages.values())


class _NextEntries:
    """The search of `Reader.wait`. A position is an entry ID for each stream."""

    __slots__ = ("_count", "_reader", "_wanted", "is_eager", "key", "streams")

    def __init__(
        self,
        reader: Reader,
        streams: tuple[str, ...],
        count: int,
        wanted: Mapping[str, Any] | None = None,
    ) -> None:
        self._reader = reader
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
        return self._looking(self._reader.plan_next(stream, at, self._count), position)

    def plan_bounded(self, position: tuple[str, ...]) -> Plan[Look] | None:
        if self._wanted is not None or len(self.streams) > 1:
            return None
        (stream,), (at,) = self.streams, position
        reader = self._reader
        plan = reader.plan_bounded(stream, at, self._count, reader.max_bytes)
        return None if plan is None else self._looking(plan, position)

    def _looking(self, plan: Plan[Batch], position: tuple[str, ...]) -> Plan[Look]:
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

        return plan.then(read)

    async def read(self, position: tuple[str, ...]) -> Look:
        start = dict(zip(self.streams, position, strict=True))
        positions = dict(start)
        found: list[tuple[str, RawEntry]] = []
        more = await self._reader.read_next(self.streams, positions, found, self._count, self._wanted)
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


def _first(start: str | None, cursor: str | None, *, forward: bool) -> tuple[str, str]:
    """Return the cursor of an empty page, and the first position to read."""
    if cursor is not None:
        if start is not None:
            raise BusError(
                Code.INVALID_ARGUMENT,
                "start and cursor were both given.",
                cause="Both say where to begin.",
                next_step="Give start for the first page and cursor for the following ones.",
            )
        at = entry_ids.split_cursor(("",), cursor)[0]
        return at, f"({at}"
    if start is None:
        start = "earliest" if forward else "latest"
    first = entry_ids.position(start, argument="start")
    if first in ("-", "+"):
        return (entry_ids.ZERO if first == "-" else entry_ids.LAST), first
    complete = first if "-" in first else f"{first}-{0 if forward else entry_ids.MAX_PART}"
    return entry_ids.before(complete) if forward else entry_ids.after(complete), complete


def _last_position(end: str | None, *, forward: bool) -> str:
    return entry_ids.position(end, argument="end") if end is not None else ("+" if forward else "-")


def _last(entries: Sequence[RawEntry], otherwise: str) -> str:
    return entries[-1].id if entries else otherwise
