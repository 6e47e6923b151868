"""The servers that are measured: how each is started, reached and asked."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import attrs

from tests.bench import install
from tests.bench.load import Link, template
from tests.support.daemon import clean_environment, home
from tests.support.servers import Server
from tests.support.waiting import wait_until

STREAM = "bench:orders:stream"
ENTRY = {"type": "order", "id": "A-1001", "amount": "12.50", "currency": "EUR"}

#: What a request carries in the 2026-07-28 era.
MODERN = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}

#: The eras as tables name them; the second is the modern one.
ERAS = ("handshake era", "2026-07-28")
#: Names of peers in tables.
ORIGINAL = "original, rebuilt (Node.js)"
OFFICIAL = "redis-mcp-server"
FLOOR = "the floor: plain trio, hiredis, msgspec"


def line(method: str, params: Mapping[str, object], request_id: object = None) -> bytes:
    """Return the line of a request, or of a notification."""
    identity = {} if request_id is None else {"id": request_id}
    return json.dumps({"jsonrpc": "2.0", **identity, "method": method, "params": params}).encode() + b"\n"


def handshake(link: Link) -> None:
    """Open a session of the handshake era."""
    info = {"name": "bench", "version": "0"}
    _write(
        link, line("initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info}, 0)
    )
    answer = b""
    while not answer.endswith(b"\n"):
        data = os.read(link[0], 1 << 16)
        if not data:
            raise ConnectionError("the server ended")
        answer += data
    if b'"serverInfo"' not in answer:
        raise RuntimeError(answer)
    _write(link, line("notifications/initialized", {}))


def _write(link: Link, data: bytes) -> None:
    assert os.write(link[1], data) == len(data)


@attrs.frozen
class Asked:
    """What a peer is asked, and how often a pattern must be in each answer."""

    template: bytes
    pattern: str
    per_call: int


class Links(Protocol):
    """Opens connections of so many clients, so many each, that are ready for calls."""

    def __call__(self, clients: int, each: int = 1) -> contextlib.AbstractContextManager[Sequence[Link]]: ...


@attrs.frozen
class Peer:
    """A server, or several processes of one.

    Attributes:
        name: Its name in tables.
        links: Opens connections.
        pids: The servers of so many clients.
        add: Adds one entry.
        read: Reads 100 of them.
        meta: What each request carries as `_meta`.
    """

    name: str
    links: Links
    pids: Callable[[int], Sequence[int]]
    add: Asked
    read: Asked | None = None
    meta: Mapping[str, object] | None = None


@contextlib.contextmanager
def connected(path: str, clients: int, each: int = 1) -> Iterator[Sequence[socket.socket]]:
    """Connect to a Unix socket as so many clients, a process each, so many times each."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    program = Path(__file__).with_name("clients.py")
    with contextlib.ExitStack() as stack:
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", program, path, str(clients), str(each)], stdin=theirs
            )
        stack.callback(process.wait)
        # They end when this is closed.
        stack.enter_context(ours)
        found = []
        for _ in range(clients * each):
            message, descriptors, _, _ = socket.recv_fds(ours, 1 << 10, 1)
            if not descriptors:
                raise ConnectionError(message.decode() or "a client ended")
            found.append(stack.enter_context(socket.socket(fileno=descriptors[0])))
        yield found


@contextlib.contextmanager
def connections(path: str, clients: int, *, each: int = 1, modern: bool = False) -> Iterator[Sequence[Link]]:
    """Connect as `connected` does, with a handshake unless `modern`."""
    with connected(path, clients, each) as found:
        links = [(connection.fileno(), connection.fileno()) for connection in found]
        if not modern:
            for link in links:
                handshake(link)
        yield links


