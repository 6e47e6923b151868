"""Peers that are slow, absent, or gone: each is ended in its time and leaves nothing behind in a real daemon.

After each the daemon has as many tasks and descriptors as before, and its memory is where it was.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import resource
import signal
import socket
import ssl
import struct
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs
import pytest

from tests.bench.accounting import rss_kib
from tests.streamable_http import counting_daemon
from tests.streamable_http.raw_http import (
    DISCOVER,
    DISCOVERING,
    PATIENCE,
    Connection,
    Response,
    call,
    connected,
    discover,
    mcp_fields,
    message,
    request,
    responses,
    sized,
)
from tests.support.certificates import Authority
from tests.support.counts import counts
from tests.support.daemon import Daemon, in_its_place, read_resource
from tests.support.fair_clock import running_clock
from tests.support.http_daemon import running_http_daemon
from tests.support.measured import measured
from tests.support.servers import Server
from tests.support.waiting import wait_until

MIB: Final = 1 << 20
#: What the allocator may keep of an attack that made the daemon hold many times as much.
KEPT_BYTES: Final = 24 * MIB
#: Times that are short here, so that the tests do not wait.
SECONDS: Final = 0.5
TIMES: Final = (
    *("--set", f"http.head_seconds={SECONDS}", "--set", f"http.body_seconds={SECONDS}"),
    *("--set", "http.idle_seconds=3600", "--set", "limits.unread_seconds=1"),
)
#: A body of 8 MiB may come, and thousands of connections of one peer.
LARGE: Final = (
    *("--set", "limits.max_message_bytes=8388608", "--set", "http.max_connections_per_peer=4000"),
)
#: Closes at once, by a reset.
RESET: Final = struct.pack("ii", 1, 0)
STREAM: Final = "hostile:orders"


@attrs.frozen
class State:
    """What a daemon has."""

    tasks: int
    descriptors: int

    def is_within(self, before: State) -> bool:
        """Return whether this is no more than it was."""
        return self.tasks <= before.tasks and self.descriptors <= before.descriptors


@attrs.define
class Target:
    """A daemon that is attacked.

    Attributes:
        daemon: It.
        port: Where it speaks HTTP.
    """

    daemon: Daemon
    port: int

    @property
    def pid(self) -> int:
        return self.daemon.process.pid

    def state(self) -> State:
        """Return what it has now."""
        before = self._told()
        self.daemon.process.send_signal(signal.SIGUSR1)
        wait_until(lambda: len(self._told()) > len(before))
        return State(int(self._told()[-1]), len(list(Path(f"/proc/{self.pid}/fd").iterdir())))

    def _told(self) -> list[str]:
        return re.findall(r"^tasks: (\d+) ", self.daemon.log, re.MULTILINE)

    def watches(self) -> int:
        """Return how many waits it holds."""
        found: int = read_resource(self.daemon.path, "redstream://health")["waiting"]["watches"]
        return found

    def is_polite(self) -> bool:
        """Return whether a client is served by both transports."""
        assert not self.daemon.call("stream_list")["isError"]
        with connected(self.port) as connection:
            connection.send(discover())
            return connection.read_response().status == 200

    def wait_within(self, before: State) -> None:
        """Return once it has no more than before."""
        try:
            wait_until(lambda: self.state().is_within(before), timeout_seconds=60)
        except AssertionError:
            raise AssertionError(f"{self.state()} after {before}\n{self.daemon.log[-4_000:]}") from None

    @contextlib.contextmanager
    def unharmed(self) -> Iterator[None]:
        """Check that it has afterwards what it had before the block, and that it serves."""
        assert self.is_polite()
        wait_until(lambda: self.state() == self.state(), timeout_seconds=20)
        before, memory = self.state(), rss_kib(self.pid) * 1024
        yield
        assert self.is_polite()
        self.wait_within(before)
        wait_until(lambda: rss_kib(self.pid) * 1024 <= memory + KEPT_BYTES, timeout_seconds=20)
        assert not [each for each in ("Traceback", "failed unexpectedly") if each in self.daemon.log]


@contextlib.contextmanager
def target_of(server: Server, *options: str) -> Iterator[Target]:
    """Run a daemon that tells how many tasks it has."""
    program = in_its_place(counting_daemon.__file__)
    with running_http_daemon(server, *TIMES, *options, program=program) as running:
        # Until everything is imported, there are more tasks.
        wait_until(lambda: " listens on " in running.daemon.log)
        yield Target(running.daemon, running.port)


@pytest.fixture(scope="module")
def target(redis_server: Server) -> Iterator[Target]:
    redis_server.flush()
    script = "for i = 1, 100 do redis.call('XADD', ARGV[1], '*', 'text', string.rep('x', 1000)) end"
    redis_server.command("EVAL", script, 0, STREAM)
    # Thousands of connections are of this process, too.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with target_of(redis_server, *LARGE) as found:
            # What large answers and waits need of Redis stays open.
            for data in (READ, READ * 40, WAIT.replace(b"300", b"0.1")):
                with connected(found.port) as connection:
                    connection.send(data)
                    assert connection.read_response().status == 200
            yield found
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def many(port: int, count: int) -> Iterator[list[Connection]]:
    """Connect so many times for the block."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(connected(port)) for _ in range(count)]


