"""A small MCP server for the tests of this package, and ways to serve it on real sockets."""

from __future__ import annotations

import json
import socket
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import attrs
import mcp_types
import pytest
import trio
import trio.testing
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from pydantic import BaseModel

from redstreamd.admission.accounts import Accounts, Peer
from redstreamd.mcpio.acceptor import Acceptor
from redstreamd.mcpio.client_connection import ClientConnection
from redstreamd.mcpio.connection_events import Event, ignore
from redstreamd.mcpio.connection_state import ConnectionState
from redstreamd.mcpio.kernels import Kernels as SessionKernels
from redstreamd.mcpio.late_event import LateEvent
from redstreamd.mcpio.limits import Limits
from redstreamd.mcpio.listeners import open_unix_listener
from redstreamd.mcpio.protocol_eras import Kernels
from redstreamd.mcpio.request_context import RequestContext
from redstreamd.mcpio.served_listener import ServedListener
from redstreamd.mcpio.session import Session, Task
from redstreamd.mcpio.spare_descriptors import SPARE_DESCRIPTORS
from redstreamd.policy import Principal

PRINCIPAL = Principal("tester", "unix")
EventT = TypeVar("EventT", bound=Event)


def virtual_time() -> pytest.MarkDecorator:
    """Mark a test in which time passes at once when everybody waits, and not otherwise.

    For what is within this process, Unix sockets included: what is sent over these is there at once.
    """
    clock = trio.testing.MockClock(autojump_threshold=0)
    return pytest.mark.parametrize("anyio_backend", [("trio", {"clock": clock})], ids=["virtual time"])


class DefectError(Exception):
    """What a broken handler raises; its text must not reach a client."""


@attrs.define
class Tools:
    """What the test server's handlers did.

    Attributes:
        started: Names of calls of `sleep` that began.
        finished: Names of calls of `sleep` that slept their time.
        ended: Names of calls of `sleep` that ended, in whatever way.
        raw_arguments: The arguments of the last call, as the decoder made them.
        odd: What the method "test/custom" answers with.
        contexts: The contexts of requests to listen.
    """

    started: set[str] = attrs.field(factory=set)
    finished: set[str] = attrs.field(factory=set)
    ended: set[str] = attrs.field(factory=set)
    raw_arguments: Any = None
    odd: Any = "\ud800"
    contexts: list[RequestContext] = attrs.field(factory=list)
    _changes: dict[str, trio.Event] = attrs.field(factory=lambda: defaultdict(trio.Event))

    def note(self, kind: str, name: str) -> None:
        """Record that a call of `sleep` started or ended."""
        getattr(self, kind).add(name)
        self._changes[f"{kind} {name}"].set()

    async def wait(self, kind: str, name: str) -> None:
        """Wait until a call of `sleep` has started or ended."""
        await self._changes[f"{kind} {name}"].wait()


def text(value: str) -> mcp_types.CallToolResult:
    """Build a result of one text."""
    return mcp_types.CallToolResult(content=[mcp_types.TextContent(type="text", text=value)])


def make_server(tools: Tools | None = None) -> Server[Principal]:
    """Build a server with one tool for each thing a handler can do to a connection."""
    tools = tools or Tools()

    async def list_tools(ctx: ServerRequestContext[Principal], params: Any) -> mcp_types.ListToolsResult:
        names = ("echo", "sleep", "raise", "refuse", "progress", "big", "whoami", "drained", "announce")
        return mcp_types.ListToolsResult(
            tools=[mcp_types.Tool(name=name, input_schema={"type": "object"}) for name in names]
        )

    async def call_tool(
        ctx: ServerRequestContext[Principal], params: mcp_types.CallToolRequestParams
    ) -> mcp_types.CallToolResult:
        arguments = params.arguments or {}
        tools.raw_arguments = (ctx.params or {}).get("arguments")
        context = ctx.request
        match params.name:
            case "echo":
                return text(str(arguments.get("text", "")))
            case "sleep":
                name = str(arguments.get("name", ""))
                tools.note("started", name)
                try:
                    await trio.sleep(float(arguments.get("seconds", 3600)))
                    tools.note("finished", name)
                finally:
                    tools.note("ended", name)
                return text(f"slept {name}")
            case "stubborn":
                # Answers although it was cancelled.
                tools.note("started", "stubborn")
                try:
                    await trio.sleep_forever()
                except trio.Cancelled:
                    tools.note("ended", "stubborn")
                return text("I do not care")
            case "outlast":
                # Takes a second longer when it is cancelled.
                tools.note("started", "outlast")
                try:
                    await trio.sleep_forever()
                finally:
                    with trio.CancelScope(shield=True):
                        await trio.sleep(1)
                return text("unreachable")
            case "raise":
                raise DefectError("the secret in the exception")
            case "group":
                raise ExceptionGroup("the secret in the group", [DefectError("one"), DefectError("two")])
            case "refuse":
                raise MCPError(code=-32099, message="refused by the handler", data={"why": "because"})
            case "unspeakable":
                raise MCPError(code=-32099, message="refused", data={"object": object()})
            case "progress":
                steps = int(arguments.get("steps", 3))
                for step in range(1, steps + 1):
                    await ctx.session.report_progress(step, steps, f"step {step}")
                return text("done")
            case "late":
                # Goes on reporting after it was cancelled.
                tools.note("started", "late")
                try:
                    await trio.sleep_forever()
                finally:
                    with trio.CancelScope(shield=True):
                        await ctx.session.report_progress(99, 100, "too late")
                    tools.note("ended", "late")
                return text("unreachable")
            case "big":
                return text("x" * int(arguments["bytes"]))
            case "whoami":
                return text(f"{ctx.lifespan_context.name}/{ctx.lifespan_context.transport}")
            case "ask":
                await ctx.session.send_ping()
                return text("unreachable")
            case "drained":
                assert isinstance(context, RequestContext)
                tools.note("started", "drained")
                await context.draining.wait()
                return text("ended early")
            case "announce":
                await ctx.session.send_tool_list_changed()
                return text("announced")
            case _:
                raise MCPError(code=mcp_types.INVALID_PARAMS, message=f"Unknown tool: {params.name}")

    async def listen(
        ctx: ServerRequestContext[Principal], params: mcp_types.SubscriptionsListenRequestParams
    ) -> mcp_types.SubscriptionsListenResult:
        context = ctx.request
        assert isinstance(context, RequestContext)
        tools.contexts.append(context)
        tools.note("started", f"listen {context.request_id}")
        await trio.sleep_forever()
        raise AssertionError("unreachable")

    async def custom(ctx: ServerRequestContext[Principal], params: BaseModel) -> dict[str, Any]:
        # Results of methods that MCP does not define reach the wire as they are.
        return {"value": (ctx.params or {}).get("value"), "odd": tools.odd}

    server: Server[Principal] = Server(
        "test-server",
        version="1.0",
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_subscriptions_listen=listen,
    )
    server.add_request_handler("test/custom", mcp_types.RequestParams, custom)
    server.middleware.clear()
    return server


