"""Runs redstreamd, and tells what each process got and what it was due: ``share_counter.py serve ...``.

Who has nothing to be done is due nothing. At the end of each pass of trio's scheduler the seconds of work
that were charged in it are divided equally among the processes that had something to be done in it: those
that were served, and those that wait for a turn of the loop or at Redis. So a client that asks late, because
it had no core, is due less by as much as it asked for less; and so is one whose calls are all being executed
by Redis, which may have no core either. How long that takes the polite client sees.

SIGUSR1 writes ``shares:`` and a JSON object to standard error: for each ID of a process the seconds that it
got and those that it was due, since the last time. The product knows nothing of this.

What is put before ``serve`` makes it worse, so that tests show that they see it. ``--first-come`` switches
fair turns off: who comes first is first, and nobody is let pass. ``--dearer`` makes what is done for more
than two processes, a client and the polite one, cost 30 % more, which nobody is charged for.
"""

from __future__ import annotations

import json
import runpy
import signal
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, ClassVar

from redstreamd.admission import accounts, fair_queue, turns

#: A client and the polite one.
_FEW = 2

charge = accounts.Account.charge


class CountedTurns(turns.Turns):
    """Counts what processes got and were due."""

    got: ClassVar[defaultdict[accounts.Account, float]] = defaultdict(float)
    shares: ClassVar[defaultdict[int, list[float]]] = defaultdict(lambda: [0.0, 0.0])
    #: Served, and possibly not done, when this pass began.
    present: ClassVar[set[accounts.Account]] = set()
    #: What the work of a pass costs in addition where several processes share it, as a part of it.
    extra: ClassVar[float] = 0.0

    def before_io_wait(self, timeout: float) -> None:
        """Divide what was done in this pass."""
        super().before_io_wait(timeout)
        waiting = {each for each in self.waiting._nodes if each.level is accounts.Level.PROCESS}
        served, present = dict(self.got), self.present
        self.got.clear()
        present.update(waiting, served)
        if self.extra and len(present) > _FEW:
            ends = time.thread_time() + self.extra * sum(served.values())
            while time.thread_time() < ends:
                pass
        due = sum(served.values()) / max(len(present), 1)
        for process in present:
            share = self.shares[process.peer.pid]
            share[0] += served.get(process, 0.0)
            share[1] += due
        present.intersection_update([each for each in present if each in waiting or each.queued])


def count(self: accounts.Account, seconds: float, now: float) -> None:
    """Charge a connection, and note it for its process."""
    CountedTurns.got[self.parent or self] += seconds
    charge(self, seconds, now)


def tell(*_: object) -> None:
    """Tell what each process got and was due, and begin anew."""
    print("shares:", json.dumps(CountedTurns.shares), file=sys.stderr, flush=True)
    CountedTurns.shares.clear()


def first_come() -> None:
    """Let who comes first be first in every queue, and let nobody pass."""
    queue = fair_queue.FairQueue
    push, remove = queue.push, queue.remove
    places: dict[Any, dict[Any, accounts.Account]] = defaultdict(dict)

    def add(self: Any, account: accounts.Account, item: Any) -> None:
        push(self, account, item)
        places[self][item] = account

    def take_out(self: Any, account: accounts.Account, item: Any) -> bool:
        places[self].pop(item, None)
        return remove(self, account, item)

    def pop(self: Any) -> tuple[accounts.Account, Any]:
        item, account = next(iter(places[self].items()))
        take_out(self, account, item)
        return account, item

    queue.push, queue.remove, queue.pop = add, take_out, pop  # type: ignore[method-assign]
    assert turns.is_behind is fair_queue.is_behind
    turns.is_behind = lambda process: False


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, tell)
    accounts.Account.charge = count  # type: ignore[method-assign]
    turns.Turns = CountedTurns  # type: ignore[misc]
    if sys.argv[1] == "--first-come":
        del sys.argv[1]
        first_come()
    elif sys.argv[1] == "--dearer":
        del sys.argv[1]
        CountedTurns.extra = 0.3
    sys.argv[0] = str(Path(sys.executable).with_name("redstreamd"))
    sys.path.pop(0)  # this directory, which a program run by its path begins with
    runpy.run_path(sys.argv[0], run_name="__main__")
