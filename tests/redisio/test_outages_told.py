"""What is told of an outage: the lanes here are played, so that the order of events is known."""

from __future__ import annotations

import pytest

from redstreamd.redisio import failures
from redstreamd.redisio.events import (
    Connected,
    ConnectFailed,
    ConnectionLost,
    KeepsEnding,
    Lane,
    OutageEvent,
    Unusable,
    Usable,
)
from redstreamd.redisio.failures import Failure, FailureKind
from redstreamd.redisio.outages import Outages

CLOSED = failures.closed_by_server()
REFUSED = Failure(FailureKind.UNREACHABLE, "Connection refused", "Start Redis.")
LOADING = Failure(FailureKind.NOT_SERVING, "LOADING", "Wait.")


class Played:
    """Lanes that do as they are told, and what was told of them."""

    def __init__(self) -> None:
        self.told: list[OutageEvent] = []
        self._outages = Outages(self.told.append)

    def lose(self, *lanes: Lane, failure: Failure = CLOSED, up_seconds: float = 3600.0) -> None:
        for lane in lanes:
            self._outages(ConnectionLost(lane, "r:1", failure, up_seconds))

    def fail(self, *lanes: Lane, failure: Failure = REFUSED) -> None:
        for lane in lanes:
            self._outages(ConnectFailed(lane, "r:1", failure))

    def connect(self, *lanes: Lane, attempts: int = 0, down_seconds: float = 0.01) -> None:
        for lane in lanes:
            self._outages(Connected(lane, "r:1", "redis 7", attempts, down_seconds))

    def heard(self) -> list[OutageEvent]:
        """Return what was told since this was asked last."""
        told = list(self.told)
        self.told.clear()
        return told


@pytest.fixture
def played() -> Played:
    """All lanes connected, and that was told of each."""
    played = Played()
    played.connect(*Lane)
    assert [event.lanes for event in played.heard() if isinstance(event, Usable)] == [
        (lane,) for lane in Lane
    ]
    return played


def test_an_outage_of_all_lanes_is_one_reason_and_one_end(played: Played) -> None:
    played.lose(*Lane)
    assert played.heard() == []
    played.fail(*Lane)
    assert played.heard() == [Unusable("r:1", tuple(Lane), REFUSED)]
    played.connect(*list(Lane)[:-1], attempts=3, down_seconds=5.0)
    assert played.heard() == []
    played.connect(list(Lane)[-1], attempts=4, down_seconds=6.0)
    assert played.heard() == [Usable("r:1", "redis 7", tuple(Lane), CLOSED, 6.0, 4)]


def test_each_reason_of_an_outage_is_told_once_whichever_lane_finds_it(played: Played) -> None:
    played.lose(*Lane)
    for failure in (REFUSED, LOADING, REFUSED, LOADING):
        played.fail(*Lane, failure=failure)
    assert [event.failure for event in played.heard() if isinstance(event, Unusable)] == [REFUSED, LOADING]
    played.connect(*Lane, attempts=9)
    assert len(played.heard()) == 1
    played.lose(*Lane)
    played.fail(*Lane)
    assert played.heard() == [Unusable("r:1", tuple(Lane), REFUSED)]


def test_what_is_replaced_at_once_is_one_line_that_says_how_it_ended(played: Played) -> None:
    played.lose(*Lane)
    played.connect(*Lane)
    assert played.heard() == [Usable("r:1", "redis 7", tuple(Lane), CLOSED, 0.01, 0)]


def test_reasons_without_end_are_bounded(played: Played) -> None:
    played.lose(Lane.COMMAND)
    for number in range(1000):
        played.fail(Lane.COMMAND, failure=Failure(FailureKind.UNREACHABLE, f"error {number}", ""))
    assert len(played.heard()) == 16


def test_connections_that_end_soon_again_and_again_are_told_once_with_the_likely_setting(
    played: Played,
) -> None:
    for _ in range(200):
        for lane in Lane:
            played.lose(lane, up_seconds=5.0)
            played.connect(lane)
    told = played.heard()
    keeps = [event for event in told if isinstance(event, KeepsEnding)]
    assert len(keeps) == 1
    assert "`CONFIG GET timeout`" in keeps[0].next_step
    assert len(told) <= 2 * len(Lane) + 1
    # A real outage is told all the same, and so is the same trouble on another day.
    played.lose(*Lane, up_seconds=5.0)
    played.fail(*Lane)
    played.connect(*Lane, attempts=2)
    assert [type(event) for event in played.heard()] == [Unusable, Usable]
    for up_seconds in (86_400.0, 5.0, 5.0, 5.0):
        for lane in Lane:
            played.lose(lane, up_seconds=up_seconds)
            played.connect(lane)
    assert [type(event) for event in played.heard()].count(KeepsEnding) == 1


def test_lanes_that_keep_ending_together_are_told_of_together(played: Played) -> None:
    for _ in range(20):
        played.lose(*Lane, up_seconds=5.0)
        played.connect(*Lane)
    told = played.heard()
    assert [type(event) for event in told] == [Usable, Usable, KeepsEnding]
    assert isinstance(told[-1], KeepsEnding)
    assert told[-1].lanes == tuple(Lane)


def test_what_else_keeps_ending_connections_is_told_with_its_own_step(played: Played) -> None:
    for _ in range(5):
        played.lose(Lane.BULK, failure=failures.oversized(10), up_seconds=1.0)
        played.connect(Lane.BULK)
    (keeps,) = (event for event in played.heard() if isinstance(event, KeepsEnding))
    assert keeps.next_step == failures.oversized(10).next_step
