"""Python's collector of reference cycles: its pauses are short, and reported.

A full collection looks at every object that can be part of a cycle, and nothing else runs meanwhile. With
the objects of 5,000 connections that took 57 to 186 ms. So whatever survives a full collection is taken out
of sight (`gc.freeze`), and the next one looks only at what came since. What is out of sight is freed by
reference counting as before; only a cycle among it would stay for ever. No connection, request or error
leaves one: they let go of each other at their end, which tests show for each kind of them. In case one does
nevertheless, all is looked at again when much more is there than before, and nothing else is to be done.

The interpreter begins a collection when it has allocated so many objects more than it has freed. Where many
end while others begin, that number stays low though what is new becomes much, and one collection would see it
all. So there is a collection each few milliseconds of work, too.
"""

from __future__ import annotations

import gc
import math
import sys
import time
from typing import Any, Final

import msgspec
import trio

from redstreamd.service.recent_maximum import RecentMaximum

#: Of `gc.set_threshold`: allocations less deallocations. Each object is seen once: with generations it would
#: be more than twice, a third of what 1,000 waits cost that were told and began anew.
_YOUNG_OBJECTS: Final = 2_000
#: Of work, from one collection to the next: so few hold up a message that comes alone. Each one sees what is
#: in flight; what ends before is not seen at all.
_YOUNG_SECONDS: Final = 0.01
#: Pauses before this are not among the recent ones.
_RECENT_SECONDS: Final = 300.0
#: Allocated blocks since the last look at everything after which there is the next one; some 60 MiB.
_GROWN_BLOCKS: Final = 1_000_000
#: How often it is asked whether that is so, and how much of that time the process may have worked to count as
#: idle.
_TICK_SECONDS: Final = 10.0
_IDLE_SHARE: Final = 0.02


class CollectorStatistics(msgspec.Struct, frozen=True):
    """A snapshot of the collector.

    Attributes:
        collections: How many collections there were, of all generations, since the start was over.
        seconds: How long they took together, in the time of the thread.
        longest_seconds: The longest of them.
        recent_longest_seconds: The longest of the last minutes.
        full: How often everything was looked at, what is out of sight included.
        blocks: How many small blocks of memory are allocated; it comes back to what it was, unless something
            is left.
    """

    collections: int
    seconds: float
    longest_seconds: float
    recent_longest_seconds: float
    full: int
    blocks: int


class Collector(trio.abc.Instrument):
    """Takes care of the collector of this process; one for each process."""

    def __init__(self) -> None:
        """Prepare; `settle` begins."""
        self._is_settled = False
        self._began = 0.0
        self._collections = self._full = 0
        self._seconds = self._longest = 0.0
        self._recent = RecentMaximum(_RECENT_SECONDS)
        self._blocks = 0
        # When the next collection is due, in the time of the thread, which goes on only with work; and when
        # that is looked at, by a clock that costs less.
        self._due = self._look_at = math.inf

    def settle(self) -> None:
        """Take what the start has made out of sight, and keep pauses short from now on. Idempotent."""
        if self._is_settled:
            return
        self._is_settled = True
        gc.freeze()
        # Of nothing. The interpreter puts off full collections until a quarter has come of what was there at
        # the last one.
        gc.collect()
        gc.set_threshold(_YOUNG_OBJECTS)
        gc.callbacks.append(self._note)
        self._blocks = sys.getallocatedblocks()
        self._due = self._look_at = 0.0

    def statistics(self) -> CollectorStatistics:
        """Return a snapshot."""
        return CollectorStatistics(
            collections=self._collections,
            seconds=round(self._seconds, 6),
            longest_seconds=round(self._longest, 6),
            recent_longest_seconds=round(self._recent.greatest(time.monotonic()), 6),
            full=self._full,
            blocks=sys.getallocatedblocks(),
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Collect as often as is needed, and everything when much has come and the process is idle.

        Until cancelled; the threshold of the interpreter is in force without it.
        """
        task_status.started()
        trio.lowlevel.add_instrument(self)
        try:
            while True:
                worked = time.process_time()
                await trio.sleep(_TICK_SECONDS)
                is_idle = time.process_time() - worked < _IDLE_SHARE * _TICK_SECONDS
                if is_idle and sys.getallocatedblocks() > self._blocks + _GROWN_BLOCKS:
                    self.look_at_everything()
        finally:
            trio.lowlevel.remove_instrument(self)

    def before_io_wait(self, timeout: float) -> None:
        """Collect what is new, if that is due: trio's hook.

        At the end of a pass: what it has queued is written, and fewer requests are under way than before.
        """
        now = time.perf_counter()
        if now < self._look_at:
            return
        used = time.thread_time()
        if used >= self._due:
            self._due = used + _YOUNG_SECONDS
            gc.collect(0)
        # The thread does not run for longer than time passes.
        self._look_at = now + self._due - used

    def collect(self) -> None:
        """Free the cycles among what came since the last collection, and the blocks kept for new objects.

        The interpreter keeps such blocks of lists, tuples, floats and others. One of them is enough to keep
        an area of a megabyte in use. Nothing happens before `settle`, when it would look at all that was
        imported.
        """
        if self._is_settled:
            gc.collect()

    def look_at_everything(self) -> None:
        """Free all cycles, those out of sight included; a pause that grows with the number of objects."""
        self._full += 1
        gc.unfreeze()
        gc.collect()
        # As in `settle`.
        gc.collect()
        self._blocks = sys.getallocatedblocks()

    def _note(self, phase: str, facts: dict[str, Any]) -> None:
        # The time of the thread, because what else runs on a busy machine is no pause of the collector.
        used = time.thread_time()
        if phase == "start":
            self._began = used
            return
        seconds = used - self._began
        gc.freeze()
        self._collections += 1
        self._seconds += seconds
        self._longest = max(self._longest, seconds)
        self._recent.note(seconds, time.monotonic())
