"""The limits of the settings, as those of client connections."""

from __future__ import annotations

from redstreamd.mcpio.limits import Limits
from redstreamd.settings import Settings


def connection_limits(settings: Settings) -> Limits:
    """Return the limits of client connections; a value of its own, which others may change."""
    return Limits(
        max_message_bytes=settings.limits.max_message_bytes,
        # Four of the longest messages in either direction; see Limits.
        max_bytes_in_flight=4 * settings.limits.max_message_bytes,
        max_outbox_bytes=4 * settings.limits.max_message_bytes,
        max_nesting=settings.limits.max_nesting,
        max_values=settings.limits.max_message_values,
        max_requests_in_flight=settings.limits.max_requests_in_flight,
        max_connections=settings.limits.max_connections,
        # No setting excludes a message.
        max_memory_bytes=max(settings.limits.max_memory_bytes, 2 * settings.limits.max_message_bytes),
        unread_seconds=settings.limits.unread_seconds,
    )
