"""Listeners of HTTP behind the acceptor: TLS, certificates, clients beyond a bound, the end of the daemon."""

from __future__ import annotations

import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeVar

import attrs
import pytest
import trio

from redstreamd.admission.accounts import Accounts
from redstreamd.admission.memory import Memory
from redstreamd.mcpio.acceptor import Acceptor
from redstreamd.mcpio.connection_events import (
    Bound,
    ClientRefused,
    ConnectionClosed,
    ConnectionCrashed,
    ConnectionRejected,
    Ending,
    Event,
)
from redstreamd.mcpio.limits import Limits
from redstreamd.mcpio.listeners import open_tcp_listeners
from redstreamd.mcpio.protocol_eras import Kernels
from redstreamd.mcpio.served_listener import ServedListener
from redstreamd.policy import Principal
from redstreamd.protection.listener_protection import Demands, Protection
from redstreamd.streamable_http.http_limits import HttpLimits
from redstreamd.streamable_http.http_messages import Answer, Surroundings
from redstreamd.streamable_http.http_transport import HttpTransport
from tests.mcpio.serving import Tools, make_server
from tests.streamable_http.wire_peer import OwnSite, request
from tests.support.certificates import Authority, Certificate
from tests.support.waiting import until

EventT = TypeVar("EventT", bound=Event)


@attrs.define
class Http:
    """An acceptor of HTTP."""

    port: int
    site: OwnSite
    acceptor: Acceptor
    events: list[Event]
    clients: list[trio.SocketStream] = attrs.field(factory=list)

    def of(self, kind: type[EventT]) -> list[EventT]:
        return [event for event in self.events if isinstance(event, kind)]

    async def connect(self) -> trio.SocketStream:
        self.clients.append(stream := await trio.open_tcp_stream("127.0.0.1", self.port))
        return stream


class Certificates:
    """Of a daemon and of clients."""

    def __init__(self, directory: Path) -> None:
        self.authority = Authority(directory)
        self.own = self.authority.issue("daemon", "localhost", "127.0.0.1")
        self.agent = self.authority.issue("agent", "agent.example")
        self.other = self.authority.issue("other", "other.example")
        self.nameless = self.authority.issue("name less")

    def protection(self, *, mutual: bool = False) -> Protection:
        demands = Demands(
            certificate_file=self.own.certificate,
            key_file=self.own.key,
            client_ca_file=self.authority.certificate if mutual else None,
        )
        return Protection(demands, on_problem=print)

    async def connect(self, http: Http, own: Certificate | None = None) -> trio.SSLStream[trio.SocketStream]:
        context = ssl.create_default_context(cafile=self.authority.certificate)
        if own is not None:
            context.load_cert_chain(own.certificate, own.key)
        stream = trio.SSLStream(
            await http.connect(), context, server_hostname="127.0.0.1", https_compatible=True
        )
        await stream.do_handshake()
        return stream


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@contextlib.asynccontextmanager
async def listening(
    *,
    limits: Limits | None = None,
    http_limits: HttpLimits | None = None,
    protection: Protection | None = None,
) -> AsyncIterator[Http]:
    """Serve `OwnSite` to clients of a TCP port."""
    (listener,) = await open_tcp_listeners("127.0.0.1", 0)
    limits, accounts = limits or Limits(), Accounts()
    memory = Memory(accounts, limits.max_memory_bytes)
    events: list[Event] = []
    site = OwnSite()
    surroundings = Surroundings(limits, http_limits or HttpLimits(), accounts, memory, events.append)
    served = ServedListener(
        listener,
        Principal("http", "http"),
        protection=protection,
        opens=HttpTransport(site, surroundings),
    )
    acceptor = Acceptor(
        [served],
        Kernels(make_server(Tools())),
        limits=limits,
        accounts=accounts,
        memory=memory,
        on_event=events.append,
    )
    async with listener, trio.open_nursery() as nursery:
        await nursery.start(acceptor.run)
        http = Http(listener.socket.getsockname()[1], site, acceptor, events)
        try:
            yield http
        finally:
            for client in http.clients:
                await trio.aclose_forcefully(client)
            nursery.cancel_scope.cancel()


async def rest(stream: trio.abc.ReceiveStream) -> bytes:
    """Return what is sent until the connection is closed."""
    parts = bytearray()
    while part := await stream.receive_some(65536):
        parts += part
    return bytes(parts)


async def answer(stream: trio.abc.Stream, target: str = "/echo", body: bytes = b"x") -> bytes:
    """Send a request, and return the first bytes of its response."""
    await stream.send_all(request(target, body))
    return bytes(await stream.receive_some(65536))


def told(raw: bytes) -> str:
    """Return the text of an error."""
    text: str = json.loads(raw.partition(b"\r\n\r\n")[2])["error"]["message"]
    return text


async def test_many_connections_are_served_at_once_and_a_crash_ends_only_its_own() -> None:
    async with listening() as http:
        streams = [await http.connect() for _ in range(5)]

        def defect(_served: object) -> None:
            raise RuntimeError("a defect")

        http.site.serves["/defect"] = defect
        assert (await answer(streams[0], "/defect")).startswith(b"HTTP/1.1 500 ")
        for stream in streams[1:]:
            assert (await answer(stream)).startswith(b"HTTP/1.1 200 ")
        await until(lambda: http.of(ConnectionCrashed))
        assert http.acceptor.statistics().crashed == 1
        assert {client.peer.address for client in http.site.connected_clients} == {"127.0.0.1"}


