"""An HTTP door made of the socket, so that the official suite, which speaks HTTP only, can judge the daemon.

It decides what only HTTP asks for: which connection carries a request, the status that goes with an error's
code, and whether a response is one message or a stream of them. JSON-RPC passes through it byte by byte, both
ways: no response holds a message that the daemon did not send. So what the suite says of messages it says of
the daemon; what it says of headers, sessions and statuses it says of this file, and counts for nothing.
"""

from __future__ import annotations

import http.client
import io
import json
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus

import attrs
import trio
from mcp.shared.inbound import ERROR_CODE_HTTP_STATUS
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from tests.support.mcp_client import LineReader, enveloped

SESSION, VERSION = "Mcp-Session-Id", "MCP-Protocol-Version"


@asynccontextmanager
async def gateway(daemon: str) -> AsyncIterator[str]:
    """Serve the socket at the path `daemon` over HTTP on loopback for the block, and give the address."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    served = _Gateway(daemon)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, served.respond, [listener])
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}/mcp"
        nursery.cancel_scope.cancel()
    for line in served.sessions.values():
        await trio.aclose_forcefully(line.stream)


@attrs.frozen
class _Line:
    """A connection to the daemon. The suite sends one request after the other over it, or trio complains."""

    stream: trio.SocketStream
    reader: LineReader

    async def send(self, message: bytes) -> None:
        """Send a message as it is."""
        assert b"\n" not in message, "the suite writes each message in one line"
        await self.stream.send_all(message + b"\n")


@attrs.frozen
class _Gateway:
    """Responds to HTTP requests.

    Attributes:
        daemon: The path of its socket.
        sessions: The connections of the handshake era.
    """

    daemon: str
    sessions: dict[str, _Line] = attrs.field(factory=dict)

    async def respond(self, client: trio.SocketStream) -> None:
        """Read one request, respond, and hang up."""
        async with client:
            if (request := await _receive(client)) is None:
                return
            method, headers, body = request
            if method != "POST":
                await _send_response(client, HTTPStatus.METHOD_NOT_ALLOWED)
            elif headers.get(VERSION) in (None, *HANDSHAKE_PROTOCOL_VERSIONS):
                await self._handshake(client, headers.get(SESSION), body)
            else:
                await self._modern(client, body)

    async def _handshake(self, client: trio.SocketStream, session: str | None, body: bytes) -> None:
        """Carry a message over the connection of its session; one without a session opens one."""
        if session is None:
            session = uuid.uuid4().hex
            self.sessions[session] = await self._line()
        await _exchange(client, self.sessions[session], body, {}, **{SESSION: session})

    async def _modern(self, client: trio.SocketStream, body: bytes) -> None:
        """Carry a message over a connection of its own, which ends with the response, whoever ends that."""
        line = await self._line()
        async with line.stream, trio.open_nursery() as nursery:
            # The header names the era even of a request that lacks its envelope. On a stream only an
            # earlier request can.
            settling = {"jsonrpc": "2.0", "id": 0, "method": "server/discover", "params": enveloped()}
            await line.send(json.dumps(settling).encode())
            await line.reader.next_line()
            nursery.start_soon(_cancel_once_gone, client, nursery.cancel_scope)
            with suppress(trio.BrokenResourceError):  # may be noticed here first
                await _exchange(client, line, body, ERROR_CODE_HTTP_STATUS)
            nursery.cancel_scope.cancel()

    async def _line(self) -> _Line:
        stream = await trio.open_unix_socket(self.daemon)
        return _Line(stream, LineReader(stream))


async def _exchange(
    client: trio.SocketStream, line: _Line, body: bytes, statuses: Mapping[int, int], **fields: str
) -> None:
    """Send a message and respond with what the daemon says to it: its answer, or a stream that ends with it.

    Args:
        statuses: The status that goes with the code of an error; 200 with any other.
        fields: Header fields of the response.
    """
    sent = json.loads(body)
    await line.send(body)
    if "method" not in sent or "id" not in sent:
        await _send_response(client, HTTPStatus.ACCEPTED)
        return
    streaming = answered = False
    while not answered:
        said = await line.reader.next_line()
        assert said is not None, "the daemon hung up instead of answering"
        message = json.loads(said)
        answered = "method" not in message and message["id"] in (sent["id"], None)
        if answered and not streaming:
            status = statuses.get(message.get("error", {}).get("code"), HTTPStatus.OK)
            fields["Content-Type"] = "application/json"
            await _send_response(client, status, said, **fields)
            return
        if not streaming:
            fields["Content-Type"] = "text/event-stream"
            await _send_response(client, HTTPStatus.OK, None, **fields)
            streaming = True
        await client.send_all(b"data: " + said + b"\n\n")


async def _receive(client: trio.SocketStream) -> tuple[str, http.client.HTTPMessage, bytes] | None:
    """Read a request: its method, header and body; None from a client that connected ahead of need."""
    data = b""
    while b"\r\n\r\n" not in data:
        if not (more := await client.receive_some()):
            return None
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    start, _, fields = head.partition(b"\r\n")
    headers = http.client.parse_headers(io.BytesIO(fields + b"\r\n\r\n"))
    while len(body) < int(headers.get("Content-Length", 0)):
        body += await client.receive_some()
    return start.decode("ascii").partition(" ")[0], headers, body


async def _send_response(
    client: trio.SocketStream, status: int, body: bytes | None = b"", **fields: str
) -> None:
    """Send a response. If `body` is None it is what follows, up to the end of the connection."""
    fields["Connection"] = "close"
    if body is not None:
        fields["Content-Length"] = str(len(body))
    head = [f"HTTP/1.1 {int(status)} {HTTPStatus(status).phrase}", *map(": ".join, fields.items()), "", ""]
    await client.send_all("\r\n".join(head).encode("ascii") + (body or b""))


async def _cancel_once_gone(client: trio.SocketStream, scope: trio.CancelScope) -> None:
    """Cancel when the suite hangs up, as it does on streams that have no end of their own."""
    with suppress(trio.BrokenResourceError):
        while await client.receive_some():
            pass
    scope.cancel()
