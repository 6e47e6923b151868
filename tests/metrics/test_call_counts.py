"""Calls are counted by tool and outcome, within bounds, and for next to nothing."""

from __future__ import annotations

import time

import pytest

from redstreamd.histogram import Histogram
from redstreamd.metrics.call_counts import MAX_PAIRS, OTHER, CallCounts, ToolFigures
from redstreamd.metrics.metric_definitions import CALL_SECONDS
from redstreamd.policy import Principal
from redstreamd.tools.invocation import CallEnded
from tests.support.longest_step import unit_seconds
from tests.support.measured import measured

ANN = Principal("ann", "unix")


def ended(
    tool: str = "stream_add", outcome: str = "ok", seconds: float = 0.002, answer_bytes: int = 100
) -> CallEnded:
    return CallEnded(ANN, tool, (), seconds, outcome, answer_bytes)


def test_a_call_is_in_the_bucket_whose_bound_it_does_not_exceed() -> None:
    counts = CallCounts()
    for seconds in (0.0, *CALL_SECONDS, 1e9):
        counts.note([ended(seconds=seconds)])
    calls = counts.pairs["stream_add", "ok"]
    assert calls.counts == [2, *[1] * len(CALL_SECONDS)]
    assert calls.count == len(CALL_SECONDS) + 2
    assert calls.answer_bytes == 100 * calls.count
    assert list(calls.cumulative())[-1] == calls.count


def test_outcomes_beyond_the_bound_are_counted_together_and_none_is_lost() -> None:
    counts = CallCounts()
    for number in range(300):
        counts.note([ended("stream_add", f"CODE_{number}")])
        counts.note([ended(f"tool_{number % 20}")])
    assert sum(calls.count for calls in counts.pairs.values()) == 600
    assert len(counts.pairs) <= MAX_PAIRS + 20 + 1
    assert counts.pairs["stream_add", OTHER].count > 200
    # What went well is always counted by itself.
    assert all(counts.pairs[f"tool_{number}", "ok"].count == 15 for number in range(20))


def test_people_get_the_figures_of_each_tool() -> None:
    counts = CallCounts()
    for seconds in (0.001, 0.003):
        counts.note([ended(seconds=seconds)])
    counts.note([ended(outcome="TIMEOUT", seconds=60.0)])
    counts.note([ended("stream_read")])
    figures = counts.statistics().tools
    assert list(figures) == ["stream_add", "stream_read"]
    assert figures["stream_add"] == ToolFigures(3, 1, round(60.004 / 3, 6), 300.0, 300)
    assert figures["stream_read"].failed == 0


def test_calls_that_are_alike_are_counted_as_each_for_itself() -> None:
    together, apart = CallCounts(), CallCounts()
    seconds, sizes = [0.0, 0.002, 0.5, 100.0], [1, 0, 7, 9]
    together.note_alike("stream_read", "ok", seconds, sizes)
    apart.note(
        [
            ended("stream_read", seconds=each, answer_bytes=size)
            for each, size in zip(seconds, sizes, strict=True)
        ]
    )
    (one,), (other,) = together.pairs.values(), apart.pairs.values()
    assert together.pairs.keys() == apart.pairs.keys()
    assert (one.counts, one.answer_bytes) == (other.counts, other.answer_bytes)
    assert one.total == pytest.approx(other.total)


@pytest.mark.parametrize("is_alone", [False, True])
def test_to_count_a_call_costs_less_than_a_microsecond(is_alone: bool) -> None:
    counts, call = CallCounts(), ended()
    calls = ("stream_read", "ok", [0.002], [100])
    best = float("inf")
    for _ in range(20):
        began = time.thread_time()
        for _ in range(1_000):
            if is_alone:
                counts.note([call])
            else:
                counts.note_alike(*calls)
        best = min(best, time.thread_time() - began)
    # The unit is a millisecond.
    with measured:
        assert best <= unit_seconds()


def test_a_quantile_is_the_bound_of_its_bucket() -> None:
    seen = Histogram((1.0, 2.0, 5.0))
    assert seen.quantile(0.5) is None
    for value in (0.5, 1.5, 1.6, 4.0):
        seen.observe(value)
    assert [seen.quantile(share) for share in (0.25, 0.5, 0.75, 1.0)] == [1.0, 2.0, 2.0, 5.0]
    seen.observe(6.0)
    assert seen.quantile(1.0) is None
