"""How much one peer, and all peers together, may ask of the process; knows nothing of settings."""

from __future__ import annotations

from typing import Final

import attrs

from redstreamd.strict_json import MAX_NESTING, MAX_VALUES

MIB: Final = 1024 * 1024


@attrs.frozen
class Limits:
    """The bounds of every buffer and count in this package.

    Errors name the four that are settings as such: ``limits.max_message_bytes``, ``limits.max_nesting``,
    ``limits.max_requests_in_flight`` and ``limits.max_connections``.

    Attributes:
        max_message_bytes: Longest line a peer may send, without its newline. Twice what the SDK's HTTP
            transport accepts (4 MiB), since a batch of entries is one message; a line of text of this size
            decodes in 10 to 25 ms.
        max_nesting: Deepest nesting of arrays and objects in a message. Far above what a schema needs, far
            below what exhausts the interpreter's stack (System.Text.Json stops at 64, serde_json at 128).
        max_values: Most JSON values in a message. Values cost up to half a microsecond each to
            decode, whatever their size, and the event loop stands still meanwhile: this bounds the pause to
            about 50 ms where 8 MiB of empty arrays would take a second.
        max_requests_in_flight: Most requests one connection may have unanswered. An agent's client sends a
            handful; one that pipelines more than this gains nothing and costs a task each.
        max_bytes_in_flight: Most bytes the unanswered requests of one connection may add up to: four of the
            longest messages, so that ``max_requests_in_flight`` of them cannot add up to 2 GiB.
        max_outbox_bytes: Most bytes that may wait for a peer to read them, before it is disconnected. Four
            of the longest messages again: what can be written in one message can be read back in one.
        max_connections: Most connections at once, over all listeners of an acceptor. Stays below the 524,288
            descriptors systemd allows a service, and at about 17 KiB each means 70 MiB when all are idle.
    """

    max_message_bytes: int = attrs.field(default=8 * MIB, validator=attrs.validators.gt(0))
    max_nesting: int = attrs.field(default=MAX_NESTING, validator=attrs.validators.gt(0))
    max_values: int = attrs.field(default=MAX_VALUES, validator=attrs.validators.gt(0))
    max_requests_in_flight: int = attrs.field(default=256, validator=attrs.validators.gt(0))
    max_bytes_in_flight: int = attrs.field(default=32 * MIB, validator=attrs.validators.gt(0))
    max_outbox_bytes: int = attrs.field(default=32 * MIB, validator=attrs.validators.gt(0))
    max_connections: int = attrs.field(default=4096, validator=attrs.validators.gt(0))
