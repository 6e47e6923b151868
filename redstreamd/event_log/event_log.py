"""Which events become records, and how often.

Owns the rule that what clients make happen over and over is one record and a count. What each kind of event
means is declared in this package; see `declaration`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from redstreamd.event_log.declaration import Declaration, declaration_of
from redstreamd.event_log.fields import REPEATS
from redstreamd.service.log_record import Record, Severity

if TYPE_CHECKING:
    # The daemon records events before it has imported the parts that report most of them.
    from redstreamd.event_log.kinds import Event

#: Seconds without a repetition after which an event counts as over.
QUIET_SECONDS: Final = 60.0


class _Episode(msgspec.Struct):
    """An event that is repeated.

    Attributes:
        kind: Of which kind it is.
        latest: The last time.
        since: When it was recorded, on trio's clock.
        last: When it happened last.
        more: How often it happened since it was recorded.
    """

    kind: Declaration
    latest: msgspec.Struct
    since: float
    last: float
    more: int = 0


class EventLog:
    """The hook for events that the composition root gives to all parts."""

    def __init__(self, write: Callable[[Record], None], least: Severity = Severity.INFO) -> None:
        """Begin without events.

        Args:
            write: Writes a record; must neither block nor raise.
            least: The least severe records that are made.
        """
        self.least = least
        self._write = write
        self._episodes: dict[Hashable, _Episode] = {}
        self._begun = trio.Event()

    def __call__(self, event: Event) -> None:
        """Take an event; returns at once.

        Raises:
            UndeclaredEventError: Its kind is declared nowhere.
        """
        kind = declaration_of(event)
        if kind.severity > self.least:
            return
        # Before and after the event loop, and on other threads, nothing sums up.
        if kind.summed_by is None or not trio.lowlevel.in_trio_run():
            self._write(kind.record(event))
            return
        key = kind.name, kind.summed_by(event)
        if (episode := self._episodes.get(key)) is None:
            now = trio.current_time()
            self._episodes[key] = _Episode(kind, event, since=now, last=now)
            self._begun.set()
            self._write(kind.record(event))
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
        for key, episode in list(self._episodes.items()):
            # The same sum as above: a difference may be rounded otherwise, and then nothing would end now.
            if episode.last + QUIET_SECONDS <= now:
                del self._episodes[key]
                if episode.more:
                    self._write(_repeats(episode))


def _repeats(episode: _Episode) -> Record:
    """Return the record of how often an event was repeated."""
    record = episode.kind.record(episode.latest)
    seconds = episode.last - episode.since
    return msgspec.structs.replace(
        record,
        text=f"{episode.more} more in {seconds:.0f} s, the last one: {record.text}",
        fields=(*record.fields, (REPEATS, str(episode.more))),
    )
