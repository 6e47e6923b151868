"""What is told of an outage: the connections here are played, so that the order of events is known."""

from __future__ import annotations

import msgspec
import pytest

from redstreamd.redisio import Role, connect_errors
from redstreamd.redisio.redis_errors import Problem, ProblemKind
from redstreamd.redisio.server_health import (
    Connected,
    ConnectFailed,
    ConnectionLost,
    Degraded,
    HealthEvent,
    KeepsEnding,
    ServerHealth,
    Usable,
)

CLOSED = connect_errors.CLOSED_BY_SERVER
REFUSED = Problem(ProblemKind.UNREACHABLE, "Connection refused", "Start Redis.")
LOADING = Problem(ProblemKind.NOT_SERVING, "LOADING", "Wait.")


async def ask_nothing(*_args: object) -> None:
    """Nothing here refuses writes."""


class Played:
    """Connections that do as they are told, and what was told of them together."""

    def __init__(self) -> None:
        self.told: list[HealthEvent] = []
        self._health = ServerHealth("r:1", ask_nothing, on_event=self._tell)

    def _tell(self, event: HealthEvent) -> None:
        if not isinstance(event, Connected | ConnectionLost | ConnectFailed):
            self.told.append(event)

    def lose(self, *roles: Role, problem: Problem = CLOSED, up_seconds: float = 3600.0) -> None:
        for role in roles:
            self._health(ConnectionLost(role, "r:1", problem, up_seconds))

    def fail(self, *roles: Role, problem: Problem = REFUSED) -> None:
        for role in roles:
            self._health(ConnectFailed(role, "r:1", problem))

    def connect(self, *roles: Role, attempts: int = 0, down_seconds: float = 0.01) -> None:
        for role in roles:
            self._health(Connected(role, "r:1", "redis 7", attempts, down_seconds))

    def heard(self) -> list[HealthEvent]:
        """Return what was told since this was asked last."""
        told = list(self.told)
        self.told.clear()
        return told


@pytest.fixture
def played() -> Played:
    """All roles connected, and that was told of each."""
    played = Played()
    played.connect(*Role)
    assert [event.roles for event in played.heard() if isinstance(event, Usable)] == [
        (role,) for role in Role
    ]
    return played


def test_an_outage_of_all_connections_is_one_reason_and_one_end(played: Played) -> None:
    played.lose(*Role)
    assert played.heard() == []
    played.fail(*Role)
    assert played.heard() == [Degraded("r:1", msgspec.structs.replace(REFUSED, roles=tuple(Role)))]
    played.connect(*list(Role)[:-1], attempts=3, down_seconds=5.0)
    assert played.heard() == []
    played.connect(list(Role)[-1], attempts=4, down_seconds=6.0)
    assert played.heard() == [Usable("r:1", "redis 7", tuple(Role), CLOSED, 6.0, 4)]


def test_each_reason_of_an_outage_is_told_once_whichever_connection_finds_it(played: Played) -> None:
    played.lose(*Role)
    for problem in (REFUSED, LOADING, REFUSED, LOADING):
        played.fail(*Role, problem=problem)
    assert [event.problem.cause for event in played.heard() if isinstance(event, Degraded)] == [
        REFUSED.cause,
        LOADING.cause,
    ]
    played.connect(*Role, attempts=9)
    assert len(played.heard()) == 1
    played.lose(*Role)
    played.fail(*Role)
    assert played.heard() == [Degraded("r:1", msgspec.structs.replace(REFUSED, roles=tuple(Role)))]


def test_what_is_replaced_at_once_is_one_line_that_says_how_it_ended(played: Played) -> None:
    played.lose(*Role)
    played.connect(*Role)
    assert played.heard() == [Usable("r:1", "redis 7", tuple(Role), CLOSED, 0.01, 0)]


def test_reasons_without_end_are_bounded(played: Played) -> None:
    played.lose(Role.COMMAND)
    for number in range(1000):
        played.fail(Role.COMMAND, problem=Problem(ProblemKind.UNREACHABLE, f"error {number}", ""))
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
    assert "`CONFIG GET timeout`" in keeps[0].problem.next_step
    assert len(told) <= 2 * len(Role) + 1
    # A real outage is told all the same, and so is the same problem on another day.
    played.lose(*Role, up_seconds=5.0)
    played.fail(*Role)
    played.connect(*Role, attempts=2)
    assert [type(event) for event in played.heard()] == [Degraded, Usable]
    for up_seconds in (86_400.0, 5.0, 5.0, 5.0):
        for role in Role:
            played.lose(role, up_seconds=up_seconds)
            played.connect(role)
    assert [type(event) for event in played.heard()].count(KeepsEnding) == 1


def test_connections_that_keep_ending_together_are_told_of_together(played: Played) -> None:
    for _ in range(20):
        played.lose(*Role, up_seconds=5.0)
        played.connect(*Role)
    told = played.heard()
    assert [type(event) for event in told] == [Usable, Usable, KeepsEnding]
    assert isinstance(told[-1], KeepsEnding)
    assert told[-1].problem.roles == tuple(Role)


def test_what_else_keeps_ending_connections_is_told_with_its_own_step(played: Played) -> None:
    for _ in range(5):
        played.lose(Role.BULK, problem=connect_errors.oversized(10), up_seconds=1.0)
        played.connect(Role.BULK)
    (keeps,) = (event for event in played.heard() if isinstance(event, KeepsEnding))
    assert keeps.problem.next_step == connect_errors.oversized(10).next_step
