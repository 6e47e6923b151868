"""A clock for bounds on time that a program has to keep, on machines that are held up themselves.

That something takes less than a second shows that it does not wait for what it need not wait for. Where the
machine gives nobody the processor for a second (a paused virtual machine, a busy host), the bound breaks and
shows nothing. So a thread beats time, and what passes between two beats beyond the usual is not counted.
It must not be used where the time that is looked for is one in which no thread of this process can run.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

#: Returns seconds from an arbitrary point on.
Clock = Callable[[], float]

_BEAT_SECONDS = 0.005

#: What may pass between two beats on a machine that has plenty to do.
_USUAL_SECONDS = 0.03


@contextlib.contextmanager
def running_clock() -> Iterator[Clock]:
    """Run a clock for the block; afterwards it must not be asked any more."""
    over = threading.Event()
    # The time of the last beat, and the seconds that were not counted up to then: replaced in one step.
    state = time.monotonic(), 0.0

    def look() -> tuple[float, float]:
        now = time.monotonic()
        last, uncounted = state
        return now, uncounted + max(0.0, now - last - _USUAL_SECONDS)

    def beat() -> None:
        nonlocal state
        while not over.wait(_BEAT_SECONDS):
            state = look()

    def clock() -> float:
        now, uncounted = look()
        return now - uncounted

    beating = threading.Thread(target=beat, name="clock")
    beating.start()
    try:
        yield clock
    finally:
        over.set()
        beating.join()
