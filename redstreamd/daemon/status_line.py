"""The line that `systemctl status` shows: how busy the daemon is, and how Redis is."""

from __future__ import annotations

from collections.abc import Callable

import trio

from redstreamd.mcpio.acceptor import Acceptor
from redstreamd.redisio import Role
from redstreamd.redisio.server_health import State
from redstreamd.streams.bus import Bus


class StatusLine:
    """Makes the line; its rate of entries counts from the time it was last asked."""

    def __init__(self, bus: Bus, acceptor: Acceptor, instance: str | None = None) -> None:
        """Watch these parts; the line names the process by `instance`, if it is one of several."""
        self._instance = instance
        self._bus = bus
        self._acceptor = acceptor
        self._asked_at = trio.current_time()
        self._entries = 0
        #: Each returns what the line begins with, or nothing.
        self.notices: list[Callable[[], str]] = []

    def __call__(self) -> str:
        """Return the line; it begins with DEGRADED while Redis does not serve all that is wanted of it.

        While the embedded server loads its data it begins with "loading", and says how far that is. What the
        administrator should know before all comes first.
        """
        name = "" if self._instance is None else f"instance {self._instance}"
        return "; ".join(filter(None, [*(notice() for notice in self.notices), name, self._line()]))

    def _line(self) -> str:
        clients = self._acceptor.statistics()
        busy = (
            f"{clients.connections} connections"
            f"{'' if clients.full is None else ' (as many as can be: newcomers may be rejected)'}, "
            f"{self._bus.hub.statistics().watches} waits, {self._rate():.0f} entries/s"
        )
        redis = self._bus.redis.status()
        match redis.state:
            case State.LOADING:
                return f"loading: {redis.problems[0].cause}; {busy}"
            case State.DEGRADED:
                effects = "; ".join(
                    f"{where}: {problem.effect.rstrip('.')}" if where else problem.effect.rstrip(".")
                    for where, problem in redis.located_problems
                )
                return f"DEGRADED: {redis.name}: {effects}; {busy}"
            case State.UNUSED:
                return f"{busy}; {redis.name} not used yet"
        statistics = redis.statistics(Role.COMMAND)
        trip = None if statistics is None else statistics.round_trip_seconds
        return f"{busy}; {redis.name}" + ("" if trip is None else f" in {trip * 1000:.1f} ms")

    def _rate(self) -> float:
        now = trio.current_time()
        entries, before = self._bus.publisher.added, self._entries
        elapsed = now - self._asked_at
        self._asked_at, self._entries = now, entries
        return (entries - before) / elapsed if elapsed > 0 else 0.0