async def test_the_daemon_stops_when_requests_are_answered_and_idle_connections_are_closed() -> None:
    async with listening() as http:
        idle, busy = await http.connect(), await http.connect()
        await answer(idle)
        await busy.send_all(request("/later"))
        served = await until(lambda: http.site.served[1:])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(http.acceptor.drain, 30)
            assert await rest(idle) == b""
            served[0].responder.answer(Answer(200, b"done"))
            raw = await rest(busy)
            assert raw.endswith(b"done")
            assert b"Connection: close\r\n" in raw
        assert {event.ending for event in http.of(ConnectionClosed)} == {Ending.DRAINED}


# Beyond a bound


async def test_beyond_the_bounds_the_idlest_gives_way_or_the_client_is_told_503() -> None:
    async with listening(limits=Limits(max_connections=1)) as http:
        first = await http.connect()
        await answer(first)
        second = await http.connect()
        raw = await answer(second)
        assert raw.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 1\r\n" in raw
        assert b"Connection: close\r\n" in raw
        assert "1 connections are open, which is the limit" in told(raw)
        assert await rest(second) == b""
        assert [event.bound for event in http.of(ConnectionRejected)] == [Bound.CONNECTIONS]
        # The first one is not touched.
        assert (await answer(first)).startswith(b"HTTP/1.1 200 ")


async def test_a_client_that_waits_gets_the_place_of_one_that_left() -> None:
    async with listening(limits=Limits(max_connections=1)) as http:
        first = await http.connect()
        await answer(first)
        second = await http.connect()
        await first.aclose()
        await until(lambda: http.of(ConnectionClosed))
        raw = await answer(second, body=b"after all")
        assert raw.startswith(b"HTTP/1.1 200 ")
        assert raw.endswith(b"after all")


async def test_one_client_has_no_more_connections_than_the_bound_for_each() -> None:
    async with listening(http_limits=HttpLimits(max_connections_per_peer=2)) as http:
        first, second = await http.connect(), await http.connect()
        await answer(first)
        await answer(second)
        third = await http.connect()
        raw = await answer(third)
        assert raw.startswith(b"HTTP/1.1 503 ")
        assert "http.max_connections_per_peer" in told(raw)
        assert [event.bound for event in http.of(ConnectionRejected)] == [Bound.PEER]
        assert http.of(ConnectionRejected)[0].limit == 2
        await first.aclose()
        await until(lambda: http.of(ConnectionClosed))
        assert (await answer(await http.connect())).startswith(b"HTTP/1.1 200 ")


async def test_beyond_the_bounds_a_silent_client_is_told_and_closed() -> None:
    async with listening(limits=Limits(max_connections=1)) as http:
        first = await http.connect()
        await answer(first)
        assert (await rest(await http.connect())).startswith(b"HTTP/1.1 503 ")


# TLS


async def test_over_tls_requests_are_served_and_refused_as_without(certificates: Certificates) -> None:
    async with listening(protection=certificates.protection(), limits=Limits(max_connections=1)) as http:
        first = await certificates.connect(http)
        assert (await answer(first, body=b"over TLS")).endswith(b"over TLS")
        second = await certificates.connect(http)
        raw = await answer(second)
        assert raw.startswith(b"HTTP/1.1 503 ")


async def test_a_client_without_tls_is_told_in_http(certificates: Certificates) -> None:
    async with listening(protection=certificates.protection()) as http:
        stream = await http.connect()
        await stream.send_all(request(body=b"x" * 1000))
        raw = await rest(stream)
        assert raw.startswith(b"HTTP/1.1 400 ")
        assert "this listener speaks TLS" in told(raw)
        await until(lambda: http.of(ClientRefused))
        assert http.site.connected_clients == []


async def test_the_name_in_a_certificate_is_the_principals(certificates: Certificates) -> None:
    async with listening(protection=certificates.protection(mutual=True)) as http:
        assert (await answer(await certificates.connect(http, certificates.agent))).startswith(
            b"HTTP/1.1 200 "
        )
        (client,) = http.site.connected_clients
        assert client.principal.name == "http/cert:agent.example"


async def test_one_address_has_no_more_connections_by_showing_several_certificates(
    certificates: Certificates,
) -> None:
    limits = HttpLimits(max_connections_per_peer=1)
    async with listening(protection=certificates.protection(mutual=True), http_limits=limits) as http:
        first = await certificates.connect(http, certificates.agent)
        assert (await answer(first)).startswith(b"HTTP/1.1 200 ")
        raw = await answer(await certificates.connect(http, certificates.other))
        assert raw.startswith(b"HTTP/1.1 503 ")


async def test_a_certificate_without_a_usable_name_is_refused_in_http(certificates: Certificates) -> None:
    async with listening(protection=certificates.protection(mutual=True)) as http:
        raw = await rest(await certificates.connect(http, certificates.nameless))
        assert raw.startswith(b"HTTP/1.1 400 ")
        assert "certificate of this client has no name" in told(raw)


async def test_a_client_of_tls_is_told_by_a_plain_listener(certificates: Certificates) -> None:
    async with listening() as http:
        with pytest.raises(trio.BrokenResourceError) as broken:
            await certificates.connect(http)
        assert "WRONG_VERSION_NUMBER" in str(broken.value.__cause__)
        closed = await until(lambda: http.of(ConnectionClosed))
        assert closed[0].why == "this is TLS, and this listener speaks plain HTTP"
