"""The figures of the last minutes, for sparklines.

Owns a ring of samples for each series: a few floats every few seconds, at a cost that nobody notices. What is
sampled is given by probes.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec
import trio

from redstreamd.metrics.recent_calls import RecentCalls

SAMPLE_SECONDS: Final = 5.0
#: Five minutes.
SAMPLES: Final = 60

Probe = Callable[[float], Mapping[str, float | None]]
"""``(seconds since it was asked last)``: returns values of its series, None for what is not known."""


class RecentFigures(msgspec.Struct, frozen=True):
    """The last samples.

    Attributes:
        sample_seconds: The time between two of them.
        series: By name, the oldest sample first; None for what was not known. All have the same length.
    """

    sample_seconds: float
    series: Mapping[str, Sequence[float | None]]


class History:
    """Samples; a supervised child runs it."""

    def __init__(self, probes: Sequence[Probe], *, seconds: float) -> None:
        """Ask `probes` every so many seconds; they must neither block nor raise."""
        self._probes = probes
        self._seconds = seconds
        # Each allocated once, of a fixed length: see `recent_maximum`. What was not known is not a number.
        self._series: dict[str, array[float]] = {}
        # How many were taken; the next one of each series is at this place, counted round.
        self._taken = 0

    def figures(self) -> RecentFigures:
        """Return the samples."""
        places = [taken % SAMPLES for taken in range(max(0, self._taken - SAMPLES), self._taken)]
        return RecentFigures(
            self._seconds,
            {
                name: [None if math.isnan(values[place]) else values[place] for place in places]
                for name, values in self._series.items()
            },
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Sample until cancelled. After a pause of the machine there is no sample of it."""
        task_status.started()
        last = trio.current_time()
        while True:
            # From due time to due time, so that delays do not add up.
            await trio.sleep_until(last + self._seconds)
            now = trio.current_time()
            self._sample(now - last)
            last = now

    def _sample(self, elapsed: float) -> None:
        place = self._taken % SAMPLES
        self._taken += 1
        for series in self._series.values():
            # What is there is old, if no probe has a value now.
            series[place] = math.nan
        for probe in self._probes:
            for name, value in probe(elapsed).items():
                values = self._series.get(name)
                if values is None:
                    values = self._series[name] = array("d", [math.nan]) * SAMPLES
                values[place] = math.nan if value is None else float(f"{value:.4g}")


def calls_probe(calls: RecentCalls) -> Probe:
    """Return what samples calls: their rate, failures, and how long they took."""

    def sample(elapsed: float) -> Mapping[str, float | None]:
        since = calls.take()
        return {
            "calls_per_second": since.total / elapsed,
            "errors_per_second": since.failed / elapsed,
            "p50_seconds": since.quantile(0.5),
            "p99_seconds": since.quantile(0.99),
        }

    return sample


def gauges_probe(gauges: Mapping[str, Callable[[], float | None]]) -> Probe:
    """Return what samples values as they are."""

    def sample(_: float) -> Mapping[str, float | None]:
        return {name: gauge() for name, gauge in gauges.items()}

    return sample
