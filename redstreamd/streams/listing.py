"""Listing streams, and where each of them ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import msgspec
import trio

from redstreamd.errors import BusError, Code
from redstreamd.policy import StreamFilter
from redstreamd.redisio.client import Redis
from redstreamd.redisio.error_replies import KEY_DENIED
from redstreamd.redisio.node import Node
from redstreamd.redisio.redis_errors import ServerReplied
from redstreamd.redisio.unexpected_replies import UNREADABLE, unexpected_reply
from redstreamd.streams import listing_pages
from redstreamd.streams.concurrency import gather
from redstreamd.streams.error_context import explain_errors
from redstreamd.streams.listing_pages import ASKED_AT_ONCE, Places, page_of
from redstreamd.streams.name_listing import Listing, filtered_listing, json_bytes, sorted_listing
from redstreamd.streams.names import is_companion_key, is_stream_name
from redstreamd.streams.scripts import load
from redstreamd.streams.shared_requests import SharedRequest

_POSITIONS = load("info", "positions")

#: Keys scanned by one listing. SCAN costs the server about 0.2 ms per 1,000.
MAX_KEYS_SCANNED = 200_000
#: Keys of one step: to check so many names takes 0.5 ms.
SCANNED_AT_ONCE = 250
#: Concurrent scans of all keys. With 100,000 streams one takes a second, and their names in memory; 256 at
#: once, as one client may start, took 1.3 GiB and delayed all other calls.
MAX_SCANS_AT_ONCE = 2
#: Where there are more keys than this, a listing is used again: so many seconds for a first page, and for
#: those that follow. What is created meanwhile is listed afterwards.
FEW_KEYS, FRESH_SECONDS, PAGING_SECONDS = 2_000, 2.0, 30.0
#: Listings kept, for different patterns; together they have no more names than one scan may find.
MAX_KEPT = 8
#: Blocks of about 250 names that are freed in one step: 0.2 ms.
_FREED_AT_ONCE: Final = 8

#: All nodes, each with its incarnation: others as soon as another process may be one of the servers.
Servers = tuple[tuple[Node, int], ...]


class StreamSummary(msgspec.Struct, frozen=True):
    """One line of a listing. Times are in milliseconds since the epoch, by the server's clock."""

    stream: str
    length: int
    groups: int
    last_id: str
    now: int


