"""What admission costs one greedy client alone: ``python -m tests.fairness.admission_cost [WINDOWS]``.

Two daemons on one Redis, one of them with a copy of the program in which nothing is counted and nobody waits
for a turn. A client has calls in flight at each in turn, for many short windows. Compared is the least CPU
time that a call took of either daemon: other programs of the machine make a window dearer, never cheaper.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

from tests.bench import load
from tests.bench.load import template
from tests.bench.peers import ENTRY, connections
from tests.support.daemon import Daemon, running_daemon
from tests.support.servers import Server, start_redis

ROOT = Path(__file__).parent.parent.parent
_SECONDS = 0.15
WINDOWS: Final = 24
_STREAM: Final = "greedy:orders"
#: Takes the place of what `admission.turns` says.
_PASS_THROUGH = """

class _PassThrough(Turns):
    def work_for(self, account): pass
    def is_over(self): return False
    def let_pass(self, process, descriptor=-1): return False
    def spend(self, account): pass
    def dequeued(self, account): pass
    async def turn(self, account, seconds): await trio.lowlevel.checkpoint()
    async def part(self, account): await trio.lowlevel.checkpoint()
    async def wait_fewer_queued(self, process): await trio.lowlevel.checkpoint()


_NONE = _PassThrough()


def turns(): return _NONE
"""
#: What a client asks for, and how much of it is in flight.
CLIENTS: Final = {
    "adds, 256 in flight": (
        template("stream_add", {"stream": _STREAM, "entries": [ENTRY], "max_length": 1_000}),
        256,
    ),
    "adds of 100 entries, 64 in flight": (
        template("stream_add", {"stream": _STREAM, "entries": [ENTRY] * 100, "max_length": 1_000}),
        64,
    ),
    "reads, 256 in flight": (template("stream_read", {"stream": _STREAM, "direction": "backward"}), 256),
}


@attrs.frozen
class Cost:
    """What a call cost the daemon with admission and without.

    Attributes:
        rate: Calls a second of the client with admission, the most of a window.
        seconds: CPU seconds of a call with admission, the least of a window.
        without: The same without.
    """

    rate: float
    seconds: float
    without: float

    @property
    def share(self) -> float:
        """Of the calls for a second of CPU time without admission, the part that there are with it."""
        return self.without / self.seconds


@contextlib.contextmanager
def daemons(server: Server) -> Iterator[tuple[Daemon, Daemon]]:
    """Run the two daemons, with and without admission."""
    with tempfile.TemporaryDirectory() as without:
        shutil.copytree(ROOT / "redstreamd", Path(without) / "redstreamd")
        with (Path(without) / "redstreamd/admission/turns.py").open("a", encoding="utf-8") as file:
            file.write(_PASS_THROUGH)
        with (
            running_daemon(server, preload=False, PYTHONPATH=str(ROOT)) as with_it,
            running_daemon(server, preload=False, PYTHONPATH=without) as without_it,
        ):
            yield with_it, without_it


def cost(both: tuple[Daemon, Daemon], does: str, windows: int = WINDOWS) -> Cost:
    """Measure what one of `CLIENTS` costs, in so many windows of each daemon."""
    line, depth = CLIENTS[does]
    rates: list[float] = []
    used: tuple[list[float], list[float]] = [], []
    with contextlib.ExitStack() as stack:
        links = [stack.enter_context(connections(daemon.path, 1)) for daemon in both]
        # The first of each only warms up.
        for number in range(windows + 1):
            # In turn, each as often the first.
            for which in (0, 1) if number % 2 else (1, 0):
                pids = [both[which].process.pid]
                result = load.run(
                    links[which], [line], depth=depth, seconds=_SECONDS, warm_up=_SECONDS / 3, pids=pids
                )
                if number:
                    used[which].append(result.cpu[0] / result.calls)
                    if which == 0:
                        rates.append(result.calls / result.seconds)
    return Cost(max(rates), min(used[0]), min(used[1]))


def main(windows: int) -> None:
    """Measure each client."""
    with start_redis() as server, daemons(server) as both:
        for does in CLIENTS:
            found = cost(both, does, windows)
            costs = f"{found.seconds * 1e6:.1f} µs a call, {found.without * 1e6:.1f} without"
            print(f"{does}: {costs}: {found.share:.2f} of the calls", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else WINDOWS)
