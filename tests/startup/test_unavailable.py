"""What clients are told where nobody can serve them, and how long the process stays for that."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from redstreamd.startup.unavailable import answer_clients, has_left
from tests.support.fair_clock import running_clock
from tests.support.measured import measured

REASON = "redstreamd cannot start: correct it"
DISCOVER = b'{"jsonrpc": "2.0", "id": "d", "method": "server/discover", "params": {}}\n'
INITIALIZED = b'{"jsonrpc": "2.0", "method": "notifications/initialized"}\n'
INITIALIZE = b'{"jsonrpc": "2.0", "id": 7, "method": "initialize", "params": {}}\n'
#: A client's own, so that a test that goes wrong ends.
TIMEOUT = 30.0


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen(1000)
        yield listening


def connected(listener: socket.socket) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(TIMEOUT)
    client.connect(listener.getsockname())
    return client


def answers(client: socket.socket) -> list[Any]:
    """Read to the end, and return the ids of what was answered with the reason."""
    received = b""
    while data := client.recv(1 << 16):
        received += data
    messages = [json.loads(line) for line in received.splitlines()]
    assert all(message["error"] == {"code": -32000, "message": REASON} for message in messages)
    return [message["id"] for message in messages]


@contextlib.contextmanager
def beside(work: Callable[[], None]) -> Iterator[None]:
    """Do `work` in a thread during the block, and raise what it raised."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as failure:  # noqa: BLE001 - raised below
            failures.append(failure)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join()
    if failures:
        raise failures[0]


@pytest.mark.parametrize(
    ("said", "closes", "answered"),
    [
        ([INITIALIZE], False, [7]),
        ([DISCOVER, INITIALIZE], False, ["d", 7]),
        ([INITIALIZED, INITIALIZE[:20], INITIALIZE[20:]], False, [7]),
        ([INITIALIZE + DISCOVER], False, [7]),
        ([DISCOVER], False, ["d"]),
        ([DISCOVER], True, ["d"]),
        ([DISCOVER[:-1]], True, ["d"]),
        ([INITIALIZED], False, [None]),
        ([INITIALIZED], True, [None]),
        ([b'{"jsonrpc": "2.0", "id": 1.5, "method": "initialize"}\n'], True, [None]),
        ([b"[" * 60_000 + b"\n"], True, [None]),
        ([b"x" * 100_000], False, [None]),
        ([], False, [None]),
    ],
)
def test_a_handshake_is_answered_with_the_reason(
    listener: socket.socket, said: list[bytes], closes: bool, answered: list[Any]
) -> None:
    client = connected(listener)

    def speak() -> None:
        with client:
            with contextlib.suppress(BrokenPipeError):
                for each in said:
                    client.sendall(each)
            if closes:
                client.shutdown(socket.SHUT_WR)
            assert answers(client) == answered

    with beside(speak):
        answer_clients([listener], REASON, linger_seconds=0)


@pytest.mark.parametrize("sent_of_head", ["all", "its first line"])
def test_a_client_that_speaks_http_is_answered_in_http(listener: socket.socket, sent_of_head: str) -> None:
    """Also one that sends only half a head, and one whose body is not read."""
    head = b"POST /mcp HTTP/1.1\r\nHost: here\r\nContent-Length: 9\r\n\r\n"
    client = connected(listener)
    answered: list[tuple[int, str | None, str | None, Any]] = []

    def speak() -> None:
        with client:
            client.sendall(head + INITIALIZE if sent_of_head == "all" else head[:25])
            with http.client.HTTPResponse(client) as response:
                response.begin()
                fields = response.headers
                answered.append(
                    (
                        response.status,
                        fields["Content-Type"],
                        fields["Retry-After"],
                        json.loads(response.read()),
                    )
                )

    with beside(speak):
        answer_clients([listener], REASON, linger_seconds=0)
    error = {"jsonrpc": "2.0", "id": None, "error": {"code": -32000, "message": REASON}}
    assert answered == [(503, "application/json", "1", error)]


def test_without_a_client_it_ends_soon(listener: socket.socket) -> None:
    with running_clock() as clock:
        began = clock()
        answer_clients([listener], REASON)
        with measured:
            assert clock() - began < 1


