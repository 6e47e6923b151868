"""The endpoint over real connections, with the SDK's kernels and a real Redis, and clients of it."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import h11
import trio
import trio.testing

from redstreamd.admission.accounts import Accounts, Peer
from redstreamd.admission.memory import Memory
from redstreamd.mcpio.connection_events import Event
from redstreamd.mcpio.limits import Limits
from redstreamd.mcpio.tls_relay import socket_pair
from redstreamd.policy import Principal
from redstreamd.streamable_http.http_access import HttpAccess
from redstreamd.streamable_http.http_connection import HttpConnection
from redstreamd.streamable_http.http_limits import HttpLimits
from redstreamd.streamable_http.http_messages import Answer, Client, RequestHead, Surroundings
from redstreamd.streamable_http.http_site import HttpSite, Page
from redstreamd.streams.bus import Bus
from tests.support.mcp_client import CLIENT_INFO, enveloped
from tests.support.two_ways import MODERN, Surface, surface_over

PRINCIPAL = Principal("http", "http")
BOTH = "application/json, text/event-stream"
# Connections of one session have different ones.
_IDS = itertools.count(1)


@attrs.frozen
class Message:
    """An event of a stream; of a comment all are None."""

    id: str | None = None
    retry: int | None = None
    data: str | None = None
    comment: str | None = None

    @property
    def json(self) -> Any:
        assert self.data is not None
        return json.loads(self.data)


@attrs.frozen
class Reply:
    """A whole response."""

    status: int
    fields: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        assert self.fields["content-type"] == "application/json"
        return json.loads(self.body)

    @property
    def error(self) -> int | None:
        """The code of its error, if it has one."""
        return self.json.get("error", {}).get("code") if self.body else None

    @property
    def messages(self) -> list[Message]:
        assert self.fields["content-type"] == "text/event-stream"
        return [parsed(each) for each in self.body.decode().split("\n\n")[:-1]]


def parsed(text: str) -> Message:
    """Return an event."""
    lines = [line.partition(":") for line in text.split("\n")]
    values = {name: value.removeprefix(" ") for name, _, value in lines if name}
    if not values:
        return Message(comment=lines[0][2])
    retry = values.get("retry")
    assert values.get("event", "message") == "message"
    return Message(values.get("id"), None if retry is None else int(retry), values.get("data"))


@attrs.define(eq=False)
class HttpPeer:
    """A client over one connection.

    Attributes:
        revision: What it speaks.
        session: The name of its session, once it has one; in revisions that have them.
    """

    stream: trio.SocketStream
    connection: HttpConnection
    revision: str = MODERN
    session: str | None = None
    _h11: h11.Connection = attrs.field(factory=lambda: h11.Connection(h11.CLIENT))
    _events: bytes = b""

    async def send(
        self, method: str = "POST", body: bytes = b"", target: str = "/mcp", **fields: str | None
    ) -> None:
        """Send a request; in the names of headers `_` stands for `-`, and None leaves a header out."""
        usual: dict[str, str | None] = {"host": "localhost", "accept": BOTH}
        if method == "POST":
            usual |= {"content-type": "application/json", "content-length": str(len(body))}
        if self.session is not None:
            usual["mcp-session-id"] = self.session
        if self.session is not None or self.revision == MODERN:
            usual["mcp-protocol-version"] = self.revision
        usual |= {name.replace("_", "-"): value for name, value in fields.items()}
        self._next_cycle()
        head = h11.Request(
            method=method,
            target=target,
            headers=[(name, value) for name, value in usual.items() if value is not None],
        )
        data = self._h11.send(head) or b""
        if body:
            data += self._h11.send(h11.Data(data=body)) or b""
        data += self._h11.send(h11.EndOfMessage()) or b""
        await self.stream.send_all(data)

    def expect(self) -> None:
        """Take note that a request was sent by other means."""
        self._next_cycle()
        self._h11.send(h11.Request(method="POST", target="/", headers=[("host", "localhost")]))
        self._h11.send(h11.EndOfMessage())

    def _next_cycle(self) -> None:
        if self._h11.our_state is h11.DONE:
            self._h11.start_next_cycle()

    async def head(self) -> Reply:
        """Return the head of the response, without its body."""
        head = await self._next()
        assert isinstance(head, h11.Response)
        fields = [(name.decode(), value.decode()) for name, value in head.headers]
        assert len(dict(fields)) == len(fields), fields
        return Reply(head.status_code, dict(fields), b"")

    async def reply(self) -> Reply:
        """Return the response."""
        head, body = await self.head(), b""
        while isinstance(part := await self._next(), h11.Data):
            body += bytes(part.data)
        assert isinstance(part, h11.EndOfMessage)
        return attrs.evolve(head, body=body)

    async def message(self) -> Message | None:
        """Return the next event of a response whose head was read; None at its end."""
        while b"\n\n" not in self._events:
            part = await self._next()
            if not isinstance(part, h11.Data):
                assert isinstance(part, h11.EndOfMessage)
                assert not self._events
                return None
            self._events += bytes(part.data)
        text, _, self._events = self._events.partition(b"\n\n")
        return parsed(text.decode())

    async def ask(self, method: str = "POST", body: bytes = b"", **fields: str | None) -> Reply:
        """Send a request, and return the response."""
        await self.send(method, body, **fields)
        return await self.reply()

    def request(
        self, method: str, params: Mapping[str, Any] | None = None, request_id: Any = None
    ) -> tuple[bytes, dict[str, str]]:
        """Return a request, and its headers."""
        request_id = next(_IDS) if request_id is None else request_id
        message: dict[str, Any] = {"jsonrpc": "2.0", "id": request_id, "method": method}
        fields = {}
        if self.revision == MODERN:
            message["params"] = enveloped(params)
            fields = headers_of(method, params or {})
        elif params is not None:
            message["params"] = dict(params)
        return json.dumps(message).encode(), fields

    async def post(
        self, method: str, params: Mapping[str, Any] | None = None, request_id: Any = None, **more: str | None
    ) -> None:
        """Send a request of MCP, and wait for nothing."""
        body, fields = self.request(method, params, request_id)
        await self.send("POST", body, **(fields | more))

    async def talk(
        self, method: str, params: Mapping[str, Any] | None = None, request_id: Any = None, **more: str | None
    ) -> Reply:
        """Send a request of MCP, and return the response."""
        await self.post(method, params, request_id, **more)
        return await self.reply()

    async def call(self, tool: str, **arguments: Any) -> Any:
        """Call a tool, and return its structured content."""
        reply = await self.talk("tools/call", {"name": tool, "arguments": arguments})
        assert reply.status == 200, reply
        return reply.json["result"]["structuredContent"]

    async def notify(self, method: str, params: Mapping[str, Any] | None = None) -> Reply:
        """Send a notification."""
        message = {"jsonrpc": "2.0", "method": method, **({} if params is None else {"params": params})}
        return await self.ask("POST", json.dumps(message).encode())

    async def initialize(self) -> Reply:
        """Begin a session."""
        params = {"protocolVersion": self.revision, "capabilities": {}, "clientInfo": CLIENT_INFO}
        reply = await self.talk("initialize", params)
        assert reply.json["result"]["protocolVersion"] == self.revision
        self.session = reply.fields["mcp-session-id"]
        assert (await self.notify("notifications/initialized")).status == 202
        return reply

    async def _next(self) -> Any:
        while (event := self._h11.next_event()) is h11.NEED_DATA:
            self._h11.receive_data(await self.stream.receive_some(65536))
        return event


def headers_of(method: str, params: Mapping[str, Any]) -> dict[str, str]:
    """Return the headers that repeat what the body of a request of revision 2026-07-28 says."""
    fields = {"mcp-method": method}
    name = params.get("uri" if method == "resources/read" else "name")
    if method in ("tools/call", "prompts/get", "resources/read") and name is not None:
        fields["mcp-name"] = name
    arguments = params.get("arguments") or {}
    if method == "tools/call" and isinstance(arguments.get("stream"), str):
        fields["mcp-param-stream"] = arguments["stream"]
    return fields


class Access(HttpAccess):
    """The access of loopback, with tokens that a test decides about.

    Attributes:
        principals: Whose each value of the header `Authorization` is.
        is_valid: Whether tokens that were admitted are valid still.
    """

    principals: Mapping[str, Principal] = {}
    is_valid: bool = True

    def admit(self, head: RequestHead, client: Client) -> Principal | Answer | Awaitable[Principal | Answer]:
        """Return whose token it is."""
        known = self.principals.get(head.fields.get("authorization", ""))
        return known or super().admit(head, client)

    def validity(self, head: RequestHead) -> Callable[[], bool]:
        """Return what asks the test."""
        return lambda: self.is_valid


@attrs.define(eq=False)
class ServedSite:
    """A site, and connections to it.

    Attributes:
        access: Decides who may call.
        site: Serves.
        surface: What it serves.
        accounts: Of its clients.
        events: What was reported.
    """

    site: HttpSite
    access: Access
    surface: Surface
    accounts: Accounts
    events: list[Event]
    _nursery: trio.Nursery

    @asynccontextmanager
    async def connected(
        self, revision: str = MODERN, *, principal: Principal = PRINCIPAL, session: str | None = None
    ) -> AsyncIterator[HttpPeer]:
        """Connect a client for the block."""
        ours, theirs = socket_pair()
        async with theirs:
            yield HttpPeer(theirs, await self.serve(ours, principal), revision, session)

    async def serve(self, stream: trio.SocketStream, principal: Principal = PRINCIPAL) -> HttpConnection:
        """Serve a connection of a principal."""
        connection = self._connection(stream, principal)
        await self._nursery.start(connection.run)
        return connection

    async def begin(self, stream: trio.SocketStream) -> None:
        """As `serve`, but as the acceptor does: without what `Nursery.start` keeps for the task's life."""
        self._nursery.start_soon(self._connection(stream, PRINCIPAL).run)
        await trio.testing.wait_all_tasks_blocked()

    def _connection(self, stream: trio.SocketStream, principal: Principal) -> HttpConnection:
        around, peer = self.site.surroundings, Peer(address="127.0.0.1")
        return HttpConnection(stream, self.site, around, principal=principal, peer=peer)


@asynccontextmanager
async def running_site(
    bus: Bus,
    *,
    limits: Limits | None = None,
    http_limits: HttpLimits | None = None,
    pages: Mapping[str, Page] | None = None,
    origins: tuple[str, ...] = (),
    has_direct_path: bool = True,
) -> AsyncIterator[ServedSite]:
    """Serve the domain over HTTP for the block."""
    surface = surface_over(bus)
    limits, http_limits = limits or Limits(), http_limits or HttpLimits()
    accounts, events = Accounts(), list[Event]()
    around = Surroundings(
        limits, http_limits, accounts, Memory(accounts, limits.max_memory_bytes), events.append
    )
    access = Access(origins=origins, report=events.append)
    site = HttpSite(
        around,
        surface.kernels,
        surface.path if has_direct_path else None,
        access,
        pages=pages,
        tool_headers=surface.path.toolbox.headers_of,
    )
    async with trio.open_nursery() as sessions:
        await sessions.start(site.sessions.run)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(surface.updates.run, task_status=trio.TASK_STATUS_IGNORED))
            yield ServedSite(site, access, surface, accounts, events, nursery)
            nursery.cancel_scope.cancel()
        sessions.cancel_scope.cancel()
