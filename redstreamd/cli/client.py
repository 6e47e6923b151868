"""One request to the daemon and its response, for the commands that ask something and leave.

Speaks revision 2026-07-28 of MCP, in which a request is complete in itself: one line out, one line
back, no handshake.
"""

from __future__ import annotations

import contextlib
import json
import socket
from typing import Any, Final

from redstreamd import __version__

_REQUEST_ID: Final = 1


def envelope(program: str) -> dict[str, Any]:
    """Return the ``_meta`` of a request of ours; `program` is the name that the daemon is told."""
    return {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": program, "version": __version__},
        "io.modelcontextprotocol/clientCapabilities": {},
    }


def request_line(method: str, params: str) -> bytes:
    """Return the line of a request.

    Args:
        method: The method's name.
        params: The parameters as JSON text, which is sent as it is: decoding and encoding would change
            what JSON leaves open (1e400, duplicate names), and the daemon is to judge that. Line breaks
            can only stand between tokens, and become spaces, because they end a message.
    """
    frame = json.dumps({"jsonrpc": "2.0", "id": _REQUEST_ID, "method": method})
    verbatim = params.replace("\r", " ").replace("\n", " ")
    return f'{frame[:-1]}, "params": {verbatim}}}\n'.encode()


def exchange(connection: socket.socket, request: bytes) -> dict[str, Any]:
    """Send the request and return its response, passing over notifications.

    Raises:
        OSError: The connection ended first, or brought what is no message.
    """
    connection.sendall(request)
    with connection.makefile("rb") as lines:
        for line in lines:
            message = _message(line)
            # An error that could not be assigned to a request has a null ID; ours is the only one.
            if message.get("id", ...) in (_REQUEST_ID, None) and "method" not in message:
                return message
    raise ConnectionError("connection closed")


def _message(line: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        message = json.loads(line)
        if isinstance(message, dict):
            return message
    raise ConnectionError(f"{line[:40]!r} is not what a daemon says")
