"""What a call over Streamable HTTP costs, beside others: ``.venv/bin/python -m tests.bench.streamable_http``.

All add one entry by XADD on one Redis, over connections that are kept, with a request in flight on each, and
answer with JSON: the daemon; the Python SDK's application under hypercorn on trio, and under uvicorn with
httptools; a FastMCP server with as many processes as cores. They take turns within each round, and the figure
is the median of the rounds. It needs a machine that does nothing else, and brings the other servers into a
cache once.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import resource
import signal
import socket
import statistics
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import attrs

from tests.bench import accounting, install, load, peers
from tests.bench.accounting import pss_kib, wait_quiet
from tests.bench.load import Link
from tests.bench.report import markdown, number
from tests.support.daemon import clean_environment, home
from tests.support.http_daemon import running_http_daemon
from tests.support.servers import Server, free_port, start_redis
from tests.support.waiting import wait_until

HERE: Final = Path(__file__).parent / "http_peers"
CORES: Final = len(os.sched_getaffinity(0))
CONNECTIONS: Final = (1, 8, 50)
STREAMS: Final = 1_000
OURS: Final = "redstreamd, HTTP"
LINES: Final = "redstreamd, lines on a Unix socket"
HYPERCORN: Final = "the SDK's application, hypercorn on trio"
UVICORN: Final = "the SDK's application, uvicorn with httptools"
FASTMCP: Final = f"FastMCP, uvicorn, {CORES} processes"
#: Peer, connections, and how many times its calls a second are to be reached.
GOALS: Final = (
    (HYPERCORN, 8, 7.0),
    (HYPERCORN, 50, 7.0),
    (UVICORN, 8, 4.0),
    (UVICORN, 50, 4.0),
    (FASTMCP, 50, 3.0),
)
P99_MS: Final = 12.0
STREAM_KIB: Final = 16.0


def head(method: str, name: str | None = None, stream: str | None = None) -> bytes:
    """Return the head of a request of the 2026-07-28 revision, without its length.

    Args:
        method: What is asked for.
        name: Of the tool or the resource.
        stream: That is an argument.
    """
    lines = [
        "POST /mcp HTTP/1.1",
        "Host: localhost:8000",
        "Content-Type: application/json",
        "Accept: application/json, text/event-stream",
        f"MCP-Protocol-Version: {peers.MODERN['io.modelcontextprotocol/protocolVersion']}",
        f"Mcp-Method: {method}",
        *([] if name is None else [f"Mcp-Name: {name}"]),
        *([] if stream is None else [f"Mcp-Param-Stream: {stream}"]),
    ]
    return "".join(f"{line}\r\n" for line in lines).encode()


@attrs.frozen
class HttpPeer:
    """A server that is measured.

    Attributes:
        name: Its name in tables.
        links: Opens so many connections.
        pids: Its processes.
        add: The request that adds an entry.
        head: What each request is sent with; empty if it is a line.
    """

    name: str
    links: Callable[[int], contextlib.AbstractContextManager[Sequence[Link]]]
    pids: Sequence[int]
    add: bytes
    head: bytes = b""


@contextlib.contextmanager
def connections(ports: Sequence[int], count: int) -> Iterator[Sequence[Link]]:
    """Connect so many times, to each port in turn."""
    with contextlib.ExitStack() as stack:
        links = []
        for _, port in zip(range(count), itertools.cycle(ports), strict=False):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            links.append((connection.fileno(), connection.fileno()))
        yield links


def _http_peer(name: str, ports: Sequence[int], pids: Sequence[int]) -> HttpPeer:
    arguments = {"stream": peers.STREAM, "entries": [peers.ENTRY]}
    return HttpPeer(
        name,
        lambda count: connections(ports, count),
        pids,
        load.template("stream_add", arguments, meta=peers.MODERN),
        head("tools/call", "stream_add", peers.STREAM),
    )


def _is_served(port: int) -> bool:
    with socket.socket() as probe:
        return not probe.connect_ex(("127.0.0.1", port))


def _children(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
    return [pid, *(each for child in children for each in _children(int(child)))]


@contextlib.contextmanager
def other(server: Server, name: str, environment: str, *words: str, processes: int = 1) -> Iterator[HttpPeer]:
    """Run a server of `http_peers`, with a port for each process; in its words PORT stands for that.

    uvicorn's own option for several processes leaves Nagle's algorithm on, so that each answer waits.
    """
    program = install.http_peer(environment) / words[0]
    ports = [free_port() for _ in range(processes)]
    with home() as directory, (directory / "log").open("wb") as log, contextlib.ExitStack() as stack:
        variables = clean_environment(directory, REDIS_SOCKET=server.path) | {"PYTHONWARNINGS": "default"}
        started = []
        for port in ports:
            process = subprocess.Popen(
                [program, *(word.replace("PORT", str(port)) for word in words[1:])],
                cwd=HERE,
                env=variables,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            stack.callback(process.wait)
            stack.callback(lambda each=process: [os.kill(pid, signal.SIGKILL) for pid in _children(each.pid)])
            started.append(process)
        for port in ports:
            wait_until(lambda port=port: _is_served(port))
            with connections([port], 1) as links:
                # hypercorn listens before the process that serves can answer.
                peer = _http_peer(name, [port], [])
                load.run(links, [peer.add], seconds=0.1, head=peer.head)
        yield _http_peer(name, ports, [pid for process in started for pid in _children(process.pid)])


@contextlib.contextmanager
def all_peers(server: Server, *, alone: bool) -> Iterator[Sequence[HttpPeer]]:
    """Start all servers, or the daemon alone."""
    uvicorn = (
        "uvicorn",
        "--port",
        "PORT",
        "--http",
        "httptools",
        "--no-access-log",
        "--log-level",
        "warning",
    )
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(running_http_daemon(server, preload=False))
        daemon = running.daemon
        pids = [daemon.process.pid]
        lines = peers.redstreamd(daemon.path, pids[0], modern=True)
        found = [
            _http_peer(OURS, [running.port], pids),
            HttpPeer(LINES, lines.links, pids, lines.add.template),
        ]
        if not alone:
            hypercorn = ("hypercorn", "--config", "hypercorn.toml", "--worker-class", "trio", "--bind")
            hypercorn += ("127.0.0.1:PORT", "sdk_app:app")
            found += [
                stack.enter_context(other(server, HYPERCORN, "sdk", *hypercorn)),
                stack.enter_context(other(server, UVICORN, "sdk", *uvicorn, "sdk_app:app")),
                stack.enter_context(
                    other(server, FASTMCP, "fastmcp", *uvicorn, "fastmcp_app:app", processes=CORES)
                ),
            ]
        yield found


@attrs.frozen
class Figures:
    """What one window found.

    Attributes:
        rate: Calls a second.
        p50: Median time of a call, in ms.
        p99: 99th percentile of it.
        server: CPU time of a call that the server took, in µs.
        redis: The same of Redis.
        others: Cores that other programs kept busy.
    """

    rate: float
    p50: float
    p99: float
    server: float
    redis: float
    others: float


def measured(server: Server, peer: HttpPeer, count: int, seconds: float) -> Figures:
    """Measure a peer once, over so many connections."""
    assert server.process is not None
    server.flush()
    pids = [*peer.pids, server.process.pid]
    with peer.links(count) as links:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = accounting.Spent.by(*pids)
        result = load.run(links, [peer.add], seconds=seconds, warm_up=0.5, pids=pids, head=peer.head)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        generator = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
        others = spent.others_cores(besides=generator)
    return Figures(
        result.calls / result.seconds,
        result.p50 * 1e3,
        result.p99 * 1e3,
        sum(result.cpu[:-1]) / result.calls * 1e6,
        result.cpu[-1] / result.calls * 1e6,
        others,
    )


def stream_kib(server: Server, count: int) -> float:
    """Return the memory of an open response of events, as the mean of many."""
    wanted = {"notifications": {"toolsListChanged": True}, "_meta": peers.MODERN}
    body = peers.line("subscriptions/listen", wanted, 1).strip()
    listening = head("subscriptions/listen") + b"Content-Length: %d\r\n\r\n" % len(body) + body
    options = ("--set", f"http.max_connections_per_peer={count + 64}")
    with (
        running_http_daemon(server, *options, preload=False) as running,
        contextlib.ExitStack() as stack,
    ):
        pid = running.daemon.process.pid

        def listen() -> None:
            connection = stack.enter_context(
                socket.create_connection(("127.0.0.1", running.port), timeout=60)
            )
            connection.sendall(listening)
            answer = b""
            while b"subscriptions/acknowledged" not in answer:
                data = connection.recv(1 << 16)
                answer += data
                if not data or (b"\r\n\r\n" in answer and b"text/event-stream" not in answer):
                    raise RuntimeError(answer)

        for _ in range(50):
            listen()
        wait_quiet(pid)
        before = pss_kib(pid)
        for _ in range(count):
            listen()
        wait_quiet(pid)
        return (pss_kib(pid) - before) / count


def _goal_rows(found: dict[tuple[str, int], Figures], kib: float) -> Iterator[list[str]]:
    for name, count, times in GOALS:
        if (name, count) in found:
            reached = found[OURS, count].rate / found[name, count].rate
            what = f"calls/s at {count} connections, against {name}"
            yield [what, f"≥ {times:g} times", f"{number(reached)} times", number(reached / times)]
    p99 = found[OURS, 50].p99
    yield ["p99 at 50 connections", f"≤ {P99_MS:g} ms", f"{number(p99)} ms", number(P99_MS / p99)]
    yield [
        "an open response of events",
        f"≤ {STREAM_KIB:g} KiB",
        f"{number(kib)} KiB",
        number(STREAM_KIB / kib),
    ]


def _cell(each: Figures) -> str:
    times = f"{number(each.p50)} / {number(each.p99)}"
    return f"{number(each.rate)}; {times}; {each.server:.0f} / {each.redis:.0f}"


def tables(found: dict[tuple[str, int], Figures], kib: float) -> str:
    """Return what was measured beside the goals, and all of it."""
    goals = markdown(["", "goal", "reached", "ratio to goal"], _goal_rows(found, kib))
    columns = [f"{count} connections" for count in CONNECTIONS]
    rows = [
        [name, *(_cell(found[name, count]) for count in CONNECTIONS)]
        for name in dict.fromkeys(name for name, _ in found)
    ]
    head = "calls/s; p50 / p99 in ms; µs of CPU time of a call, of the server / of Redis"
    others = statistics.median(each.others for each in found.values())
    return f"{goals}\n\n{markdown([head, *columns], rows)}\n\nOthers kept {others:.2f} cores busy (median)."


def main() -> None:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--streams", type=int, default=STREAMS)
    parser.add_argument("--alone", action="store_true", help="the daemon alone")
    options = parser.parse_args()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    machine = accounting.machine()
    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    with start_redis() as server:
        rounds: dict[tuple[str, int], list[Figures]] = {}
        with all_peers(server, alone=options.alone) as running:
            for _ in range(options.rounds):
                for count in CONNECTIONS:
                    for peer in running:
                        figures = measured(server, peer, count, options.seconds)
                        rounds.setdefault((peer.name, count), []).append(figures)
                        print(peer.name, count, attrs.asdict(figures), flush=True)
        found = {
            place: Figures(
                *(statistics.median(values) for values in zip(*map(attrs.astuple, each), strict=True))
            )
            for place, each in rounds.items()
        }
        print(tables(found, stream_kib(server, options.streams)))


if __name__ == "__main__":
    main()
