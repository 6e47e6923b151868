"""What is told of an outage: the lanes here are played, so that the order of events is known."""

from __future__ import annotations

import pytest

from redstreamd.redisio import connect_errors
from redstreamd.redisio.connect_errors import Failure, FailureKind
from redstreamd.redisio.outages import Outages
from redstreamd.redisio.redis_events import (
    Connected,
    ConnectFailed,
    ConnectionLost,
    KeepsEnding,
    OutageEvent,
    Role,
    Unusable,
    Usable,
)

CLOSED = connect_errors.closed_by_server()
REFUSED = Failure(FailureKind.UNREACHABLE, "Connection refused", "Start Redis.")
LOADING = Failure(FailureKind.NOT_SERVING, "LOADING", "Wait.")


class Played:
    """Lanes that do as they are told, and what was told of them."""

    def __init__(self) -> None:
        self.told: list[OutageEvent] = []
        self._outages = Outages(self.told.append)

    def lose(self, *roles: Role, failure: Failure = CLOSED, up_seconds: float = 3600.0) -> None:
        for role in roles:
            self._outages(ConnectionLost(role, "r:1", failure, up_seconds))

    def fail(self, *roles: Role, failure: Failure = REFUSED) -> None:
        for role in roles:
            self._outages(ConnectFailed(role, "r:1", failure))

    def connect(self, *roles: Role, attempts: int = 0, down_seconds: float = 0.01) -> None:
        for role in roles:
            self._outages(Connected(role, "r:1", "redis 7", attempts, down_seconds))

    def heard(self) -> list[OutageEvent]:
        """Return what was told since this was asked last."""
        told = list(self.told)
        self.told.clear()
        return told


@pytest.fixture
def played() -> Played:
    """All lanes connected, and that was told of each."""
    played = Played()
    played.connect(*Role)
    assert [event.roles for event in played.heard() if isinstance(event, Usable)] == [
        (role,) for role in Role
    ]
    return played


def test_an_outage_of_all_lanes_is_one_reason_and_one_end(played: Played) -> None:
    played.lose(*Role)
    assert played.heard() == []
    played.fail(*Role)
    assert played.heard() == [Unusable("r:1", tuple(Role), REFUSED)]
    played.connect(*list(Role)[:-1], attempts=3, down_seconds=5.0)
    assert played.heard() == []
    played.connect(list(Role)[-1], attempts=4, down_seconds=6.0)
    assert played.heard() == [Usable("r:1", "redis 7", tuple(Role), CLOSED, 6.0, 4)]


def test_each_reason_of_an_outage_is_told_once_whichever_lane_finds_it(played: Played) -> None:
    played.lose(*Role)
    for failure in (REFUSED, LOADING, REFUSED, LOADING):
        played.fail(*Role, failure=failure)
    assert [event.failure for event in played.heard() if isinstance(event, Unusable)] == [REFUSED, LOADING]
    played.connect(*Role, attempts=9)
    assert len(played.heard()) == 1
    played.lose(*Role)
    played.fail(*Role)
    assert played.heard() == [Unusable("r:1", tuple(Role), REFUSED)]


def test_what_is_replaced_at_once_is_one_line_that_says_how_it_ended(played: Played) -> None:
    played.lose(*Role)
    played.connect(*Role)
    assert played.heard() == [Usable("r:1", "redis 7", tuple(Role), CLOSED, 0.01, 0)]


def test_reasons_without_end_are_bounded(played: Played) -> None:
    played.lose(Role.COMMAND)
    for number in range(1000):
        played.fail(Role.COMMAND, failure=Failure(FailureKind.UNREACHABLE, f"error {number}", ""))
    assert len(played.heard()) == 16


def test_connections_that_end_soon_again_and_again_are_told_once_with_the_likely_setting(
    played: Played,
) -> None:
    for _ in range(200):
        for role in Role:
            played.lose(role, up_seconds=5.0)
            played.connect(role)
    told = played.heard()
    keeps = [event for event in told if isinstance(event, KeepsEnding)]
    assert len(keeps) == 1
    assert "`CONFIG GET timeout`" in keeps[0].next_step
    assert len(told) <= 2 * len(Role) + 1
    # A real outage is told all the same, and so is the same trouble on another day.
    played.lose(*Role, up_seconds=5.0)
    played.fail(*Role)
    played.connect(*Role, attempts=2)
    assert [type(event) for event in played.heard()] == [Unusable, Usable]
    for up_seconds in (86_400.0, 5.0, 5.0, 5.0):
        for role in Role:
            played.lose(role, up_seconds=up_seconds)
            played.connect(role)
    assert [type(event) for event in played.heard()].count(KeepsEnding) == 1


def test_lanes_that_keep_ending_together_are_told_of_together(played: Played) -> None:
    for _ in range(20):
        played.lose(*Role, up_seconds=5.0)
        played.connect(*Role)
    told = played.heard()
    assert [type(event) for event in told] == [Usable, Usable, KeepsEnding]
    assert isinstance(told[-1], KeepsEnding)
    assert told[-1].roles == tuple(Role)


def test_what_else_keeps_ending_connections_is_told_with_its_own_step(played: Played) -> None:
    for _ in range(5):
        played.lose(Role.BULK, failure=connect_errors.oversized(10), up_seconds=1.0)
        played.connect(Role.BULK)
    (keeps,) = (event for event in played.heard() if isinstance(event, KeepsEnding))
    assert keeps.next_step == connect_errors.oversized(10).next_step
