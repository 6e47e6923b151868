"""Reading entries without side effects: pages, and waits for what comes next."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any, Literal

import attrs
import trio

from redstreamd import strict_json
from redstreamd.errors import BusError, Code
from redstreamd.redisio.commands import Commands
from redstreamd.redisio.reply_parsing import RawEntry
from redstreamd.streams import entry_ids
from redstreamd.streams.concurrency import gather
from redstreamd.streams.entry_codec import decode
from redstreamd.streams.entry_pages import Pages
from redstreamd.streams.error_context import explained, stream_not_found
from redstreamd.streams.listing import Lister
from redstreamd.streams.tail_hub import TailHub
from redstreamd.streams.waiting import Sight, look_until

#: Entries looked at by one call with a filter before it answers with a cursor to go on from.
MAX_SCANNED = 1_000
#: Of these, as many as one reply carries at a time; and the size at which a reply ends early.
_SCANNED_AT_ONCE, _SCANNED_BYTES = 100, 1_048_576
#: Replies that one call with a filter reads, so that it ends in time where entries are large.
_MAX_REPLIES = 32

Direction = Literal["forward", "backward"]


@attrs.frozen
class Page:
    """Some entries of one stream and where to go on.

    Attributes:
        entries: The entries, in the direction of reading.
        next_cursor: The last position that was looked at; reading goes on beyond it.
        has_more: Whether anything lay beyond it.
    """

    entries: list[RawEntry]
    next_cursor: str
    has_more: bool


@attrs.frozen
class Waited:
    """What a wait found.

    Attributes:
        entries: Stream and entry, of each stream in turn and in its order; empty if nothing came in time.
        began: The position in each stream before the wait.
        positions: The position in each stream after it; beyond the entries that a filter left out.
        absent: Streams that did not exist when the wait began.
    """

    entries: list[tuple[str, RawEntry]]
    began: dict[str, str]
    positions: dict[str, str]
    absent: list[str]

    def cursor_after(self, returned: int) -> str:
        """Return the cursor for the next wait if only the first `returned` entries are passed on."""
        if returned == len(self.entries):
            positions = self.positions
        else:
            passed_on = {stream: entry.id for stream, entry in self.entries[:returned]}
            withheld = {stream for stream, _ in self.entries[returned:]}
            positions = {
                stream: passed_on.get(stream, self.began[stream]) if stream in withheld else position
                for stream, position in self.positions.items()
            }
        return entry_ids.join_cursor(list(positions), list(positions.values()))


class Reader:
    """Reads streams and waits for their next entries."""

    def __init__(
        self, commands: Commands, lister: Lister, pages: Pages, hub: TailHub, *, max_bytes: int
    ) -> None:
        """Read through `pages`, wait through `hub`; a page ends once its content reaches `max_bytes`."""
        self._commands = commands
        self._lister = lister
        self._pages = pages
        self._hub = hub
        self._max_bytes = max_bytes

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
            cursor: ``next_cursor`` of the last page; reading goes on after it. Excludes `start`.
            direction: ``forward`` is by growing ID.
            count: The most entries to return; fewer if they are large.
            filter: Only entries whose members equal these.

        Raises:
            BusError: STREAM_NOT_FOUND, WRONG_TYPE, INVALID_START, INVALID_ARGUMENT.
        """
        forward = direction == "forward"
        at, first = _first(start, cursor, forward=forward)
        if forward and first == "+":
            # The end is not a position yet: what comes after it must not be skipped.
            summary = await self._lister.position(stream)
            at = summary.last_id if summary is not None else entry_ids.ZERO
            first = f"({at}"
        last = entry_ids.position(end, argument="end") if end is not None else ("+" if forward else "-")
        async with explained(self._commands, stream):
            page = await self._page(stream, first, last, at, count, filter, forward=forward)
            if not page.entries and not page.has_more and await self._commands.key_type(stream) == "none":
                raise await stream_not_found(self._commands, stream)
        return page

    async def _page(
        self,
        stream: str,
        first: str,
        last: str,
        at: str,
        count: int,
        wanted: Mapping[str, Any] | None,
        *,
        forward: bool,
    ) -> Page:
        if not wanted:
            batch = await self._pages.read(
                stream, first, last, most=count, most_bytes=self._max_bytes, forward=forward
            )
            return Page(batch.entries, _last(batch.entries, at), batch.has_more)
        found: list[RawEntry] = []
        scanned = replies = 0
        while scanned < MAX_SCANNED and replies < _MAX_REPLIES:
            most = min(MAX_SCANNED - scanned, _SCANNED_AT_ONCE)
            batch = await self._pages.read(
                stream, first, last, most=most, most_bytes=_SCANNED_BYTES, forward=forward
            )
            for entry in batch.entries:
                at = entry.id
                if _matches(entry, wanted):
                    found.append(entry)
                    if len(found) == count:
                        return Page(found, at, batch.has_more or entry is not batch.entries[-1])
            if not batch.has_more:
                return Page(found, at, has_more=False)
            scanned += len(batch.entries)
            replies += 1
            first = f"({at}"
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
            cursor: Where to begin; None for what comes after this call.
            count: The most entries to return, of all streams together.
            timeout_seconds: How long to wait. An empty answer is not an error.
            filter: Only entries whose members equal these.

        Raises:
            BusError: CONNECTION_ERROR if Redis cannot be reached when the wait begins. One that
                breaks later is waited out, and nothing that came meanwhile is missed.

        Cancellation: leaves nothing behind; the same cursor may be used again.
        """
        deadline = trio.current_time() + timeout_seconds
        with self._hub.watch(streams) as watch:
            began, absent = await self._begin(streams, cursor)
            positions = dict(began)
            found: list[tuple[str, RawEntry]] = []

            async def look() -> Sight:
                more = await self._look(streams, positions, found, count, filter)
                # What was looked at need not have passed the filter.
                return Sight.FOUND if found else Sight.MORE if more else Sight.NOTHING

            await look_until(deadline, look, hub=self._hub, watch=watch, first_may_fail=False)
        return Waited(found, began, positions, absent)

    async def _begin(self, streams: Sequence[str], cursor: str | None) -> tuple[dict[str, str], list[str]]:
        if cursor is not None:
            return dict(zip(streams, entry_ids.split_cursor(streams, cursor), strict=True)), []
        summaries = await gather(self._lister.position, streams)
        absent = [stream for stream in streams if summaries[stream] is None]
        ends = (summaries[stream] for stream in streams)
        last_ids = (entry_ids.ZERO if end is None else end.last_id for end in ends)
        return dict(zip(streams, last_ids, strict=True)), absent

    async def _look(
        self,
        streams: Sequence[str],
        positions: dict[str, str],
        found: list[tuple[str, RawEntry]],
        count: int,
        wanted: Mapping[str, Any] | None,
    ) -> bool:
        """Put into `found` what comes after `positions`, and move these; return whether there is more."""

        async def after(stream: str) -> Page:
            async with explained(self._commands, stream):
                at = positions[stream]
                return await self._page(stream, f"({at}", "+", at, count, wanted, forward=True)

        pages = await gather(after, streams)
        in_turns = _in_turns(streams, {stream: page.entries for stream, page in pages.items()}, positions)
        found.extend(in_turns[:count])
        taken = Counter(stream for stream, _ in found)
        for stream, page in pages.items():
            # Entries that do not fit are read again from where this stream was left.
            whole = taken[stream] == len(page.entries)
            left_at = _last(page.entries[: taken[stream]], positions[stream])
            positions[stream] = page.next_cursor if whole else left_at
        return any(page.has_more for page in pages.values())


def _in_turns(
    streams: Sequence[str], entries: Mapping[str, Sequence[RawEntry]], positions: Mapping[str, str]
) -> list[tuple[str, RawEntry]]:
    """Return the entries of all streams, one of each in turn, so that no stream keeps others from an answer.

    An answer may hold fewer entries than there are streams. So another stream begins after each answer that
    moved a position; the same positions give the same order.
    """
    begin = zlib.crc32(repr(list(positions.values())).encode()) % len(streams)
    rounds = zip_longest(*([(stream, one) for one in entries[stream]] for stream in streams))
    return [one for each in rounds for one in (*each[begin:], *each[:begin]) if one is not None]


def _first(start: str | None, cursor: str | None, *, forward: bool) -> tuple[str, str]:
    """Return the cursor to report if nothing is found, and the first position to read."""
    if cursor is not None:
        if start is not None:
            raise BusError(
                Code.INVALID_ARGUMENT,
                "start and cursor were both given.",
                cause="Each says where to begin.",
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


def _matches(entry: RawEntry, wanted: Mapping[str, Any]) -> bool:
    members = decode(entry.fields).members
    return all(name in members and strict_json.equal(members[name], value) for name, value in wanted.items())


def _last(entries: Sequence[RawEntry], otherwise: str) -> str:
    return entries[-1].id if entries else otherwise
