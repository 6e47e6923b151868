"""Which nodes of a cluster are asked besides those that are connected.

Owns how many these are, whose turn it is, and how often. Each asking of one is a login, and a map of all
slots; while a primary is away for hours, every daemon would have every replica give both twice a second.

Behaviour:
- While more than half of the primaries are connected, these know of a promoted replica as soon as it is one:
  it needs their votes. So others are asked ever more rarely while nothing changes.
- Below that, those connected may be the part that was cut off. Others are then asked once a second, and at
  each asking while there is no connection at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import trio

from redstreamd.redisio.announced_address import Address

#: Nodes that are asked at the same time, connected ones included.
ASKED: Final = 8
#: Of these, nodes that are not connected while others are.
_OTHERS: Final = 4
#: Seconds from one asking of others to the next: the first pause, and the longest ones.
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0
_LONGEST_PAUSE_CUT_OFF: Final = 1.0


class OtherNodes:
    """Whose turn it is."""

    def __init__(self) -> None:
        """Begin with the first, at once."""
        self._turn = 0
        self._seen: tuple[int, Sequence[str]] | None = None
        self._pause = 0.0
        self._due = -math.inf

    def are_due(self, connected: int, primaries: Sequence[str]) -> bool:
        """Return whether others are to be asked now; if so, the caller does.

        Args:
            connected: How many of the primaries are connected; the pauses begin anew when that changes.
            primaries: The node IDs of all; the same holds for these.
        """
        now = trio.current_time()
        if connected == len(primaries) > 0:
            self._seen = None
            return False
        if (connected, primaries) != self._seen or not connected:
            self._seen, self._pause = (connected, primaries), _FIRST_PAUSE
        elif now < self._due:
            return False
        else:
            longest = _LONGEST_PAUSE if 2 * connected > len(primaries) else _LONGEST_PAUSE_CUT_OFF
            self._pause = min(2 * self._pause, longest)
        self._due = now + self._pause
        return True

    def next_of(self, places: Sequence[Address], *, connected: int) -> list[Address]:
        """Return the next ones of all that may be asked."""
        count = min(len(places), _OTHERS if connected else ASKED)
        first, self._turn = self._turn, self._turn + count
        return [places[(first + number) % len(places)] for number in range(count)]
