"""What admission costs one greedy client alone: ``python -m tests.fairness.admission_cost [ROUNDS]``.

Two daemons on one Redis, one of them with a copy of the program in which nothing is counted and nobody waits
for a turn. A client keeps calls in flight at each in turn; printed is what a second of the daemon's CPU time
gives with admission, as a share of what it gives without: of all rounds together, their median, and each.
"""

from __future__ import annotations

import contextlib
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.bench.accounting import cpu_seconds
from tests.bench.peers import ENTRY
from tests.fairness.field import Field, attacking
from tests.fairness.rows import Crowd, Row, call
from tests.support.daemon import running_daemon
from tests.support.servers import Server, start_redis

ROOT = Path(__file__).parent.parent.parent
_SECONDS = 1.0
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
CLIENTS: Final = {
    "adds, 256 in flight": lambda: [
        Crowd([call("stream_add", stream="greedy:orders", entries=[ENTRY], max_length=1_000)], 1, 256)
    ],
    "adds of 100 entries, 64 in flight": lambda: [
        Crowd([call("stream_add", stream="greedy:orders", entries=[ENTRY] * 100, max_length=1_000)], 1, 64)
    ],
    "reads, 256 in flight": lambda: [
        Crowd([call("stream_read", stream="greedy:orders", direction="backward")], 1, 256)
    ],
}


def counted(field: Field, row: Row) -> tuple[float, float]:
    """Return how many calls were answered, and the daemon's CPU seconds for them."""
    pid = field.daemon.process.pid
    with attacking(field, row) as (attacker,):
        attacker.count()
        used = cpu_seconds(pid)
        time.sleep(_SECONDS)
        answers, used = attacker.end()["answers"], cpu_seconds(pid) - used
    return answers, used


@contextlib.contextmanager
def fields(server: Server) -> Iterator[tuple[Field, Field]]:
    """Run the two daemons, with and without admission."""
    with tempfile.TemporaryDirectory() as without:
        shutil.copytree(ROOT / "redstreamd", Path(without) / "redstreamd")
        with (Path(without) / "redstreamd/admission/turns.py").open("a", encoding="utf-8") as file:
            file.write(_PASS_THROUGH)
        with (
            running_daemon(server, PYTHONPATH=str(ROOT)) as with_it,
            running_daemon(server, PYTHONPATH=without) as without_it,
        ):
            both = Field(server, with_it), Field(server, without_it)
            for field in both:
                field.prepare()
            yield both


def main(rounds: int) -> None:
    """Measure each client in turn."""
    with start_redis() as server, fields(server) as both:
        for does, crowds in CLIENTS.items():
            print(f"{does}: {_compared(both, Row('', does, crowds), rounds)}", flush=True)


def _compared(both: Sequence[Field], row: Row, rounds: int) -> str:
    for field in both:
        counted(field, row)
    seen: list[list[tuple[float, float]]] = [[], []]
    for number in range(rounds):
        # In turn, each as often the first.
        for which in (0, 1) if number % 2 else (1, 0):
            seen[which].append(counted(both[which], row))
    totals = [[sum(each) for each in zip(*of, strict=True)] for of in seen]
    rates = [[answers / used for answers, used in of] for of in seen]
    shares = [one / other for one, other in zip(*rates, strict=True)]
    together = totals[0][0] / totals[0][1] / (totals[1][0] / totals[1][1])
    each = ", ".join(f"{share:.2f}" for share in shares)
    return f"{together:.3f} together, median {statistics.median(shares):.3f} ({each})"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 9)
