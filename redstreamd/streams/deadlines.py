"""Calls functions at their time, without a task or a cancel scope for each."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Final

import trio

#: Removed deadlines that are kept at most, unless there are as many others.
_MAX_REMOVED: Final = 256


class Deadline:
    """A function to be called; made by `Deadlines.add`.

    Attributes:
        at: When, by trio's clock.
        call: The function; None once it was called or removed.
    """

    __slots__ = ("at", "call")

    def __init__(self, at: float, call: Callable[[], None]) -> None:
        """Made by `Deadlines.add`."""
        self.at = at
        self.call: Callable[[], None] | None = call


class Deadlines:
    """Deadlines by time. Removing one is cheap, as most are removed before their time."""

    def __init__(self) -> None:
        """Begin empty."""
        # A heap, by time and then by number, which no two have. Invariant: _removed of them have no function
        # any more.
        self._heap: list[tuple[float, int, Deadline]] = []
        self._number = 0
        self._removed = 0
        # When the task looks next, and what lets it look sooner.
        self._next_look = math.inf
        self._sooner = trio.Event()

    def __len__(self) -> int:
        """Return how many functions are to be called."""
        return len(self._heap) - self._removed

    def add(self, at: float, call: Callable[[], None]) -> Deadline:
        """Call a function, which must not block or raise, once it is `at` by trio's clock."""
        deadline = Deadline(at, call)
        self._number += 1
        heapq.heappush(self._heap, (at, self._number, deadline))
        if at < self._next_look:
            self._next_look = at
            self._sooner.set()
        return deadline

    def remove(self, deadline: Deadline) -> None:
        """Do not call the function; nothing happens if it was called. Idempotent."""
        if deadline.call is None:
            return
        deadline.call = None
        self._removed += 1
        if self._removed > max(_MAX_REMOVED, len(self._heap) // 2):
            self._heap = [each for each in self._heap if each[2].call is not None]
            heapq.heapify(self._heap)
            self._removed = 0

    async def run(self) -> None:
        """Call the functions at their time until cancelled. May be run again after that."""
        while True:
            self._sooner = trio.Event()
            self._call_overdue()
            self._next_look = self._heap[0][0] if self._heap else math.inf
            with trio.move_on_at(self._next_look):
                await self._sooner.wait()

    def _call_overdue(self) -> None:
        now = trio.current_time()
        while self._heap and (self._heap[0][0] <= now or self._heap[0][2].call is None):
            _, _, deadline = heapq.heappop(self._heap)
            call, deadline.call = deadline.call, None
            if call is None:
                self._removed -= 1
            else:
                call()
