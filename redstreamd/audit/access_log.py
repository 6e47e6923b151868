"""The access log: each call that is no audit record is a record, or is counted in one.

A record takes as long as a call, and journald keeps some 300 of a unit in a second. So each of few calls is a
record of its own; while there are many, calls that are equal are summed up (`call_summaries`). Records are
made afterwards, in a task of its own.
"""

from __future__ import annotations

import collections
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import trio

from redstreamd.audit.audit_events import AccessRecordsDropped, CallServed, CallsServed
from redstreamd.audit.call_summaries import CallSummaries, served
from redstreamd.tools.invocation import CallEnded

#: Calls a second that are recorded one by one, and summaries a second: together less than the 333 that
#: journald keeps of a unit (RateLimitBurst= in journald.conf(5)).
CALLS_A_SECOND: Final = 200
SUMMARIES_A_SECOND: Final = 100
#: Calls at once that are recorded one by one after a quiet time.
BURST: Final = 200
#: Seconds for which calls are gathered, so that a call does not wake the task.
GATHERED_SECONDS: Final = 0.1
#: Calls that are gathered at most before they are summed up: a loop over them costs half of what a function
#: for each does. Few enough that they do not outlive a collection.
GATHERED_CALLS: Final = 64
#: Seconds of one step, between which others have their turn.
_STEP_SECONDS: Final = 0.001

AccessEvent = CallServed | CallsServed


class AccessLog:
    """Records calls, and counts what it does not record one by one.

    Attributes:
        dropped: How many calls are in no record, because the log took none when the daemon ended.
    """

    # Invariant: each call is in one of `_recent`, `_single`, `_summaries`, what was written, and `dropped`.

    def __init__(
        self,
        write: Callable[[AccessEvent | AccessRecordsDropped], None],
        *,
        has_room: Callable[[], bool] = lambda: True,
    ) -> None:
        """Begin without calls.

        Args:
            write: Writes the record of an event; must neither block nor raise.
            has_room: Whether the log takes more; what is left of its backlog is for more important records.
        """
        self.dropped = 0
        self._write = write
        self._has_room = has_room
        self._recent: list[CallEnded] = []
        # How many of them are enough to look at them: the first, while the task sleeps.
        self._enough = 1
        self._single: collections.deque[CallEnded] = collections.deque()
        self._summaries = CallSummaries()
        # How many more calls are recorded one by one. Below 0 while there are too many: then it takes a
        # while with few of them until there are such records again.
        self._left: float = BURST
        self._summaries_left: float = SUMMARIES_A_SECOND
        self._filled = trio.Event()

    def calls_ended(self, calls: Sequence[CallEnded]) -> bool:
        """Take note of calls that ended, and return whether that has woken the task that records.

        A part of the calls, so nearly nothing is done here.
        """
        self._recent += calls
        if len(self._recent) < self._enough:
            return False
        was_asleep = not self._filled.is_set()
        self._sort()
        return was_asleep

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Record calls until cancelled, and then those that are left."""
        since = trio.current_time()
        try:
            task_status.started()
            while True:
                # Some may have ended while others were written.
                self._sort()
                if not self._single and not self._summaries:
                    self._filled = trio.Event()
                    self._enough = 1
                    await self._filled.wait()
                # For many calls at once: to be woken costs more than to note one.
                await trio.sleep(GATHERED_SECONDS)
                self._sort()
                now = trio.current_time()
                if self._has_room():
                    self._refill(now - since)
                    await self._record(now)
                since = now
        finally:
            self._sort()
            # What was answered is recorded, if the log takes it.
            while self._has_room() and (event := self._next_single() or self._summaries.pop(math.inf)):
                self._write(event)
            self._tell_dropped()

    def _sort(self) -> None:
        """Decide which of the recent calls are recorded one by one, and sum up the others."""
        recent = self._recent
        single = min(max(int(self._left), 0), len(recent))
        self._left -= len(recent)
        self._single.extend(recent[:single])
        self._summaries.add(recent[single:])
        recent.clear()
        self._enough = GATHERED_CALLS
        self._filled.set()

    def _refill(self, seconds: float) -> None:
        """Allow the records of so many more seconds."""
        self._left = min(max(self._left, -BURST) + CALLS_A_SECOND * seconds, BURST)
        self._summaries_left = min(self._summaries_left + SUMMARIES_A_SECOND * seconds, SUMMARIES_A_SECOND)

    async def _record(self, now: float) -> None:
        step_ends = time.perf_counter() + _STEP_SECONDS
        for event in self._due(now):
            self._write(event)
            if time.perf_counter() >= step_ends:
                await trio.lowlevel.checkpoint()
                step_ends = time.perf_counter() + _STEP_SECONDS
            if not self._has_room():
                return

    def _due(self, now: float) -> Iterator[AccessEvent]:
        """Yield what may be recorded now."""
        while (call := self._next_single()) is not None:
            yield call
        while self._summaries_left >= 1 and (summary := self._summaries.pop(now)) is not None:
            self._summaries_left -= 1
            yield summary

    def _next_single(self) -> CallServed | None:
        return served(self._single.popleft()) if self._single else None

    def _tell_dropped(self) -> None:
        """Record how many calls the log did not take."""
        if count := len(self._single) + self._summaries.count:
            self.dropped += count
            self._single.clear()
            self._summaries = CallSummaries()
            self._write(AccessRecordsDropped(count))
