"""Reading pages of entries, without side effects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from itertools import islice
from typing import Any, Final, Literal

import msgspec
import trio

from redstreamd.admission.turns import next_turn
from redstreamd.errors import BusError, Code
from redstreamd.redisio.client import Redis
from redstreamd.redisio.reply_parsing import RawEntry
from redstreamd.streams import entry_ids
from redstreamd.streams.bounds import DEFAULT_BOUNDS, Bounds
from redstreamd.streams.entry_encryption import Encryption
from redstreamd.streams.entry_pages import Batch, Pages
from redstreamd.streams.error_context import check_exists, explain_errors
from redstreamd.streams.filters import Filter
from redstreamd.streams.listing import Lister
from redstreamd.streams.plans import Plan, UnfinishedError, run_plan
from redstreamd.streams.shared_pages import SharedPages

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


class Reader:
    """Reads streams.

    Attributes:
        encryption: Opens what was read.
        max_bytes: The size at which a page ends.
    """

    def __init__(
        self,
        redis: Redis,
        lister: Lister,
        pages: Pages,
        encryption: Encryption,
        *,
        max_bytes: int,
        limits: Bounds = DEFAULT_BOUNDS,
    ) -> None:
        """Read through `pages`; a page ends once its content reaches `max_bytes`."""
        self.encryption = encryption
        self._max_scanned, self._at_once = limits.filter_scanned, limits.scanned_at_once
        self._redis = redis
        self._lister = lister
        self._pages = SharedPages(redis, pages)
        #: As `Pages.plan_bounded`.
        self.plan_bounded: Final = pages.plan_bounded
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
            page = await self.page(stream, first, last, at, count, wanted, forward=forward)
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

    def plan_next(self, stream: str, at: str, count: int) -> Plan[Batch]:
        """Plan to read what comes after an entry ID, without a filter."""
        return self._pages.plan(stream, f"({at}", "+", max_entries=count, max_bytes=self.max_bytes)

    async def page(
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
        """Read a page from one position to another; entries stay sealed.

        Args:
            stream: The stream.
            first: The position that is nearest to `at`.
            last: The other one, as Redis takes them.
            at: The cursor of a page that is empty.
            count: The most entries to return.
            wanted: Only entries that match.
            forward: Whether by growing ID.
            is_wait: Whether for a wait. Waits share their reads, so that they take no turns.
        """
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
