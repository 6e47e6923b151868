"""What a client accepts, and what it sends (RFC 9110, sections 8.3 and 12.5.1)."""

from __future__ import annotations

import functools
from typing import Final

#: What a client may accept, as a sum.
JSON: Final = 1
EVENTS: Final = 2
#: How much of each is accepted by a range of media types.
_RANGES: Final = {
    "application/json": (JSON, 2),
    "application/*": (JSON, 1),
    "text/event-stream": (EVENTS, 2),
    "text/*": (EVENTS, 1),
    "*/*": (JSON | EVENTS, 0),
}
#: Each client sends the same with every request.
_REMEMBERED: Final = 64
_LONGEST_REMEMBERED: Final = 256
_LONGEST_READ: Final = 1_024


def accepted(header: str | None) -> int:
    """Return what the header ``Accept`` accepts; without one JSON, since a stream has to be asked for."""
    if header is None:
        return JSON
    if len(header) <= _LONGEST_REMEMBERED:
        return _accepted(header)
    # Nobody has to say more than fits here; what is longer would take time.
    return _accepted.__wrapped__(header[:_LONGEST_READ])


def is_json(content_type: str | None) -> bool:
    """Return whether a body is JSON by its ``Content-Type``."""
    if content_type == "application/json":
        return True
    return content_type is not None and content_type.partition(";")[0].strip().lower() == "application/json"


@functools.lru_cache(_REMEMBERED)
def _accepted(header: str) -> int:
    # The most specific range decides for each type; of several, one that accepts it.
    decided = {JSON: (-1, False), EVENTS: (-1, False)}
    for part in header.split(","):
        name, *parameters = (each.strip().lower() for each in part.split(";"))
        kinds, precision = _RANGES.get(name, (0, 0))
        takes = not any(_is_zero(each) for each in parameters)
        for kind, (before, took) in decided.items():
            if kinds & kind and precision >= before:
                decided[kind] = (precision, takes or (took and precision == before))
    return sum(kind for kind, (_, takes) in decided.items() if takes)


def _is_zero(parameter: str) -> bool:
    """Return whether a parameter of a range is a weight that accepts nothing, such as ``q=0.0``."""
    name, _, value = parameter.partition("=")
    return name.strip() == "q" and value.strip() in ("0", "0.", "0.0", "0.00", "0.000")
