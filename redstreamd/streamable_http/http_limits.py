"""Limits of HTTP connections; knows nothing of settings."""

from __future__ import annotations

from typing import Final

import attrs

KIB: Final = 1024


@attrs.define
class HttpLimits:
    """The bounds of HTTP beyond those of messages (`mcpio.limits.Limits`); all parts share one object.

    Attributes:
        max_head_bytes: Longest request line and headers together. Longer ones are answered with 431.
        max_fields: Most headers of a request, likewise.
        head_seconds: For the head of a request once its first byte is there, and for the first byte of a new
            connection; then 408.
        body_seconds: For the body of a request, from its head on; then 408.
        idle_seconds: How long a connection is kept that waits for its next request.
        max_connections_per_peer: Most connections of one address or process.
        max_event_streams: Most responses of events that are open at once, over all connections.
        event_pause_seconds: After so long without an event a comment is sent, so that proxies keep a stream
            open, and a client that has gone is noticed.
        max_sessions: Most sessions of revisions that have them.
        session_idle_seconds: A session without a request and without an open stream ends after this.
        replay_bytes: How much of its events a session keeps for clients that come back for them.
    """

    max_head_bytes: int = attrs.field(default=16 * KIB, validator=attrs.validators.gt(0))
    max_fields: int = attrs.field(default=100, validator=attrs.validators.gt(0))
    head_seconds: float = attrs.field(default=10.0, validator=attrs.validators.gt(0))
    body_seconds: float = attrs.field(default=30.0, validator=attrs.validators.gt(0))
    idle_seconds: float = attrs.field(default=75.0, validator=attrs.validators.gt(0))
    max_connections_per_peer: int = attrs.field(default=1024, validator=attrs.validators.gt(0))
    max_event_streams: int = attrs.field(default=2048, validator=attrs.validators.gt(0))
    event_pause_seconds: float = attrs.field(default=15.0, validator=attrs.validators.gt(0))
    max_sessions: int = attrs.field(default=1024, validator=attrs.validators.gt(0))
    session_idle_seconds: float = attrs.field(default=1800.0, validator=attrs.validators.gt(0))
    replay_bytes: int = attrs.field(default=256 * KIB, validator=attrs.validators.gt(0))

    def become(self, others: HttpLimits) -> None:
        """Take the values of other limits; they are applied from the next request or connection on."""
        for each in attrs.fields(HttpLimits):
            setattr(self, each.name, getattr(others, each.name))
