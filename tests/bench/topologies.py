"""What a cluster costs the daemon: ``.venv/bin/python -m tests.bench.topologies``.

Two daemons take turns, one on a cluster of three primaries, one on one server, both by TCP on loopback; each
call adds one entry, to twelve streams in turn, which lie on all three nodes. A ratio is that of two windows
next to each other. Where the machine does something else meanwhile, the CPU time of a call says more.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from typing import Final

import attrs

from tests.bench import load, peers
from tests.bench.load import template
from tests.bench.peers import ENTRY, ERAS, Peer
from tests.bench.report import markdown, number
from tests.support.daemon import running_daemon
from tests.support.redis_cluster import running_cluster
from tests.support.servers import Server, start_redis

STREAMS: Final = tuple(f"bench:orders:{name}" for name in "abcdefghijkl")
#: Clients, and calls in flight of each.
LOADS: Final = ((1, 64), (8, 8))
GOAL: Final = 0.9


@attrs.frozen
class Side:
    """A daemon and the servers behind it."""

    peer: Peer
    servers: Sequence[Server]

    def window(self, clients: int, depth: int, seconds: float) -> load.Result:
        """Measure one window of adding entries; the daemon is the first process."""
        for server in self.servers:
            server.flush()
        pids = [*self.peer.pids(clients), *(each.process.pid for each in self.servers if each.process)]
        calls = [
            template("stream_add", {"stream": stream, "entries": [ENTRY]}, meta=self.peer.meta)
            for stream in STREAMS
        ]
        with self.peer.links(clients) as links:
            return load.run(
                links, calls, depth=depth, seconds=seconds, pids=pids, pattern='"ids":["', per_call=1
            )


def row(name: str, clients: int, depth: int, one: list[load.Result], cluster: list[load.Result]) -> list[str]:
    """Return what the windows of one load say, as the cells of a row."""
    rates = [
        theirs.calls / theirs.seconds / (its.calls / its.seconds)
        for its, theirs in zip(one, cluster, strict=True)
    ]
    costs = [[each.cpu[0] / each.calls * 1e6 for each in side] for side in (one, cluster)]
    behind = [[sum(each.cpu[1:]) / each.calls * 1e6 for each in side] for side in (one, cluster)]
    return [
        f"{name}: {clients} of {depth}",
        *(number(statistics.median(each.calls / each.seconds for each in side)) for side in (one, cluster)),
        f"{statistics.median(rates):.2f} ({min(rates):.2f} to {max(rates):.2f})",
        " → ".join(f"{statistics.median(each):.1f}" for each in costs),
        " → ".join(f"{statistics.median(each):.1f}" for each in behind),
    ]


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=1.0)
    arguments = parser.parse_args()
    rows = []
    with (
        start_redis() as server,
        running_cluster(3, 0, node_timeout_ms=15_000) as cluster,
        running_daemon("absent", preload=False, REDIS_URL=f"redis://127.0.0.1:{server.port}") as alone,
        running_daemon(cluster, preload=False) as routing,
    ):
        owners = {cluster.node_of(stream).port for stream in STREAMS}
        assert len(owners) == 3, "the streams lie on some nodes only"
        for modern in (False, True):
            one, other = (
                Side(peers.redstreamd(daemon.path, daemon.process.pid, modern=modern), servers)
                for daemon, servers in ((alone, [server]), (routing, cluster.nodes))
            )
            for clients, depth in LOADS:
                found: dict[bool, list[load.Result]] = {False: [], True: []}
                for turn in range(arguments.rounds):
                    # Who is first in one round is second in the next.
                    for side in (one, other) if turn % 2 else (other, one):
                        found[side is other].append(side.window(clients, depth, arguments.seconds))
                rows.append(row(ERAS[modern], clients, depth, found[False], found[True]))
    heads = ["clients of so many in flight", "one server, calls/s", "cluster, calls/s"]
    heads += [f"ratio (goal {GOAL})", "daemon, µs a call", "Redis, µs a call"]
    print(markdown(heads, rows))


if __name__ == "__main__":
    main()
