"""The one live line that `systemctl status` shows: how busy the daemon is, and how Redis is."""

from __future__ import annotations

import trio

from redstreamd.mcpio.acceptor import Acceptor
from redstreamd.redisio.connection_manager import Manager, Role
from redstreamd.service.embedded.embedded_server import EmbeddedServer
from redstreamd.streams.bus import Bus


class StatusLine:
    """Makes the line; what it says about rates is since it was last asked."""

    def __init__(
        self, manager: Manager, bus: Bus, acceptor: Acceptor, embedded: EmbeddedServer | None = None
    ) -> None:
        """Watch these parts; `embedded` is the daemon's own server, if it has one."""
        self._embedded = embedded
        self._manager = manager
        self._bus = bus
        self._acceptor = acceptor
        self._asked_at = trio.current_time()
        self._entries = 0

    def __call__(self) -> str:
        """Return the line; it begins with DEGRADED while Redis does not serve all that is wanted of it.

        While the embedded server loads its data it begins with "loading", and says how far that is.
        """
        busy = (
            f"{self._acceptor.statistics().connections} connections, "
            f"{self._bus.hub.statistics().watches} waits, {self._rate():.0f} entries/s"
        )
        if self._embedded is not None and self._embedded.loading_heard_at is not None:
            obstacle = self._embedded.obstacle()
            return f"loading: {'' if obstacle is None else obstacle.cause}; {busy}"
        redis = self._manager.status()
        if troubles := redis.troubles():
            causes = "; ".join(each.cause.rstrip(".") for each in troubles)
            return f"DEGRADED: Redis at {redis.label}: {causes}; {busy}"
        role = redis.roles[Role.COMMAND]
        if role.connected:
            trip = role.statistics.round_trip_seconds if role.statistics is not None else None
            return f"{busy}; Redis at {redis.label}" + (
                f" in {trip * 1000:.1f} ms" if trip is not None else ""
            )
        return f"{busy}; Redis at {redis.label} not used yet"

    def _rate(self) -> float:
        now = trio.current_time()
        entries, before = self._bus.publisher.added, self._entries
        elapsed = now - self._asked_at
        self._asked_at, self._entries = now, entries
        return (entries - before) / elapsed if elapsed > 0 else 0.0
