"""Clients that ask for more than there is get equal shares, however much they ask for, at little cost.

What is asserted, of the eight together in slices of time, a light client beside them:

========================================== =================== ==================
what                                       alone (the soaks)   beside other tests
========================================== =================== ==================
of its due each gets                       0.8 and more        0.6 and more
answers of each; beside tests, of those    mean ± 20 %         0.3 of the mean
with 64 calls in flight and more
in sum, of what one client gets            0.9 and more        0.6 and more
the light one's medians and 99th           twice the goals of a row: 6 / 10 / 10 and 40 / 50 / 50 ms,
percentiles                                more where it takes longer when it is alone; none refused or lost
========================================== =================== ==================

Alone means that `make soak-ci` and `make soak` run nothing beside, and that the programs of the test come
before others of the machine (see `before_others`). Then a lack of cores hardly shows.

*Its due*: a client whose program has no core asks for less, the more so the fewer calls it keeps in flight.
So what a client gets is also compared with what it was due as long as the daemon had anything of it that it
could go on with (see share_counter.py): not while the client, or Redis, has all of its calls.

*In sum*: slices of the eight and slices of one client alternate. The one asks for the same on as many
connections, the light one beside it as well: more connections and the light one make any call dearer, whoever
asks. (So eight get 0.7 to 0.85 of what a single connection gets without a light one beside; `make bench`
measures that.) Compared are the calls for a second of the daemon's CPU time, or for a second if that is
better, since generators that have no core let the daemon handle fewer calls at once.

That the assertions fail where they have to is shown with two daemons: one without fair turns, and one whose
calls cost 30 % more while several clients ask.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator, Sequence

import attrs
import pytest

from tests.conftest import FIGURE
from tests.fairness.field import Field
from tests.fairness.figures import Polite, goals, pooled
from tests.fairness.shares import (
    ALL_BY_ONE,
    DEMANDS,
    EIGHT,
    Shares,
    before_others,
    counting_daemon,
    measure,
    together,
)
from tests.support.counts import counts
from tests.support.measured import measured
from tests.support.servers import Server

#: A call of one client is charged so many times that of another one at most: those of few in flight are
#: handled one by one, and cost up to 1.5 times as much. Else who is charged too little would get too much.
MOST_OF_CHARGES = 3.0
#: So many times its goals are allowed to the light client: eight processes make calls as fast as they can.
TIMES = 2.0
_QUICK_SECONDS = 2


@attrs.frozen
class Bounds:
    """What is asserted; see above.

    Attributes:
        of_due: Of its due each gets so much.
        of_mean: How far from the mean the answers may be: least and most.
        in_flight: Of those who have so many calls in flight at least.
        in_sum: What all get together, of what one gets.
    """

    of_due: float
    of_mean: tuple[float, float]
    in_flight: int
    in_sum: float


ALONE = Bounds(0.8, (0.8, 1.2), 1, 0.9)
BESIDE_TESTS = Bounds(0.6, (0.3, float("inf")), 64, 0.6)


@attrs.frozen
class Compared:
    """What is compared with the bounds.

    Attributes:
        eight: What the eight got, in all slices together.
        one: What one client got.
        in_sum: What the eight got of that: the median of each slice of theirs by the one before.
    """

    eight: Shares
    one: Shares
    in_sum: float

    def of_mean(self, in_flight: int) -> list[float]:
        """Return the answers of those who have so many calls in flight at least, by their mean."""
        found = [
            rate
            for rate, (connections, depth) in zip(self.eight.rates, DEMANDS, strict=True)
            if connections * depth >= in_flight
        ]
        return [each / statistics.mean(found) for each in found]

    def short(self, bounds: Bounds) -> list[str]:
        """Return what is not reached."""
        least, most = bounds.of_mean
        charges, of_mean = self.eight.call_seconds, self.of_mean(bounds.in_flight)
        reached = {
            "equal shares": min(self.eight.of_due) >= bounds.of_due,
            "answers": least <= min(of_mean) and max(of_mean) <= most,
            "charged alike": 0 < max(charges) <= MOST_OF_CHARGES * min(charges),
            "in sum": self.in_sum >= bounds.in_sum,
        }
        return [name for name, is_reached in reached.items() if not is_reached]

    def __str__(self) -> str:
        """Tell the figures."""
        mean = statistics.mean(self.eight.rates)
        shares = ", ".join(f"{each / mean:.2f}" for each in self.eight.rates)
        of_due = ", ".join(f"{each:.2f}" for each in self.eight.of_due)
        charges = ", ".join(f"{each * 1e6:.0f}" for each in self.eight.call_seconds)
        text = f"of its due {of_due}; us a call {charges}; shares {shares}; in sum {self.in_sum:.2f}"
        return f"{text} of {sum(self.one.rates):,.0f}/s, {self.one.per_core:,.0f} for a second of CPU time"


def _compare(field: Field, seconds: float, slices: int) -> Compared:
    """Measure one client and the eight in turn, for so many seconds each."""
    eight, one, in_sum = [], [], []
    for _ in range(slices):
        one.append(measure(field, ALL_BY_ONE, seconds / slices, polite=True, counts=True))
        eight.append(measure(field, EIGHT, seconds / slices, polite=True, counts=True))
        by_cpu = eight[-1].per_core / one[-1].per_core
        in_sum.append((by_cpu, sum(eight[-1].rates) / sum(one[-1].rates)))
    medians = [statistics.median(each) for each in zip(*in_sum, strict=True)]
    return Compared(together(eight), together(one), max(medians))


@pytest.fixture
def field(redis: Server) -> Iterator[Field]:
    with counting_daemon(redis) as daemon:
        found = Field(redis, daemon)
        found.prepare()
        yield found


def test_without_fair_turns_who_asks_most_gets_most(redis: Server) -> None:
    with counting_daemon(redis, "--first-come") as daemon:
        found = measure(Field(redis, daemon), EIGHT, 0.5, polite=False, counts=True)
    assert min(found.of_due) < 0.5 * BESIDE_TESTS.of_due, found


@pytest.mark.parametrize("what", ["messages", "commands", "replies"])
def test_a_client_with_few_calls_that_is_held_back_is_seen(what: str, redis: Server) -> None:
    with counting_daemon(redis, "--late", what) as daemon:
        found = measure(Field(redis, daemon), EIGHT, 0.5, polite=False, counts=True)
    assert found.of_due[0] < 0.5 * BESIDE_TESTS.of_due, found
    assert min(found.of_due[1:]) >= BESIDE_TESTS.of_due, found


@pytest.mark.parametrize("seconds", counts(1.5, ci=3, full=6))
def test_calls_that_cost_more_while_several_ask_are_seen(
    seconds: float, redis: Server, record_property: Callable[[str, object], None]
) -> None:
    with counting_daemon(redis, "--dearer") as daemon:
        dearer = Field(redis, daemon)
        dearer.prepare()
        with before_others(dearer) if seconds >= 3 else contextlib.nullcontext():
            found = _compare(dearer, seconds, 3)
    record_property(FIGURE, str(found))
    with measured:
        assert "in sum" in found.short(ALONE), found


@pytest.mark.limit(150)
@pytest.mark.repetitions(4)
@pytest.mark.parametrize("seconds", counts(_QUICK_SECONDS, ci=5, full=30))
def test_eight_clients_with_different_demands_get_equal_shares_and_a_light_one_is_served_at_once(
    seconds: int, field: Field, record_property: Callable[[str, object], None]
) -> None:
    is_quick = seconds == _QUICK_SECONDS
    with contextlib.nullcontext() if is_quick else before_others(field):
        alone = field.alone(0.4)
        found = _compare(field, seconds, 3 if is_quick else 5)
        # What else runs may begin meanwhile.
        alone = max(alone, field.alone(0.4), key=lambda each: sum(each.p50()))
    field.judge()
    light = found.eight.polite
    assert light is not None
    assert found.one.polite is not None
    assert not pooled([light, found.one.polite]).failures(timely=True)
    late = _late(light, alone)
    times = [[round(each, 1) for each in of] for of in (light.p50(fair=True), light.p99(fair=True))]
    figure = f"{found}; light p50 {times[0]} p99 {times[1]} ms"
    record_property(FIGURE, figure)
    short = [*found.short(BESIDE_TESTS if is_quick else ALONE), *late]
    with measured:
        assert not short, f"{short}: {figure}"


def _late(light: Polite, alone: Polite) -> list[str]:
    """Return what of the light client's goals is not reached, without what was waited for a core."""
    goals_p50, goals_p99 = ([TIMES * each for each in of] for of in goals(EIGHT[0], alone, scaled=True))
    reached = {
        "medians of the light one": _below(light.p50(fair=True), goals_p50),
        "none late or lost": not light.failures(),
        "99th percentiles of the light one": _below(light.p99(fair=True), goals_p99),
    }
    return [name for name, is_reached in reached.items() if not is_reached]


def _below(values: Sequence[float], bounds: Sequence[float]) -> bool:
    return all(value <= bound for value, bound in zip(values, bounds, strict=True))
