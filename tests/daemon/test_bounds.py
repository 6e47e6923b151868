"""Two hundred clients beyond each bound of the real daemon: each is told why, and nobody else is held up."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import selectors
import shutil
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import pytest

from tests.support.daemon import PROGRAM, Daemon, home, running_daemon
from tests.support.fair_clock import running_clock
from tests.support.measured import measured
from tests.support.servers import Server, free_port

NEWCOMERS: Final = 200
#: Clients that are served before the newcomers come.
CLIENTS: Final = 5
NOT_NOW: Final = -32000
PRLIMIT: Final = shutil.which("prlimit") or "prlimit"

HELLO = {
    "jsonrpc": "2.0",
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "newcomer", "version": "0"},
    },
}


@attrs.define
class Bounded:
    """A daemon with as many clients as it may have.

    Attributes:
        daemon: It.
        connect: Opens another connection to it, over "unix" or "tcp".
        clients: Those that it serves.
        bound: What the error names.
        descriptors: How many the daemon had open before the newcomers.
    """

    daemon: Daemon
    connect: Callable[[str], socket.socket]
    clients: list[socket.socket]
    bound: str
    descriptors: int


def descriptors(daemon: Daemon) -> int:
    return len(list(Path(f"/proc/{daemon.process.pid}/fd").iterdir()))


def is_served(at_bound: Bounded) -> bool:
    """Return whether one more client is served."""
    with at_bound.connect("unix") as client:
        return "result" in ask(client, initialize("again"))


def limit_descriptors(daemon: Daemon, most: int) -> None:
    """Set how many descriptors the running daemon may have."""
    _, hard = resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (most, hard))


def ask(connection: socket.socket, line: bytes) -> dict[str, Any]:
    """Send a request and return the answer, the next line."""
    connection.sendall(line)
    answer = b""
    while not answer.endswith(b"\n"):
        data = connection.recv(1 << 16)
        assert data, "the daemon closed the connection"
        answer += data
    decoded: dict[str, Any] = json.loads(answer)
    return decoded


def initialize(request_id: str) -> bytes:
    return json.dumps({**HELLO, "id": request_id}).encode() + b"\n"


def call_line(request_id: int) -> bytes:
    params = {"name": "stream_list", "arguments": {}}
    message = {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}
    return json.dumps(message).encode() + b"\n"


@contextlib.contextmanager
def bounded(server: Server, kind: str) -> Iterator[Bounded]:
    """Run a daemon that has reached the bound.

    Its clients come over TCP and over Unix in turn, so that neither has more than the other and gives way.
    """
    port = free_port()
    # "few" may have 128 descriptors from its start, "none" gets no more than it uses while it runs. Others
    # raise their soft limit, which is too low.
    program = (PRLIMIT, "--nofile=128:128" if kind == "few" else "--nofile=64:", PROGRAM)
    options = ["--set", f"limits.max_connections={CLIENTS}"] if kind == "connections" else []
    with (
        contextlib.ExitStack() as stack,
        home_listening(server, program, options, port) as daemon,
    ):

        def connect(transport: str) -> socket.socket:
            if transport == "tcp":
                return socket.create_connection(("127.0.0.1", port), timeout=60)
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(60)
            connection.connect(daemon.path)
            return connection

        clients: list[socket.socket] = []
        is_full = False
        while not is_full:
            client = stack.enter_context(connect("unix" if len(clients) % 2 else "tcp"))
            answer = ask(client, initialize("client"))
            is_full = "error" in answer
            if not is_full:
                clients.append(client)
                is_full = kind == "none" and len(clients) == CLIENTS
        if kind == "none":
            used = descriptors(daemon)
            limit_descriptors(daemon, used)
        bound = "limits.max_connections" if kind == "connections" else "LimitNOFILE="
        yield Bounded(daemon, connect, clients, bound, descriptors(daemon))


@contextlib.contextmanager
def home_listening(
    server: Server, program: Sequence[str | Path], options: Sequence[str], port: int
) -> Iterator[Daemon]:
    """Run a daemon that listens on its usual socket and on a TCP port."""
    with (
        home() as directory,
        running_daemon(
            server,
            *options,
            "--listen",
            f"unix:{directory}/redstreamd/mcp.sock",
            "--listen",
            f"tcp:127.0.0.1:{port}",
            directory=directory,
            program=program,
        ) as daemon,
    ):
        # Until everything is imported, and the one who asked whether it serves has left.
        deadline = time.monotonic() + 60
        while " listens on " not in daemon.log:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield daemon


def everything_received(connections: Sequence[socket.socket], seconds: float) -> list[bytes | OSError]:
    """Return what each connection brings to its end; an error where it is reset."""
    received: dict[socket.socket, bytes | OSError] = dict.fromkeys(connections, b"")
    with selectors.DefaultSelector() as selector:
        for each in connections:
            each.setblocking(False)
            selector.register(each, selectors.EVENT_READ)
        deadline = time.monotonic() + seconds
        while selector.get_map():
            assert time.monotonic() < deadline, f"{len(selector.get_map())} newcomers were told nothing"
            for key, _ in selector.select(1):
                each = key.fileobj
                assert isinstance(each, socket.socket)
                so_far = received[each]
                assert isinstance(so_far, bytes)
                try:
                    data = each.recv(1 << 16)
                except OSError as reset:
                    received[each], data = reset, b""
                else:
                    received[each] = so_far + data
                if not data:
                    selector.unregister(each)
    return list(received.values())


def told(received: bytes | OSError) -> dict[str, Any]:
    assert isinstance(received, bytes), f"reset: {received}"
    lines = received.splitlines()
    assert len(lines) == 1, received
    message: dict[str, Any] = json.loads(lines[0])
    return message


def status_report(daemon: Daemon) -> tuple[str, float]:
    """Return what `redstreamd status` prints, and its seconds."""
    with running_clock() as clock:
        began = clock()
        done = subprocess.run(
            [PROGRAM, "status", "--socket", daemon.path], capture_output=True, text=True, timeout=60
        )
        took = clock() - began
    assert done.returncode == 0, done.stderr
    return done.stdout, took


def median_call(client: socket.socket) -> float:
    """Return the median seconds of a call."""
    times = []
    with running_clock() as clock:
        for number in range(100):
            line = call_line(number)
            began = clock()
            assert "result" in ask(client, line)
            times.append(clock() - began)
    return statistics.median(times)


@pytest.mark.parametrize("kind", ["connections", "few", "none"])
def test_two_hundred_newcomers_over_each_transport_are_told_the_bound_and_status_is_answered(
    redis: Server, kind: str
) -> None:
    with bounded(redis, kind) as at_bound, contextlib.ExitStack() as stack:
        daemon = at_bound.daemon
        usual = median_call(at_bound.clients[0])
        newcomers = []
        for number in range(2 * NEWCOMERS):
            newcomers.append(stack.enter_context(at_bound.connect("unix" if number % 2 else "tcp")))
            # Half of them say nothing.
            if number % 4 < 2:
                newcomers[-1].sendall(initialize(f"n{number}"))
        meanwhile = median_call(at_bound.clients[0])
        report, took = status_report(daemon)
        messages = [told(each) for each in everything_received(newcomers, 120)]
        with_id = 0
        for number, message in enumerate(messages):
            assert message["error"]["code"] == NOT_NOW
            assert at_bound.bound in message["error"]["message"]
            with_id += message["id"] == f"n{number}"
            assert message["id"] in (None, f"n{number}")
        # All who spoke, but for those whom this process has kept silent for a tenth of a second.
        with measured:
            assert with_id >= NEWCOMERS - 5
            assert took <= 2
        assert "newcomers displace whoever holds most, or are rejected" in report
        assert f"process {os.getpid()}" in report
        assert f"127.0.0.1: {(len(at_bound.clients) + 1) // 2}" in report
        for number, client in enumerate(at_bound.clients):
            answer = ask(client, call_line(number))
            assert answer["id"] == number
            assert not answer["result"]["isError"]
        assert len([line for line in daemon.log.splitlines() if "was rejected" in line]) == 1
        deadline = time.monotonic() + 120
        while descriptors(daemon) > at_bound.descriptors:
            assert time.monotonic() < deadline, "descriptors are not free again"
            time.sleep(0.02)
        # The machine may have become busier or idler meanwhile.
        usual = max(usual, median_call(at_bound.clients[0]))
        with measured:
            assert meanwhile <= max(2 * usual, usual + 0.002)
        assert not is_served(at_bound)
        if kind == "connections":
            assert "there is room for" not in daemon.log
            a_flood_is_told_and_the_status_is_answered_in_it(at_bound)
        if kind == "few":
            too_few_descriptors_are_said_by_record_status_and_doctor(redis, daemon)
        if kind == "none":
            limit_descriptors(daemon, 1024)
        else:
            at_bound.clients.pop().close()
        while not is_served(at_bound):
            assert time.monotonic() < deadline, "nobody is served again"
            time.sleep(0.02)
        assert "Traceback" not in daemon.log


def a_flood_is_told_and_the_status_is_answered_in_it(at_bound: Bounded) -> None:
    """Ten times two hundred, one wave after the other, which leave as soon as they are told."""
    for _ in range(10):
        with contextlib.ExitStack() as stack:
            newcomers = [stack.enter_context(at_bound.connect("unix")) for _ in range(NEWCOMERS)]
            for number, newcomer in enumerate(newcomers):
                newcomer.sendall(initialize(f"n{number}"))
            _, took = status_report(at_bound.daemon)
            with measured:
                assert took <= 2
            messages = [told(each) for each in everything_received(newcomers, 120)]
            assert [each["id"] for each in messages] == [f"n{number}" for number in range(NEWCOMERS)]


def too_few_descriptors_are_said_by_record_status_and_doctor(redis: Server, daemon: Daemon) -> None:
    (record,) = [line for line in daemon.log.splitlines() if "there is room for" in line]
    assert " WARNING " in record
    assert "room for 64 of 4096 connections" in record
    assert "may have 128 file descriptors" in record
    assert "raise LimitNOFILE= of the service" in record
    assert "to 4400, or lower limits.max_connections" in record
    report, _ = status_report(daemon)
    assert "room for 64 of 4096" in report
    assert "Raise LimitNOFILE= of the service" in report
    done = subprocess.run(
        [PROGRAM, "doctor", "--no-service", "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(daemon.directory),
            "XDG_RUNTIME_DIR": str(daemon.directory),
            "REDIS_URL": f"unix://{redis.path}",
        },
    )
    checks = {check["check"]: check for check in json.loads(done.stdout)}
    assert checks["socket"]["severity"] == "warning"
    assert "room for 64 of 4096" in checks["socket"]["seen"]
    assert "newcomers displace" in checks["socket"]["seen"]
    assert "LimitNOFILE=" in checks["socket"]["todo"]
