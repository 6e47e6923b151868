"""Listeners that demand TLS, a certificate or a token of their clients."""

from __future__ import annotations

import datetime as dt
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import attrs
import msgspec
import pytest
import trio
import trio.testing

from redstreamd.addresses.address_syntax import Address
from redstreamd.client.discovery import Access, AccessError
from redstreamd.client.tunnel import open_tunnel
from redstreamd.errors import SettingsError
from redstreamd.mcpio import authentication, unauthenticated_clients
from redstreamd.mcpio.acceptor import Acceptor
from redstreamd.mcpio.connection_events import ClientRefused, ConnectionClosed, Ending, Event
from redstreamd.mcpio.limits import Limits
from redstreamd.mcpio.listeners import open_tcp_listeners
from redstreamd.mcpio.protocol_eras import Kernels
from redstreamd.mcpio.served_listener import ServedListener
from redstreamd.mcpio.tls_relay import relay, socket_pair
from redstreamd.policy import Principal
from redstreamd.protection.listener_protection import Demands, Protection, name_in
from tests.mcpio.serving import Tools, make_server
from tests.support.certificates import Authority, Certificate

NEW_TOKEN = "the-new-token-of-this-site"
TOKEN = "correct-horse-battery-staple"
EventT = TypeVar("EventT", bound=Event)
_META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}


def token_line(token: str = TOKEN) -> bytes:
    params = {"token": token}
    return json.dumps({"jsonrpc": "2.0", "method": "redstreamd/token", "params": params}).encode() + b"\n"


def call(number: int, tool: str, **arguments: Any) -> bytes:
    params = {"name": tool, "arguments": arguments, "_meta": _META}
    message = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
    return json.dumps(message).encode() + b"\n"


class Site:
    """Certificates of a daemon and of clients."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = Authority(directory)
        self.other = Authority(directory, "other-ca")
        self.own = self.authority.issue("daemon", "localhost", "127.0.0.1")
        self.token = directory / "token"
        self.token.touch(0o600)
        self.token.write_text(f"an-old-token-that-is-still-valid\n{TOKEN}\n")

    def demands(self, *, tls: bool = True, mutual: bool = False, token: bool = False) -> Demands:
        return Demands(
            certificate_file=self.own.certificate if tls else None,
            key_file=self.own.key if tls else None,
            client_ca_file=self.authority.certificate if mutual else None,
            token_file=str(self.token) if token else None,
        )

    def client(self, own: Certificate | None = None, version: str = "TLSv1_3") -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.authority.certificate)
        context.maximum_version = ssl.TLSVersion[version]
        if own is not None:
            context.load_cert_chain(own.certificate, own.key)
        return context


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("certificates"))


@attrs.define
class Protected:
    port: int
    tools: Tools
    acceptor: Acceptor = attrs.field(init=False)
    events: list[Event] = attrs.field(factory=list)

    changed: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)

    def record(self, event: Event) -> None:
        self.events.append(event)
        self.changed.unpark_all()

    async def wait_for(self, kind: type[EventT], count: int = 1) -> list[EventT]:
        while len(found := [event for event in self.events if isinstance(event, kind)]) < count:
            await self.changed.park()
        return found

    def refused(self) -> list[str]:
        return [event.why for event in self.events if isinstance(event, ClientRefused)]

    async def wait_refused(self, count: int = 1) -> list[str]:
        return [event.why for event in await self.wait_for(ClientRefused, count)]


@asynccontextmanager
async def protected(
    demands: Demands, limits: Limits | None = None, problems: list[str] | None = None
) -> AsyncIterator[Protected]:
    (listener,) = await open_tcp_listeners("127.0.0.1", 0)
    service = Protected(listener.socket.getsockname()[1], Tools())
    protection = Protection(demands, on_problem=(problems if problems is not None else []).append)
    served = ServedListener(listener, Principal("tcp", "tcp"), protection=protection)
    async with listener, trio.open_nursery() as nursery:
        kernels = Kernels(make_server(service.tools))
        service.acceptor = Acceptor([served], kernels, limits=limits, on_event=service.record)
        await nursery.start(service.acceptor.run)
        yield service
        nursery.cancel_scope.cancel()


class Client:
    """A client that reads lines."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.rest = b""

    async def send(self, *lines: bytes) -> None:
        await self.stream.send_all(b"".join(lines))

    async def receive(self) -> Any:
        while b"\n" not in self.rest:
            data = await self.stream.receive_some(65536)
            if not data:
                return None
            self.rest += data
        line, _, self.rest = self.rest.partition(b"\n")
        return json.loads(line)

    async def answer(self, *lines: bytes) -> Any:
        await self.send(*lines)
        return await self.receive()


