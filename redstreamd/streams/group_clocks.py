"""What this daemon knows of the clocks by which leases and retries come due.

Each consumer group has a clock of its own, kept by the scripts (``lua/clock.lua``), so that setting the
server's clock changes no due time. A script cannot tell a clock that was set forward from time that passed,
nor how much time passed before one was set back. The daemon can: it remembers what a group's clock showed,
and measures the time since then by CLOCK_BOOTTIME, which is never set and goes on during suspend
(clock_gettime(2)).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

#: Groups that are remembered, about 300 bytes each; the least recently used is dropped first.
_MAX_GROUPS = 10_000
#: How far a server's clock may fall behind our measure before it counts as set back: 0.25 s for small
#: adjustments, and a thousandth of the time measured, twice the drift that clocks may have.
_JITTER_MS, _DRIFT = 250, 1_000
#: How far at least it may be ahead before it counts as set forward: a request and the reply before it may
#: have been on their way for as long as a command may take.
LEAST_AHEAD_SECONDS = 10.0


#: The operands of ``clock.lua``.
CLOCK_OPERANDS = ("clock_name", "clock_expected", "clock_least", "clock_most")
#: For a group of whose clock nothing is known.
_UNKNOWN = ("", "", "", "")

_boot_seconds = partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class GroupClocks:
    """Remembers the clocks of groups; what it forgets costs only accuracy."""

    def __init__(self, *, command_timeout: float, now: Callable[[], float] = _boot_seconds) -> None:
        """Begin with nothing.

        Args:
            command_timeout: Seconds that a command may take.
            now: Seconds since any moment, by a clock that is never set.
        """
        self.reconfigure(command_timeout=command_timeout)
        self._now = now
        # In the order of their last use: the clock's name, which distinguishes it from earlier ones of the
        # same group; what it showed when a script ran, in ms; our clock in seconds when the reply came.
        self._readings: dict[tuple[str, str], tuple[str, int, float]] = {}

    def reconfigure(self, *, command_timeout: float) -> None:
        """Let commands take another time from now on."""
        self._ahead_ms = int(1000 * max(LEAST_AHEAD_SECONDS, 2 * command_timeout))

    def operands(self, stream: str, group: str) -> dict[str, Any]:
        """Return the operands of ``clock.lua``; call this directly before the script is sent."""
        return dict(zip(CLOCK_OPERANDS, self.values(stream, group), strict=True))

    def values(self, stream: str, group: str) -> tuple[Any, Any, Any, Any]:
        """Return the values of `CLOCK_OPERANDS`, as `operands` does."""
        reading = self._readings.get((stream, group))
        if reading is None:
            return _UNKNOWN
        name, milliseconds, at = reading
        passed = int(1000 * (self._now() - at))
        if passed < 0:
            passed = 0
        expected, drift = milliseconds + passed, passed // _DRIFT
        return name, expected, expected - _JITTER_MS - drift, expected + self._ahead_ms + drift

    def record(self, stream: str, group: str, name: str, milliseconds: int) -> None:
        """Remember what a script replied about a group's clock; call this when the reply has come."""
        place = (stream, group)
        self._readings.pop(place, None)
        self._readings[place] = (name, milliseconds, self._now())
        if len(self._readings) > _MAX_GROUPS:
            del self._readings[next(iter(self._readings))]
