"""What it takes to tell many subscribers of one change: daemons of some checkouts, and the floor, in turn.

    .venv/bin/python -m tests.bench.fan_out [--count N] [--rounds N] [TREE ...]

Each has as many subscribers to the same stream, in each era. All but one are stopped (SIGSTOP) while that one
tells its own of an entry. Other programs make a round longer, hardly ever shorter: compare the least of the
rounds and their first quartile. A daemon that shares its processor takes more for each subscriber, since it
finds fewer of their connections in the processor's caches.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

from tests.bench.accounting import cpu_seconds
from tests.bench.peers import ENTRY, MODERN, line
from tests.bench.waits import Crowd, Floor, Serving
from tests.support.daemon import running_daemon
from tests.support.servers import Server, start_redis

_STREAM: Final = "bench:wake:0"
_URI: Final = f"redstream://streams/{_STREAM}"
_FIELDS: Final = [part for pair in ENTRY.items() for part in pair]
_SUBSCRIBE: Final = line("resources/subscribe", {"uri": _URI}, 1)
_LISTEN: Final = line(
    "subscriptions/listen", {"notifications": {"resourceSubscriptions": [_URI]}, "_meta": MODERN}, 1
)
#: A stream's subscribers are told ten times a second at most.
_PAUSE_SECONDS: Final = 0.12


@attrs.frozen
class _Side:
    """One that is measured, with its subscribers.

    Attributes:
        name: Its name.
        serving: The process.
        crowd: The subscribers.
        spent: CPU time for each subscriber in each round, in us.
        lasts: Time until the last was told in each round, in ms.
    """

    name: str
    serving: Serving
    crowd: Crowd
    spent: list[float] = attrs.field(factory=list)
    lasts: list[float] = attrs.field(factory=list)

    def signal(self, number: signal.Signals) -> None:
        self.serving.process.send_signal(number)

    def measure(self, server: Server, count: int) -> None:
        used, began = cpu_seconds(self.serving.process.pid), time.perf_counter()
        server.command("XADD", _STREAM, "*", *_FIELDS)
        told = self.crowd.answers(count, began)
        time.sleep(_PAUSE_SECONDS)
        self.spent.append((cpu_seconds(self.serving.process.pid) - used) / count * 1e6)
        self.lasts.append(max(seconds for _, seconds, _ in told) * 1e3)


@contextlib.contextmanager
def _subscribed(name: str, serving: Serving, count: int, *, is_modern: bool) -> Iterator[_Side]:
    with Crowd.connected(serving.path, count, greeted=not is_modern) as crowd:
        for connection in crowd.connections:
            connection.sendall(_LISTEN if is_modern else _SUBSCRIBE)
        crowd.answers(count, 0)
        yield _Side(name, serving, crowd)


def _round(server: Server, sides: list[_Side], count: int) -> None:
    for side in sides:
        others = [each for each in sides if each is not side]
        for each in others:
            each.signal(signal.SIGSTOP)
        try:
            side.measure(server, count)
        finally:
            for each in others:
                each.signal(signal.SIGCONT)
        for each in others:
            each.crowd.answers(count, 0)
        time.sleep(_PAUSE_SECONDS)


def main() -> None:
    """Print the figures of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("trees", nargs="*", type=Path, default=[Path.cwd()], metavar="TREE")
    parser.add_argument("--count", type=int, default=1_000, help="subscribers of each (1000)")
    parser.add_argument("--rounds", type=int, default=20, help="entries for each (20)")
    given = parser.parse_args()
    with start_redis() as server, contextlib.ExitStack() as stack:
        server.command("XADD", _STREAM, "*", *_FIELDS)
        sides = []
        for tree in given.trees:
            for is_modern, era in enumerate(("handshake era", "2026-07-28")):
                daemon = running_daemon(server, preload=False, PYTHONPATH=str(tree.resolve()))
                serving = stack.enter_context(daemon)
                side = _subscribed(f"{tree}, {era}", serving, given.count, is_modern=bool(is_modern))
                sides.append(stack.enter_context(side))
        floor = stack.enter_context(Floor.running(server))
        sides.append(stack.enter_context(_subscribed("the floor", floor, given.count, is_modern=False)))
        for _ in range(given.rounds):
            _round(server, sides, given.count)
    print("CPU time for each subscriber, us: least, first quartile, median; the last told, ms: least, median")
    for side in sides:
        quartile, median, _ = statistics.quantiles(side.spent, n=4)
        last = statistics.median(side.lasts)
        figures = f"{min(side.spent):6.1f}{quartile:6.1f}{median:6.1f}{min(side.lasts):8.1f}{last:6.1f}"
        print(f"{side.name:50}{figures}")


if __name__ == "__main__":
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    main()