@asynccontextmanager
async def connected(
    service: Protected, context: ssl.SSLContext | None = None, name: str = "localhost"
) -> AsyncIterator[Client]:
    raw = await trio.open_tcp_stream("127.0.0.1", service.port)
    stream: trio.abc.Stream = raw
    try:
        if context is not None:
            stream = trio.SSLStream(raw, context, server_hostname=name, https_compatible=True)
            await stream.do_handshake()
        yield Client(stream)
    finally:
        await trio.aclose_forcefully(raw)


def text_of(answer: Any) -> str:
    return answer["result"]["content"][0]["text"]


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
async def test_a_client_over_tls_is_served_as_any_other(site: Site, version: str) -> None:
    async with (
        protected(site.demands()) as service,
        connected(service, site.client(version=version)) as client,
    ):
        assert text_of(await client.answer(call(1, "whoami"))) == "tcp/tcp"
        long = "x" * 3_000_000
        assert text_of(await client.answer(call(2, "echo", text=long))) == long
        await client.send(*(call(number, "echo", text=str(number)) for number in range(200)))
        assert {text_of(await client.receive()) for _ in range(200)} == {str(number) for number in range(200)}


async def test_a_message_that_is_too_long_is_answered_over_tls_while_it_is_sent(site: Site) -> None:
    limits = Limits(max_message_bytes=65_536)
    async with protected(site.demands(), limits) as service, connected(service, site.client()) as client:
        await client.send(call(1, "echo", text="x" * 200_000)[:-2])
        assert "65536" in (await client.receive())["error"]["message"]
        assert text_of(await client.answer(b"}\n", call(2, "echo", text="on"))) == "on"


async def test_a_client_over_tls_that_reads_nothing_is_disconnected(site: Site) -> None:
    limits = Limits(max_outbox_bytes=1_000_000)
    async with protected(site.demands(), limits) as service, connected(service, site.client()) as client:
        request = call(1, "echo", text="x" * 300_000)
        with pytest.raises(trio.BrokenResourceError):
            await client.send(*[request] * 100)
        assert [event.ending for event in await service.wait_for(ConnectionClosed)] == [Ending.OVERFLOW]


