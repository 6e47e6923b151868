"""Python's collector: nothing that clients do leaves cycles of references, and its pauses are short."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support import garbage_daemon
from tests.support.counts import counts
from tests.support.daemon import Daemon, running_daemon
from tests.support.mcp_client import ENVELOPE, HANDSHAKE
from tests.support.measured import measured
from tests.support.servers import Server

PROGRAM: Final = (sys.executable, Path(garbage_daemon.__file__))
WAITS: Final = 1_000
CONNECTIONS: Final = 500
#: Objects that one collection may look at: 5 ms on a machine that takes half a millisecond for each thousand.
#: It is what was under way, and what begins within ten milliseconds of work: more on a faster machine.
SEEN: Final = 10_000
#: The part of a look at everything that a pause may take, on a machine where it takes over 5 ms.
SHARE: Final = 0.1


def line(method: str, params: Mapping[str, Any], request_id: int | str | None = 1) -> bytes:
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params}
    if request_id is not None:
        message["id"] = request_id
    return json.dumps(message).encode() + b"\n"


def tool(name: str, **arguments: Any) -> tuple[str, dict[str, Any]]:
    return "tools/call", {"name": name, "arguments": arguments}


#: Requests that are answered at once.
ANSWERED: Final[Mapping[str, tuple[str, dict[str, Any]]]] = {
    "list": ("tools/list", {}),
    "add": tool("stream_add", stream="s", entries=[{"fields": {"a": "b"}}]),
    "add two": tool("stream_add", stream="s", entries=[{"a": "b"}, {"a": "c"}]),
    "unknown tool": tool("nothing"),
    "wrong arguments": tool("stream_add", stream="s", more=1),
    "missing stream": tool("stream_read", stream="missing"),
    "unknown method": ("test/nothing", {}),
    "resource": ("resources/read", {"uri": "redstream://health"}),
    "missing resource": ("resources/read", {"uri": "redstream://nothing"}),
    "prompts": ("prompts/list", {}),
}
#: Requests that wait until the client goes.
CUT: Final[Mapping[str, tuple[str, dict[str, Any]]]] = {
    "wait": tool("stream_wait", streams=["w"], timeout_seconds=100),
    "filtered wait": tool("stream_wait", streams=["w"], timeout_seconds=100, filter={"a": "b"}),
    "wait at two": tool("stream_wait", streams=["w", "v"], timeout_seconds=100),
    "request": tool("request", stream="w", fields={"a": "b"}, timeout_seconds=100),
    "take": tool("work_take", stream="s", group="g", timeout_seconds=100),
    "subscribe": ("resources/subscribe", {"uri": "redstream://stream/w"}),
    "listen": (
        "subscriptions/listen",
        {"notifications": {"resourceSubscriptions": ["redstream://stream/w"]}},
    ),
}


@contextlib.contextmanager
def connection(daemon: Daemon, era: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(120)
        client.connect(daemon.path)
        if era == "handshake":
            client.sendall(line("initialize", HANDSHAKE))
            receive(client)
            client.sendall(line("notifications/initialized", {}, None))
        yield client


def receive(client: socket.socket, lines: int = 1) -> dict[str, Any]:
    """Return the last of so many lines."""
    received = b""
    while not received.endswith(b"\n") or received.count(b"\n") < lines:
        data = client.recv(1 << 16)
        assert data, "the daemon closed the connection"
        received += data
    decoded: dict[str, Any] = json.loads(received.splitlines()[-1])
    return decoded


def params_of(era: str, params: Mapping[str, Any]) -> dict[str, Any]:
    return {**params, "_meta": ENVELOPE} if era == "modern" else dict(params)


def everything_once(daemon: Daemon) -> int:
    """Make each kind of connection end in its way; return how many there were."""
    ended = 0
    for era in ("modern", "handshake"):
        for method, params in ANSWERED.values():
            with connection(daemon, era) as client:
                client.sendall(line(method, params_of(era, params)))
                receive(client)
            ended += 1
        for method, params in CUT.values():
            for cancel in (False, True):
                with connection(daemon, era) as client:
                    client.sendall(line(method, params_of(era, params)))
                    # Answered in order, so the request before it has begun.
                    client.sendall(line("tools/list", params_of(era, {}), 2))
                    receive(client)
                    if cancel:
                        client.sendall(line("notifications/cancelled", {"requestId": 1}, None))
                ended += 1
        for cut in (b"", b'{"jsonrpc"', b"{{{\n", b"GET / HTTP/1.1\r\n\r\n"):
            with connection(daemon, era) as client:
                client.sendall(cut)
            ended += 1
    return ended


def figures(daemon: Daemon) -> dict[str, Any]:
    """Return the health of the daemon."""
    with connection(daemon, "modern") as client:
        client.sendall(line("resources/read", params_of("modern", {"uri": "redstream://health"})))
        report: dict[str, Any] = json.loads(receive(client)["result"]["contents"][0]["text"])
        return report


def idle(daemon: Daemon) -> dict[str, Any]:
    """Return the health once all other connections have ended."""
    deadline = time.monotonic() + 120
    while (report := figures(daemon))["clients"]["connections"] > 1 or report["waiting"]["watches"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return report


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.limit(120)
def test_no_way_in_which_a_connection_ends_leaves_garbage_for_the_collector(redis: Server) -> None:
    with running_daemon(redis, program=PROGRAM) as daemon:
        wait_for(lambda: " listens on " in daemon.log)
        everything_once(daemon)
        idle(daemon)
        daemon.process.send_signal(signal.SIGUSR1)
        figures(daemon)
        everything_once(daemon)
        idle(daemon)
        daemon.process.send_signal(signal.SIGUSR2)
        wait_for(lambda: "garbage:" in daemon.log)
        (told,) = [each for each in daemon.log.splitlines() if each.startswith("garbage:")]
        assert told == "garbage: {}"


@pytest.mark.parametrize("connections", counts(120, ci=2_000, full=10_000))
@pytest.mark.limit(900)
def test_the_memory_of_connections_that_ended_is_free_again(redis: Server, connections: int) -> None:
    with running_daemon(redis) as daemon:
        wait_for(lambda: " listens on " in daemon.log)
        everything_once(daemon)
        everything_once(daemon)
        before = idle(daemon)
        ended = 0
        while ended < connections:
            ended += everything_once(daemon)

        def grown() -> int:
            blocks: int = idle(daemon)["collector"]["blocks"] - before["collector"]["blocks"]
            return blocks

        # One that is left has some hundred. A few buffers of the daemon are of another size by then, and
        # what is recorded of the last calls stays for a second or two.
        wait_for(lambda: grown() <= max(2_000, ended))
        print(f"{grown()} blocks more after {ended} connections")
        # What a peak has left goes back once the daemon has been idle for a second.
        most = before["process"]["memory_bytes"] + (32 << 20)
        wait_for(lambda: figures(daemon)["process"]["memory_bytes"] <= most)


@pytest.mark.limit(120)
def test_pauses_are_short_beside_a_thousand_waits_and_are_reported(redis: Server) -> None:
    with running_daemon(redis, program=PROGRAM) as daemon:
        wait_for(lambda: " listens on " in daemon.log)
        before = figures(daemon)["collector"]
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(connection(daemon, "modern")) for _ in range(CONNECTIONS)]
            # Each is told, and waits again, while others are told: as much is freed as is made.
            for turn in range(2):
                for number, client in enumerate(clients):
                    for place in range(WAITS // CONNECTIONS):
                        method, params = tool("stream_wait", streams=[f"w{number % 100}"], timeout_seconds=99)
                        client.sendall(line(method, params_of("modern", params), f"{turn}:{place}"))
                wait_for(lambda: figures(daemon)["waiting"]["watches"] == WAITS)
                for number in range(100):
                    redis.command("XADD", f"w{number}", "*", "a", "b")
                for client in clients:
                    receive(client, WAITS // CONNECTIONS)
        idle(daemon)
        after = figures(daemon)["collector"]
        daemon.process.send_signal(signal.SIGUSR1)
        wait_for(lambda: "everything:" in daemon.log)
        seen, everything = (
            float(each.split(":")[1])
            for name in ("seen at most:", "everything:")
            for each in daemon.log.splitlines()
            if each.startswith(name)
        )
        print(f"{after}, {seen:.0f} objects at most, everything {everything * 1000:.1f} ms")
        assert after["collections"] > before["collections"]
        assert after["seconds"] > 0
        assert 0 < after["recent_longest_seconds"] <= after["longest_seconds"]
        with measured:
            # Of a pass that comes late, more is new.
            assert seen <= SEEN
            assert after["longest_seconds"] <= max(0.005, SHARE * everything)
        assert after["full"] == 0