class Lister:
    """Lists streams and reads where they end."""

    def __init__(self, redis: Redis, *, max_name_bytes: int) -> None:
        """Ask through `redis`; names longer than `max_name_bytes` are not listed."""
        self._redis = redis
        self._max_name_bytes = max_name_bytes
        self._scans: dict[str, SharedRequest[Listing]] = {}
        # The oldest first.
        self._kept: dict[str, Listing] = {}
        # What is listed to some callers, with the listing that it is a part of; the oldest first.
        self._filtered: dict[tuple[str, StreamFilter], tuple[Listing, Listing]] = {}
        self._places = Places()
        # Of which servers what is kept was listed.
        self._servers: Servers = ()
        self._slots = trio.Semaphore(MAX_SCANS_AT_ONCE)

    def reconfigure(self, *, max_name_bytes: int) -> None:
        """List names of up to so many bytes from now on."""
        self._max_name_bytes = max_name_bytes
        self.forget()

    def forget(self) -> None:
        """Forget what was listed; it is listed again. Listings under way are not affected."""
        self._kept.clear()
        self._filtered.clear()

    @property
    def scans(self) -> int:
        """How many patterns are scanned for, or wait for it."""
        return len(self._scans)

    async def position(self, stream: str) -> StreamSummary | None:
        """Return where a stream ends, or None if it does not exist."""
        async with explain_errors(self._redis, stream):
            (position,) = (await self._positions([stream])).values()
        return position

    async def _positions(self, streams: Sequence[str]) -> dict[str, StreamSummary | None]:
        """Return where streams end, at least of the first; all have one slot if there are slots."""
        reply = await _POSITIONS.run(self._redis, streams=streams, retry_safe=True)
        try:
            return {
                stream: StreamSummary(stream, end[1], end[2], str(end[0], "ascii"), reply.now)
                if end
                else None
                for stream, end in zip(streams, reply.ends)  # noqa: B905 - see above
            }
        except UNREADABLE as error:
            raise unexpected_reply(error, outcome_known=True) from error

    async def _position_if_permitted(self, stream: str) -> tuple[StreamSummary | None, ...]:
        """Return where a stream ends; nothing if our user of Redis may not access the key.

        SCAN returns every key; one that is refused must not make the whole listing fail.
        """
        try:
            return (await self.position(stream),)
        except ServerReplied as refusal:
            if refusal.kind == KEY_DENIED:
                return ()
            raise

    async def _ends(self, streams: Sequence[str]) -> dict[str, StreamSummary | None]:
        """Return where streams end: None for those that do not exist, nothing for those not permitted."""
        found: dict[str, StreamSummary | None] = {}
        if not self._redis.topology.has_slots:
            for first in range(0, len(streams), ASKED_AT_ONCE):
                some = streams[first : first + ASKED_AT_ONCE]
                # Who is refused one of them is refused all.
                with suppress(ServerReplied):
                    found |= await self._positions(some)
        rest = [stream for stream in streams if stream not in found]
        asked = await gather(self._position_if_permitted, rest)
        return found | {stream: end for stream, ends in asked.items() for end in ends}

    async def permitted(
        self, listing: Listing, names: Sequence[str], count: int, max_bytes: float = math.inf
    ) -> tuple[list[str], bool]:
        """Return the first names that our user of Redis may access, in their order.

        Args:
            listing: Remembers which are denied.
            names: Some of its names.
            count: The most to return.
            max_bytes: The most that their JSON texts may have together; if they have more, some of the rest
                are left out.

        Returns:
            The names, and whether those are all. Where Redis denies some, streams are asked for one by one,
            at most `MAX_ASKED` in a call: what comes behind these is left out.

        Raises:
            BusError: CONNECTION_ERROR and the like.
        """
        found: list[str] = []
        size = 0
        left, some = listing_pages.MAX_ASKED, min(count + 1, SCANNED_AT_ONCE)
        for first in range(0, len(names), some):
            unknown = [name for name in names[first : first + some] if name not in listing.denied]
            await trio.lowlevel.checkpoint()
            asked = unknown[:left]
            permitted = await self._permitted(asked)
            if denied := set(asked).difference(permitted):
                # So many are asked for one by one because of each that is denied.
                alike = len(asked) if self._redis.topology.has_slots else ASKED_AT_ONCE
                left -= min(len(asked), alike * len(denied))
                listing.denied.update(denied)
            found += permitted
            size += json_bytes(permitted)
            # One more than `count`, because others may be denied.
            if len(found) > count or size > max_bytes or len(asked) < len(unknown):
                return found[:count], False
        return found, True

    async def _permitted(self, streams: Sequence[str]) -> dict[str, str]:
        """Return, by themselves, the names of those streams that our user of Redis may access."""
        if not self._redis.topology.has_slots:
            nodes = [streams] if streams else []
        else:
            of_nodes: dict[Node | None, list[str]] = {}
            for stream in streams:
                of_nodes.setdefault(self._redis.node_for(stream), []).append(stream)
            nodes = list(of_nodes.values())
        denied: set[str] = set()
        for some in nodes:
            # Each is asked for itself only where one of them is refused.
            if not await self._are_all_permitted(some):
                denied.update(set(some).difference(await self._ends(some)))
        return {stream: stream for stream in streams if stream not in denied}

    async def _are_all_permitted(self, streams: Sequence[str]) -> bool:
        """Return whether our user of Redis may access all of some streams of one node."""
        try:
            # To ask where they end takes more than twice as long.
            await self._redis.execute("EXISTS", *streams, key=streams[0], retry_safe=True)
        except ServerReplied as refusal:
            # Permissions are looked at before slots.
            return refusal.kind == "CROSSSLOT"
        return True

    async def page(
        self, pattern: str, *, cursor: str | None, count: int, readable: StreamFilter | None = None
    ) -> tuple[list[StreamSummary], str, bool]:
        """List streams whose names match a glob pattern, sorted by name.

        Args:
            pattern: As for SCAN (https://redis.io/docs/latest/commands/scan/).
            cursor: The cursor that the page before returned, or a name: the page begins behind it.
            count: The most streams to return.
            readable: As for `names`.

        Returns:
            The page, the cursor of the next one, and whether there is more. Companion keys of
            redstreamd are left out, and streams that our user of Redis may not access: the cursor does not
            name them, and they are not what there is more of. But a call asks for at most `MAX_ASKED`
            streams: there may be more behind these, where a page is short or empty because of them.

        Raises:
            BusError: TOO_LARGE, as `names`.
        """
        listing = await self.names(pattern, goes_on=cursor is not None, readable=readable)
        of = pattern, readable
        return await page_of(listing, self._ends, self._places, of, cursor=cursor, count=count)

    async def name_page_of(
        self, listing: Listing, pattern: str, *, cursor: str | None, count: int, readable: StreamFilter | None
    ) -> tuple[list[str], str, bool]:
        """Return a page as `page`, but of names alone, of the listing that `names` returned for the same."""
        of = pattern, readable
        return await page_of(listing, self._permitted, self._places, of, cursor=cursor, count=count)

    async def names(
        self, pattern: str, *, goes_on: bool = False, readable: StreamFilter | None = None
    ) -> Listing:
        """Return the names of all streams that match a glob pattern, without companion keys.

        Streams of other programs whose names are not valid here are left out, too. Concurrent callers share
        one scan and its listing. A listing that took many steps is used again for some seconds, by the same
        servers.

        It has each stream of every node once. While slots move between the nodes of a cluster, it may lack
        one that moves just then, which is in the next listing.

        Args:
            pattern: As for `page`.
            goes_on: For a further page of a listing, which may be older.
            readable: Lets pass the names that the caller may read, of which alone the listing is then: its
                number and its version say nothing of others. None for all.

        Raises:
            BusError: TOO_LARGE if the servers together hold too many keys to scan; CONNECTION_ERROR if one
                of them cannot be reached: a listing without its streams would look complete.
        """
        listing = await self._all_names(pattern, goes_on=goes_on)
        if readable is None:
            return listing
        key = (pattern, readable)
        filtered = self._filtered.get(key)
        if filtered is not None and filtered[0] is listing:
            return filtered[1]
        part = await filtered_listing(listing, readable, trio.lowlevel.checkpoint)
        if listing is self._kept.get(pattern):
            # Only of what is kept itself, so together they have no more names for each filter.
            self._filtered.pop(key, None)
            if len(self._filtered) >= MAX_KEPT:
                del self._filtered[next(iter(self._filtered))]
            self._filtered[key] = (listing, part)
        return part

    def _serving(self) -> Servers:
        return tuple((node, node.incarnation) for node in self._redis.nodes())

    async def _all_names(self, pattern: str, *, goes_on: bool) -> Listing:
        if (servers := self._serving()) != self._servers:
            self._servers = servers
            self.forget()
        kept = self._kept.get(pattern)
        if kept is not None:
            age = trio.current_time() - kept.taken_at
            if age < (PAGING_SECONDS if goes_on else FRESH_SECONDS):
                return kept
        scan = self._scans.get(pattern)
        if scan is None:
            scan = self._scans[pattern] = SharedRequest(partial(self._scan, pattern), slots=self._slots)
        try:
            return await scan.answer()
        finally:
            if not scan.in_use:
                del self._scans[pattern]

    async def _scan(self, pattern: str) -> Listing:
        taken_at = trio.current_time()
        kept = self._kept.get(pattern)
        if kept is not None and taken_at - kept.taken_at < FRESH_SECONDS:
            # Made for those who asked while this one waited.
            return kept
        # A stream that moved to a node that had been scanned is found by a second scan.
        moves, servers = self._redis.moves, self._serving()
        pages, scanned = await self._scan_nodes(pattern)
        if self._redis.moves != moves:
            more, scanned = await self._scan_nodes(pattern)
            pages += more
        listing = await sorted_listing(pages, taken_at, trio.lowlevel.checkpoint)
        if scanned > FEW_KEYS and servers == self._servers == self._serving():
            await _let_go(self._keep(pattern, listing))
        return listing

    async def _scan_nodes(self, pattern: str) -> tuple[list[list[str]], int]:
        """Return the names that all nodes have, in parts, and how many keys were scanned for them, about."""
        pages: list[list[str]] = []
        cursor = None
        scanned = 0
        while True:
            cursor, page = await self._redis.scan_streams(cursor, pattern, SCANNED_AT_ONCE)
            names = [
                name
                for name in page
                if is_stream_name(name, max_bytes=self._max_name_bytes) and not is_companion_key(name)
            ]
            if names:
                pages.append(names)
            scanned += SCANNED_AT_ONCE
            if cursor is None:
                return pages, scanned
            if scanned >= MAX_KEYS_SCANNED:
                raise BusError(
                    Code.TOO_LARGE,
                    "There are too many keys on the server to list streams.",
                    cause=f"More than {MAX_KEYS_SCANNED} keys were scanned.",
                    next_step="Use a database of its own for streams, or ask for them by name.",
                )

    def _keep(self, pattern: str, listing: Listing) -> list[list[str]]:
        """Keep a listing, forget the oldest beyond the bounds, and return the forgotten blocks."""
        forgotten = []
        if (old := self._kept.pop(pattern, None)) is not None:
            forgotten.append(old)
        self._kept[pattern] = listing
        while len(self._kept) > 1 and sum(each.total for each in self._kept.values()) > MAX_KEYS_SCANNED:
            forgotten.append(self._kept.pop(next(iter(self._kept))))
        if len(self._kept) > MAX_KEPT:
            forgotten.append(self._kept.pop(next(iter(self._kept))))
        gone = {id(each) for each in forgotten}
        of_these = [key for key, (whole, _) in self._filtered.items() if id(whole) in gone]
        forgotten += [self._filtered.pop(key)[1] for key in of_these]
        return [block for each in forgotten for block in each.blocks]


async def _let_go(blocks: list[list[str]]) -> None:
    """Free what nobody else uses in parts: 100,000 names take 10 ms."""
    while blocks:
        del blocks[-_FREED_AT_ONCE:]
        await trio.lowlevel.checkpoint()