def redstreamd(path: str, pid: int, *, modern: bool) -> Peer:
    """The daemon, in one of the two eras."""
    meta = MODERN if modern else None
    return Peer(
        f"redstreamd, {ERAS[modern]}",
        lambda clients, each=1: connections(path, clients, each=each, modern=modern),
        lambda count: [pid],
        Asked(template("stream_add", {"stream": STREAM, "entries": [ENTRY]}, meta=meta), '"ids":["', 1),
        Asked(template("stream_read", {"stream": STREAM, "count": 100}, meta=meta), '"fields":', 100),
        meta,
    )


@contextlib.contextmanager
def children(
    words: Sequence[str | Path], count: int, **variables: str
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run so many processes that speak MCP over standard input and output, with the handshake done."""
    with home() as directory, contextlib.ExitStack() as stack:
        # Servers of others may warn as they like.
        environment = clean_environment(directory, **variables) | {"PYTHONWARNINGS": "default"}
        log = stack.enter_context((directory / "log").open("ab"))
        running = []
        for _ in range(count):
            process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                cwd=directory,
                start_new_session=True,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            running.append(process)
        for process in running:
            try:
                handshake(link_of(process))
            except OSError as failure:
                raise RuntimeError((directory / "log").read_text("utf-8")) from failure
        yield running


def link_of(process: subprocess.Popen[bytes]) -> Link:
    """Return the pipes of a child."""
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdout.fileno(), process.stdin.fileno()


def stdio(name: str, running: Sequence[subprocess.Popen[bytes]], add: Asked, read: Asked | None) -> Peer:
    """A server that has a process for each client."""
    return Peer(
        name,
        lambda clients, each=1: contextlib.nullcontext([link_of(process) for process in running[:clients]]),
        lambda count: [process.pid for process in running[:count]],
        add,
        read,
    )


@contextlib.contextmanager
def original(server: Server, count: int) -> Iterator[Peer]:
    """The original Red-Stream, rebuilt."""
    with children(install.original(), count, REDIS_SOCKET=server.path) as running:
        yield stdio(
            ORIGINAL,
            running,
            Asked(template("add_stream_message", {"stream": STREAM, "message": ENTRY}), '\\"id\\":', 1),
            Asked(template("get_stream_messages", {"stream": STREAM, "count": 100}), '\\"message\\":', 100),
        )


@contextlib.contextmanager
def redis_mcp_server(server: Server, count: int) -> Iterator[Peer]:
    """The official redis-mcp-server; it speaks to Redis over TCP only."""
    words = [*install.redis_mcp_server(), "--url", f"redis://127.0.0.1:{server.port}/0"]
    with children(words, count, MCP_REDIS_LOG_LEVEL="ERROR") as running:
        yield stdio(
            OFFICIAL,
            running,
            Asked(template("xadd", {"key": STREAM, "fields": ENTRY}), '"text":"Successfully added', 1),
            # Once as text and once as structured content.
            Asked(template("xrange", {"key": STREAM, "count": 100}), "'currency': 'EUR'", 200),
        )


@contextlib.contextmanager
def floor(server: Server) -> Iterator[Peer]:
    """The least that pure Python does for a call (floor.py)."""
    path = str(server.directory / "floor.sock")
    words = [sys.executable, Path(__file__).with_name("floor.py"), path, server.path]
    process = subprocess.Popen(words, start_new_session=True)
    try:
        wait_until(Path(path).exists)
        yield attrs.evolve(redstreamd(path, process.pid, modern=False), name=FLOOR)
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def echo(server: Server) -> Iterator[Peer]:
    """The echo server, which is asked what redstreamd is."""
    path = str(server.directory / "echo.sock")
    process = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("echo.py"), path], start_new_session=True
    )
    try:
        wait_until(Path(path).exists)
        asked = Asked(template("stream_add", {"stream": STREAM, "entries": [ENTRY]}), '"method"', 1)
        yield Peer(
            "an echo server (the generator's ceiling)",
            lambda clients, each=1: connections(path, clients, each=each, modern=True),
            lambda count: [process.pid],
            asked,
        )
    finally:
        process.kill()
        process.wait()
