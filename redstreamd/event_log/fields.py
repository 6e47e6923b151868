"""Which attributes of an event become structured fields of its record, and how.

Owns the one table of them. An attribute is found by its name, so it means the same wherever it occurs, and
journalctl finds all that happened to a principal, a connection or a stream. What is not in the table becomes
no field: never a payload, a secret, or the value of an entry.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from typing import Any, Final

import msgspec

from redstreamd.errors.remedies import shortened

Field = tuple[str, str]
"""The name of a field, without the prefix REDSTREAMD_, and its value."""

Reader = Callable[[Any], Iterable[Field]]
"""Returns the fields that an event has for one of its attributes."""

#: Field by attribute. Each value of a tuple is a field of its own.
FIELDS: Final = {
    "connection_id": "CONNECTION",
    "action": "ACTION",
    "principal": "PRINCIPAL",
    "tool": "TOOL",
    "stream": "STREAM",
    "streams": "STREAM",
    "group": "GROUP",
    "groups": "GROUP",
    "consumer": "CONSUMER",
    "method": "METHOD",
    "outcome": "OUTCOME",
    "error_code": "ERROR_CODE",
    "label": "REDIS",
    "sentinel": "SENTINEL",
    "role": "ROLE",
    "roles": "ROLE",
    "child": "CHILD",
    "library": "LIBRARY",
    "limit": "LIMIT",
    "limit_bytes": "LIMIT_BYTES",
    "count": "COUNT",
    "unnamed_count": "UNNAMED_COUNT",
    "repeats": "REPEATS",
    "bytes": "BYTES",
    "held_bytes": "BYTES",
    "unread_bytes": "BYTES",
    "seconds": "SECONDS",
    "open_seconds": "SECONDS",
    "paused_seconds": "SECONDS",
    "down_seconds": "SECONDS",
    "up_seconds": "SECONDS",
    "refused_seconds": "SECONDS",
    "start_seconds": "SECONDS",
    "stop_seconds": "SECONDS",
    "waited_seconds": "SECONDS",
    "lasted_seconds": "SECONDS",
    "longest_seconds": "LONGEST_SECONDS",
    "period_seconds": "PERIOD_SECONDS",
    "trouble": "TROUBLE",
    "calls_total": "CALLS_TOTAL",
    "errors_total": "ERRORS_TOTAL",
    "p99_seconds": "P99_SECONDS",
    "connection_count": "CONNECTIONS",
    "memory_bytes": "MEMORY_BYTES",
    "loop_lag_seconds": "LOOP_LAG_SECONDS",
    "stream_count": "STREAMS",
    "pending": "PENDING",
    "lag": "LAG",
    "dead_letters": "DEAD_LETTERS",
}
#: What `peer` becomes: as far as it is known, process, user and address.
PEER: Final = {"pid": "PEER_PID", "uid": "PEER_UID", "address": "PEER_ADDRESS"}
#: What `error` and `exception` become: the class, because its text may hold anything.
ERROR: Final = "ERROR"
#: How many more there were, where events are summed up.
REPEATS: Final = "REPEATS"


def readers_of(event: type[msgspec.Struct]) -> tuple[Reader, ...]:
    """Return how the fields of a type of event are read from one."""
    return tuple(reader for name in event.__struct_fields__ if (reader := _reader(name)) is not None)


def field_names(event: type[msgspec.Struct]) -> Iterator[str]:
    """Yield the names of the fields that events of a type may have."""
    for name in event.__struct_fields__:
        if name == "peer":
            yield from PEER.values()
        elif name in ("error", "exception"):
            yield ERROR
        elif name in FIELDS:
            yield FIELDS[name]


def _reader(attribute: str) -> Reader | None:
    read = attrgetter(attribute)
    if attribute == "peer":
        return lambda event: _of_peer(read(event))
    if attribute in ("error", "exception"):
        return lambda event: ((ERROR, type(read(event)).__name__),)
    if (name := FIELDS.get(attribute)) is None:
        return None
    return lambda event: _of_value(name, read(event))


def _of_value(name: str, value: Any) -> Iterable[Field]:
    if value is None or value == "":
        return ()
    if isinstance(value, tuple):
        return [(name, _text(each)) for each in value]
    return ((name, _text(value)),)


def _of_peer(peer: Any) -> Iterable[Field]:
    known = () if peer is None else ((name, getattr(peer, attribute)) for attribute, name in PEER.items())
    # No process has the ID 0, but a user has.
    return [
        (name, str(value)) for name, value in known if value not in (None, "") and (name, value) != _NO_PID
    ]


_NO_PID: Final = (PEER["pid"], 0)
#: Characters of a value. Names of streams have at most 512.
_LONGEST: Final = 1_000


def _text(value: Any) -> str:
    match value:
        case str():
            return shortened(value, _LONGEST)
        case float():
            return f"{value:.6f}"
        case int():
            return str(value)
        case enum.Enum():
            return str(value.value)
    # A principal.
    return str(value.name)
