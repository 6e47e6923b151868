"""What a connection remembers between two messages, as a small record that outlives the process.

Owns the record and its JSON form. A restart that keeps the sockets open hands each one over
together with its record, and `connection.Connection` goes on from it in mid-session.
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
    """The two ways MCP is spoken; a connection speaks one of them once its peer has shown which."""

    HANDSHAKE = "handshake"
    """Revisions 2024-11-05 to 2025-11-25: `initialize` once, then a session."""
    MODERN = "modern"
    """Revision 2026-07-28 and later: every request carries its own envelope."""


@attrs.frozen
class Listen:
    """A `subscriptions/listen` request that was open.

    Attributes:
        request_id: Its id, which every notification on it repeats.
        params: Its parameters as the peer sent them, envelope included.
        cursors: How far each watched stream had been reported, as its handler noted it.
    """

    request_id: RequestId
    params: Mapping[str, Any] | None
    cursors: Mapping[str, str]


@attrs.frozen
class ConnectionState:
    """A connection between two messages.

    Fields may be added with defaults: a record written by an older or newer release can still be read.

    Attributes:
        connection_id: Names the connection in events, across restarts.
        era: None until the peer has shown it.
        initialize_params: The handshake's parameters as the peer sent them; None before it, and in the
            modern era.
        protocol_version: What the handshake negotiated; None likewise.
        initialized: Whether `notifications/initialized` arrived.
        in_flight: Ids of the requests that were neither answered nor cancelled.
        listens: The open `subscriptions/listen` requests, which are in flight as well, but can be taken up
            again.
        subscriptions: What `resources/subscribe` asked for in the handshake era: each URI, and how far it had
            been reported. Taken up again as well.
        unread: Bytes that were read from the peer and not yet understood.
    """

    connection_id: str
    era: Era | None = None
    initialize_params: dict[str, Any] | None = None
    protocol_version: str | None = None
    initialized: bool = False
    in_flight: tuple[RequestId, ...] = ()
    listens: tuple[Listen, ...] = ()
    subscriptions: Mapping[str, str] = attrs.field(factory=dict)
    unread: bytes = b""

    def to_json(self) -> bytes:
        """Return the record as one line of JSON, `unread` in base64."""
        return encode_value(msgspec.to_builtins(self))

    @classmethod
    def from_json(cls, data: bytes) -> ConnectionState:
        """Read what `to_json` wrote.

        Raises:
            ValueError: It is not JSON, or a member has another type than ours.
        """
        return msgspec.convert(json.loads(data), cls)
