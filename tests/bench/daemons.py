"""What needs a daemon of its own for each round: starting, memory, pauses of the collector, fairness."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import attrs

from tests.bench import collector, load, peers
from tests.bench.accounting import pss_kib, rss_kib, wait_quiet
from tests.bench.load import template
from tests.bench.peers import (
    ENTRY,
    MODERN,
    OFFICIAL,
    ORIGINAL,
    STREAM,
    Peer,
    connections,
    handshake,
    line,
)
from tests.bench.rows import Cell, Sample, hundred
from tests.bench.waits import Crowd, Waits, sleepers
from tests.support.daemon import PROGRAM, Daemon, clean_environment, home, running_daemon
from tests.support.servers import Server

_ADD = template("stream_add", {"stream": STREAM, "entries": [ENTRY]})
_ARGUMENTS = {"name": "stream_add", "arguments": {"stream": STREAM, "entries": [ENTRY]}}
_ADD_ONCE = line("tools/call", _ARGUMENTS, 1)
_ADD_DIRECTLY = line("tools/call", _ARGUMENTS | {"_meta": MODERN}, 1)

_MODERN_CALL = line("tools/call", {"name": "stream_list", "arguments": {"count": 1}, "_meta": MODERN}, 1)


def _ask(connection: socket.socket, request: bytes) -> None:
    connection.sendall(request)
    answer = b""
    while not answer.endswith(b"\n"):
        data = connection.recv(1 << 16)
        answer += data
        if not data or b'"error":{' in answer or b'"isError":true' in answer:
            raise RuntimeError(f"a call failed: {answer[:500]!r}")


@attrs.frozen
class Daemons:
    """What daemons are measured with.

    Attributes:
        server: Redis.
        seconds: Length of a window.
        crowd: How many clients connect and wait at a time.
        variables: Further environment variables of the daemons.
    """

    server: Server
    seconds: float
    crowd: int
    variables: Mapping[str, str] = attrs.field(factory=dict)

    def cells(self) -> Iterator[Cell]:
        """Every row with a daemon of its own."""
        yield from self.costs()
        yield Cell("start", ORIGINAL, "", lambda: self.starting_child(peers.original))
        yield Cell("start", OFFICIAL, "", lambda: self.starting_child(peers.redis_mcp_server))
        waits = f"{self.crowd:,} waits at"
        for row, measure in (
            ("stream_add, 64 in flight", self._adds),
            (f"{waits} 100 streams, each woken once", lambda daemon: self._wakes(daemon, 100, 100)),
            (f"{waits} one stream, woken 3 times", lambda daemon: self._wakes(daemon, 1, 3)),
        ):
            yield Cell("collector", row, "", lambda measure=measure: self.pauses(measure))
        yield Cell("polite", "alone", "", lambda: self.polite(0))
        yield Cell("polite", "beside 50 greedy connections", "", lambda: self.polite(1, 50))
        yield Cell("polite", "beside 50 greedy clients", "", lambda: self.polite(50))

    def costs(self) -> Iterator[Cell]:
        """What the daemon costs before its first client, and with each."""
        yield Cell("start", "redstreamd", "", self.starting)
        yield Cell("memory", "redstreamd", "", self.memory)

    def starting(self) -> Sample:
        """Time from the start of the process until it listens, and until each kind of first answer.

        A process each: what the first answer of one needs may be there for the next.
        """
        with self._started() as (_, connection, since):
            listening = since()
            _ask(connection, _ADD_DIRECTLY)
            direct = since()
        with self._started() as (process, connection, since):
            handshake((connection.fileno(), connection.fileno()))
            greeted = since()
            _ask(connection, _ADD_ONCE)
            called = since()
            wait_quiet(process.pid)
            mib = rss_kib(process.pid) / 1024
        return {
            "listening_ms": listening,
            "direct_ms": direct,
            "handshake_ms": greeted,
            "call_ms": called,
            "mib": mib,
        }

    @contextlib.contextmanager
    def _started(self) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket, Callable[[], float]]]:
        """Start a daemon; yields it, a connection as soon as it listens, and a function: ms since."""
        with home() as directory, (directory / "log").open("ab") as log, contextlib.ExitStack() as stack:
            environment = clean_environment(
                directory, REDIS_URL=f"unix://{self.server.path}", **self.variables
            )
            began = time.perf_counter()
            process = subprocess.Popen([PROGRAM, "serve"], env=environment, stdout=log, stderr=log)
            stack.callback(process.wait, 30)
            stack.callback(process.terminate)
            connection = stack.enter_context(socket.socket(socket.AF_UNIX))
            while connection.connect_ex(str(directory / "redstreamd" / "mcp.sock")):
                if process.poll() is not None:
                    raise RuntimeError((directory / "log").read_text("utf-8"))
                time.sleep(0.001)
            yield process, connection, lambda: (time.perf_counter() - began) * 1e3

    def starting_child(self, start: Callable[[Server, int], AbstractContextManager[Peer]]) -> Sample:
        """The same of a server that each client starts for itself, and the memory of its process."""
        began = time.perf_counter()
        with start(self.server, 1) as peer, peer.links(1) as ((inward, outward),):
            greeted = time.perf_counter() - began
            os.write(outward, peer.add.template.replace(b"@ID@", b"1"))
            if peer.add.pattern.encode() not in (answer := os.read(inward, 1 << 16)):
                raise RuntimeError(f"a call failed: {answer!r}")
            called = time.perf_counter() - began
            mib = rss_kib(peer.pids(1)[0]) / 1024
            return {"handshake_ms": greeted * 1e3, "call_ms": called * 1e3, "mib": mib}

    def memory(self) -> Sample:
        """Memory of the daemon, and of a connection and a wait, as the mean of many."""
        self.server.flush()
        sample: Sample = {}
        streams = [f"bench:wake:{number}" for number in range(100)]
        # A daemon each, because what one kind leaves behind would be used by the next.
        with (
            self._grown() as (daemon, each),
            Crowd.connected(daemon.path, self.crowd, greeted=False) as crowd,
        ):
            sample["connected_kib"] = each()
            for connection in crowd.connections:
                _ask(connection, _MODERN_CALL)
            sample["modern_kib"] = each()
        with self._grown() as (daemon, each), Crowd.connected(daemon.path, self.crowd):
            sample["handshake_kib"] = each()
        with self._grown() as (daemon, each):
            sample["mib"] = pss_kib(daemon.process.pid) / 1024
            with sleepers(daemon.path, self.crowd, streams):
                sample["wait_kib"] = each()
        return sample

    @contextlib.contextmanager
    def _grown(self) -> Iterator[tuple[Daemon, Callable[[], float]]]:
        """Run a daemon that has made its first calls; yields a function: KiB grown since, for each client."""
        with running_daemon(self.server, preload=False, **self.variables) as daemon:
            pid = daemon.process.pid
            with connections(daemon.path, 1) as links:
                load.run(links, [_ADD], seconds=0.2)
            wait_quiet(pid)
            before = pss_kib(pid)

            def each() -> float:
                wait_quiet(pid)
                return (pss_kib(pid) - before) / self.crowd

            yield daemon, each

    def pauses(self, measure: Callable[[Daemon], object]) -> Sample:
        """What Python's collector holds up while something is measured."""
        self.server.flush()
        with tempfile.TemporaryDirectory() as place:
            file = Path(place) / "pauses"
            program = (sys.executable, Path(collector.__file__), file)
            with running_daemon(self.server, program=program, preload=False, **self.variables) as daemon:
                began = time.monotonic()
                measure(daemon)
                seconds = time.monotonic() - began
                found = collector.pauses(file, began)
        lengths = [length for _, length in found] or [0.0]
        return {
            "per_second": len(found) / seconds,
            "full": sum(generation == 2 for generation, _ in found),
            "percent": sum(lengths) / seconds * 100,
            "longest_ms": max(lengths) * 1e3,
        }

    def _adds(self, daemon: Daemon) -> None:
        with connections(daemon.path, 1) as links:
            load.run(links, [_ADD], depth=64, seconds=self.seconds * 3)

    def _wakes(self, daemon: Daemon, streams: int, entries: int) -> None:
        Waits(self.server, daemon, self.crowd).waiters(self.crowd, streams, entries)

    def polite(self, greedy: int, each: int = 1) -> Sample:
        """A client that calls each 10 ms, alone or beside greedy ones.

        These keep 64 calls of 100 entries in flight on each connection.

        Args:
            greedy: How many greedy clients there are.
            each: How many connections each of them has.
        """
        self.server.flush()
        with (
            running_daemon(self.server, preload=False, **self.variables) as daemon,
            contextlib.ExitStack() as stack,
        ):
            one = stack.enter_context(connections(daemon.path, 1))
            beside = None
            if greedy:
                many = stack.enter_context(connections(daemon.path, greedy, each=each))
                options = {"depth": 64, "seconds": 1_000.0, "tolerant": True}
                beside = stack.enter_context(load.started(many, [hundred()], **options))
                time.sleep(2 * self.seconds)
            length = self.seconds * (10 if greedy else 3)
            result = load.run(one, [_ADD], gap=0.01, seconds=length, warm_up=0, tolerant=greedy > 0)
            if beside is not None and beside.process.poll() is not None:
                raise RuntimeError("the greedy clients ended before the polite one")
            return {
                "p50_ms": result.p50 * 1e3,
                "p99_ms": result.p99 * 1e3,
                "longest_ms": result.longest * 1e3,
                "calls": result.timed,
                "failed": result.failed,
                "mib": pss_kib(daemon.process.pid) / 1024,
            }
