"""A site that a test decides about, behind one connection, and a client that speaks HTTP by h11."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import attrs
import h11
import trio
import trio.testing

from redstreamd.admission.accounts import Account, Accounts, Peer
from redstreamd.admission.memory import Memory
from redstreamd.mcpio.connection_events import ConnectionClosed, Event
from redstreamd.mcpio.limits import Limits
from redstreamd.mcpio.tls_relay import socket_pair
from redstreamd.policy import Principal
from redstreamd.streamable_http.http_connection import HttpConnection
from redstreamd.streamable_http.http_counts import HttpCounts
from redstreamd.streamable_http.http_limits import HttpLimits
from redstreamd.streamable_http.http_messages import Answer, Client, RequestHead, Responder, Surroundings

PRINCIPAL = Principal("http", "http")


@attrs.define
class Served:
    """A request that the site got."""

    head: RequestHead
    body: bytes
    responder: Responder
    is_gone: int = 0

    def note_gone(self) -> None:
        self.is_gone += 1


@attrs.define(eq=False, slots=False)
class OwnSite:
    """Answers `/echo` with the body at once, and leaves everything else to the test.

    Attributes:
        refusal: What `check` returns for each path.
        serves: What else `serve` does for a path, and what it returns.
        served: What came, in order.
        connected_clients: Who connected.
        account: Whose turn it says it is.
        in_flight: What it says of its requests in flight.
        is_drained: Whether it was told that the daemon stops.
        changed: Where those wait who wait for a request, or for an event.
        closed: How many connections it was told of that ended.
    """

    refusal: dict[str, Answer | Awaitable[Answer | None]] = attrs.field(factory=dict)
    serves: dict[str, Callable[[Served], Awaitable[None] | None]] = attrs.field(factory=dict)
    served: list[Served] = attrs.field(factory=list)
    connected_clients: list[Client] = attrs.field(factory=list)
    in_flight: int = 0
    requests: int = 0
    account: Account | None = None
    is_drained: bool = False
    closed: int = 0
    changed: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)

    @property
    def requests_in_flight(self) -> int:
        return self.in_flight

    def connected(self, client: Client) -> OwnSite:
        self.connected_clients.append(client)
        return self

    def check(self, head: RequestHead) -> Answer | Awaitable[Answer | None] | None:
        return self.refusal.get(head.path)

    def serve(self, head: RequestHead, body: bytes, responder: Responder) -> Awaitable[None] | None:
        self.requests += 1
        served = Served(head, body, responder)
        responder.on_gone = served.note_gone
        self.served.append(served)
        self.changed.unpark_all()
        if head.path == "/echo":
            responder.answer(Answer(200, body, "text/plain"))
            return None
        serves = self.serves.get(head.path)
        return None if serves is None else serves(served)

    def drain(self) -> None:
        self.is_drained = True

    async def aclose(self) -> None:
        self.closed += 1


@attrs.define(eq=False)
class Pair:
    """A connection, its site and its client."""

    site: OwnSite
    connection: HttpConnection
    peer: trio.SocketStream
    events: list[Event]
    limits: Limits
    http_limits: HttpLimits
    accounts: Accounts
    counts: HttpCounts
    # A test that expects one takes it out.
    crashes: list[Exception] = attrs.field(factory=list)
    h11: h11.Connection = attrs.field(factory=lambda: h11.Connection(h11.CLIENT))

    async def send(self, data: bytes) -> None:
        await self.peer.send_all(data)

    async def ask(
        self, target: str = "/echo", body: bytes = b"", method: str = "POST", **fields: str
    ) -> tuple[h11.Response, bytes]:
        """Send a request and return its response."""
        await self.send(request(target, body, method, **fields))
        return await self.response(method)

    async def response(self, method: str = "POST") -> tuple[h11.Response, bytes]:
        """Return the next response, of a request with a method, whole."""
        if self.h11.our_state is h11.DONE and self.h11.their_state is h11.DONE:
            self.h11.start_next_cycle()
        if self.h11.our_state is h11.IDLE:
            self.h11.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
            self.h11.send(h11.EndOfMessage())
        head, body = None, b""
        while True:
            event = self.h11.next_event()
            if event is h11.NEED_DATA:
                self.h11.receive_data(await self.peer.receive_some(65536))
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None
                return head, body
            elif isinstance(event, h11.ConnectionClosed):
                raise EOFError

    async def rest(self) -> bytes:
        """Return what is sent until the connection is closed."""
        parts = bytearray()
        while part := await self.peer.receive_some(65536):
            parts += part
        return bytes(parts)

    async def until_served(self, count: int = 1) -> Served:
        """Return the request with this number, once it is there."""
        while len(self.site.served) < count:
            await self.site.changed.park()
        return self.site.served[count - 1]

    async def ended(self) -> ConnectionClosed:
        """Return how the connection ended, once it has."""
        while not (closed := [each for each in self.events if isinstance(each, ConnectionClosed)]):
            await self.site.changed.park()
        return closed[0]


def request(target: str = "/echo", body: bytes = b"", method: str = "POST", **fields: str) -> bytes:
    """Return a request; of the names of headers `_` becomes `-`."""
    length = {"content_length": str(len(body))} if body else {}
    lines = "".join(
        f"{name.replace('_', '-')}: {value}\r\n" for name, value in {"host": "a", **length, **fields}.items()
    )
    return f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode() + body


def leaves(group: ExceptionGroup[Exception]) -> list[Exception]:
    """Return the exceptions of a group that are no groups."""
    return [
        leaf
        for each in group.exceptions
        for leaf in (leaves(each) if isinstance(each, ExceptionGroup) else [each])
    ]


@contextlib.asynccontextmanager
async def connected(
    *,
    limits: Limits | None = None,
    http_limits: HttpLimits | None = None,
    received: bytes = b"",
    served: trio.SocketStream | None = None,
    drains_first: bool = False,
) -> AsyncIterator[Pair]:
    """Serve one end of a socket pair, and yield the other.

    Args:
        limits: Of messages.
        http_limits: Of HTTP.
        received: What was read of the stream before.
        served: What is served; None for one end of the pair.
        drains_first: Whether the connection is drained before it is run.
    """
    limits, http_limits = limits or Limits(), http_limits or HttpLimits()
    events: list[Event] = []
    accounts = Accounts()
    memory = Memory(accounts, limits.max_memory_bytes)
    site = OwnSite()
    end, peer = socket_pair()

    def record(event: Event) -> None:
        events.append(event)
        site.changed.unpark_all()

    surroundings = Surroundings(limits, http_limits, accounts, memory, record)
    connection = HttpConnection(
        served or end,
        site,
        surroundings,
        principal=PRINCIPAL,
        peer=Peer(address="192.0.2.1"),
        received=received,
    )
    pair = Pair(site, connection, peer, events, limits, http_limits, accounts, surroundings.counts)

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        try:
            await connection.run(task_status=task_status)
        except* Exception as crash:  # noqa: BLE001 - as the acceptor does
            pair.crashes.extend(leaves(crash))

    async with end, peer, trio.open_nursery() as nursery:
        if drains_first:
            nursery.start_soon(connection.drain, 10)
            await trio.testing.wait_all_tasks_blocked()
        await nursery.start(run)
        yield pair
        await peer.aclose()
        nursery.cancel_scope.deadline = trio.current_time() + 60
    assert pair.crashes == []
