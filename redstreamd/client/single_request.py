"""Sends one request to the daemon and reads its response.

Uses revision 2026-07-28 of MCP, in which a request needs no handshake: one line out, one line back.
"""

from __future__ import annotations

import contextlib
import json
import socket
from typing import Any, Final

from redstreamd import __version__

_REQUEST_ID: Final = 1


def request_meta(program: str) -> dict[str, Any]:
    """Return the ``_meta`` of a request; `program` is the client name that the daemon sees."""
    return {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": program, "version": __version__},
        "io.modelcontextprotocol/clientCapabilities": {},
    }


def request_line(method: str, params: str) -> bytes:
    """Return the line of a request.

    Args:
        method: The method's name.
        params: The parameters as JSON text, sent unchanged: decoding and encoding would change what JSON
            leaves open (1e400, duplicate names). Line breaks, which end a message, become spaces.
    """
    frame = json.dumps({"jsonrpc": "2.0", "id": _REQUEST_ID, "method": method})
    verbatim = params.replace("\r", " ").replace("\n", " ")
    return f'{frame[:-1]}, "params": {verbatim}}}\n'.encode()


def health_request(program: str) -> bytes:
    """Return the request for the daemon's health; see `request_meta` for `program`."""
    params = {"uri": "redstream://health", "_meta": request_meta(program)}
    return request_line("resources/read", json.dumps(params))


def exchange(connection: socket.socket, request: bytes) -> dict[str, Any]:
    """Send the request and return the response; notifications are skipped.

    Raises:
        OSError: The connection ended first, its timeout was exceeded, or what arrived is not JSON-RPC.
    """
    connection.sendall(request)
    with connection.makefile("rb") as lines:
        for line in lines:
            message = _message(line)
            # An error that could not be assigned to a request has a null ID; ours is the only request.
            if message.get("id", ...) in (_REQUEST_ID, None) and "method" not in message:
                return message
    raise ConnectionError("connection closed")


def _message(line: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError, RecursionError):
        message = json.loads(line)
        if isinstance(message, dict):
            return message
    raise ConnectionError(f"{line[:40]!r} is not a message of the daemon")
