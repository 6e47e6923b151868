"""How often the events of MCP connections and of the supervisor are written to the log.

Owns the rule that what clients make happen over and over is one record and a count. The words are
``texts``'. Events of Redis do not come through here: ``redisio.server_health`` tells each of them once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Final

import msgspec
import trio

from redstreamd.event_log.texts import Event, record, record_repeats
from redstreamd.mcpio import connection_events as mcp

#: Endings that the daemon decides on, for something that a client does.
_COUNTED: Final = mcp.FOREIGN | {
    mcp.Ending.OVERFLOW,
    mcp.Ending.UNREAD,
    mcp.Ending.MEMORY,
    mcp.Ending.GAVE_WAY,
}
#: Seconds without a repetition after which an event counts as over.
QUIET_SECONDS: Final = 60.0


class _Episode(msgspec.Struct):
    """An event that is repeated.

    Attributes:
        latest: The last time.
        since: When it was recorded, on trio's clock.
        last: When it happened last.
        more: How often it happened since it was recorded.
    """

    latest: Event
    since: float
    last: float
    more: int = 0


class EventLog:
    """The hook for events that the composition root gives to the supervisor and to what serves clients."""

    def __init__(
        self,
        *,
        write: Callable[[Event], None] = record,
        write_repeats: Callable[[Event, int, float], None] = record_repeats,
    ) -> None:
        """Begin without events.

        Args:
            write: Writes an event.
            write_repeats: Writes that an event was repeated so many times in so many seconds.
        """
        self._write = write
        self._write_repeats = write_repeats
        self._episodes: dict[Hashable, _Episode] = {}
        self._begun = trio.Event()

    def __call__(self, event: Event) -> None:
        """Take an event; returns at once."""
        if (kind := _repeatable(event)) is None:
            self._write(event)
        elif (episode := self._episodes.get(kind)) is None:
            now = trio.current_time()
            self._episodes[kind] = _Episode(event, since=now, last=now)
            self._begun.set()
            self._write(event)
        else:
            episode.latest, episode.last = event, trio.current_time()
            episode.more += 1

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Record how often each event was repeated, once it stops, or when this is cancelled."""
        try:
            task_status.started()
            while True:
                await self._begun.wait()
                while self._episodes:
                    quiet_at = min(each.last for each in self._episodes.values()) + QUIET_SECONDS
                    await trio.sleep_until(quiet_at)
                    self._end(trio.current_time())
                self._begun = trio.Event()
        finally:
            self._end(math.inf)

    def _end(self, now: float) -> None:
        for kind, episode in list(self._episodes.items()):
            # The same sum as above: a difference may be rounded otherwise, and then nothing would end now.
            if episode.last + QUIET_SECONDS <= now:
                del self._episodes[kind]
                if episode.more:
                    self._write_repeats(episode.latest, episode.more, episode.last - episode.since)


def _repeatable(event: Event) -> Hashable | None:
    """Return what kind of event it is, if clients can make any number of it."""
    match event:
        case mcp.ConnectionRejected():
            return "rejected", event.bound
        case mcp.ConnectionClosed() if event.ending in _COUNTED:
            return event.ending, event.principal
        case mcp.ClientRefused():
            return type(event), event.principal, event.why
        case mcp.MessageTooLong() | mcp.MemoryExceeded():
            return type(event), event.principal
        case mcp.AcceptPaused() | mcp.AcceptResumed():
            # Where descriptors run out, each client that leaves lets another in, and that is the last again.
            return type(event), event.principal
    return None
