"""Measures the lag of the event loop.

A pass of trio's loop runs every ready task once; what becomes ready meanwhile waits for its end. So the
longest pass is the longest delay of any event.
"""

from __future__ import annotations

import time
from typing import Final

import trio

from redstreamd.service.recent_maximum import RecentMaximum

#: Passes before this are not among the recent ones.
_RECENT_SECONDS: Final = 120.0


class LagReader:
    """Tells the longest pass since it was asked last; made by `LoopLag.reader`."""

    def __init__(self, lag: LoopLag) -> None:
        self.longest = 0.0
        self._lag = lag

    def take(self) -> float:
        """Return the longest pass since the last call, in seconds, and reset it."""
        self._lag.note()
        longest, self.longest = self.longest, 0.0
        return longest


class LoopLag(trio.abc.Instrument):
    """A trio instrument; costs two clock readings a pass.

    Attributes:
        worst_seconds: The longest pass since the start.
    """

    # Real time also under a virtual clock: this measures the thread's work.

    def __init__(self) -> None:
        """Measure from the next pass on."""
        self.worst_seconds = 0.0
        self._longest = 0.0
        self._readers: list[LagReader] = []
        self._recent = RecentMaximum(_RECENT_SECONDS)
        self._began_at: float | None = None

    def after_io_wait(self, timeout: float) -> None:
        """Note that a pass begins (called by trio)."""
        self._began_at = time.perf_counter()

    def before_io_wait(self, timeout: float) -> None:
        """Note that a pass has ended (called by trio)."""
        if self._began_at is not None:
            seconds = time.perf_counter() - self._began_at
            if seconds > self._longest:
                self._longest = seconds

    def reader(self) -> LagReader:
        """Return another one who asks for the longest pass, independently of all others."""
        made = LagReader(self)
        self._readers.append(made)
        return made

    def note(self) -> None:
        """Tell the readers of the longest pass so far."""
        for each in self._readers:
            each.longest = max(each.longest, self._longest)

    def take_longest(self) -> float:
        """Return the longest pass since the last call, in seconds, and reset it."""
        self.note()
        longest, self._longest = self._longest, 0.0
        self.worst_seconds = max(self.worst_seconds, longest)
        self._recent.note(longest, time.monotonic())
        return longest

    @property
    def recent_seconds(self) -> float:
        """The longest pass that was taken in the last two minutes."""
        return self._recent.greatest(time.monotonic())
