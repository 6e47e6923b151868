"""A client of Streamable HTTP for tests: the headers and sessions of a revision, over `http_client`.

client = StreamableClient(connect, "2025-11-25")
await client.initialize()
assert (await client.call("tools/list")).result
"""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import attrs
import mcp_types
import trio
from mcp.shared.inbound import (
    NAME_BEARING_METHODS,
    encode_header_value,
    mcp_param_headers,
    x_mcp_header_map,
)
from mcp_types.version import LATEST_MODERN_VERSION

from tests.support.http_client import HttpClient, Response
from tests.support.mcp_client import HANDSHAKE, enveloped

REVISIONS: Final = ("2025-06-18", "2025-11-25", LATEST_MODERN_VERSION)
"""The revisions that are spoken over HTTP."""

ACCEPT: Final = "application/json, text/event-stream"

Connect = Callable[[], Awaitable[trio.abc.Stream]]


@attrs.frozen
class Reply:
    """What was answered to a message.

    Attributes:
        response: The response, which was read.
        messages: The messages in it, in their order.
    """

    response: Response
    messages: list[Any]

    @property
    def status(self) -> int:
        """Its status."""
        return self.response.status

    @property
    def result(self) -> Any:
        """The result, which is the last message."""
        assert "result" in self.messages[-1], (self.status, self.messages)
        return self.messages[-1]["result"]

    @property
    def error(self) -> Any:
        """The error, which is the only message."""
        (message,) = self.messages
        assert "error" in message, (self.status, message)
        return message["error"]


