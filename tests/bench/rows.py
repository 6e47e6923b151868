"""Calls per second, and what each costs: the rows that the load generator measures."""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence

import attrs

from tests.bench import load
from tests.bench.accounting import Spent
from tests.bench.load import template
from tests.bench.peers import ENTRY, ERAS, FLOOR, STREAM, Asked, Peer
from tests.support.servers import Server

#: What one round of a cell found, by name of the figure; report.py knows the names.
Sample = dict[str, float]


@attrs.frozen
class Cell:
    """One place in a table, measured once a round."""

    table: str
    row: str
    column: str
    measure: Callable[[], Sample]


@attrs.frozen
class Bench:
    """What is measured.

    Attributes:
        server: Redis.
        eras: redstreamd in each era.
        peers: All that take calls, `eras` among them.
        seconds: Length of a window.
        full: Whether the largest counts are measured, too.
    """

    server: Server
    eras: tuple[Peer, Peer]
    peers: Sequence[Peer]
    seconds: float
    full: bool

    @property
    def daemon(self) -> Peer:
        """redstreamd in the handshake era."""
        return self.eras[0]

    def calls(
        self,
        peer: Peer,
        templates: Sequence[bytes],
        *,
        clients: int = 1,
        each: int = 1,
        depth: int = 1,
        pattern: str = "",
        per_call: int | None = None,
        unit: str = "calls",
    ) -> Sample:
        """Measure a peer once.

        Args:
            peer: What is measured.
            templates: The requests that each chain sends in turn.
            clients: How many there are.
            each: Connections of each.
            depth: Calls in flight on a connection.
            pattern: What to count in the answers.
            per_call: How often it must be in each; None for any number.
            unit: What is counted: calls, cycles (of all templates) or tally.
        """
        assert self.server.process is not None
        redis = self.server.process.pid
        pids = [*peer.pids(clients), redis]
        with peer.links(clients, each) as links:
            spent = Spent.by(*pids)
            children = _children_seconds()
            result = load.run(
                links,
                templates,
                depth=depth,
                seconds=self.seconds,
                pattern=pattern,
                per_call=per_call,
                pids=pids,
            )
            others = spent.others_cores(besides=_children_seconds() - children)
        units = getattr(result, unit)
        if not units:
            raise load.LoadError(f"nothing was finished in {result.seconds:.0f} s")
        return {
            "rate": units / result.seconds,
            "server_us": sum(result.cpu[:-1]) / units * 1e6,
            "redis_us": result.cpu[-1] / units * 1e6,
            "p50_ms": result.p50 * 1e3,
            "p99_ms": result.p99 * 1e3,
            "generator_percent": result.own_cpu / result.seconds * 100,
            "others_cores": others,
        }

    def asked(self, peer: Peer, asked: Asked, **options: int) -> Sample:
        """Measure one kind of call."""
        return self.calls(peer, [asked.template], pattern=asked.pattern, per_call=asked.per_call, **options)

    def add_hundreds(self, seconds: float) -> None:
        """Fill the stream through the daemon."""
        with self.daemon.links(1) as links:
            load.run(links, [hundred()], depth=4, seconds=seconds)


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def hundred(peer: Peer | None = None) -> bytes:
    """Return a call that adds a hundred entries, in the peer's era."""
    arguments = {"stream": STREAM, "entries": [ENTRY] * 100}
    return template("stream_add", arguments, meta=None if peer is None else peer.meta)


def _taking(peer: Peer, count: int) -> list[bytes]:
    taker = {"stream": STREAM, "group": "workers", "consumer": "bench", "count": count}
    return [
        template("work_take", taker, meta=peer.meta),
        template("work_done", {"lease": "@LEASE@"}, meta=peer.meta),
    ]


def fresh(bench: Bench, measure: Callable[[], Sample], prepare: Callable[[], object] | None = None) -> Sample:
    """Measure after emptying Redis and preparing what the calls need."""
    bench.server.flush()
    if prepare is not None:
        prepare()
    return measure()


def adding(bench: Bench) -> Iterator[Cell]:
    """Single entries, by calls in flight, all peers."""
    for column, clients, depth in (("1", 1, 1), ("16", 1, 16), ("64", 1, 64), ("8 clients of 8", 8, 8)):
        for peer in bench.peers:

            def add(peer: Peer = peer, clients: int = clients, depth: int = depth) -> Sample:
                return fresh(bench, lambda: bench.asked(peer, peer.add, clients=clients, depth=depth))

            yield Cell("add", peer.name, column, add)
        if clients == 1:
            for pipelined in (1, 16):

                def plain(depth: int = depth, pipelined: int = pipelined) -> Sample:
                    return fresh(bench, lambda: redis_benchmark(bench, depth, pipelined))

                yield Cell("add", f"redis-benchmark XADD -P{pipelined}", column, plain)


