"""Clients for tests, on trio: the ``mcp`` package's own over a socket, in both eras, and one of raw lines.

async with connected(path, era="handshake") as client:
    await client.call_tool("stream_list", {})

async with raw_client(path) as raw:
    await raw.initialize()
    answer = await raw.call("tools/list")
"""

from __future__ import annotations

import itertools
import json
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Literal

import anyio
import mcp_types
import trio
from mcp import Client
from mcp.client._transport import TransportStreams
from mcp.shared.message import SessionMessage
from mcp_types.version import LATEST_HANDSHAKE_VERSION, LATEST_MODERN_VERSION

Address = str | Path | tuple[str, int]
"""The path of a Unix socket, or host and port."""

EraName = Literal["handshake", "modern", "auto"]
MODES: Final[Mapping[EraName, str]] = {
    "handshake": "legacy",
    "modern": LATEST_MODERN_VERSION,
    "auto": "auto",
}
"""What the ``mcp`` package's Client calls them."""

CLIENT_INFO = {"name": "tests", "version": "0"}
HANDSHAKE = {"protocolVersion": LATEST_HANDSHAKE_VERSION, "capabilities": {}, "clientInfo": CLIENT_INFO}
"""The parameters of `initialize`."""
ENVELOPE = {
    mcp_types.PROTOCOL_VERSION_META_KEY: LATEST_MODERN_VERSION,
    mcp_types.CLIENT_INFO_META_KEY: CLIENT_INFO,
    mcp_types.CLIENT_CAPABILITIES_META_KEY: {},
}
"""What every request of the modern era carries in `params._meta`."""