@attrs.define
class Service:
    """A running acceptor on a Unix socket.

    Attributes:
        path: The socket.
        acceptor: Serves it.
        tools: What the handlers did.
        events: What was reported.
    """

    path: str
    acceptor: Acceptor
    tools: Tools
    events: list[Event]

    def reported(self, kind: type[EventT]) -> list[EventT]:
        """Return the events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]


@asynccontextmanager
async def serving(
    limits: Limits | None = None,
    server: Server[Principal] | None = None,
    *,
    room: Callable[[], int] | None = None,
    spare_descriptors: int = SPARE_DESCRIPTORS,
) -> AsyncIterator[Service]:
    """Serve the test server on a Unix socket for the block; its status is the list of its tools."""
    tools, events = Tools(), list[Event]()
    # Socket paths are limited to 107 bytes, which pytest's directories can exceed.
    with tempfile.TemporaryDirectory(prefix="rs-") as directory:
        async with await open_unix_listener(Path(directory) / "mcp.sock") as listener:
            acceptor = Acceptor(
                [ServedListener(listener, PRINCIPAL)],
                Kernels(server or make_server(tools)),
                limits=limits,
                room=room,
                spare_descriptors=spare_descriptors,
                is_status_request=lambda request: request.method == "tools/list",
                on_event=events.append,
            )
            async with trio.open_nursery() as nursery:
                await nursery.start(acceptor.run)
                yield Service(str(listener.path), acceptor, tools, events)
                nursery.cancel_scope.cancel()


@attrs.define
class Sink:
    """Where messages go that a test looks at.

    Attributes:
        messages: What was sent, decoded.
    """

    messages: list[Any] = attrs.field(factory=list)

    def send(self, line: bytes, *, is_last: bool = False) -> None:
        """Keep a message."""
        self.messages.append(json.loads(line))

    answer = send

    def unanswered(self, request_id: object) -> None:
        """Do nothing: what is missing is not among the messages."""


def make_session(
    start_soon: Callable[[Task], bool],
    sink: Sink,
    server: Server[Principal] | None = None,
    *,
    kernels: SessionKernels | None = None,
) -> Session:
    """Return a session of a transport that is the test itself."""

    async def flushed() -> None:
        await trio.lowlevel.checkpoint()

    return Session(
        kernels or Kernels(server or make_server()),
        connection_id="c",
        principal=PRINCIPAL,
        account=Accounts().open(PRINCIPAL, Peer(), "c"),
        limits=Limits(),
        sink=sink,
        start_soon=start_soon,
        flushed=flushed,
        draining=LateEvent(),
        report=ignore,
    )


@attrs.define
class Pair:
    """A connection over one end of a socket pair; the other end is the peer's.

    Attributes:
        connection: Serves.
        peer: The peer's end.
        tools: What the handlers did.
        events: What was reported.
    """

    connection: ClientConnection
    peer: trio.SocketStream
    tools: Tools
    events: list[Event]


def socket_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    """Return two connected Unix stream sockets."""
    ours, theirs = socket.socketpair()
    return (
        trio.SocketStream(trio.socket.from_stdlib_socket(ours)),
        trio.SocketStream(trio.socket.from_stdlib_socket(theirs)),
    )


@asynccontextmanager
async def connection_pair(
    limits: Limits | None = None, state: ConnectionState | None = None
) -> AsyncIterator[Pair]:
    """Serve one end of a socket pair for the block."""
    tools, events = Tools(), list[Event]()
    ours, theirs = socket_pair()
    connection = ClientConnection(
        ours,
        Kernels(make_server(tools)),
        principal=PRINCIPAL,
        limits=limits,
        state=state,
        on_event=events.append,
    )
    async with theirs, trio.open_nursery() as nursery:
        await nursery.start(connection.run)
        yield Pair(connection, theirs, tools, events)
        nursery.cancel_scope.cancel()