def redis_benchmark(bench: Bench, clients: int, pipelined: int, size: int = 0) -> Sample:
    """Measure plain XADD by redis-benchmark, with so many connections and commands at a time on each.

    Args:
        bench: What is measured.
        clients: How many connections.
        pipelined: How many commands at a time on each.
        size: Bytes of the one field of an entry; the usual entry if 0.
    """
    if shutil.which("redis-benchmark") is None:
        raise SystemExit("redis-benchmark is not installed (apt-get install redis-tools)")
    fields = ["data", "x" * size] if size else [part for pair in ENTRY.items() for part in pair]
    # About as long as the other windows, by what it does on the machine of docs/performance.md.
    expected = 10_000 if size else 15_000 if clients * pipelined == 1 else 120_000
    count = int(bench.seconds * expected)
    how = ("-s", bench.server.path, "-c", str(clients), "-P", str(pipelined), "-n", str(count), "-q")
    done = subprocess.run(
        ["redis-benchmark", *how, "XADD", STREAM, "*", *fields], capture_output=True, text=True, check=True
    )
    return {"rate": float(re.findall(r"([\d.]+) requests per second", done.stdout)[-1])}


def batches(bench: Bench) -> Iterator[Cell]:
    """Entries per second where each call adds or reads a hundred; work with ten and with one."""
    pages = [peer for peer in bench.peers if peer.read is not None]
    for depth in (1, 4, 16):
        for era, peer in zip(ERAS, bench.eras, strict=True):

            def add(peer: Peer = peer, depth: int = depth) -> Sample:
                asked = Asked(hundred(peer), '"ids":["', 1)
                return fresh(bench, lambda: _multiplied(bench.asked(peer, asked, depth=depth), 100))

            yield Cell("batches", f"stream_add of 100, {era}", str(depth), add)
        if depth == 1:
            yield Cell(
                "batches",
                "redis-benchmark XADD -P100",
                "1",
                lambda: fresh(bench, lambda: redis_benchmark(bench, 1, 100)),
            )
        for peer in pages:

            def read(peer: Peer = peer, depth: int = depth) -> Sample:
                assert peer.read is not None
                asked = peer.read
                return fresh(
                    bench,
                    lambda: _multiplied(bench.asked(peer, asked, depth=depth), 100),
                    lambda: bench.add_hundreds(0.1),
                )

            yield Cell("batches", f"reading 100: {peer.name}", str(depth), read)
        for era, peer in zip(ERAS, bench.eras, strict=True):

            def take(peer: Peer = peer, depth: int = depth) -> Sample:
                return fresh(
                    bench,
                    lambda: bench.calls(
                        peer, _taking(peer, 10), depth=depth, pattern='"attempt":1}', unit="tally"
                    ),
                    lambda: bench.add_hundreds(bench.seconds * 2),
                )

            yield Cell("batches", f"work_take of 10 + work_done, {era}", str(depth), take)
    for depth in (1, 16, 64):
        for era, peer in zip(ERAS, bench.eras, strict=True):

            def cycle(peer: Peer = peer, depth: int = depth) -> Sample:
                chain = [peer.add.template, *_taking(peer, 1)]
                return fresh(bench, lambda: bench.calls(peer, chain, depth=depth, unit="cycles"))

            yield Cell("cycles", f"add → take → done, {era}", str(depth), cycle)


def large(bench: Bench) -> Iterator[Cell]:
    """Megabytes per second where each call adds one entry of 32 KiB."""
    size = 32 << 10
    adders = [(f"stream_add of 32 KiB, {era}", peer) for era, peer in zip(ERAS, bench.eras, strict=True)]
    adders += [(f"stream_add of 32 KiB, {FLOOR}", peer) for peer in bench.peers if peer.name == FLOOR]
    for depth in (1, 4, 16):
        for row, peer in adders:

            def add(peer: Peer = peer, depth: int = depth) -> Sample:
                arguments = {"stream": STREAM, "entries": [{"data": "x" * size}]}
                asked = Asked(template("stream_add", arguments, meta=peer.meta), '"ids":["', 1)
                return fresh(bench, lambda: _multiplied(bench.asked(peer, asked, depth=depth), size / 1e6))

            yield Cell("large", row, str(depth), add)

        def plain(depth: int = depth) -> Sample:
            return fresh(bench, lambda: _multiplied(redis_benchmark(bench, 1, depth, size), size / 1e6))

        yield Cell("large", "redis-benchmark XADD of 32 KiB", str(depth), plain)


def _multiplied(sample: Sample, by: float) -> Sample:
    """Return the figures of calls as those of what each call carries so many of."""
    costs = {name: sample[name] / by for name in ("server_us", "redis_us") if name in sample}
    return sample | costs | {"rate": sample["rate"] * by}