def enveloped(params: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Add the modern era's envelope to a request's parameters, keeping what `_meta` holds already."""
    params = dict(params or {})
    params["_meta"] = {**ENVELOPE, **params.get("_meta", {})}
    return params


async def open_stream(address: Address) -> trio.SocketStream:
    """Connect to a Unix or TCP socket."""
    if isinstance(address, tuple):
        return await trio.open_tcp_stream(*address)
    return await trio.open_unix_socket(address)


@asynccontextmanager
async def socket_transport(address: Address | trio.abc.Stream) -> AsyncIterator[TransportStreams]:
    """Give the ``mcp`` package's Client the line framing over a socket: its `Transport` interface."""
    stream = address if isinstance(address, trio.abc.Stream) else await open_stream(address)
    received, read_stream = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    write_stream, to_send = anyio.create_memory_object_stream[SessionMessage](0)

    async def read() -> None:
        async with received:
            lines = LineReader(stream)
            try:
                while (line := await lines.next_line()) is not None:
                    message = mcp_types.jsonrpc_message_adapter.validate_json(line, by_name=False)
                    await received.send(SessionMessage(message))
            except (trio.BrokenResourceError, trio.ClosedResourceError, anyio.BrokenResourceError):
                pass  # to the client this is the end of the stream

    async def write() -> None:
        async with to_send:
            async for message in to_send:
                text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                try:
                    await stream.send_all(text.encode() + b"\n")
                except trio.BrokenResourceError:
                    return

    async with stream, read_stream, write_stream, trio.open_nursery() as nursery:
        nursery.start_soon(read)
        nursery.start_soon(write)
        yield read_stream, write_stream
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def connected(
    address: Address | trio.abc.Stream, *, era: EraName = "handshake", **options: Any
) -> AsyncIterator[Client]:
    """Run the ``mcp`` package's own Client against a socket.

    Args:
        address: Where to connect, or a stream that is connected.
        era: "auto" asks the server, as that Client does by default.
        options: For `mcp.Client`.
    """
    async with Client(socket_transport(address), mode=MODES[era], **options) as client:
        yield client


class LineReader:
    """Takes a byte stream line by line."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self._lines: deque[bytes] = deque()
        self._rest = bytearray()

    async def next_line(self) -> bytes | None:
        """Return the next line without its newline; None at the end.

        A last line without a newline counts as well.

        Raises:
            trio.BrokenResourceError: The peer left with something of ours unread.
        """
        while not self._lines:
            chunk = await self._stream.receive_some()
            if not chunk:
                rest = bytes(self._rest)
                self._rest.clear()
                return rest or None
            *whole, tail = (bytes(self._rest) + chunk).split(b"\n")
            self._lines.extend(whole)
            self._rest[:] = tail
        return self._lines.popleft()


class RawClient:
    """One connection, spoken to in lines. Nothing is checked, so that tests can say what no client would.

    Attributes:
        stream: The connection.
        era: Whether `call` adds the modern envelope.
        passed_over: Messages that `call` read while it waited for its answer.
    """

    def __init__(self, stream: trio.abc.Stream, *, era: EraName = "handshake") -> None:
        self.stream = stream
        self.era = era
        self.passed_over: list[dict[str, Any]] = []
        self._lines = LineReader(stream)
        self._ids = itertools.count(1)

    async def send_bytes(self, data: bytes) -> None:
        """Send bytes as they are."""
        await self.stream.send_all(data)

    async def send(self, *messages: Any) -> None:
        """Send messages, each as one line, in one write."""
        await self.send_bytes(b"".join(json.dumps(message).encode() + b"\n" for message in messages))

    async def receive(self) -> dict[str, Any]:
        """Return the next message.

        Raises:
            EOFError: The server closed the connection.
        """
        try:
            line = await self._lines.next_line()
        except trio.BrokenResourceError:
            line = None
        if line is None:
            raise EOFError("the server closed the connection")
        message: dict[str, Any] = json.loads(line)
        return message

    async def receive_rest(self) -> list[dict[str, Any]]:
        """Return all messages up to the end of the connection."""
        messages = []
        try:
            while True:
                messages.append(await self.receive())
        except EOFError:
            return messages

    def request(
        self, method: str, params: Mapping[str, Any] | None = None, *, request_id: Any = None
    ) -> dict[str, Any]:
        """Build a request in this client's era."""
        message = {
            "jsonrpc": "2.0",
            "id": next(self._ids) if request_id is None else request_id,
            "method": method,
        }
        if self.era == "modern":
            params = enveloped(params)
        return message if params is None else {**message, "params": dict(params)}

    def tool_call(self, name: str, arguments: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        """Build a `tools/call` in this client's era."""
        return self.request("tools/call", {"name": name, "arguments": dict(arguments or {})}, **more)

    async def answer_to(self, request_id: Any) -> dict[str, Any]:
        """Return the answer to a request that was sent, keeping what comes before it in `passed_over`."""
        while True:
            message = await self.receive()
            if message.get("id") == request_id and "method" not in message:
                return message
            self.passed_over.append(message)

    async def call(self, method: str, params: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        """Send a request and return its answer."""
        request = self.request(method, params, **more)
        await self.send(request)
        return await self.answer_to(request["id"])

    async def call_tool(self, name: str, arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Send a `tools/call` and return its answer."""
        request = self.tool_call(name, arguments)
        await self.send(request)
        return await self.answer_to(request["id"])

    async def notify(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        """Send a notification."""
        message = {"jsonrpc": "2.0", "method": method}
        await self.send(message if params is None else {**message, "params": dict(params)})

    async def cancel(self, request_id: Any) -> None:
        """Cancel a request."""
        await self.notify("notifications/cancelled", {"requestId": request_id})

    async def initialize(self, version: str = LATEST_HANDSHAKE_VERSION) -> dict[str, Any]:
        """Do the handshake and return the server's part of it."""
        answer = await self.call("initialize", {**HANDSHAKE, "protocolVersion": version})
        await self.notify("notifications/initialized")
        result: dict[str, Any] = answer["result"]
        return result


@asynccontextmanager
async def raw_client(
    address: Address | trio.abc.Stream, *, era: EraName = "handshake", initialize: bool = False
) -> AsyncIterator[RawClient]:
    """Connect a `RawClient`; with `initialize`, do the handshake."""
    stream = address if isinstance(address, trio.abc.Stream) else await open_stream(address)
    async with stream:
        client = RawClient(stream, era=era)
        if initialize:
            await client.initialize()
        yield client
