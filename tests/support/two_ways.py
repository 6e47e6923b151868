"""Two connections over one surface: one whose plain calls take the direct path, and one without it."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from redstreamd import __version__
from redstreamd.admission.accounts import Peer
from redstreamd.admission.claims import SUBSCRIPTIONS, SharedLimit
from redstreamd.mcp_server.direct_calls import DirectPath
from redstreamd.mcp_server.server import build_server
from redstreamd.mcp_server.server_info import NAME, TITLE
from redstreamd.mcpio.client_connection import ClientConnection
from redstreamd.mcpio.connection_events import Event
from redstreamd.mcpio.kernels import TakeCall
from redstreamd.mcpio.limits import Limits
from redstreamd.mcpio.protocol_eras import Kernels
from redstreamd.policy import Policy, Principal
from redstreamd.presentation.daemon_health import DaemonHealth
from redstreamd.presentation.views import Views
from redstreamd.prompts.catalog import PROMPTS
from redstreamd.resources.catalog import RESOURCES
from redstreamd.streams.bus import Bus
from redstreamd.streams.subscriptions.feeds import Feeds
from redstreamd.streams.subscriptions.updates import Updates
from redstreamd.tools.catalog import REGISTRY
from redstreamd.tools.definition import Profile
from redstreamd.tools.invocation import Admit, CallEnded
from redstreamd.tools.toolbox import toolbox_over
from tests.mcpio.serving import socket_pair
from tests.support.calls import ME
from tests.support.mcp_client import CLIENT_INFO, enveloped

MODERN = "2026-07-28"
HANDSHAKES = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
REVISIONS = (*HANDSHAKES, MODERN)


@attrs.define
class Surface:
    """What the daemon serves, in one process with the test.

    Attributes:
        kernels: The SDK's way.
        path: The direct way.
        ended: The calls that ended, on both ways.
    """

    kernels: Kernels
    path: DirectPath
    ended: list[CallEnded]
    updates: Updates


def surface_over(bus: Bus, *, admit: Admit | None = None, policy: Policy | None = None) -> Surface:
    """Return the surface of a domain, with all tools."""
    ended: list[CallEnded] = []
    toolbox = toolbox_over(
        bus,
        REGISTRY,
        [Profile.OPERATOR, Profile.RED_STREAM],
        policy=policy,
        admit=admit,
        on_ended=ended.append,
    )
    updates = Updates(Feeds(bus), SharedLimit(SUBSCRIPTIONS, 100))
    views = Views(bus, DaemonHealth(bus.redis, bus.hub, updates, version=__version__), policy)
    server = build_server(
        toolbox, RESOURCES, PROMPTS, views, updates, version=__version__, instructions=lambda _: "Call tools."
    )
    info = {"name": NAME, "title": TITLE, "version": __version__}
    return Surface(Kernels(server), DirectPath(toolbox, bus.redis, info), ended, updates)


def request(request_id: Any, method: str, params: Mapping[str, Any]) -> bytes:
    """Return the line of a request."""
    message = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def call_line(revision: str, request_id: Any, tool: str, arguments: Mapping[str, Any]) -> bytes:
    """Return the line of a call of a tool, as a client of a revision writes it."""
    params: dict[str, Any] = {"name": tool, "arguments": dict(arguments)}
    return request(request_id, "tools/call", enveloped(params) if revision == MODERN else params)


class PeerGoneError(Exception):
    """The connection was closed by our side."""


@attrs.define
class Way:
    """A connection, and its client.

    Attributes:
        connection: Serves.
        peer: The client's end.
        revision: What the client speaks.
        events: What the connection reported.
    """

    connection: ClientConnection
    peer: trio.SocketStream
    revision: str
    events: list[Event]
    _rest: bytes = b""
    _asked: int = 0

    async def greet(self) -> None:
        """Show the revision, by a handshake or by a valid envelope."""
        if self.revision == MODERN:
            await self.talk(request(0, "server/discover", enveloped()))
            return
        params = {"protocolVersion": self.revision, "capabilities": {}, "clientInfo": CLIENT_INFO}
        (answer,) = await self.talk(request(0, "initialize", params))
        assert json.loads(answer)["result"]["protocolVersion"] == self.revision
        await self.talk(b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')

    async def call(self, request_id: Any, tool: str, **arguments: Any) -> None:
        """Send a call of a tool, and wait for nothing."""
        await self.peer.send_all(call_line(self.revision, request_id, tool, arguments))

    async def answer(self) -> Any:
        """Return the next message, decoded."""
        return json.loads(await self._next_line())

    async def talk(self, line: bytes) -> list[bytes]:
        """Send a line, and return all messages that it causes, in their order."""
        await self.peer.send_all(line.rstrip(b"\n") + b"\n")
        messages = await self._until_read()
        while self.connection.statistics().requests_in_flight:  # noqa: ASYNC110 - nobody announces it
            await trio.sleep(0.0005)
        return messages + await self._until_read()

    async def _until_read(self) -> list[bytes]:
        """Ask something, and return the messages before the answer; then all lines sent before were read."""
        self._asked += 1
        name = f"the end {self._asked}"
        await self.peer.send_all(request(name, "ping", enveloped() if self.revision == MODERN else {}))
        messages = []
        while name.encode() not in (message := await self._next_line()):
            messages.append(message)
        return messages

    async def _next_line(self) -> bytes:
        while b"\n" not in self._rest:
            data = await self.peer.receive_some(1 << 20)
            if not data:
                raise PeerGoneError
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line


@asynccontextmanager
async def running_way(
    surface: Surface,
    *,
    direct: bool,
    revision: str = MODERN,
    greets: bool = True,
    path: TakeCall | None = None,
    limits: Limits | None = None,
    principal: Principal = ME,
    peer: Peer | None = None,
) -> AsyncIterator[Way]:
    """Serve one connection for the block.

    Args:
        surface: What it serves.
        direct: Whether it has the direct path.
        revision: What its client speaks.
        greets: Whether the client has shown its revision when the block begins.
        path: Another direct path than the surface's.
        limits: Of the connection.
        principal: Whose connection it is.
        peer: Who is at its other end; None if that is not known.
    """
    ours, theirs = socket_pair()
    events: list[Event] = []
    connection = ClientConnection(
        ours,
        surface.kernels,
        principal=principal,
        peer=peer,
        direct_path=(path or surface.path) if direct else None,
        limits=limits,
        on_event=events.append,
    )
    way = Way(connection, theirs, revision, events)
    async with theirs, trio.open_nursery() as nursery:
        await nursery.start(connection.run)
        if greets:
            await way.greet()
        yield way
        nursery.cancel_scope.cancel()


# --- Comparing ---------------------------------------------------------------------------------

_ENTRY_ID = re.compile(r"\b\d{13}-\d+\b")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-]\d\d:\d\d)")
_DURATION = re.compile(r"\b\d+(\.\d+)? (ms|s|seconds?|minutes?)\b")
#: Members whose values say when, or how long ago, or are made of such.
_OF_THE_MOMENT = re.compile(
    r"lease|token|correlation_id|_at$|time$|idle|(^|_)age|_seconds$|_ms$|rate|per_|expires|lag|used_memory"
)


def comparable(lines: Iterable[bytes], known: frozenset[str]) -> list[Any]:
    """Return messages as values of which two are equal unless they say different things.

    Entry IDs that are not `known`, times and tokens stand for themselves only in so far as they are there.
    The kinds of numbers are told apart, and members named twice are an error.
    """
    return [_plain(_decoded(line), known) for line in lines]


def _decoded(line: bytes) -> Any:
    try:
        return json.loads(line.decode(), object_pairs_hook=_distinct)
    except ValueError as error:
        raise AssertionError(f"an answer is not JSON: {line!r}") from error


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    assert len(members) == len(pairs), pairs
    return members


def _plain(value: Any, known: frozenset[str], name: str = "") -> Any:
    if isinstance(value, dict):
        return {each: _plain(member, known, each) for each, member in value.items()}
    if isinstance(value, list):
        return [_plain(item, known, name) for item in value]
    if isinstance(value, bool) or value is None:
        return value
    if _OF_THE_MOMENT.search(name):
        return f"<{name}>" if value else value
    if not isinstance(value, str):
        # Not equal to its text.
        return {type(value).__name__: repr(value)}
    if name == "text" and value[:1] in "{[":
        try:
            return {"json": _plain(json.loads(value, object_pairs_hook=_distinct), known)}
        except ValueError:
            pass
    value = _ENTRY_ID.sub(lambda found: found[0] if found[0] in known else "<id>", value)
    return _DURATION.sub("<duration>", _TIME.sub("<time>", value))
