"""The arithmetic of restarts: decay, pauses, and limits that cannot work."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redstreamd.service.restart_policy import FailureCount, RestartLimits, backoff_seconds


def test_a_failure_weighs_half_after_one_decay_time() -> None:
    count = FailureCount(30.0)
    assert count.add(100.0) == 1.0
    assert count.at(130.0) == pytest.approx(0.5)
    assert count.add(130.0) == pytest.approx(1.5)
    assert count.at(190.0) == pytest.approx(1.5 / 4)


def test_failures_at_one_moment_add_up_in_full() -> None:
    count = FailureCount(30.0)
    assert [count.add(7.0) for _ in range(4)] == [1.0, 2.0, 3.0, 4.0]


def test_a_fresh_count_is_zero_at_any_time() -> None:
    assert FailureCount(30.0).at(0.0) == 0.0
    assert FailureCount(30.0).at(1e12) == 0.0


def test_the_pause_doubles_up_to_the_cap() -> None:
    limits = RestartLimits(backoff_base_seconds=0.1, backoff_cap_seconds=5.0)
    pauses = [backoff_seconds(n, limits, lambda: 1.0) for n in range(1, 9)]
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])


def test_jitter_takes_up_to_half_of_the_pause_away() -> None:
    limits = RestartLimits(backoff_base_seconds=1.0)
    assert backoff_seconds(1.0, limits, lambda: 0.0) == pytest.approx(0.5)
    assert backoff_seconds(1.0, limits, lambda: 0.5) == pytest.approx(0.75)


@given(
    failures=st.floats(min_value=0.0, max_value=1e300),
    jitter=st.floats(min_value=0.0, max_value=1.0, exclude_max=True),
)
def test_every_pause_lies_between_half_the_base_and_the_cap(failures: float, jitter: float) -> None:
    limits = RestartLimits()
    pause = backoff_seconds(failures, limits, lambda: jitter)
    assert limits.backoff_base_seconds / 2 <= pause <= limits.backoff_cap_seconds


def test_limits_under_which_the_threshold_is_out_of_reach_are_refused() -> None:
    # With a pause of 15 s and a decay of 30 s the count never gets beyond 3.4.
    with pytest.raises(ValueError, match="decay faster"):
        RestartLimits(backoff_cap_seconds=15.0)
    RestartLimits(backoff_cap_seconds=15.0, failure_threshold=3.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"failure_threshold": 0.0},
        {"failure_decay_seconds": 0.0},
        {"backoff_base_seconds": 0.0},
        {"backoff_base_seconds": 2.0, "backoff_cap_seconds": 1.0},
    ],
)
def test_limits_without_meaning_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        RestartLimits(**wrong)