def dribble(connections: list[Connection]) -> list[list[Response]]:
    """Send a byte of each from time to time, until all are closed; return what came."""
    waiting = dict(enumerate(connections))
    while waiting:
        for place, connection in list(waiting.items()):
            connection.send(b"x")
            connection.socket.settimeout(0.02)
            try:
                data = connection.socket.recv(1 << 16)
            except TimeoutError:
                continue
            connection.received += data
            if not data:
                del waiting[place]
    return [responses(connection.received) for connection in connections]


HEAD: Final = request(fields=[*DISCOVERING, sized(DISCOVER)])
LISTEN_BODY: Final = message("subscriptions/listen", "listen", notifications={"toolsListChanged": True})
LISTEN: Final = request(fields=[*mcp_fields("subscriptions/listen"), sized(LISTEN_BODY)], body=LISTEN_BODY)
READ: Final = call("stream_read", stream=STREAM, count=100)
WAIT: Final = call("stream_wait", streams=["hostile:quiet"], timeout_seconds=300)


SLOW: Final[dict[str, bytes]] = {
    "nothing": b"",
    "a part of the request line": b"POST /mc",
    "a part of a header": HEAD[:-2] + b"X: ",
    "a head": HEAD,
    "a part of a body": discover()[:-100],
    "a part of a chunk": request(fields=[*DISCOVERING, b"Transfer-Encoding: chunked"], body=b"ffff\r\n"),
    "a request and a part of another": discover() + b"POST /",
}


@pytest.mark.parametrize("what", SLOW)
def test_a_request_that_does_not_come_to_its_end_is_answered_with_408(what: str, target: Target) -> None:
    with target.unharmed(), many(target.port, 10) as connections:
        for connection in connections:
            connection.send(SLOW[what])
        if what == "nothing":
            came = [responses(connection.read_to_end()) for connection in connections]
        else:
            came = dribble(connections)
        for found in came:
            assert [each.status for each in found] == ([200, 408] if "another" in what else [408])
            assert found[-1].headers[b"connection"] == b"close"


def test_who_reads_no_answers_is_disconnected_and_keeps_no_memory(target: Target) -> None:
    before = rss_kib(target.pid) * 1024
    # The first time it makes connections to Redis that stay. What clients cause is 64 KiB of requests and one
    # answer each, not all that they ask for.
    assert _peak_of_absent_readers(target) - before < 100 * MIB
    with target.unharmed():
        _peak_of_absent_readers(target)


def _peak_of_absent_readers(target: Target) -> int:
    """Ask on ten connections without reading until all are ended; return the most memory meanwhile."""
    peak = 0
    with many(target.port, 10) as connections:
        for connection in connections:
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.socket.setblocking(False)
        waiting = set(range(len(connections)))
        while waiting:
            for place in list(waiting):
                try:
                    connections[place].socket.send(READ * 20)
                except BlockingIOError:
                    pass
                except OSError:
                    waiting.discard(place)
            peak = max(peak, rss_kib(target.pid) * 1024)
            time.sleep(0.05)
    return peak


def test_who_reads_no_events_holds_no_more_than_others(target: Target) -> None:
    with target.unharmed(), many(target.port, 20) as connections:
        for connection in connections:
            connection.send(LISTEN)
            while b"acknowledged" not in connection.received:
                data = connection.socket.recv(1 << 16)
                assert data, connection.received
                connection.received += data
            assert b"text/event-stream" in connection.received
        assert target.is_polite()


