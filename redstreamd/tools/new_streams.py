"""The naming rule for streams that a call may create."""

from __future__ import annotations

from redstreamd.errors import BusError, Code
from redstreamd.errors.remedies import setting
from redstreamd.streams.bus import Bus
from redstreamd.tools.definition import Call


async def naming_warning(call: Call[Bus], stream: str) -> str | None:
    """Return a warning about the name of a stream that the call may create; None if there is none.

    A stream that exists is used under any name. Redis is asked only about a name that departs from the naming
    rule; `NameRules.creatable` says so without waiting. Whether the name is valid was checked before.

    Raises:
        BusError: INVALID_STREAM: `streams.naming` is "error" and the stream does not exist; CONNECTION_ERROR
            and the like.
    """
    names = call.bus.names
    if stream in names.creatable:
        return None
    warning = names.warning(stream)
    if warning is None or await call.bus.redis.key_type(stream) != "none":
        if warning is None or not names.demanded:
            # Nor is it asked about again once it is deleted: then a warning is missed.
            names.note_creatable(stream)
        return None
    if names.demanded:
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
