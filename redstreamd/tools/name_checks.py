"""Checks of the names that a call gives, before anything else is done with them."""

from __future__ import annotations

from redstreamd.errors import BusError, Code
from redstreamd.errors.remedies import setting
from redstreamd.streams.bus import Bus
from redstreamd.streams.names import (
    check_consumer,
    check_group,
    check_stream,
    check_unreserved,
    naming_warning,
)
from redstreamd.tools.definition import Call


def check_names(
    call: Call[Bus], stream: str, group: str | None = None, *, consumer: str | None = None
) -> None:
    """Check names that are given; None is not checked.

    Raises:
        BusError: INVALID_STREAM, INVALID_GROUP, or INVALID_ARGUMENT for a consumer.
    """
    max_bytes = call.bus.settings.streams.max_name_bytes
    check_stream(stream, max_bytes=max_bytes)
    if group is not None:
        check_group(group, max_bytes=max_bytes)
    if consumer is not None:
        check_consumer(consumer, max_bytes=max_bytes)


async def check_new_stream(call: Call[Bus], stream: str) -> str | None:
    """Check the name of a stream that the call may create, and return a warning about it, if any.

    A stream that exists is used under any name. Redis is asked only about a name that departs from the naming
    rule, and only if the settings enforce it.

    Raises:
        BusError: INVALID_STREAM: the name is invalid or reserved, or `streams.naming` is "error" and the
            stream does not exist; CONNECTION_ERROR and the like.
    """
    check_names(call, stream)
    check_unreserved(stream)
    naming = call.bus.settings.streams.naming
    warning = None if naming == "off" else naming_warning(stream)
    if warning is None or await call.bus.redis.key_type(stream) != "none":
        return None
    if naming == "error":
        raise BusError(
            Code.INVALID_STREAM,
            f"A new stream may not be called {stream[:80]!r} here.",
            cause=warning,
            next_step=f"Choose a name of that form; {setting('streams.naming')} demands it.",
        )
    return warning


def join_warnings(*warnings: str | None) -> str | None:
    """Return several warnings as one text; None if there are none."""
    return " ".join(warning for warning in warnings if warning) or None
