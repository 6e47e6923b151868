"""Token buckets in a time of the test's own: what they let through, and when one may come again."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redstreamd.admission.rates import Rates, Rule
from redstreamd.errors import BusError, Code
from redstreamd.policy import Principal

AGENTS, ADMIN = Principal("agents", "unix"), Principal("admin", "unix")


def rule(per_second: float, burst: int | None = None, *, tool: str = "t", principal: str = "*") -> Rule:
    return Rule(tool, principal, per_second, burst, "as written")


def passes(rates: Rates, now: float, tool: str = "t", principal: Principal = AGENTS) -> bool:
    try:
        rates.check(tool, principal, now)
    except BusError:
        return False
    return True


def count(rates: Rates, now: float, tool: str = "t", principal: Principal = AGENTS) -> int:
    """Return how many calls pass at one time."""
    calls = 0
    while passes(rates, now, tool, principal):
        calls += 1
    return calls


@pytest.mark.parametrize(
    ("per_second", "burst", "at_once"),
    [(10, None, 10), (0.5, None, 1), (1000, None, 1000), (10, 3, 3), (0.1, 20, 20), (1000, 1, 1)],
)
def test_a_second_of_calls_may_come_at_once_or_as_many_as_burst_says(
    per_second: float, burst: int | None, at_once: int
) -> None:
    rates = Rates([rule(per_second, burst)])
    assert count(rates, 5.0) == at_once
    # Half of what an interval needs is not enough, and one interval gives one more.
    assert not passes(rates, 5.0 + 0.5 / per_second)
    assert count(rates, 5.0 + 1 / per_second) == 1
    # However long the pause, no more is saved up.
    assert count(rates, 1e6) == at_once


def test_a_refusal_says_when_to_come_back_and_then_one_call_passes() -> None:
    rates = Rates([rule(3, 2)])
    assert count(rates, 100.0) == 2
    with pytest.raises(BusError) as refused:
        rates.check("t", AGENTS, 100.1)
    error = refused.value
    assert error.code is Code.RATE_LIMITED
    assert error.retry_after_seconds == pytest.approx(1 / 3 - 0.1, abs=0.001)
    assert f"{error.retry_after_seconds:g} seconds" in error.next_step
    assert "agents" in error.cause
    assert "as written" in error.cause
    assert "limits.rates" in error.cause
    assert not passes(rates, 100.1 + error.retry_after_seconds - 0.002)
    assert passes(rates, 100.1 + error.retry_after_seconds)


def test_each_principal_and_each_tool_has_a_bucket_of_its_own_and_others_have_none() -> None:
    rates = Rates([rule(2), rule(3, tool="u")])
    assert [count(rates, 1.0, tool, who) for tool in "tu" for who in (AGENTS, ADMIN)] == [2, 2, 3, 3]
    for _ in range(10_000):
        rates.check("other", AGENTS, 1.0)
    assert len(rates) == 4


def test_of_several_rates_the_first_that_concerns_a_principal_counts() -> None:
    rates = Rates([rule(5, principal="ad*n"), rule(7, principal="[a]?ents"), rule(2, principal="ag*")])
    assert count(rates, 1.0, principal=ADMIN) == 5
    assert count(rates, 1.0, principal=AGENTS) == 2
    assert count(rates, 1.0, principal=Principal("[a]?ents", "unix")) == 7
    assert all(passes(rates, 1.0, principal=Principal("xag", "unix")) for _ in range(100))


def test_full_buckets_are_forgotten_and_others_are_not() -> None:
    rates = Rates([rule(0.001, 2)])
    assert count(rates, 0.0, principal=ADMIN) == 2
    for number in range(20_000):
        # A second of pause fills a thousandth of a bucket.
        assert passes(rates, 1000.0 + number, principal=Principal(f"p{number}", "unix"))
        assert len(rates) <= 4_096
    # That one call of a bucket that lets two through was 20,000 seconds ago.
    assert count(rates, 21_000.0, principal=Principal("p19999", "unix")) == 1
    assert count(rates, 21_000.0, principal=ADMIN) == 2


@settings(max_examples=100, deadline=None)
@given(
    st.fractions(Fraction(1, 100), 1000, max_denominator=100),
    st.none() | st.integers(1, 50),
    # Pauses in eighths of an interval, so that every sum is exact in the model.
    st.lists(st.integers(0, 40), max_size=200),
)
def test_as_many_calls_pass_as_a_bucket_that_is_counted_exactly_lets_through(
    per_second: Fraction, burst: int | None, pauses: list[int]
) -> None:
    rates = Rates([rule(float(per_second), burst)])
    size = burst if burst is not None else max(Fraction(1), per_second)
    now, tokens = Fraction(0), Fraction(size)
    for pause in pauses:
        seconds = Fraction(pause, 8) / per_second
        now, tokens = now + seconds, min(Fraction(size), tokens + seconds * per_second)
        if tokens >= 1:
            rates.check("t", AGENTS, float(now))
            tokens -= 1
            continue
        with pytest.raises(BusError) as refused:
            rates.check("t", AGENTS, float(now))
        seconds, needed = refused.value.retry_after_seconds, float((1 - tokens) / per_second)
        assert seconds is not None
        assert needed - 0.01 / float(per_second) <= seconds <= needed + 0.0011
