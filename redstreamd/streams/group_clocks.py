"""What this daemon knows of the clocks by which leases and retries come due.

Each consumer group has a clock of its own, kept by the scripts (``lua/clock.lua``), so that setting the
server's clock back or forward moves no due time. The scripts cannot tell a clock that was set forward from
time that passed, nor how much time passed before one was set back. This daemon can: it remembers what a
group's clock showed when a script last told it, and counts by CLOCK_BOOTTIME, which nobody sets and which
goes on while the machine sleeps (clock_gettime(2)).
"""

from __future__ import annotations

import time
from collections.abc import Callable

import attrs

#: Groups that are remembered; the one that was used longest ago is forgotten first. About 300 bytes each.
_MOST_GROUPS = 10_000
#: By how much a server's clock may fall behind our count before it was set back: 0.25 s for what a clock that
#: is adjusted in small steps does, and a thousandth of the time counted, twice what clocks may drift.
_JITTER_MS, _DRIFT = 250, 1_000
#: The least that a group's clock may be ahead of our count before the server's was set forward. A request and
#: the reply before it may have been on their way for as long as a command may take.
LEAST_AHEAD_SECONDS = 10.0


@attrs.frozen
class _Heard:
    """What a group's clock showed.

    Attributes:
        name: Tells the clock from an earlier one of the same group.
        milliseconds: What it showed when a script ran.
        at: Our count in seconds when the script's reply had come.
    """

    name: str
    milliseconds: int
    at: float


def _counted() -> float:
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class GroupClocks:
    """Remembers what the clocks of groups showed; nothing is lost but accuracy if it forgets."""

    def __init__(self, *, command_timeout: float, counted: Callable[[], float] = _counted) -> None:
        """Begin with nothing.

        Args:
            command_timeout: Seconds that a command may take.
            counted: Seconds from any beginning, by a clock that is never set.
        """
        self._ahead_ms = int(1000 * max(LEAST_AHEAD_SECONDS, 2 * command_timeout))
        self._counted = counted
        # In the order of their last use.
        self._heard: dict[tuple[str, str], _Heard] = {}

    def told(self, stream: str, group: str) -> tuple[str | int, ...]:
        """Return the four arguments that `clock.begin` of the scripts takes; to be asked for just before."""
        heard = self._heard.get((stream, group))
        if heard is None:
            return ("", 0, 0, 0)
        passed = max(0, int(1000 * (self._counted() - heard.at)))
        likely, drift = heard.milliseconds + passed, passed // _DRIFT
        return (heard.name, likely, likely - _JITTER_MS - drift, likely + self._ahead_ms + drift)

    def hear(self, stream: str, group: str, name: bytes, milliseconds: int) -> None:
        """Remember what a script said of a group's clock; to be called once its reply has come."""
        place = (stream, group)
        self._heard.pop(place, None)
        self._heard[place] = _Heard(name.decode(), milliseconds, self._counted())
        if len(self._heard) > _MOST_GROUPS:
            del self._heard[next(iter(self._heard))]
