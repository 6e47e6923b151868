"""Clients that together hold more than the budget of memory: the greediest pays, and is told why.

All of them are one process, so that it is decided between connections.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import attrs
import pytest

from tests.support.daemon import Daemon, request, running_daemon
from tests.support.servers import Server

MIB: Final = 1 << 20
BUDGET: Final = 12 * MIB
#: What each attacker makes the daemon hold; together three times the budget.
LARGE: Final = 1 * MIB
ATTACKERS: Final = 36
NOT_NOW: Final = -32000


@pytest.fixture(scope="module")
def daemon(redis_server: Server) -> Iterator[Daemon]:
    """A daemon with a small budget."""
    with running_daemon(
        redis_server,
        "--set",
        f"limits.max_memory_bytes={BUDGET}",
        "--set",
        f"limits.max_message_bytes={2 * MIB}",
    ) as running:
        running.call("stream_add", stream="warm", entries=[{"fields": {"a": "b"}}])
        yield running


def resident(daemon: Daemon) -> int:
    return int(Path(f"/proc/{daemon.process.pid}/statm").read_text("ascii").split()[1]) * 4096


@attrs.define
class Client:
    """A connection that sends without waiting for answers."""

    connection: socket.socket
    number: int

    def push(self, data: bytes, seconds: float = 60) -> bool:
        """Send all of it; False if the daemon has closed the connection, or does not read."""
        self.connection.settimeout(seconds)
        try:
            self.connection.sendall(data)
        except OSError:
            return False
        return True

    def answer(self, seconds: float) -> dict[str, Any] | None:
        """Return the next message, None if there is none in time."""
        self.connection.settimeout(seconds)
        received = b""
        try:
            while not received.endswith(b"\n"):
                data = self.connection.recv(1 << 16)
                if not data:
                    return None
                received += data
        except OSError:
            return None
        decoded: dict[str, Any] = json.loads(received.splitlines()[0])
        return decoded


def connect(path: str, number: int) -> Client:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(120)
    connection.connect(path)
    return Client(connection, number)


def half_a_line(client: Client) -> None:
    begin = b'{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"' % client.number
    client.push(begin + b"x" * LARGE)


def wait_with_a_large_filter(client: Client) -> None:
    arguments = {"streams": [f"w{client.number}"], "timeout_seconds": 100, "filter": {"a": "x" * LARGE}}
    client.push(request(client.number, "stream_wait", arguments))


def large_add(client: Client) -> None:
    entries = [{"fields": {"a": "x" * LARGE}}]
    client.push(request(client.number, "stream_add", {"stream": "adds", "entries": entries}))


def polite_call(path: str) -> None:
    """Add an entry over a connection of its own, one of 200 kB: it is not refused."""
    client = connect(path, 0)
    with client.connection:
        for size in (1, 200_000):
            entries = [{"fields": {"a": "x" * size}}]
            assert client.push(request(size, "stream_add", {"stream": "polite", "entries": entries}))
            answer = client.answer(120)
            assert answer is not None
            assert answer["result"]["isError"] is False


@contextlib.contextmanager
def attacked(daemon: Daemon, attack: Callable[[Client], None]) -> Iterator[list[Client]]:
    """Have all attackers attack; afterwards the memory of the daemon comes back."""
    before = resident(daemon)
    with contextlib.ExitStack() as stack:
        clients = [connect(daemon.path, number) for number in range(1, ATTACKERS + 1)]
        for client in clients:
            stack.enter_context(client.connection)
        most = 0
        for client in clients:
            attack(client)
            most = max(most, resident(daemon))
        yield clients
        most = max(most, resident(daemon))
        print(f"{before / MIB:.0f} MiB before, at most {most / MIB:.0f}, with a budget of {BUDGET / MIB:.0f}")
        # What is in flight is there as the line, as decoded, and as the command to Redis.
        assert most - before <= 3 * BUDGET + 16 * MIB
    deadline = time.monotonic() + 120
    while resident(daemon) > max(1.3 * before, before + 16 * MIB):
        assert time.monotonic() < deadline, f"{resident(daemon) / MIB:.0f} MiB after {before / MIB:.0f}"
        time.sleep(0.1)


def told(clients: list[Client], at_least: int) -> list[dict[str, Any]]:
    """Return the errors of those that had to give back, once they are so many."""
    errors = []
    silent, deadline = list(clients), time.monotonic() + 60
    while True:
        answers = [(client, client.answer(0.05)) for client in silent]
        for client, answer in answers:
            if answer is not None and "error" in answer:
                assert answer["id"] == client.number
                errors.append(answer["error"])
        if len(errors) >= at_least:
            break
        assert time.monotonic() < deadline, f"{len(errors)} errors"
        silent = [client for client, answer in answers if answer is None]
    for error in errors:
        assert error["code"] == NOT_NOW
        assert "limits.max_memory_bytes" in error["message"]
        assert "holds most" in error["message"]
    return errors


@pytest.mark.limit(300)
@pytest.mark.parametrize("attack", [half_a_line, wait_with_a_large_filter])
def test_beyond_the_budget_the_greediest_is_refused_and_nobody_else(
    daemon: Daemon, attack: Callable[[Client], None]
) -> None:
    with attacked(daemon, attack) as clients:
        polite_call(daemon.path)
        # As many as fit are left alone.
        assert len(told(clients, ATTACKERS - BUDGET // LARGE)) < ATTACKERS
    assert "refused a message of" in daemon.log
    # One record, and a count later.
    assert daemon.log.count("refused a message of") == 1
    assert "Traceback" not in daemon.log


@pytest.mark.limit(300)
def test_requests_in_flight_are_bounded_by_the_budget(daemon: Daemon, redis_server: Server) -> None:
    # Nothing is answered meanwhile, so everything stays in flight.
    redis_server.command("CLIENT", "PAUSE", "4000", "ALL")
    with attacked(daemon, large_add) as clients:
        assert told(clients, 1)
        polite_call(daemon.path)
    assert "Traceback" not in daemon.log


@pytest.mark.limit(300)
def test_a_client_that_leaves_too_many_answers_unread_is_disconnected(daemon: Daemon) -> None:
    entries = [{"fields": {"a": "x" * 30_000}}]
    for _ in range(2):
        daemon.call("stream_add", stream="read", entries=entries)
    line = request(1, "stream_read", {"stream": "read", "count": 2})
    lines = b"".join(line.replace(b'"id": 1,', b'"id": %d,' % number) for number in range(60))

    def read_nothing(client: Client) -> None:
        client.push(lines)

    with attacked(daemon, read_nothing) as clients:
        polite_call(daemon.path)
        deadline = time.monotonic() + 120
        while "unread: all clients together hold more than" not in daemon.log:
            assert time.monotonic() < deadline
            polite_call(daemon.path)
        assert clients
    assert "Traceback" not in daemon.log
