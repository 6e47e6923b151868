"""Measures how long the event loop keeps everybody waiting.

A pass of trio's loop runs every task that is ready once; whatever becomes ready during
the pass waits for its end. So the longest pass is the worst delay that any event has
suffered, exactly, without a timer that would have to coincide with it.
"""

from __future__ import annotations

import time

import trio


class LoopLag(trio.abc.Instrument):
    """A trio instrument; costs two clock readings a pass.

    Attributes:
        worst_seconds: The longest pass since the start.
    """

    # Real time even under a virtual clock: what is measured is this thread's work.

    def __init__(self) -> None:
        """Measure from the next pass on."""
        self.worst_seconds = 0.0
        self._longest = 0.0
        self._began_at: float | None = None

    def after_io_wait(self, timeout: float) -> None:
        """Note that a pass begins (called by trio)."""
        self._began_at = time.perf_counter()

    def before_io_wait(self, timeout: float) -> None:
        """Note that a pass has ended (called by trio)."""
        if self._began_at is not None:
            self._longest = max(self._longest, time.perf_counter() - self._began_at)

    def take_longest(self) -> float:
        """Return the longest pass, in seconds, since this was last asked, and begin anew."""
        longest, self._longest = self._longest, 0.0
        self.worst_seconds = max(self.worst_seconds, longest)
        return longest
