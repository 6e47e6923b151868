"""Clients that ask for more than there is get equal shares, however much they ask for.

Only what the daemon decides is judged. A client whose program has no core asks for less, the more so the
fewer calls it keeps in flight; so its share is compared with what it was due as long as it asked (see
share_counter.py). How many answers each counted is told, and measured where nothing else runs (`make bench`).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.conftest import FIGURE
from tests.fairness.field import Field
from tests.fairness.figures import Polite, goals
from tests.fairness.shares import DEMANDS, SOLO, Shares, client, counting_daemon, measure
from tests.fairness.test_rows import TIMES
from tests.support.counts import counts
from tests.support.measured import measured
from tests.support.servers import Server

#: What several clients get together, of what one gets alone, beside the polite client. The goal without it
#: is 0.9 (`make bench`): a client alone is served in longer turns, and each call of several waits in a queue.
#: With five busy processes it was 0.48 to 1.02.
LEAST_SUM = 0.5
LEAST_SUM_BESIDE_TESTS = 0.3
#: Of its due each client gets so much. All together get what all are due, so nobody gets much more. Measured:
#: 0.94 to 1.16 where nothing else runs, 0.76 to 1.5 beside five busy processes (more by those who ask late,
#: since they are next when they do), and 0.08 to 4.3 without fair turns.
LEAST_OF_DUE = 0.6
#: Of the mean of the answers each of those with many calls in flight has so much: whose messages are not read
#: has nothing to be done, and so is due nothing. It was 0.79 and more.
LEAST_OF_MEAN = 0.3
_MANY_IN_FLIGHT = 64
#: A call of one client is charged so many times that of another one at most: those of few in flight are
#: handled one by one, and cost up to 1.5 times as much. Else who is charged too little would get too much.
MOST_OF_CHARGES = 3.0


@pytest.fixture
def field(redis: Server) -> Iterator[Field]:
    with counting_daemon(redis) as daemon:
        found = Field(redis, daemon)
        found.prepare()
        yield found


def test_without_fair_turns_who_asks_most_gets_most(redis: Server) -> None:
    with counting_daemon(redis, "--first-come") as daemon:
        found = measure(Field(redis, daemon), DEMANDS, 0.5, polite=False, counts=True)
    assert min(found.of_due) < 0.5 * LEAST_OF_DUE, found


@pytest.mark.parametrize("seconds", counts(2, ci=5, full=30))
def test_eight_clients_with_different_demands_get_equal_shares_and_a_light_one_is_served_at_once(
    seconds: int, field: Field, record_property: Callable[[str, object], None]
) -> None:
    alone = field.alone(0.4)
    before = measure(field, SOLO, 0.4 * seconds, polite=False)
    found = measure(field, DEMANDS, seconds, polite=True, counts=True)
    after = measure(field, SOLO, 0.4 * seconds, polite=False)
    # What else runs may begin meanwhile.
    alone = max(alone, field.alone(0.4), key=lambda each: sum(each.p50()))
    field.judge()
    assert found.polite is not None
    assert not found.polite.failures(timely=True)
    short, figure = _compared(alone, (before, after), found, beside_tests=seconds == 2)
    record_property(FIGURE, figure)
    with measured:
        assert not short, f"{short}: {figure}"


def _compared(
    alone: Polite, solo: Sequence[Shares], found: Shares, *, beside_tests: bool
) -> tuple[list[str], str]:
    """Return what is not reached, and the figures."""
    light = found.polite
    assert light is not None
    mean = statistics.mean(found.rates)
    rate = statistics.mean(each.rates[0] for each in solo)
    # Where other programs take the cores, what a second of the daemon gives says as much.
    sums = max(sum(found.rates) / rate, found.per_core / statistics.mean(each.per_core for each in solo))
    p50, p99 = light.p50(fair=True), light.p99(fair=True)
    goals_p50, goals_p99 = (
        [TIMES * each for each in found] for found in goals(client(0, *SOLO[0]), alone, scaled=True)
    )
    reached = {
        "equal shares": min(found.of_due) >= LEAST_OF_DUE,
        "answers": min(
            rate
            for rate, (connections, depth) in zip(found.rates, DEMANDS, strict=True)
            if connections * depth >= _MANY_IN_FLIGHT
        )
        >= LEAST_OF_MEAN * mean,
        "charged alike": 0 < max(found.call_seconds) <= MOST_OF_CHARGES * min(found.call_seconds),
        "as much as one client alone": sums >= (LEAST_SUM_BESIDE_TESTS if beside_tests else LEAST_SUM),
        "medians of the light one": _below(p50, goals_p50),
        "none late or lost": not light.failures(),
        "99th percentiles of the light one": _below(p99, goals_p99),
    }
    shares = ", ".join(f"{each / mean:.2f}" for each in found.rates)
    of_due = ", ".join(f"{each:.2f}" for each in found.of_due)
    charges = ", ".join(f"{each * 1e6:.0f}" for each in found.call_seconds)
    times = f"light p50 {[round(each, 1) for each in p50]} p99 {[round(each, 1) for each in p99]} ms"
    figure = f"of its due {of_due}; us a call {charges}; shares {shares}"
    figure += f"; in sum {sums:.2f} of {rate:,.0f}/s; {times}"
    return [name for name, is_reached in reached.items() if not is_reached], figure


def _below(values: Sequence[float], bounds: Sequence[float]) -> bool:
    return all(value <= bound for value, bound in zip(values, bounds, strict=True))
