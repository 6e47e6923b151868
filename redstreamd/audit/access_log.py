"""The access log: one record for each call that is no audit record.

Calls are not recorded where they end, but afterwards, some at a time, in a task of its own. That task gets a
share of the time and no more: so the log costs calls a few percent at most, however many there are. Calls
wait in a bounded queue; those that find it full are counted, and their number is recorded.
"""

from __future__ import annotations

import collections
import math
import time
from collections.abc import Callable
from typing import Final

import trio

from redstreamd.audit.audit_events import AccessRecordsDropped, CallServed
from redstreamd.audit.call_audit import connection_of, error_code_of
from redstreamd.tools.invocation import CallEnded

#: Calls that wait to be recorded, some 2 MiB.
MAX_QUEUED: Final = 8_192
#: What recording may take: of the processor's time that the loop uses, so that calls lose no more than that
#: when it is busy; and of the time that passes, so that all of few calls are recorded.
SHARE: Final = 0.025
FLOOR: Final = 0.005
#: Seconds of recording that may be saved up.
_SAVED_SECONDS: Final = 0.01
#: Seconds for which calls are gathered, so that a call does not wake the task.
_GATHERED_SECONDS: Final = 0.1
#: Seconds of one step, between which others have their turn.
_STEP_SECONDS: Final = 0.001
#: Seconds between two records of how many were dropped.
_DROPS_EVERY_SECONDS: Final = 10.0


class AccessLog:
    """Records calls.

    Attributes:
        dropped: How many calls were not recorded so far.
    """

    def __init__(
        self,
        write: Callable[[CallServed | AccessRecordsDropped], None],
        *,
        has_room: Callable[[], bool] = lambda: True,
        max_queued: int = MAX_QUEUED,
        share: float = SHARE,
        floor: float = FLOOR,
    ) -> None:
        """Begin without calls.

        Args:
            write: Writes the record of an event; must neither block nor raise.
            has_room: Whether the log takes more; what is left of its backlog is for more important records.
            max_queued: How many calls may wait.
            share: The part of the processor's time that recording may take.
            floor: The part of the time that it may take besides.
        """
        self.dropped = 0
        self._told = 0
        self._write = write
        self._max_queued = max_queued
        self._share = share
        self._floor = floor
        self._has_room = has_room
        self._queue: collections.deque[CallEnded] = collections.deque()
        self._filled = trio.Event()

    def call_ended(self, ended: CallEnded) -> None:
        """Take note of a call that ended; a part of the call, so nearly nothing is done here."""
        queue = self._queue
        if len(queue) >= self._max_queued:
            self.dropped += 1
            return
        queue.append(ended)
        if len(queue) == 1:
            self._filled.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Record the calls that wait until cancelled, and then those that are left."""
        credit, since, used = _SAVED_SECONDS, time.perf_counter(), time.thread_time()
        drops_at = trio.current_time()
        try:
            task_status.started()
            while True:
                if not self._queue:
                    self._filled = trio.Event()
                    await self._filled.wait()
                    # For many calls at once: to be woken costs more than to record one.
                    await trio.sleep(_GATHERED_SECONDS)
                else:
                    # After what is ready to run now.
                    await trio.lowlevel.checkpoint()
                now, processor = time.perf_counter(), time.thread_time()
                earned = self._share * (processor - used) + self._floor * (now - since)
                credit = min(credit + earned, _SAVED_SECONDS)
                since, used = now, processor
                if credit <= 0 or not self._has_room():
                    await trio.sleep(_GATHERED_SECONDS)
                    continue
                self._record_until(now + min(credit, _STEP_SECONDS))
                used = time.thread_time()
                credit -= used - processor
                if self.dropped > self._told and trio.current_time() >= drops_at:
                    drops_at = trio.current_time() + _DROPS_EVERY_SECONDS
                    self._tell_dropped()
        finally:
            # What was answered is recorded, if the log takes it.
            if self._has_room():
                self._record_until(math.inf)
            self.dropped += len(self._queue)
            self._queue.clear()
            self._tell_dropped()

    def _record_until(self, deadline: float) -> None:
        queue = self._queue
        while queue and time.perf_counter() < deadline:
            self._write(served(queue.popleft()))

    def _tell_dropped(self) -> None:
        if self.dropped > self._told:
            self._write(AccessRecordsDropped(self.dropped - self._told))
            self._told = self.dropped


def served(ended: CallEnded) -> CallServed:
    """Return the event of the access log for a call."""
    peer, connection_id = connection_of(ended.account)
    return CallServed(
        ended.principal,
        peer,
        connection_id,
        ended.tool,
        ended.streams,
        ended.group,
        ended.seconds,
        ended.outcome,
        error_code_of(ended.outcome),
        ended.answer_bytes,
    )