class StreamableClient:
    """A client of one revision. It keeps one connection, and opens others for what lasts.

    Attributes:
        revision: What it speaks.
        session: The ID of its session, once it has one.
        fields: Headers of all its requests, such as `Authorization`.
        params: For each tool, the headers that repeat its arguments; `learn` reads them from a listing.
    """

    def __init__(
        self,
        connect: Connect,
        revision: str = LATEST_MODERN_VERSION,
        *,
        path: str = "/mcp",
        authority: str = "localhost",
        fields: Mapping[str, str] | None = None,
    ) -> None:
        self.revision = revision
        self.session: str | None = None
        self.fields = dict(fields or {})
        self.params: dict[str, Mapping[tuple[str, ...], str]] = {}
        self._connect = connect
        self._path = path
        self._authority = authority
        self._kept: HttpClient | None = None
        self._ids = itertools.count(1)

    @property
    def is_modern(self) -> bool:
        """Whether each request carries an envelope, and there are no sessions."""
        return self.revision == LATEST_MODERN_VERSION

    def request(self, method: str, params: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        """Return a request."""
        if self.is_modern:
            params = enveloped(params)
        message = {"jsonrpc": "2.0", "id": next(self._ids), "method": method, **more}
        return message if params is None else {**message, "params": dict(params)}

    def headers(self, message: Any) -> dict[str, str]:
        """Return the headers that a client of the revision sends with a message; None: with GET."""
        found = {"Accept": ACCEPT if message is not None else "text/event-stream", **self.fields}
        if message is not None:
            found["Content-Type"] = "application/json"
        if not self.is_modern:
            if self.session is not None:
                found |= {"Mcp-Session-Id": self.session, "MCP-Protocol-Version": self.revision}
            return found
        found["MCP-Protocol-Version"] = self.revision
        if not isinstance(message, dict) or not isinstance(method := message.get("method"), str):
            return found
        found["Mcp-Method"] = _field(method)
        params = message.get("params")
        params = params if isinstance(params, dict) else {}
        meta = params.get("_meta")
        version = meta.get(mcp_types.PROTOCOL_VERSION_META_KEY) if isinstance(meta, dict) else None
        if isinstance(version, str):
            found["MCP-Protocol-Version"] = _field(version)
        name = params.get(NAME_BEARING_METHODS.get(method, ""))
        if isinstance(name, str):
            found["Mcp-Name"] = _field(name)
            arguments = params.get("arguments")
            if method == "tools/call" and name in self.params and isinstance(arguments, dict):
                found |= mcp_param_headers(self.params[name], _encodable(arguments))
        return found

    def learn(self, listing: Any) -> None:
        """Take from the result of `tools/list` which arguments go into headers, too."""
        self.params = {tool["name"]: x_mcp_header_map(tool["inputSchema"]) for tool in listing["tools"]}

    async def post(self, message: Any, headers: Mapping[str, str] | None = None) -> Reply:
        """Send a message, or bytes as they are, over the kept connection, and read the response whole.

        Args:
            message: The message.
            headers: All headers, if not those that the message asks for.
        """
        body = message if isinstance(message, bytes) else json.dumps(message, ensure_ascii=False).encode()
        if headers is None:
            headers = self.headers(meant(body))
        client = await self._connection()
        response = await client.request("POST", self._path, headers.items(), body)
        return Reply(response, response.messages())

    async def call(self, method: str, params: Mapping[str, Any] | None = None) -> Reply:
        """Send a request and return what is answered."""
        return await self.post(self.request(method, params))

    async def call_tool(self, name: str, **arguments: Any) -> Any:
        """Call a tool and return its result; before the first, the tools are listed for their headers."""
        if self.is_modern and not self.params:
            self.learn((await self.call("tools/list")).result)
        return (await self.call("tools/call", {"name": name, "arguments": arguments})).result

    async def notify(self, method: str, params: Mapping[str, Any] | None = None) -> Reply:
        """Send a notification."""
        message = {"jsonrpc": "2.0", "method": method}
        return await self.post(message if params is None else {**message, "params": dict(params)})

    async def initialize(self) -> Any:
        """Begin: by a handshake, or without one where there is none. Return the server's part of it."""
        if self.is_modern:
            return (await self.call("server/discover")).result
        reply = await self.call("initialize", {**HANDSHAKE, "protocolVersion": self.revision})
        self.session = reply.response.fields["mcp-session-id"]
        assert (await self.notify("notifications/initialized")).status == 202
        return reply.result

    async def delete(self) -> Response:
        """End the session."""
        client = await self._connection()
        return await client.request("DELETE", self._path, self.headers(None).items())

    @asynccontextmanager
    async def posting(self, message: Any) -> AsyncIterator[Response]:
        """Send a message over a connection of its own, and give the response, of which the head has come.

        The connection is closed at the end of the block, whether the response has ended or not.
        """
        async with await self._connect() as stream:
            client = HttpClient(stream, authority=self._authority)
            body = json.dumps(message).encode()
            yield await client.begin("POST", self._path, self.headers(message).items(), body)

    @asynccontextmanager
    async def listening(self, last_event_id: str | None = None) -> AsyncIterator[Response]:
        """Open the session's stream of events for the block, or resume a stream after an event."""
        headers = self.headers(None)
        if last_event_id is not None:
            headers["Last-Event-ID"] = last_event_id
        async with await self._connect() as stream:
            client = HttpClient(stream, authority=self._authority)
            yield await client.begin("GET", self._path, headers.items())

    async def aclose(self) -> None:
        """Close the kept connection; the session goes on."""
        if self._kept is not None:
            await self._kept.stream.aclose()
            self._kept = None

    async def _connection(self) -> HttpClient:
        if self._kept is not None and not self._kept.is_reusable:
            await self.aclose()
        if self._kept is None:
            self._kept = HttpClient(await self._connect(), authority=self._authority)
        return self._kept


def _field(value: str) -> str:
    """Return a text as a header has it; what cannot be encoded is not repeated."""
    return encode_header_value(_encodable(value))


def _encodable(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _encodable(member) for name, member in value.items()}
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else value


def meant(body: bytes) -> Any:
    """Return what a client meant to send, as far as that can be seen: the last of repeated members."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return ()
