"""A clock for bounds on time that a program has to keep, on machines that are held up themselves.

That something takes less than a second shows that it does not wait for what it need not wait for. Where the
machine gives nobody the processor for a second (a paused virtual machine, a busy host), the bound breaks and
shows nothing. So a thread beats time, and what passes between two beats beyond the usual is not counted.
And where more programs want the processor than usual, each of those that take part in a call gets less of it:
time is counted in the proportion in which it is theirs.
It must not be used where the time that is looked for is one in which no thread of this process can run, nor
for bounds below which something must not end.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

#: Returns seconds from an arbitrary point on.
Clock = Callable[[], float]

_BEAT_SECONDS = 0.005

#: What may pass between two beats on a machine that has plenty to do.
_USUAL_SECONDS = 0.03

#: How many tasks want each core on such a machine, those that run included.
_USUAL_TASKS = 2.0


def share() -> float:
    """Return how much a task gets of the processor at this moment; 1 is what is usual.

    The tasks that want it are the fourth field of proc(5)'s loadavg.
    """
    wanting = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0])
    return min(1.0, _USUAL_TASKS * len(os.sched_getaffinity(0)) / max(wanting, 1))


def busyness() -> float:
    """Return how many times as many tasks as usual wanted the processor within the last minute; 1 or more."""
    return max(1.0, os.getloadavg()[0] / (_USUAL_TASKS * len(os.sched_getaffinity(0))))


@contextlib.contextmanager
def running_clock() -> Iterator[Clock]:
    """Run a clock for the block; afterwards it must not be asked any more."""
    over = threading.Event()
    # The time of the last beat, the seconds that were counted up to then, and what a second counts since:
    # replaced in one step.
    state = time.monotonic(), 0.0, share()

    def look() -> tuple[float, float]:
        now = time.monotonic()
        last, counted, rate = state
        return now, counted + rate * min(now - last, _USUAL_SECONDS)

    def beat() -> None:
        nonlocal state
        while not over.wait(_BEAT_SECONDS):
            rate = share()
            state = (*look(), rate)

    def clock() -> float:
        return look()[1]

    beating = threading.Thread(target=beat, name="clock")
    beating.start()
    try:
        yield clock
    finally:
        over.set()
        beating.join()
