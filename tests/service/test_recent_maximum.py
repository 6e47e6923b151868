"""The greatest value of the last minutes."""

from __future__ import annotations

from random import Random

from redstreamd.service.recent_maximum import RecentMaximum


def test_a_value_is_remembered_for_the_time_and_a_twelfth_longer_at_most() -> None:
    recent = RecentMaximum(120.0)
    random = Random(5)
    now = 4_711.0
    noted: list[tuple[float, float]] = []
    for _ in range(2_000):
        now += random.choice((0.0, 1.0, 9.0, 60.0, 500.0)) * random.random()
        value = random.expovariate(1.0)
        recent.note(value, now)
        noted.append((now, value))
        at = now + random.choice((0.0, 20.0, 119.0)) * random.random()
        least = max((each for when, each in noted if when > at - 120.0), default=0.0)
        most = max((each for when, each in noted if when > at - 130.0), default=0.0)
        assert least <= recent.greatest(at) <= most
        now = at


def test_nothing_is_remembered_at_first_nor_in_the_end() -> None:
    recent = RecentMaximum(60.0)
    assert recent.greatest(10_000.0) == 0.0
    recent.note(3.0, 10_000.0)
    assert recent.greatest(10_059.0) == 3.0
    assert recent.greatest(10_065.1) == 0.0
