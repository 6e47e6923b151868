"""The state of a connection between two messages, as a record with a JSON form.

A `ClientConnection` made with the record continues the connection, also in another process.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from typing import Any

import attrs
import msgspec

from redstreamd.mcpio.jsonrpc import RequestId, encode_value


class Era(enum.StrEnum):
    """The two forms of MCP, by the SDK's names; the client's first requests decide which one is spoken."""

    HANDSHAKE = "handshake"
    """Revisions 2024-11-05 to 2025-11-25: `initialize` once, then a session."""
    MODERN = "modern"
    """Revision 2026-07-28 and later: every request carries its own envelope."""


@attrs.frozen
class ListenRequest:
    """An open `subscriptions/listen` request.

    Attributes:
        request_id: Its id, which each of its notifications repeats.
        params: Its parameters as the client sent them, envelope included.
        cursors: The last position reported of each watched stream, as its handler recorded it.
    """

    request_id: RequestId
    params: Mapping[str, Any] | None
    cursors: Mapping[str, str]


@attrs.frozen
class ConnectionState:
    """A connection between two messages.

    New fields need defaults, so that records of older and newer releases can be read.

    Attributes:
        connection_id: Names the connection in events, across restarts.
        era: None until the client has shown it.
        initialize_params: The handshake's parameters as the client sent them; None before the handshake and
            in the modern era.
        protocol_version: What the handshake negotiated, or None as above.
        initialized: Whether `notifications/initialized` arrived.
        in_flight: Ids of the requests in flight, except those of `listens`.
        listens: The open `subscriptions/listen` requests; a successor continues them.
        subscriptions: Each URI of `resources/subscribe` in the handshake era, with the last version reported;
            a successor continues them.
        unread: Bytes that were received and not yet handled.
    """

    connection_id: str
    era: Era | None = None
    initialize_params: dict[str, Any] | None = None
    protocol_version: str | None = None
    initialized: bool = False
    in_flight: tuple[RequestId, ...] = ()
    listens: tuple[ListenRequest, ...] = ()
    subscriptions: Mapping[str, str] = attrs.field(factory=dict)
    unread: bytes = b""

    def to_json(self) -> bytes:
        """Return the record as one line of JSON, `unread` in base64."""
        return encode_value(msgspec.to_builtins(self))

    @classmethod
    def from_json(cls, data: bytes) -> ConnectionState:
        """Read what `to_json` returned.

        Raises:
            ValueError: It is not JSON, or a member has the wrong type.
        """
        return msgspec.convert(json.loads(data), cls)
