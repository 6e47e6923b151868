"""The naming rule, for every tool that can create a stream.

Owns when a name is judged: when it would become a stream's, and never afterwards. A stream that another
program made is used under the name that it has.
"""

from __future__ import annotations

from redstreamd.errors import BusError, Code
from redstreamd.errors.remedies import setting
from redstreamd.streams.bus import Bus
from redstreamd.streams.names import check_stream, check_unreserved, naming_warning
from redstreamd.tools.definition import Call


async def check_new_stream(call: Call[Bus], stream: str) -> str | None:
    """Check a name that may become a stream's; return what there is to say about it, if anything.

    Asks Redis only about a name that departs from the rule, and only if the settings care.

    Raises:
        BusError: INVALID_STREAM: no stream of a caller's may have this name, or `streams.naming` is
            "error" and there is no stream of this name yet; CONNECTION_ERROR and the like.
    """
    settings = call.bus.settings.streams
    check_stream(stream, max_bytes=settings.max_name_bytes)
    check_unreserved(stream)
    warning = None if settings.naming == "off" else naming_warning(stream)
    if warning is None or await call.bus.commands.key_type(stream) != "none":
        return None
    if settings.naming == "error":
        raise BusError(
            Code.INVALID_STREAM,
            f"A new stream may not be called {stream[:80]!r} here.",
            cause=warning,
            next_step=f"Choose a name of that form; {setting('streams.naming')} demands it.",
        )
    return warning


def joined(*warnings: str | None) -> str | None:
    """Return several warnings as one text; None if there are none."""
    return " ".join(warning for warning in warnings if warning) or None