def test_silent_clients_delay_nobody_and_are_told_too(listener: socket.socket) -> None:
    silent = [connected(listener) for _ in range(100)]
    speaking = connected(listener)
    took: list[float] = []

    def speak() -> None:
        with running_clock() as clock:
            began = clock()
            speaking.sendall(INITIALIZE)
            assert answers(speaking) == [7]
            took.append(clock() - began)
        assert [answers(client) for client in silent] == [[None]] * 100

    with beside(speak):
        answer_clients([listener], REASON, linger_seconds=0)
    with measured:
        assert took[0] < 0.5
    for client in (*silent, speaking):
        client.close()


def test_more_clients_than_are_taken_at_once_are_all_told(listener: socket.socket) -> None:
    clients = [connected(listener) for _ in range(600)]
    for client in clients:
        client.sendall(INITIALIZE)

    def listen() -> None:
        assert [answers(client) for client in clients] == [[7]] * 600

    with beside(listen):
        answer_clients([listener], REASON, linger_seconds=0)
    for client in clients:
        client.close()


def test_it_stays_while_clients_come_up_to_its_bound_and_leaves_the_rest_in_the_backlog(
    listener: socket.socket,
) -> None:
    over = threading.Event()
    told = 0

    def come() -> None:
        nonlocal told
        while not over.is_set():
            with connected(listener) as client:
                client.sendall(INITIALIZE)
                client.settimeout(0.5)
                # The last one has nobody to answer it.
                with contextlib.suppress(TimeoutError):
                    told += answers(client) == [7]

    with beside(come):
        began = time.monotonic()
        answer_clients([listener], REASON, most_seconds=1.0)
        took = time.monotonic() - began
        over.set()
    with measured:
        assert told > 10
    assert took >= 1.0
    with connected(listener) as client:
        client.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.recv(1)


@pytest.mark.parametrize("there", [True, False])
def test_who_comes_after_the_cause_was_mended_is_left_to_the_next_start(
    listener: socket.socket, tmp_path: Path, there: bool
) -> None:
    settings = tmp_path / "settings"
    if there:
        settings.write_text("wrong")
    late: list[socket.socket] = []

    def mend() -> None:
        with connected(listener) as client:
            client.sendall(INITIALIZE)
            assert answers(client) == [7]
        (tmp_path / "new").write_text("right")
        (tmp_path / "new").replace(settings)
        late.append(connected(listener))

    with beside(mend):
        answer_clients([listener], REASON, watched=[str(settings)], most_seconds=60, linger_seconds=60)
    with late[0] as client:
        client.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.recv(1)


def test_a_client_that_does_not_read_or_has_gone_is_let_go(listener: socket.socket) -> None:
    gone, deaf = connected(listener), connected(listener)
    gone.sendall(INITIALIZE)
    gone.close()
    with deaf, running_clock() as clock:
        deaf.setblocking(False)
        deaf.send(DISCOVER * 10_000)
        began = clock()
        answer_clients([listener], REASON, linger_seconds=0)
        with measured:
            assert clock() - began < 3


def test_a_connection_that_was_handed_over_is_answered_and_one_that_was_closed_is_recognised() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.settimeout(TIMEOUT)
        assert not has_left(ours)
        theirs.sendall(INITIALIZE)
        theirs.shutdown(socket.SHUT_WR)
        # It has left, but can be answered.
        assert not has_left(ours)
        answer_clients([], REASON, connections=[ours], linger_seconds=0)
        assert answers(theirs) == [7]
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours:
        assert has_left(ours)


PROGRAM = """
import socket, sys
from redstreamd.startup.unavailable import answer_clients
listener = socket.socket(fileno=int(sys.argv[1]))
answer_clients([listener], sys.argv[2], empty_seconds=60)
print("not reached")
"""


def test_a_signal_ends_it_when_those_who_are_here_are_told(listener: socket.socket) -> None:
    command = [sys.executable, "-c", PROGRAM, str(listener.fileno()), REASON]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=[listener.fileno()])
    with process, connected(listener) as speaking, connected(listener) as silent:
        # It runs once one is answered, and has taken the other, who came before.
        with connected(listener) as first:
            first.sendall(INITIALIZE)
            assert answers(first) == [7]
        process.send_signal(signal.SIGTERM)
        speaking.sendall(INITIALIZE)
        assert answers(speaking) == [7]
        assert answers(silent) == [None]
        assert process.wait(timeout=TIMEOUT) == -signal.SIGTERM
        assert process.stdout is not None
        assert process.stdout.read() == b""
