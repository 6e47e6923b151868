"""Adds of one client, with daemons of several checkouts and their peers in turn.

    .venv/bin/python -m tests.bench.abreast TREE... [--in-flight 16 64] [--rounds 40] [--peers] [--first]

A window is 50 ms, so that many are had of each in a short time, and what else the machine does meets all
alike; their order changes from round to round. With ``--first`` Redis, the servers and the generator go
before what else runs (SCHED_FIFO, as root), and so that others are not kept out, there is a pause before
each window. Printed are quantiles of calls per second, each also in those of the first tree, quantiles of CPU
time of the server for a call, and how busy it was in the median.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import statistics
import time
from collections import defaultdict
from pathlib import Path

from tests.bench import load, peers
from tests.bench.load import Result
from tests.support.daemon import running_daemon
from tests.support.servers import start_redis

_WINDOW_SECONDS = 0.05
_PAUSE_SECONDS = 0.1


def _put_first(pid: int) -> None:
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setscheduler(int(task.name), os.SCHED_FIFO, os.sched_param(1))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.abreast")
    parser.add_argument("tree", nargs="+", type=Path)
    parser.add_argument("--in-flight", nargs="+", type=int, default=[16, 64])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--peers", action="store_true", help="the original and the floor, too")
    parser.add_argument("--first", action="store_true", help="before what else runs on the machine")
    words = parser.parse_args()
    with start_redis() as server, contextlib.ExitStack() as stack:
        servers = []
        for tree in words.tree:
            for modern in (False, True):
                # Of two connections of one daemon, neither would be alone for its first 0.1 s.
                daemon = running_daemon(server, preload=False, PYTHONPATH=str(tree.resolve()))
                running = stack.enter_context(daemon)
                peer = peers.redstreamd(running.path, running.process.pid, modern=modern)
                servers.append((f"{tree}, {peers.ERAS[modern]}", peer))
        if words.peers:
            for other in (peers.original(server, 1), peers.floor(server)):
                peer = stack.enter_context(other)
                servers.append((peer.name, peer))
        measured = [(name, peer, stack.enter_context(peer.links(1))) for name, peer in servers]
        for _, peer, links in measured:
            load.run(links, [peer.add.template], depth=16, seconds=0.2, warm_up=0.2)
        if words.first:
            assert server.process is not None
            for pid in {os.getpid(), server.process.pid, *(each.pids(1)[0] for _, each in servers)}:
                _put_first(pid)
        results: dict[tuple[int, str], list[Result]] = defaultdict(list)
        for _ in range(words.rounds):
            server.flush()
            random.shuffle(measured)
            for in_flight in words.in_flight:
                for name, peer, links in measured:
                    time.sleep(_PAUSE_SECONDS if words.first else 0)
                    window = load.run(
                        links,
                        [peer.add.template],
                        depth=in_flight,
                        seconds=_WINDOW_SECONDS,
                        warm_up=0.02,
                        pids=peer.pids(1),
                    )
                    results[in_flight, name].append(window)
    for in_flight in words.in_flight:
        of_first = _rates(results[in_flight, servers[0][0]])
        for name, _ in servers:
            _show(in_flight, name, results[in_flight, name], of_first)


def _rates(windows: list[Result]) -> list[float]:
    """Return quartiles, and the last of ten parts."""
    rates = [each.calls / each.seconds for each in windows]
    return [*statistics.quantiles(rates, n=4), statistics.quantiles(rates, n=10)[-1]]


def _show(in_flight: int, name: str, windows: list[Result], of_first: list[float]) -> None:
    rates = _rates(windows)
    cpu = statistics.quantiles([each.cpu[0] / each.calls * 1e6 for each in windows], n=10)
    busy = statistics.median(each.cpu[0] / each.seconds for each in windows)
    print(f"{in_flight} in flight, {name}")
    print(f"  calls/s 25/50/75/90 %: {' '.join(f'{each:,.0f}' for each in rates)}")
    print(f"  times the first: {' '.join(f'{a / b:.2f}' for a, b in zip(rates, of_first, strict=True))}")
    print(f"  CPU time of a call 10/50 %: {cpu[0]:.1f} {cpu[4]:.1f} µs, busy {busy:.2f}", flush=True)


if __name__ == "__main__":
    main()
