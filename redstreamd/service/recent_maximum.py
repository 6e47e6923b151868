"""The greatest value of the last minutes, in a few numbers that are allocated once.

A number that is made now and kept for minutes may be the only thing that keeps a large area of memory from
going back to the system, if it is made while much is in use.
"""

from __future__ import annotations

from array import array
from typing import Final

_PARTS: Final = 12


class RecentMaximum:
    """Keeps the greatest value of each part of the last minutes."""

    # Invariant: the place of each part of the last ones has its greatest value, or 0 if it has none.
    __slots__ = ("_newest", "_part_seconds", "_values")

    def __init__(self, seconds: float) -> None:
        """Remember values, none of them negative, for so many seconds, and up to a twelfth longer."""
        self._part_seconds = seconds / _PARTS
        self._values = array("d", [0.0]) * (_PARTS + 1)
        self._newest = 0

    def note(self, value: float, now: float) -> None:
        """Take note of a value.

        Args:
            value: The value.
            now: The time, in seconds of any one clock.
        """
        self._forget(now)
        place = self._newest % len(self._values)
        if value > self._values[place]:
            self._values[place] = value

    def greatest(self, now: float) -> float:
        """Return the greatest value that is remembered; 0 if there is none."""
        self._forget(now)
        return max(self._values)

    def _forget(self, now: float) -> None:
        newest, count = int(now / self._part_seconds), len(self._values)
        for part in range(max(self._newest + 1, newest - count + 1), newest + 1):
            self._values[part % count] = 0.0
        self._newest = max(self._newest, newest)
