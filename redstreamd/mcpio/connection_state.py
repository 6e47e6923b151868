"""The state of a connection between two messages, as a record with a JSON form, and its figures.

A `ClientConnection` made with the record continues the connection, also in another process and in another
release: readers ignore members that they do not know, and new members have defaults. Where ignoring one would
do harm, the record names the first format that may be taken up (`needs_format`).
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from redstreamd.mcpio.jsonrpc import RequestId, encode_value
from redstreamd.policy import Principal

#: The format of the records that are written here, and the newest that is understood. 1 had no principal,
#: no unwritten output and no long lines.
_SECOND: Final = 2
FORMAT: Final = _SECOND


class Era(enum.StrEnum):
    """The two forms of MCP, by the SDK's names; the client's first requests decide which one is spoken."""

    # Enum's own is written in Python, and every answer looks up its era.
    __hash__ = str.__hash__

    HANDSHAKE = "handshake"
    """Revisions 2024-11-05 to 2025-11-25: `initialize` once, then a session."""
    MODERN = "modern"
    """Revision 2026-07-28 and later: every request carries its own envelope."""


class ListenRequest(msgspec.Struct, frozen=True):
    """An open `subscriptions/listen` request.

    Attributes:
        request_id: Its id, which each of its notifications repeats.
        params: Its parameters as the client sent them, envelope included.
        cursors: The last position reported of each watched stream, as its handler recorded it.
    """

    request_id: RequestId
    params: Mapping[str, Any] | None
    cursors: Mapping[str, str]


class ConnectionState(msgspec.Struct, frozen=True):
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
        long_lines: Which lines of `unread` were too long; see `framing.LineSplitter.long_lines`.
        principal: On whose behalf the client calls; None in records of format 1.
        socket: The address of the listening socket that the client came through; empty if there was none, and
            in records of format 1.
        unwritten: Bytes that the client has not received yet; they begin where the last write ended, which
            may be within a line.
    """

    connection_id: str
    era: Era | None = None
    initialize_params: dict[str, Any] | None = None
    protocol_version: str | None = None
    initialized: bool = False
    in_flight: tuple[RequestId, ...] = ()
    listens: tuple[ListenRequest, ...] = ()
    subscriptions: Mapping[str, str] = msgspec.field(default_factory=dict)
    unread: bytes = b""
    long_lines: tuple[int, ...] = ()
    principal: Principal | None = None
    socket: str = ""
    unwritten: bytes = b""

    @property
    def needs_format(self) -> int:
        """The first format whose readers may take the connection up.

        To ignore unwritten output would lose answers, and leave half a line; the rest of a line that was too
        long would be taken for messages.
        """
        return _SECOND if self.unwritten or self.long_lines else 1

    def to_json(self) -> bytes:
        """Return the record as one line of JSON, bytes in base64."""
        formats = {"format": FORMAT, "needs_format": self.needs_format}
        return encode_value(formats | msgspec.to_builtins(self))

    @classmethod
    def from_json(cls, data: bytes) -> ConnectionState:
        """Read what `to_json` returned, here or in another release.

        Raises:
            ValueError: It is not JSON, or a member has the wrong type, or it needs a newer format.
        """
        members = json.loads(data)
        needs = msgspec.convert(members, _Formats).needs_format
        if needs > FORMAT:
            raise ValueError(f"the record needs format {needs}, and this is format {FORMAT}")
        return msgspec.convert(members, cls)


class _Formats(msgspec.Struct):
    needs_format: int = 1


class ConnectionStatistics(msgspec.Struct, frozen=True):
    """A snapshot of one connection.

    Attributes:
        connection_id: Its name in events.
        era: None until the client has shown it.
        requests: Requests received so far, rejected ones included.
        direct: How many of them took the direct path.
        requests_in_flight: Requests in flight now.
        outbox_bytes: Bytes that the client has not read yet.
    """

    connection_id: str
    era: Era | None
    requests: int
    direct: int
    requests_in_flight: int
    outbox_bytes: int
