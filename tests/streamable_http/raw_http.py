"""A client that sends bytes as they are, and reads what comes back by h11, which is no relative of llhttp."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import attrs
import h11

from tests.support.daemon import META

#: Seconds until what is to come must have come.
PATIENCE: Final = 60.0
VERSION: Final = META["io.modelcontextprotocol/protocolVersion"]

#: What a header of a response may be. Anything else was put there by a request.
HEADERS: Final = frozenset(
    {
        *(b"content-type", b"content-length", b"transfer-encoding", b"connection", b"date", b"allow"),
        *(b"cache-control", b"retry-after", b"www-authenticate", b"mcp-session-id", b"x-accel-buffering"),
        *(b"access-control-allow-origin", b"access-control-expose-headers", b"access-control-allow-methods"),
        *(b"access-control-allow-headers", b"access-control-max-age"),
        *(b"vary", b"server", b"x-content-type-options", b"keep-alive"),
    }
)


@attrs.frozen
class Response:
    """What came back for one request.

    Attributes:
        status: Its status; of an informational response one below 200.
        headers: Names in lower case, and values.
        body: The body.
        is_whole: Whether it ended before the connection did.
    """

    status: int
    headers: Mapping[bytes, bytes]
    body: bytes
    is_whole: bool = True

    @property
    def message(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def request(
    method: bytes = b"POST",
    target: bytes = b"/mcp",
    fields: Iterable[bytes] = (),
    body: bytes = b"",
    *,
    version: bytes = b"HTTP/1.1",
    host: bytes | None = b"Host: localhost",
) -> bytes:
    """Return a request of header lines as they are given; its length is the caller's to say."""
    lines = [b"%b %b %b" % (method, target, version), *([] if host is None else [host]), *fields]
    return b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


def sized(body: bytes) -> bytes:
    """Return the header line for the length of a body."""
    return b"Content-Length: %d" % len(body)


def mcp_fields(method: str, name: str | None = None) -> list[bytes]:
    """Return the header lines of a request of the 2026-07-28 revision, without its length."""
    fields = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": VERSION,
        "Mcp-Method": method,
    } | ({} if name is None else {"Mcp-Name": name})
    return [f"{key}: {value}".encode() for key, value in fields.items()]


def message(method: str, request_id: object = 1, **params: object) -> bytes:
    """Return a request of the 2026-07-28 revision as JSON."""
    whole = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params | {"_meta": META}}
    return json.dumps(whole, separators=(",", ":")).encode()


DISCOVER: Final = message("server/discover", "discover")
#: Its header lines, without its length.
DISCOVERING: Final = mcp_fields("server/discover")


def discover(*fields: bytes) -> bytes:
    """Return a request that is answered with 200, with further header lines."""
    return request(fields=[*DISCOVERING, sized(DISCOVER), *fields], body=DISCOVER)


def call(tool: str, *fields: bytes, **arguments: object) -> bytes:
    """Return a call of a tool, with further header lines."""
    body = message("tools/call", "call", name=tool, arguments=arguments)
    repeated = [f"Mcp-Param-Stream: {arguments['stream']}".encode()] if "stream" in arguments else []
    return request(fields=[*mcp_fields("tools/call", tool), *repeated, sized(body), *fields], body=body)


def adding(stream: str) -> bytes:
    """Return a call that adds an entry to a stream, which shows that it was served."""
    return call("stream_add", stream=stream, entries=[{"n": 1}])


def responses(data: bytes, methods: Iterable[bytes] = ()) -> list[Response]:
    """Return all responses in what a connection sent until its end.

    Args:
        data: All of it.
        methods: Of the requests, as far as they are no POST; of HEAD there is no body.

    Raises:
        h11.RemoteProtocolError: It is no HTTP.
    """
    found = []
    asked = iter(methods)
    while data:
        reader = h11.Connection(h11.CLIENT)
        # Of others, which may be no methods at all, a response is read in the same way.
        method = b"HEAD" if next(asked, b"POST") == b"HEAD" else b"POST"
        reader.send(h11.Request(method=method, target=b"/", headers=[(b"host", b"h")]))
        reader.send(h11.EndOfMessage())
        reader.receive_data(data)
        read = list(_read(reader))
        found += read
        if not read[-1].is_whole:
            break
        data = reader.trailing_data[0]
    return found


def _read(reader: h11.Connection) -> Iterator[Response]:
    """Yield informational responses and the one that follows."""
    head: h11.Response | None = None
    is_informed = False
    body = b""
    while True:
        event = reader.next_event()
        if isinstance(event, h11.InformationalResponse):
            is_informed = True
            yield Response(event.status_code, dict(event.headers), b"")
        elif isinstance(event, h11.Response):
            head = event
            names = [name for name, _ in event.headers]
            assert len(set(names)) == len(names), names
        elif isinstance(event, h11.Data):
            body += event.data
        elif head is None:
            assert is_informed, "a response ended within its head"
            return
        else:
            is_whole = isinstance(event, h11.EndOfMessage)
            yield Response(head.status_code, dict(head.headers), body, is_whole)
            return


@attrs.define
class Connection:
    """A connection, over which anything may be sent.

    Attributes:
        socket: It.
        received: What has come so far.
        was_cut: Whether the other side took no more of what was sent.
        was_reset: Whether the connection was reset, so that something may be lost.
    """

    socket: socket.socket
    received: bytes = b""
    was_cut: bool = False
    was_reset: bool = False

    def send(self, data: bytes, *, piece: int = 0) -> None:
        """Send bytes, `piece` at a time; what the other side takes no more is dropped."""
        step = piece or max(1, len(data))
        try:
            for place in range(0, len(data), step):
                self.socket.sendall(data[place : place + step])
        except (BrokenPipeError, ConnectionResetError):
            self.was_cut = True

    def finish(self) -> None:
        """Say that nothing more is sent."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def read_to_end(self) -> bytes:
        """Return all that comes until the other side sends no more.

        Raises:
            TimeoutError: It does not end.
        """
        while True:
            try:
                data = self.socket.recv(1 << 16)
            except ConnectionResetError:
                self.was_reset = True
                return self.received
            if not data:
                return self.received
            self.received += data

    def read_response(self, method: bytes = b"POST") -> Response:
        """Return the next response that has a length, without what follows it.

        Raises:
            EOFError: The connection ended before.
        """
        while True:
            head, end, rest = self.received.partition(b"\r\n\r\n")
            if end:
                fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
                length = 0 if method == b"HEAD" else int(fields.get(b"content-length", b"0"))
                if len(rest) >= length:
                    size = len(head) + 4 + length
                    whole, self.received = self.received[:size], self.received[size:]
                    (response,) = responses(whole, [method])
                    return response
            data = self.socket.recv(1 << 16)
            if not data:
                raise EOFError(self.received)
            self.received += data


@contextlib.contextmanager
def connected(port: int) -> Iterator[Connection]:
    """Connect to a port of this host for the block; what is sent is sent at once."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield Connection(connection)