ENDINGS: Final[dict[str, bytes]] = {
    "before anything": b"",
    "within the request line": HEAD[:9],
    "within the head": HEAD[:-30],
    "behind the head": HEAD,
    "within the body": discover()[:-20],
    "within a chunk": request(fields=[*DISCOVERING, b"Transfer-Encoding: chunked"], body=b"ff\r\n{"),
    "behind a request": discover(),
    "behind many": discover() * 50,
    "within a wait": WAIT,
    "within a wait, with another behind it": WAIT + discover(),
    "within events": LISTEN,
    "within the answer to a large read": READ * 10,
    "behind a refusal": request(target=b"/no"),
}


@pytest.mark.parametrize("how", ["a half close", "a close", "a reset"])
@pytest.mark.parametrize("when", ENDINGS)
def test_who_goes_leaves_nothing_behind(when: str, how: str, target: Target) -> None:
    waits = target.watches()
    with target.unharmed(), many(target.port, 5) as connections:
        for connection in connections:
            connection.send(ENDINGS[when])
        if "wait" in when:
            wait_until(lambda: target.watches() == waits + len(connections))
        if "events" in when:
            for connection in connections:
                assert connection.socket.recv(1)
        for connection in connections:
            if how == "a half close":
                connection.finish()
            else:
                if how == "a reset":
                    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                connection.socket.close()
        if how == "a half close":
            for connection in connections:
                connection.read_to_end()
                if when == "behind a request":
                    assert [each.status for each in responses(connection.received)] == [200]
        wait_until(lambda: target.watches() == waits)


@pytest.mark.parametrize("count", counts(300, ci=2_000, full=2_000))
def test_idle_connections_cost_little_and_disturb_nobody(count: int, target: Target) -> None:
    def crowd() -> int:
        with contextlib.ExitStack() as stack:
            connections = []
            for _ in range(count):
                connections.append(stack.enter_context(connected(target.port)))
                connections[-1].send(discover())
            assert Counter(connection.read_response().status for connection in connections) == {200: count}
            assert target.is_polite()
            return rss_kib(target.pid) * 1024

    assert target.is_polite()
    before, state = rss_kib(target.pid) * 1024, target.state()
    peak = crowd()
    assert (peak - before) / count < 64 * 1024
    # Else the second would come beside those of the first that are not closed yet.
    target.wait_within(state)
    # What the allocator keeps of the first time serves the second.
    with target.unharmed():
        assert crowd() <= peak + KEPT_BYTES


def test_large_bodies_of_refused_requests_are_neither_kept_nor_left_in_the_way(target: Target) -> None:
    size = 8 * MIB
    body = b"x" * size
    with target.unharmed(), many(target.port, 20) as connections:
        before = rss_kib(target.pid) * 1024
        for number, connection in enumerate(connections):
            kinds = (
                request(target=b"/no", fields=[sized(body)]),
                request(fields=[*DISCOVERING, sized(body)], host=b"Host: evil.example"),
                request(fields=[*DISCOVERING, sized(body), b"Origin: http://evil.example"]),
                request(b"PUT", fields=[sized(body)]),
                request(fields=[*DISCOVERING, b"Content-Length: 999999999"]),
            )
            connection.send(kinds[number % len(kinds)])
        peak = 0
        for number, connection in enumerate(connections):
            connection.send(body)
            peak = max(peak, rss_kib(target.pid) * 1024)
            (found,) = responses(connection.read_to_end())
            assert found.status == (404, 421, 403, 405, 413)[number % 5]
            # What we went on to send did not take the answer away.
            assert not connection.was_reset
        assert peak - before < 2 * size


def test_what_is_cut_within_its_bodies_gives_the_memory_back(target: Target) -> None:
    size = 8 * MIB - 1
    data = request(fields=[*DISCOVERING, b"Content-Length: %d" % (size + 1)], body=b"x" * size)
    with target.unharmed(), many(target.port, 20) as connections:
        for connection in connections:
            connection.send(data)
        for connection in connections:
            (found,) = responses(connection.read_to_end())
            # The memory of all clients together is bounded.
            assert found.status in (408, 503)


# TLS


@attrs.frozen
class Encrypted:
    """A daemon that takes TLS with certificates of clients only.

    Attributes:
        target: It.
        authority: Who signs.
        context: Of a client that is let in.
    """

    target: Target
    authority: Authority
    context: ssl.SSLContext


