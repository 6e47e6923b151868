"""Rates, latencies and samples of the last minutes."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from redstreamd.metrics.call_counts import CallCounts
from redstreamd.metrics.history import SAMPLES, History, calls_probe, gauges_probe
from redstreamd.metrics.recent_calls import RecentCalls
from redstreamd.policy import Principal
from redstreamd.tools.invocation import CallEnded

ANN = Principal("ann", "ann")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return ("trio", {"clock": MockClock(autojump_threshold=0)})


def ended(tool: str, seconds: float, outcome: str = "ok") -> CallEnded:
    return CallEnded(ANN, tool, (), seconds, outcome, 0)


def test_calls_are_those_since_the_last_look_of_the_same_reader():
    counts = CallCounts()
    counts.note([ended("stream_add", 0.001)])
    one, other = RecentCalls(counts, ()), RecentCalls(counts, ())
    for outcome in ("ok", "cancelled", "TIMEOUT", "INVALID_ARGUMENT"):
        counts.note([ended("stream_add", 0.001, outcome)])
    since = one.take()
    assert (since.total, since.failed) == (4, 2)
    assert (one.total, one.failed) == (5, 2)
    assert one.take().total == 0
    assert other.take().total == 4


def test_latencies_are_those_of_calls_that_cannot_wait():
    counts = CallCounts()
    recent = RecentCalls(counts, {"stream_wait"})
    assert recent.take().quantile(0.99) is None
    for _ in range(100):
        counts.note([ended("stream_add", 0.002)])
    for _ in range(900):
        counts.note([ended("stream_wait", 20.0)])
    since = recent.take()
    assert since.total == 1_000
    # Evenly spread between the bounds of their bucket.
    assert since.quantile(0.5) == pytest.approx(0.00175)
    assert since.quantile(1.0) == 0.0025
    # Beyond all bounds, the last one.
    counts.note([ended("stream_add", 1_000.0)])
    assert recent.take().quantile(0.5) == 300.0


async def test_the_last_samples_are_kept_and_what_is_not_known_is_a_gap():
    counts, values = CallCounts(), iter([1.0, None, *map(float, range(2, 100))])
    history = History(
        [calls_probe(RecentCalls(counts, ())), gauges_probe({"gauge": lambda: next(values)})], seconds=5.0
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(history.run)
        for _ in range(3):
            for _ in range(10):
                counts.note([ended("stream_add", 0.002)])
            await trio.sleep(5.0)
            # Its task runs at the same time.
            await trio.testing.wait_all_tasks_blocked()
        figures = history.figures()
        assert figures.sample_seconds == 5.0
        assert figures.series["calls_per_second"] == [2.0, 2.0, 2.0]
        assert figures.series["errors_per_second"] == [0.0, 0.0, 0.0]
        assert figures.series["gauge"] == [1.0, None, 2.0]
        await trio.sleep(70 * 5.0)
        await trio.testing.wait_all_tasks_blocked()
        series = history.figures().series
        assert {len(each) for each in series.values()} == {SAMPLES}
        assert series["p99_seconds"][-1] is None
        assert series["gauge"][-1] == 72.0
        nursery.cancel_scope.cancel()
