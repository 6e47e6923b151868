"""How soon those who wait are told: waits, subscriptions, and a plain blocking read beside them.

    .venv/bin/python -m tests.bench.waits [--count N] [--streams N] [--rounds N] [TREE ...]

compares the daemons of some checkouts, and the floor: each has as many waiters, at streams of its own, and
they take turns to be told of an entry and to be asked the next waits. Other programs make a round longer,
hardly ever shorter: compare the least of the rounds and their first quartile.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import attrs
import hiredis

from tests.bench.accounting import Spent, cpu_seconds, quantiles_ms, wait_quiet
from tests.bench.peers import ENTRY, ERAS, MODERN, handshake, line
from tests.bench.rows import Cell, Sample
from tests.support.daemon import running_daemon
from tests.support.servers import Server, start_redis
from tests.support.waiting import wait_until

_FIELDS = [part for pair in ENTRY.items() for part in pair]
_CURSOR = b'"next_cursor":"'


def wait_line(stream: str, cursor: str | None = None, *, modern: bool = False) -> bytes:
    """Return a call that waits at a stream."""
    arguments = {"streams": [stream], "timeout_seconds": 600} | ({"cursor": cursor} if cursor else {})
    meta = {"_meta": MODERN} if modern else {}
    return line("tools/call", {"name": "stream_wait", "arguments": arguments, **meta}, 1)


@attrs.define
class Crowd:
    """Connections whose answers are taken together."""

    connections: list[socket.socket]
    waiting: select.epoll = attrs.field(factory=select.epoll)
    # So that to take an answer costs little: the daemon shares two processors with this.
    by_number: dict[int, socket.socket] = attrs.field(factory=dict)
    buffer: bytearray = attrs.field(factory=lambda: bytearray(1 << 18))

    @classmethod
    @contextlib.contextmanager
    def connected(cls, path: str, count: int, *, greeted: bool = True) -> Iterator[Crowd]:
        """Connect so many, and open a session of the handshake era on each if `greeted`."""
        with contextlib.ExitStack() as stack:
            crowd = cls([stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(count)])
            stack.callback(crowd.waiting.close)
            for connection in crowd.connections:
                connection.connect(path)
                if greeted:
                    handshake((connection.fileno(), connection.fileno()))
                crowd.waiting.register(connection, select.EPOLLIN)
                crowd.by_number[connection.fileno()] = connection
            yield crowd

    def answers(
        self, count: int, began: float, timeout: float = 60
    ) -> list[tuple[socket.socket, float, bytes]]:
        """Take one line of each of so many connections: which one, seconds since `began`, and the line.

        Raises:
            RuntimeError: A line is an error, or one is missing when the time is over.
        """
        by_number, buffer = self.by_number, self.buffer
        taken: list[tuple[socket.socket, float, bytes]] = []
        pieces: dict[int, bytes] = {}
        while len(taken) < count:
            ready = self.waiting.poll(timeout)
            if not ready:
                raise RuntimeError(f"{len(taken)} of {count} were told within {timeout} s")
            for number, _ in ready:
                size = by_number[number].recv_into(buffer)
                now = time.perf_counter()
                data = bytes(buffer[:size])
                pieces[number] = pieces.get(number, b"") + data
                if not data or b'"isError":true' in pieces[number] or b'"error":{' in pieces[number]:
                    raise RuntimeError(f"a call failed: {pieces[number][:500]!r}")
                if data.endswith(b"\n"):
                    taken.append((by_number[number], now - began, pieces.pop(number)))
        return taken


def _cursor(answer: bytes) -> str:
    begin = answer.index(_CURSOR) + len(_CURSOR)
    return answer[begin : answer.index(b'"', begin)].decode()


class Serving(Protocol):
    """A server that is measured."""

    @property
    def path(self) -> str: ...

    @property
    def process(self) -> subprocess.Popen[bytes]: ...


@attrs.frozen
class Floor:
    """The server of `floor_of_waits`."""

    path: str
    process: subprocess.Popen[bytes]

    @classmethod
    @contextlib.contextmanager
    def running(cls, server: Server) -> Iterator[Floor]:
        """Serve for the block."""
        path = str(server.directory / "waits.sock")
        words = [sys.executable, Path(__file__).with_name("floor_of_waits.py"), path, server.path]
        process = subprocess.Popen(words, start_new_session=True)
        try:
            wait_until(Path(path).exists)
            yield cls(path, process)
        finally:
            process.kill()
            process.wait()


@attrs.frozen
class Waits:
    """The daemon and Redis, and how many clients wait at a time."""

    server: Server
    daemon: Serving
    crowd: int

    def cells(self) -> Iterator[Cell]:
        """Every row about waiting."""
        count = self.crowd
        several = f"{count:,} waiters"
        yield Cell("waits", "XREAD BLOCK on Redis, 1 waiter", "", self.plain)
        yield from self.single()
        yield Cell("waits", f"{several} on 100 streams", "", lambda: self.waiters(count, 100, 100))
        yield Cell("waits", f"{several} on one stream", "", lambda: self.waiters(count, 1, 3))
        yield Cell(
            "waits", f"resource updates, {count:,} subscribers", "", lambda: self.subscribers(count, 5)
        )

    def of_floor(self) -> Iterator[Cell]:
        """The same rows of the floor, as the daemon of this."""
        count = self.crowd
        several = f"the floor: {count:,} waiters"
        yield Cell("waits", "the floor: 1 waiter", "", lambda: self.waiters(1, 1, 100))
        yield Cell("waits", f"{several} on 100 streams", "", lambda: self.waiters(count, 100, 100))
        yield Cell("waits", f"{several} on one stream", "", lambda: self.waiters(count, 1, 3))
        yield Cell("waits", f"the floor: {count:,} subscribers", "", lambda: self.subscribers(count, 5))

    def single(self) -> Iterator[Cell]:
        """One waiter, in each era."""
        for modern, era in enumerate(ERAS):
            yield Cell(
                "waits",
                f"stream_wait, 1 waiter, {era}",
                "",
                lambda modern=modern: self.waiters(1, 1, 100, modern=bool(modern)),
            )

    def waiters(self, count: int, streams: int, entries: int, *, modern: bool = False) -> Sample:
        """Add entries to the streams in turn, each when those woken before it wait again."""
        self.server.flush()
        names = [f"bench:wake:{number}" for number in range(streams)]
        # With a cursor: on a busy machine a wait may begin after the first entry was added.
        cursors = [
            id_.decode() for id_ in self.server.commands(*(("XADD", name, "*", *_FIELDS) for name in names))
        ]
        at_each = count // streams
        with Crowd.connected(self.daemon.path, count, greeted=not modern) as crowd, self._adding() as add:
            where = {}
            for number, connection in enumerate(crowd.connections):
                where[connection] = names[number % streams]
                connection.sendall(wait_line(where[connection], cursors[number % streams], modern=modern))
            wait_quiet(self.daemon.process.pid)
            with self._accounted(entries) as sample:
                times: list[float] = []
                lasts: list[float] = []
                told_seconds = 0.0
                for number in range(entries):
                    used = cpu_seconds(self.daemon.process.pid)
                    began = add(names[number % streams])
                    told = crowd.answers(at_each, began)
                    told_seconds += cpu_seconds(self.daemon.process.pid) - used
                    lasts.append(max(seconds for _, seconds, _ in told))
                    for connection, seconds, answer in told:
                        times.append(seconds)
                        connection.sendall(wait_line(where[connection], _cursor(answer), modern=modern))
                    # They shall sleep before the next entry; with many at one place that takes its time.
                    if at_each > 100:
                        wait_quiet(self.daemon.process.pid)
                    else:
                        time.sleep(0.01)
            return (
                sample
                | quantiles_ms(times)
                | {"told_ms": told_seconds / entries * 1e3, "last_ms": statistics.mean(lasts) * 1e3}
            )

    def subscribers(self, count: int, entries: int) -> Sample:
        """Add entries to a stream that all subscribe to."""
        self.server.flush()
        name = "bench:wake:0"
        self.server.command("XADD", name, "*", *_FIELDS)
        with Crowd.connected(self.daemon.path, count) as crowd, self._adding() as add:
            subscribe = line("resources/subscribe", {"uri": f"redstream://streams/{name}"}, 1)
            for connection in crowd.connections:
                connection.sendall(subscribe)
            crowd.answers(count, 0)
            wait_quiet(self.daemon.process.pid)
            with self._accounted(entries) as sample:
                times: list[float] = []
                lasts: list[float] = []
                for _ in range(entries):
                    told = crowd.answers(count, add(name))
                    if not all(b"notifications/resources/updated" in answer for _, _, answer in told):
                        raise RuntimeError("a subscriber got something else than an update")
                    times += [seconds for _, seconds, _ in told]
                    lasts.append(max(seconds for _, seconds, _ in told))
                    time.sleep(0.2)  # a stream's subscribers are told ten times a second at most
            last = statistics.mean(lasts)
            return sample | quantiles_ms(times) | {"last_ms": last * 1e3, "rate": count / last}

    def plain(self) -> Sample:
        """What Redis itself takes to wake a blocking read."""
        self.server.flush()
        with socket.socket(socket.AF_UNIX) as reader, self._adding() as add:
            reader.connect(self.server.path)
            times = []
            for _ in range(100):
                reader.sendall(hiredis.pack_command(("XREAD", "BLOCK", "0", "STREAMS", "bench:wake:0", "$")))
                time.sleep(0.005)
                began = add("bench:wake:0")
                reader.recv(1 << 16)
                times.append(time.perf_counter() - began)
            return quantiles_ms(times)

    @contextlib.contextmanager
    def _adding(self) -> Iterator:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self.server.path)

            def add(name: str) -> float:
                """Add an entry and return when."""
                began = time.perf_counter()
                connection.sendall(hiredis.pack_command(("XADD", name, "*", *_FIELDS)))
                if not connection.recv(100).startswith(b"$"):
                    raise RuntimeError("XADD failed")
                return began

            yield add

    @contextlib.contextmanager
    def _accounted(self, entries: int) -> Iterator[Sample]:
        assert self.server.process is not None
        daemon, redis = self.daemon.process.pid, self.server.process.pid
        spent = Spent.by(daemon, redis)
        sample: Sample = {}
        yield sample
        sample |= {
            "server_ms": spent.seconds(daemon) / entries * 1e3,
            "redis_ms": spent.seconds(redis) / entries * 1e3,
            "others_cores": spent.others_cores(),
        }


@contextlib.contextmanager
def sleepers(path: str, count: int, streams: Sequence[str]) -> Iterator[Crowd]:
    """Connect so many and let each wait at one of the streams."""
    with Crowd.connected(path, count) as crowd:
        for number, connection in enumerate(crowd.connections):
            connection.sendall(wait_line(streams[number % len(streams)]))
        yield crowd


@attrs.define
class _Side:
    """One that is compared, with its waiters.

    Attributes:
        name: Its name.
        server: Redis.
        serving: The process.
        crowd: The waiters.
        streams: Where they wait, in turn.
        is_modern: Whether they are of the era 2026-07-28.
        firsts, lasts: Time until the first and the last was told in each round, in ms.
        told: CPU time until all were told, for each of them, in us.
        again: CPU time of the next wait, likewise.
        where: What each waits at.
    """

    name: str
    server: Server
    serving: Serving
    crowd: Crowd
    streams: list[str]
    is_modern: bool
    firsts: list[float] = attrs.field(factory=list)
    lasts: list[float] = attrs.field(factory=list)
    told: list[float] = attrs.field(factory=list)
    again: list[float] = attrs.field(factory=list)
    where: dict[socket.socket, str] = attrs.field(factory=dict)

    def begin(self) -> None:
        """Have all wait."""
        cursors = [self.server.command("XADD", name, "*", *_FIELDS).decode() for name in self.streams]
        for number, connection in enumerate(self.crowd.connections):
            place = number % len(self.streams)
            self.where[connection] = self.streams[place]
            asked = wait_line(self.streams[place], cursors[place], modern=self.is_modern)
            connection.sendall(asked)
        wait_quiet(self.serving.process.pid)

    def measure(self, number: int) -> None:
        """Add an entry, and let those who were told wait again."""
        pid = self.serving.process.pid
        count = len(self.crowd.connections) // len(self.streams)
        used, began = cpu_seconds(pid), time.perf_counter()
        self.server.command("XADD", self.streams[number % len(self.streams)], "*", *_FIELDS)
        told = self.crowd.answers(count, began)
        if count > _FEW:
            # What follows on the last answer.
            time.sleep(0.01)
        until_told = cpu_seconds(pid)
        lines = [
            (connection, wait_line(self.where[connection], _cursor(answer), modern=self.is_modern))
            for connection, _, answer in told
        ]
        for connection, line_ in lines:
            connection.sendall(line_)
        if count > _FEW:
            wait_quiet(pid)
        else:
            time.sleep(0.01)
        self.firsts.append(min(seconds for _, seconds, _ in told) * 1e3)
        self.lasts.append(max(seconds for _, seconds, _ in told) * 1e3)
        self.told.append((until_told - used) / count * 1e6)
        self.again.append((cpu_seconds(pid) - until_told) / count * 1e6)


#: So many are told and wait again within 10 ms.
_FEW = 100


def _quantiles(values: Sequence[float]) -> str:
    quartile, median, _ = statistics.quantiles(values, n=4)
    return f"{min(values):8.2f}{quartile:8.2f}{median:8.2f}"


def main() -> None:
    """Print the figures of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("trees", nargs="*", type=Path, default=[Path.cwd()], metavar="TREE")
    parser.add_argument("--count", type=int, default=1_000, help="waiters of each (1000)")
    parser.add_argument("--streams", type=int, default=1, help="where they wait (1)")
    parser.add_argument("--rounds", type=int, default=20, help="entries for each (20)")
    given = parser.parse_args()
    with start_redis() as server, contextlib.ExitStack() as stack:
        sides: list[_Side] = []

        def add(name: str, serving: Serving, *, is_modern: bool) -> None:
            crowd = stack.enter_context(Crowd.connected(serving.path, given.count, greeted=not is_modern))
            streams = [f"bench:{len(sides)}:{number}" for number in range(given.streams)]
            sides.append(_Side(name, server, serving, crowd, streams, is_modern))
            sides[-1].begin()

        for tree in given.trees:
            daemon = running_daemon(server, preload=False, PYTHONPATH=str(tree.resolve()))
            add(str(tree), stack.enter_context(daemon), is_modern=True)
        add("the floor", stack.enter_context(Floor.running(server)), is_modern=False)
        for number in range(given.rounds):
            for side in sides:
                side.measure(number)
    for head, of in (
        ("CPU time until told, us for each", "told"),
        ("CPU time of the next wait, us for each", "again"),
        ("the first is told, ms", "firsts"),
        ("the last is told, ms", "lasts"),
    ):
        print(f"{head}: least, first quartile, median")
        for side in sides:
            print(f"  {side.name:40}{_quantiles(getattr(side, of))}")


if __name__ == "__main__":
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    main()