@pytest.fixture(scope="module")
def encrypted(redis_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encrypted]:
    authority = Authority(tmp_path_factory.mktemp("tls"))
    ours, theirs = authority.issue("daemon", "localhost", "127.0.0.1"), authority.issue("client", "ann")
    context = ssl.create_default_context(cafile=authority.certificate)
    context.load_cert_chain(theirs.certificate, theirs.key)
    options = (
        *(
            "--set",
            f"listeners.certificate_file={ours.certificate}",
            "--set",
            f"listeners.key_file={ours.key}",
        ),
        *("--set", f"listeners.client_ca_file={authority.certificate}"),
        *("--set", "listeners.tls_min_version=1.3"),
    )
    with target_of(redis_server, *options) as target:
        yield Encrypted(target, authority, context)


@contextlib.contextmanager
def over_tls(encrypted: Encrypted) -> Iterator[Connection]:
    """Connect with a certificate for the block."""
    with (
        socket.create_connection(("127.0.0.1", encrypted.target.port), timeout=PATIENCE) as plain,
        encrypted.context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        yield Connection(secure)


def _plain(encrypted: Encrypted, connection: socket.socket) -> None:
    connection.sendall(discover())


def _silent(encrypted: Encrypted, connection: socket.socket) -> None:
    """Say nothing, and let the daemon end it."""


def _cut(encrypted: Encrypted, connection: socket.socket) -> None:
    """Begin a handshake, and send no more."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        encrypted.context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    connection.sendall(outgoing.read()[:100])


def _reset(encrypted: Encrypted, connection: socket.socket) -> None:
    _cut(encrypted, connection)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    connection.close()


def _handshake(context: ssl.SSLContext, connection: socket.socket) -> None:
    with (
        contextlib.suppress(ssl.SSLError, OSError),
        context.wrap_socket(connection, server_hostname="localhost") as secure,
    ):
        # In TLS 1.3 a client learns only then that it is refused.
        secure.sendall(discover())
        assert secure.recv(1) == b""


def _without_certificate(encrypted: Encrypted, connection: socket.socket) -> None:
    _handshake(ssl.create_default_context(cafile=encrypted.authority.certificate), connection)


def _old_version(encrypted: Encrypted, connection: socket.socket) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    _handshake(context, connection)


FAILURES: Final = {
    "plain HTTP": _plain,
    "silence": _silent,
    "a cut handshake": _cut,
    "a reset handshake": _reset,
    "no certificate": _without_certificate,
    "an old version": _old_version,
}


def test_a_client_with_a_certificate_is_served_over_tls(encrypted: Encrypted) -> None:
    with over_tls(encrypted) as connection:
        for piece in (0, 1):
            connection.send(discover(), piece=piece)
            assert connection.read_response().status == 200


@pytest.mark.parametrize("failure", FAILURES)
def test_who_fails_at_tls_is_not_served_and_leaves_nothing_behind(failure: str, encrypted: Encrypted) -> None:
    target = encrypted.target
    with over_tls(encrypted) as polite:
        polite.send(discover())
        assert polite.read_response().status == 200
        before = target.state()
        with contextlib.ExitStack() as stack:
            connections = []
            for _ in range(10):
                connection = stack.enter_context(
                    socket.create_connection(("127.0.0.1", target.port), PATIENCE)
                )
                connections.append(connection)
                with contextlib.suppress(ssl.SSLError, ConnectionError):
                    FAILURES[failure](encrypted, connection)
            polite.send(discover())
            assert polite.read_response().status == 200
            for connection in connections:
                # Each is ended by the daemon, although we are still there.
                with contextlib.suppress(OSError):
                    while data := connection.recv(1 << 16):
                        assert b"HTTP/1.1 200" not in data
        target.wait_within(before)
        polite.send(discover())
        assert polite.read_response().status == 200


# The end


def test_a_stop_takes_its_time_whatever_peers_do(redis_server: Server) -> None:
    drain = 1.5
    with (
        target_of(redis_server, "--set", f"daemon.drain_seconds={drain}") as target,
        many(target.port, 60) as connections,
    ):
        beginnings = [*SLOW.values(), *ENDINGS.values(), READ * 200]
        for connection, data in zip(connections, itertools.cycle(beginnings), strict=False):
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.socket.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                connection.socket.send(data)
        # As the rest is, within the time of a slow request.
        wait_until(lambda: target.watches() >= 2)
        with running_clock() as clock:
            began = clock()
            status = target.daemon.stop()
            took = clock() - began
        log = target.daemon.log
    assert status == 0
    with measured:
        assert took < drain + 4.0
    assert not [each for each in ("Traceback", "failed unexpectedly") if each in log], log
