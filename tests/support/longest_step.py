"""The longest that one task held the event loop, in time of the processor, beside a unit of the same run.

The processor's time of the thread is measured, so that other programs on the machine do not count.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import time
from collections.abc import Iterator

import attrs
import trio


@attrs.define(eq=False)
class LongestStep(trio.abc.Instrument):
    """Measures the steps of all tasks.

    Attributes:
        seconds: The longest so far.
        allowed: Names of tasks that do not count, such as the test's own.
    """

    seconds: float = 0.0
    allowed: tuple[str, ...] = ()
    _began: float = math.inf

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Begin to measure."""
        self._began = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Compare."""
        took = time.thread_time() - self._began
        if took > self.seconds and not any(name in task.name for name in self.allowed):
            self.seconds = took


@contextlib.contextmanager
def longest_step(*, but: tuple[str, ...] = ()) -> Iterator[LongestStep]:
    """Measure for the block; full collections, which have a bound of their own, do not run in it."""
    step = LongestStep(allowed=but)
    # What tests/conftest.py has frozen stays so: to look through all tests takes half a second.
    gc.collect()
    gc.disable()
    trio.lowlevel.add_instrument(step)
    try:
        yield step
    finally:
        trio.lowlevel.remove_instrument(step)
        gc.enable()


def unit_seconds() -> float:
    """Return what decoding 10,000 small JSON values takes here: about 1 ms."""
    text = json.dumps(list(range(100_000, 110_000)))
    took = []
    for _ in range(9):
        began = time.thread_time()
        json.loads(text)
        took.append(time.thread_time() - began)
    return min(took)
