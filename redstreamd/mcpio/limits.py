"""Limits of one connection and of all together; knows nothing of settings."""

from __future__ import annotations

from typing import Final

import msgspec

from redstreamd.strict_json import MAX_NESTING, MAX_VALUES

MIB: Final = 1024 * 1024


class Limits(msgspec.Struct):
    """The bounds of every buffer and count in this package; all parts of it share one object.

    Errors name the settings ``limits.max_message_bytes``, ``limits.max_nesting``,
    ``limits.max_requests_in_flight``, ``limits.max_memory_bytes`` and ``limits.max_connections``.

    Attributes:
        max_message_bytes: Longest line from a client, without its newline; as long as the SDK's HTTP
            transport accepts. A text of this size is decoded in two steps of less than 5 ms.
        max_nesting: Deepest nesting of arrays and objects in a message: more than a schema needs, less than
            exhausts the interpreter's stack (System.Text.Json stops at 64, serde_json at 128).
        max_values: Most JSON values in a message, as `json_cost.measure_structure` counts them. To decode,
            check and store them takes about 0.3 µs for each, and nobody else is served meanwhile: 5 ms at
            this limit.
        max_requests_in_flight: Most requests in flight on one connection. An agent's client sends a handful;
            each costs a task.
        max_bytes_in_flight: Most bytes that the requests in flight on one connection may have together; four
            of the longest messages.
        max_outbox_bytes: Most bytes that may wait for one client to read them; then it is disconnected. Four
            of the longest messages: what can be written in one message can be read back in one.
        max_memory_bytes: Most bytes that all clients together may have in unfinished and unhandled messages,
            in requests in flight, and in answers that they do not read; beyond that, who holds most gives
            back.
        unread_seconds: How long a client may read nothing while more than `outbox.UNREAD_BYTES` wait for it.
        max_connections: Most connections at once, over all listeners of an acceptor; about 45 MiB when all
            are idle.
        max_newcomers: Most clients beyond that which are attended to at a time, each for about a second. Each
            costs a task and a descriptor.
    """

    max_message_bytes: int = 4 * MIB
    max_nesting: int = MAX_NESTING
    max_values: int = MAX_VALUES
    max_requests_in_flight: int = 256
    max_bytes_in_flight: int = 16 * MIB
    max_outbox_bytes: int = 16 * MIB
    max_memory_bytes: int = 128 * MIB
    unread_seconds: float = 60.0
    max_connections: int = 4096
    max_newcomers: int = 256

    def __post_init__(self) -> None:
        """Raise ValueError for a bound that is not positive."""
        for name in self.__struct_fields__:
            # Nor is what is no number.
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive")

    def become(self, others: Limits) -> None:
        """Take the values of other limits; they are applied from the next message or connection on."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(others, name))
