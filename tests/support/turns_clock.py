"""Time as `redstreamd.admission.turns` counts it, passing only as a test says.

The turns charge an account for the time until the next one's work begins. By a real clock that includes what
other programs have of the processor in between, and whoever was charged for that comes later.
"""

from __future__ import annotations

import pytest


class TurnsClock:
    """Stands in for the module `time` there.

    Attributes:
        now: Seconds, of each of its clocks.
        lost: Seconds of them that other programs had the processor.
    """

    def __init__(self) -> None:
        self.now = 1.0
        self.lost = 0.0

    def perf_counter(self) -> float:
        return self.now

    def thread_time(self) -> float:
        return self.now - self.lost


@pytest.fixture
def turns_clock(monkeypatch: pytest.MonkeyPatch) -> TurnsClock:
    """The clock of the turns, which stands still until the test puts it forward."""
    clock = TurnsClock()
    monkeypatch.setattr("redstreamd.admission.turns.time", clock)
    return clock
