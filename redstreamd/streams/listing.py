"""Which streams there are, and where each of them ends."""

from __future__ import annotations

import attrs
import trio

from redstreamd.errors import BusError, Code
from redstreamd.redisio.commands import Commands
from redstreamd.redisio.connection_manager import Manager
from redstreamd.redisio.error_replies import KEY_DENIED
from redstreamd.redisio.redis_errors import ServerReplied
from redstreamd.streams.concurrency import gather
from redstreamd.streams.error_context import explained
from redstreamd.streams.names import is_companion_key, is_stream_name
from redstreamd.streams.scripts import load

_POSITION = load("position")

#: Keys looked at by one listing. SCAN costs the server about 0.2 ms per 1,000.
MAX_KEYS_SCANNED = 200_000
#: Looks through all keys at a time. One takes a second where there are 100,000 streams, and as many names in
#: memory; 256 at once, as one client may ask for, took 1.3 GiB, and no other call was answered in time.
MAX_SCANS_AT_ONCE = 2


@attrs.frozen
class StreamSummary:
    """One line of a listing. Times are in milliseconds since the epoch, by the server's clock."""

    stream: str
    length: int
    groups: int
    last_id: str
    now: int


@attrs.define(eq=False)
class _Scan:
    """The looks through all keys for one pattern, one after the other; it goes when nobody wants another.

    Attributes:
        looking: Held by who looks.
        interested: How many wait for a look or look.
        begun: How many looks began.
        done: The number of the last look that ended.
        outcome: What that one found.
    """

    looking: trio.Lock = attrs.field(factory=trio.Lock)
    interested: int = 0
    begun: int = 0
    done: int = 0
    outcome: list[str] | BusError = attrs.field(factory=list)


class Lister:
    """Lists streams and looks at their ends."""

    def __init__(self, manager: Manager, commands: Commands, *, max_name_bytes: int) -> None:
        """Ask through `manager`; names longer than `max_name_bytes` are not listed."""
        self._manager = manager
        self._commands = commands
        self._max_name_bytes = max_name_bytes
        self._scans: dict[str, _Scan] = {}
        self._room = trio.Semaphore(MAX_SCANS_AT_ONCE)

    async def position(self, stream: str) -> StreamSummary | None:
        """Return where a stream ends, or None if it does not exist."""
        async with explained(self._commands, stream):
            reply = await self._manager.run_script(_POSITION, keys=[stream], args=[], retry_safe=True)
        if not reply:
            return None
        last_id, length, groups, now = reply
        return StreamSummary(stream, length, groups, last_id.decode(), now)

    async def _position_if_ours(self, stream: str) -> StreamSummary | None:
        """Return where a stream ends, or None also if it is a key that our user of Redis may not touch.

        SCAN names every key, whoever may use it: one of another program would keep all from being listed.
        """
        try:
            return await self.position(stream)
        except ServerReplied as refusal:
            if refusal.kind == KEY_DENIED:
                return None
            raise

    async def page(
        self, pattern: str, *, cursor: str | None, count: int
    ) -> tuple[list[StreamSummary], str, bool]:
        """List streams whose names match a glob pattern, sorted by name.

        Args:
            pattern: As for SCAN (https://redis.io/docs/latest/commands/scan/).
            cursor: The last name of the page before.
            count: The most streams to return.

        Returns:
            The page, the cursor of the next one, and whether there is more. Companion keys of
            redstreamd are left out, and streams that our user of Redis may not look at.

        Raises:
            BusError: TOO_LARGE, as `names`.
        """
        ordered = [name for name in await self.names(pattern) if cursor is None or name > cursor]
        chosen = ordered[:count]
        summaries = await gather(self._position_if_ours, chosen)
        lines = [summary for name in chosen if (summary := summaries[name]) is not None]
        return lines, chosen[-1] if chosen else (cursor or ""), len(ordered) > count

    async def names(self, pattern: str) -> list[str]:
        """Return the sorted names of all streams that match a glob pattern, without companion keys.

        Other programs may give streams names that no call here takes; these are left out, too. Those who ask
        at the same time share a look and its list, but only a look that began after they had asked.

        Raises:
            BusError: TOO_LARGE if the server holds too many keys to look through.
        """
        scan = self._scans.setdefault(pattern, _Scan())
        asked = scan.begun
        scan.interested += 1
        try:
            async with scan.looking:
                if scan.done <= asked:
                    async with self._room:
                        scan.begun = number = scan.begun + 1
                        try:
                            scan.outcome = await self._names(pattern)
                        except BusError as error:
                            scan.outcome = error
                        scan.done = number
                if isinstance(scan.outcome, BusError):
                    raise scan.outcome
                return scan.outcome
        finally:
            scan.interested -= 1
            if scan.interested == 0:
                del self._scans[pattern]

    async def _names(self, pattern: str) -> list[str]:
        names: set[str] = set()
        position = scanned = 0
        while True:
            position, page = await self._commands.scan_streams(position, pattern, 1_000)
            names.update(
                name
                for name in page
                if is_stream_name(name, max_bytes=self._max_name_bytes) and not is_companion_key(name)
            )
            scanned += 1_000
            if position == 0:
                break
            if scanned >= MAX_KEYS_SCANNED:
                raise BusError(
                    Code.TOO_LARGE,
                    "There are too many keys on the server to list streams.",
                    cause=f"More than {MAX_KEYS_SCANNED} keys were looked at.",
                    next_step="Use a database of its own for streams, or ask for them by name.",
                )
        return sorted(names)