async def test_draining_answers_what_was_sent_over_tls_and_ends_it_properly(site: Site) -> None:
    async with protected(site.demands()) as service, connected(service, site.client()) as client:
        await client.send(call(1, "sleep", name="one", seconds=0.2))
        await service.tools.wait("started", "one")
        await client.send(call(2, "echo", text="late"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.acceptor.drain, 5.0)
            answers = [await client.receive(), await client.receive()]
        assert {answer["id"] for answer in answers} == {1, 2}
        assert await client.receive() is None


async def test_a_relay_that_is_cancelled_while_its_client_lingers_closes_the_connection(site: Site) -> None:
    context = (await Protection(site.demands()).current()).context
    assert context is not None
    (ours, theirs), (served, relayed) = socket_pair(), socket_pair()
    client = trio.SSLStream(theirs, site.client(), server_hostname="localhost")
    async with theirs, trio.open_nursery() as nursery:
        nursery.start_soon(relay, trio.SSLStream(ours, context, server_side=True), relayed, b"")
        await client.do_handshake()
        await served.aclose()
        await client.unwrap()
        # Both have ended TLS; the client has not closed its socket.
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert (ours.socket.fileno(), relayed.socket.fileno()) == (-1, -1)


async def test_a_client_beyond_the_bound_is_told_so_over_tls(site: Site) -> None:
    async with (
        protected(site.demands(token=True), Limits(max_connections=1)) as service,
        connected(service, site.client()) as first,
        connected(service, site.client()) as second,
    ):
        assert "result" in await first.answer(token_line(), call(1, "echo"))
        refusal = await second.answer(token_line(), call(7, "echo"))
        assert refusal["id"] == 7
        assert "1 connections are open" in refusal["error"]["message"]


def named(site: Site, name: str, *names: str) -> Certificate:
    return site.authority.issue(name, *names)


async def test_the_name_in_the_certificate_of_a_client_is_its_principal(site: Site) -> None:
    certificates = {
        "ann": named(site, "ann"),
        "worker.example": named(site, "worker", "10.0.0.1", "worker.example", "spiffe://example/other"),
        "spiffe://example/ns/bob": named(site, "bob", "spiffe://example/ns/bob", "bob.example"),
        "carol@example.org": named(site, "carol", "carol@example.org"),
    }
    async with protected(site.demands(mutual=True)) as service:
        for name, certificate in certificates.items():
            async with connected(service, site.client(certificate)) as client:
                assert text_of(await client.answer(call(1, "whoami"))) == f"tcp/cert:{name}/tcp"


def test_a_certificate_names_exactly_one_principal_or_none() -> None:
    def subject(*names: str) -> tuple[Any, ...]:
        return tuple((("commonName", name),) for name in names)

    assert name_in({"subject": subject("ann")}) == "ann"
    assert name_in({"subject": subject("ann", "bob")}) is None
    assert name_in({"subject": ()}) is None
    assert name_in({}) is None
    assert name_in({"subject": subject("ann"), "subjectAltName": (("IP Address", "::1"),)}) == "ann"
    assert name_in({"subject": subject("ann"), "subjectAltName": (("email", "b@c"), ("DNS", "d"))}) == "b@c"
    for wrong in ("", "ann smith", "ann\n", "an\0n", "ännchen", "a" * 129, "\u202eann"):
        assert name_in({"subject": subject(wrong)}) is None
        # What cannot be used does not make the next one count.
        assert name_in({"subject": subject("ann"), "subjectAltName": (("DNS", wrong), ("DNS", "b"))}) is None


async def test_a_certificate_without_a_usable_name_is_refused_with_the_reason(site: Site) -> None:
    async with (
        protected(site.demands(mutual=True)) as service,
        connected(service, site.client(named(site, "ann smith"))) as client,
    ):
        refusal = await client.answer(call(3, "whoami"))
        assert refusal["id"] == 3
        assert "printable ASCII without spaces" in refusal["error"]["message"]
        assert await service.wait_refused() == ["its certificate has no name that can be used"]


async def alert_of(service: Protected, context: ssl.SSLContext) -> str:
    """What OpenSSL tells a client; in TLS 1.3 it is there only after the client's handshake."""
    try:
        async with connected(service, context) as client:
            await client.answer(call(1, "whoami"))
    except trio.BrokenResourceError as broken:
        return str(broken.__cause__)
    return "no alert"


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
async def test_a_missing_foreign_or_expired_certificate_is_refused_with_an_alert(
    site: Site, version: str
) -> None:
    day = dt.timedelta(days=1)
    foreign = site.other.issue("foreign")
    expired = site.authority.issue("expired", since=-2 * day, until=-day)
    async with protected(site.demands(mutual=True)) as service:
        told = [
            await alert_of(service, site.client(certificate, version))
            for certificate in (None, foreign, expired)
        ]
        reasons = await service.wait_refused(3)
    assert "peer did not return a certificate" in reasons[0]
    assert "unable to get local issuer certificate" in reasons[1]
    assert "certificate has expired" in reasons[2]
    assert "UNKNOWN_CA" in told[1]
    assert "CERTIFICATE_EXPIRED" in told[2]


@pytest.mark.parametrize(
    ("authority", "until", "remedy", "alert"),
    [("authority", -1, "renew it", "certificate expired"), ("other", 1, "--ca-file", "unknown ca")],
)
async def test_why_a_client_does_not_trust_the_daemon_is_told_on_both_sides(
    site: Site, authority: str, until: int, remedy: str, alert: str
) -> None:
    day = dt.timedelta(days=1)
    own = getattr(site, authority).issue("untrusted", "127.0.0.1", since=-2 * day, until=until * day)
    demands = msgspec.structs.replace(site.demands(), certificate_file=own.certificate, key_file=own.key)
    async with protected(demands) as service:
        place = Address("tls", host="127.0.0.1", port=service.port)
        with pytest.raises(AccessError, match=remedy):
            await trio.to_thread.run_sync(open_tunnel, place, Access(ca_file=site.authority.certificate))
        assert await service.wait_refused() == [f"its TLS handshake failed (it says: {alert})"]


async def test_old_versions_of_tls_are_refused(site: Site) -> None:
    context = site.client()
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with protected(msgspec.structs.replace(site.demands(), minimum_version="1.3")) as service:
        assert "PROTOCOL_VERSION" in await alert_of(service, context)
        assert "unsupported protocol" in (await service.wait_refused())[0]


async def test_a_client_that_does_not_speak_tls_is_told_to(site: Site) -> None:
    async with protected(site.demands()) as service, connected(service) as client:
        refusal = await client.answer(call(4, "whoami"))
        assert (refusal["id"], refusal["error"]["code"]) == (4, -32000)
        assert "tls:HOST:PORT" in refusal["error"]["message"]
        assert await client.receive() is None


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_the_token_comes_first_and_the_requests_may_follow_at_once(site: Site, tls: bool) -> None:
    async with protected(site.demands(tls=tls, token=True)) as service:
        context = site.client() if tls else None
        for token in (TOKEN, "an-old-token-that-is-still-valid"):
            async with connected(service, context) as client:
                answer = await client.answer(token_line(token), call(1, "whoami"), call(2, "echo", text="t"))
                assert {text_of(answer), text_of(await client.receive())} == {"tcp/tcp", "t"}
        async with connected(service, context) as client:
            # Byte by byte.
            for number in token_line() + call(1, "echo", text="slow"):
                await client.send(bytes([number]))
            assert text_of(await client.receive()) == "slow"
        assert service.refused() == []


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_a_wrong_or_missing_token_is_answered_with_the_reason_and_not_repeated(
    site: Site, tls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # For those who send no request that could be answered.
    monkeypatch.setattr(authentication, "FIRST_REQUEST_SECONDS", 0.05)
    wrong = "a-secret-that-is-no-token-of-here"
    async with protected(site.demands(tls=tls, token=True)) as service:
        context = site.client() if tls else None
        async with connected(service, context) as client:
            refusal = await client.answer(token_line(wrong), call(5, "whoami"))
            assert (refusal["id"], refusal["error"]["code"]) == (5, -32000)
            assert refusal["error"]["message"] == "the token of this client is wrong"
            assert refusal["error"]["data"] == {"executed": False}
            assert await client.receive() is None
        async with connected(service, context) as client:
            refusal = await client.answer(call(6, "whoami"))
            assert refusal["id"] == 6
            assert "--token-file" in refusal["error"]["message"]
            assert await client.receive() is None
        for beginning in (b"nonsense\n", b"{}\n", b"[]\n", token_line()[:-3] + b'"]}}\n', b"x" * 20_000):
            async with connected(service, context) as client:
                assert "token" in (await client.answer(beginning))["error"]["message"]
        assert set(service.refused()) == {"its token is wrong", "it sent no token"}
        assert wrong not in str(service.events)
        assert not service.tools.started
        assert service.acceptor.statistics().accepted == 0


@pytest.mark.parametrize("demanded", ["a handshake", "a token"])
async def test_clients_that_show_nothing_are_closed_in_time_and_hold_no_place_of_others(
    site: Site, demanded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unauthenticated_clients, "AUTHENTICATION_SECONDS", 3.0)
    limits = Limits(max_connections=2, max_newcomers=8)
    tls = demanded == "a handshake"
    context = site.client() if tls else None
    async with protected(site.demands(tls=tls, token=not tls), limits) as service:
        silent = [await trio.open_tcp_stream("127.0.0.1", service.port) for _ in range(30)]
        async with connected(service, context) as client:
            first = () if tls else (token_line(),)
            assert text_of(await client.answer(*first, call(1, "echo", text="me"))) == "me"
        reasons = await service.wait_refused(30)
        assert "its place was needed" in reasons[0]
        # Nobody waited for the deadline of the silent ones.
        assert "within 3 s" in reasons[-1]
        for stream in silent:
            assert await stream.receive_some(1) == b""
            await stream.aclose()


async def test_those_who_are_being_asked_do_not_keep_the_daemon_from_stopping(site: Site) -> None:
    async with protected(site.demands(token=True)) as service:
        silent = await trio.open_tcp_stream("127.0.0.1", service.port)
        async with connected(service, site.client()) as slow, trio.open_nursery() as nursery:
            nursery.start_soon(service.acceptor.drain, 5.0)
            # Shown after the signal, and served.
            assert text_of(await slow.answer(token_line(), call(1, "echo", text="just"))) == "just"
        await silent.aclose()


async def test_a_renewed_certificate_and_token_are_used_without_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redstreamd.protection.listener_protection.LOOK_SECONDS", 0.0)
    site = Site(tmp_path)
    problems: list[str] = []

    def serial(client: Client) -> str:
        assert isinstance(client.stream, trio.SSLStream)
        return client.stream.getpeercert()["serialNumber"]

    async with protected(site.demands(token=True), problems=problems) as service:
        async with connected(service, site.client()) as client:
            before = serial(client)
            assert "result" in await client.answer(token_line(), call(1, "echo"))
            site.authority.issue("daemon", "localhost")
            site.token.write_text(f"{NEW_TOKEN}\n")
            async with connected(service, site.client()) as renewed:
                assert serial(renewed) != before
                assert "result" in await renewed.answer(token_line(NEW_TOKEN), call(1, "echo"))
            async with connected(service, site.client()) as old:
                assert "error" in await old.answer(token_line(), call(1, "echo"))
            # Who is connected stays so.
            assert "result" in await client.answer(call(2, "echo"))
        assert problems == []
        site.token.write_text("short\n")
        async with connected(service, site.client()) as client:
            assert "result" in await client.answer(token_line(NEW_TOKEN), call(1, "echo"))
        assert "16 to 1024 printable characters" in problems[0]
        assert "short" not in problems[0]


@pytest.fixture
def broken_files(tmp_path: Path) -> dict[str, tuple[Demands, str]]:
    site = Site(tmp_path)
    good = site.demands(token=True)
    readable, empty, short = tmp_path / "readable", tmp_path / "empty", tmp_path / "short"
    readable.write_text(Path(site.own.key).read_text())
    readable.chmod(0o644)
    for file, content in ((empty, "\n"), (short, "secret-word")):
        file.touch(0o600)
        file.write_text(content)
    absent = str(tmp_path / "absent")
    locked = site.authority.issue("locked", passphrase=b"x")
    other = site.authority.issue("other")
    return {
        "listeners.certificate_file": (
            msgspec.structs.replace(good, certificate_file=absent),
            "No such file",
        ),
        "listeners.key_file": (msgspec.structs.replace(good, key_file=absent), "No such file"),
        "listeners.key_file ": (msgspec.structs.replace(good, key_file=str(readable)), "chmod o="),
        "listeners.key_file  ": (msgspec.structs.replace(good, key_file=other.key), "not the key of"),
        "listeners.key_file   ": (
            msgspec.structs.replace(good, certificate_file=locked.certificate, key_file=locked.key),
            "passphrase",
        ),
        "listeners.client_ca_file": (
            msgspec.structs.replace(good, client_ca_file=site.own.key),
            "no PEM certificate",
        ),
        "listeners.token_file": (msgspec.structs.replace(good, token_file=absent), "No such file"),
        "listeners.token_file ": (msgspec.structs.replace(good, token_file=str(empty)), "it is empty"),
        "listeners.token_file  ": (msgspec.structs.replace(good, token_file=str(short)), "16 to 1024"),
    }


def test_files_that_cannot_be_used_are_named_with_the_reason(
    broken_files: dict[str, tuple[Demands, str]],
) -> None:
    for key, (demands, reason) in broken_files.items():
        with pytest.raises(SettingsError) as refused:
            Protection(demands)
        assert refused.value.key == key.strip()
        assert reason in str(refused.value), key
        assert "secret-word" not in str(refused.value)
