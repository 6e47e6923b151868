"""Reconnecting and what is told of it, on a virtual clock: the connections here touch no socket."""

from __future__ import annotations

from typing import Any, NoReturn

import attrs
import pytest
import trio
import trio.testing
from redis.backoff import AbstractBackoff

from redstreamd.redisio.lost_replies import REPEAT_BACKOFF
from redstreamd.redisio.node import RedisEvent, Role
from redstreamd.redisio.pipeline import Pipeline
from redstreamd.redisio.reconnecting import (
    NOT_SERVING_RETRY,
    SETTINGS_RETRY,
    ReconnectingConnection,
    pause,
    reconnect_backoff,
    reconnect_pause,
)
from redstreamd.redisio.redis_errors import ConnectionEnded, Problem, ProblemKind, RedisUnavailable
from redstreamd.redisio.server_health import Connected, ConnectFailed, ConnectionLost, ServerHealth
from redstreamd.redisio.target import Target

REFUSED = Problem(ProblemKind.UNREACHABLE, "Connection refused", "start it")
SILENT = Problem(ProblemKind.UNREACHABLE, "no answer", "look for it")
LOADING = Problem(ProblemKind.NOT_SERVING, "LOADING", "wait")
WRONGPASS = Problem(ProblemKind.SETTINGS, "WRONGPASS", "correct it", server_can_help=True)
NO_TLS = Problem(ProblemKind.SETTINGS, "the server answers in TLS", "set it")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


@attrs.define
class Outcome:
    """What a connection is to do: connect for some seconds, live for some (0: never come up), close, end."""

    failure: Problem
    lives_seconds: float = 0.0
    closes_seconds: float = 0.0
    connects_seconds: float = 0.0


class ScriptedConnection:
    """Stands in for a connection: its end is known in advance."""

    server = "redis 7.0.15"

    def __init__(self, outcome: Outcome | None) -> None:
        self._outcome = outcome
        self.is_open = False
        self.pipeline = Pipeline(lambda: None)

    async def run(self, *, task_status: trio.TaskStatus[None]) -> NoReturn:
        if self._outcome is None:
            self.is_open = True
            task_status.started()
            await trio.sleep_forever()
        await trio.sleep(self._outcome.connects_seconds)
        if self._outcome.lives_seconds:
            self.is_open = True
            task_status.started()
            await trio.sleep(self._outcome.lives_seconds)
            self.is_open = False
        await trio.sleep(self._outcome.closes_seconds)
        raise ConnectionEnded(self._outcome.failure)

    def statistics(self) -> None:
        return None


async def ask_nothing(*_args: object) -> None:
    """Nothing here refuses writes."""


@attrs.define
class Bench:
    """A role over scripted connections, and what it did when.

    Attributes:
        attempts: Times of the connection attempts.
        events: What was told of it.
        queues: Where commands are queued.
    """

    outcomes: list[Outcome]
    attempts: list[float] = attrs.field(factory=list)
    events: list[RedisEvent] = attrs.field(factory=list)
    queues: dict[Role, Pipeline] = attrs.field(factory=dict)

    def reconnecting(self, backoff: AbstractBackoff | None = None) -> ReconnectingConnection:
        remaining = iter(self.outcomes)

        def connect() -> Any:
            self.attempts.append(trio.current_time())
            return ScriptedConnection(next(remaining, None))

        return ReconnectingConnection(
            Role.COMMAND,
            Target(),
            connect=connect,
            queues=self.queues,
            connect_grace=1.0,
            backoff=backoff or reconnect_backoff(),
            on_event=ServerHealth("r:1", ask_nothing, on_event=self._tell),
            on_connected=lambda: None,
        )

    def _tell(self, event: RedisEvent) -> None:
        if isinstance(event, Connected | ConnectionLost | ConnectFailed):
            self.events.append(event)

    def gaps(self) -> list[float]:
        return [later - earlier for earlier, later in zip(self.attempts, self.attempts[1:], strict=False)]


def test_pauses_grow_to_their_cap_with_half_of_each_at_random() -> None:
    backoff = reconnect_backoff()
    for failures, full in ((0, 0.05), (1, 0.1), (4, 0.8), (6, 2.0), (100, 2.0)):
        drawn = [pause(backoff, failures) for _ in range(200)]
        assert all(full / 2 <= seconds <= full for seconds in drawn)
        assert len(set(drawn)) > 100
    assert all(pause(REPEAT_BACKOFF, failures) <= 0.5 for failures in range(50))


def test_a_year_of_failures_does_not_overflow() -> None:
    # 2**1024 is more than a float can hold.
    assert pause(reconnect_backoff(), 20_000_000) <= 2.0


def test_the_kind_of_failure_decides_the_pause() -> None:
    backoff = reconnect_backoff()
    assert reconnect_pause(backoff, WRONGPASS, 0) == reconnect_pause(backoff, WRONGPASS, 99) == SETTINGS_RETRY
    assert reconnect_pause(backoff, LOADING, 99) == NOT_SERVING_RETRY
    assert reconnect_pause(backoff, REFUSED, 0) <= 0.05


async def test_nothing_is_attempted_before_a_connection_is_wanted() -> None:
    bench = Bench([])
    role = bench.reconnecting()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(role.run)
        await trio.sleep(1_000)
        assert bench.attempts == []
        assert not role.status().wanted
        assert bench.queues[Role.COMMAND].is_closed
        connection = await role.wait_open()
        assert connection.is_open
        assert bench.queues[Role.COMMAND] is connection.pipeline
        nursery.cancel_scope.cancel()
    assert len(bench.attempts) == 1
    assert bench.queues[Role.COMMAND].is_closed


async def test_a_long_outage_is_one_record_and_attempts_never_end() -> None:
    bench = Bench([Outcome(REFUSED)] * 1_000_000)
    role = bench.reconnecting()
    with trio.move_on_after(3_600):
        role.want()
        await role.run()
    assert [type(event) for event in bench.events] == [ConnectFailed]
    assert max(bench.gaps()) <= 2.0
    assert 3_600 / 2.0 <= len(bench.attempts) <= 3_600 / 1.0 + 20


async def test_reasons_that_take_turns_are_told_once_each() -> None:
    bench = Bench([Outcome(REFUSED), Outcome(SILENT)] * 20 + [Outcome(LOADING)])
    role = bench.reconnecting()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(role.run)
        await role.wait_connected()
        nursery.cancel_scope.cancel()
    told = [event.problem for event in bench.events if isinstance(event, ConnectFailed)]
    assert told == [REFUSED, SILENT, LOADING]
    connected = bench.events[-1]
    assert isinstance(connected, Connected)
    assert connected.attempts == 41
    assert connected.down_seconds == pytest.approx(bench.attempts[-1] - bench.attempts[0])


async def test_settings_failures_are_retried_every_thirty_seconds_and_named_at_once() -> None:
    bench = Bench([Outcome(WRONGPASS)] * 4)
    role = bench.reconnecting()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(role.run)
        with pytest.raises(RedisUnavailable, match="WRONGPASS") as refused:
            await role.wait_open()
        assert refused.value.next_step == "correct it. Changes in Redis are noticed within 30 s."
        assert trio.current_time() == bench.attempts[0]
        await role.wait_connected()
        nursery.cancel_scope.cancel()
    assert bench.gaps() == pytest.approx([30.0] * 4)
    assert [type(event) for event in bench.events] == [ConnectFailed, Connected]


async def test_what_only_a_change_here_helps_says_nothing_of_redis() -> None:
    bench = Bench([Outcome(NO_TLS)])
    role = bench.reconnecting()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(role.run)
        with pytest.raises(RedisUnavailable) as refused:
            await role.wait_open()
        nursery.cancel_scope.cancel()
    assert refused.value.next_step == "set it"


async def test_a_loading_server_is_asked_every_half_second() -> None:
    bench = Bench([Outcome(LOADING)] * 10)
    role = bench.reconnecting()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(role.run)
        await role.wait_connected()
        nursery.cancel_scope.cancel()
    assert bench.gaps() == pytest.approx([0.5] * 10)


async def test_a_connection_that_worked_is_replaced_at_once_one_that_did_not_after_a_pause() -> None:
    flapping = [Outcome(SILENT, lives_seconds=0.1)] * 30
    bench = Bench([Outcome(SILENT, lives_seconds=60), *flapping])
    role = bench.reconnecting()
    role.want()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(role.run)
        await trio.sleep(600)
        nursery.cancel_scope.cancel()
    assert bench.gaps()[0] == pytest.approx(60)
    assert all(0.9 < gap < 2.2 for gap in bench.gaps()[10:30])
    lost = [event for event in bench.events if isinstance(event, ConnectionLost)]
    assert lost[0].up_seconds == pytest.approx(60)
    assert lost[0].problem == SILENT


async def test_callers_wait_for_the_grace_time_after_a_loss_and_not_longer() -> None:
    bench = Bench([Outcome(SILENT, lives_seconds=60), *[Outcome(REFUSED)] * 1_000])
    role = bench.reconnecting()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(role.run)
        await role.wait_open()
        await trio.sleep(60.4)
        # 0.4 s after the loss: 0.6 s are left.
        started = trio.current_time()
        with pytest.raises(RedisUnavailable, match="Connection refused"):
            await role.wait_open()
        assert trio.current_time() - started == pytest.approx(0.6)
        started = trio.current_time()
        with pytest.raises(RedisUnavailable):
            await role.wait_open()
        assert trio.current_time() == started
        nursery.cancel_scope.cancel()


async def test_a_first_attempt_that_takes_its_time_is_waited_for() -> None:
    """A host with a thousand new clients may take longer than the grace time to connect once."""
    role = Bench([Outcome(SILENT, connects_seconds=3, lives_seconds=60)]).reconnecting()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(role.run)
        with pytest.raises(RedisUnavailable, match="no connection yet"):
            await role.wait_open(trio.current_time() + 2)
        assert (await role.wait_open(trio.current_time() + 5)).is_open
        assert trio.current_time() == pytest.approx(3, abs=0.1)
        nursery.cancel_scope.cancel()


async def test_a_first_attempt_that_fails_late_is_not_waited_for_again() -> None:
    role = Bench([Outcome(REFUSED, connects_seconds=3)] * 1_000).reconnecting()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(role.run)
        started = trio.current_time()
        with pytest.raises(RedisUnavailable, match="Connection refused"):
            await role.wait_open(started + 5)
        assert trio.current_time() - started == pytest.approx(3)
        nursery.cancel_scope.cancel()


async def test_callers_wait_no_longer_than_their_deadline() -> None:
    role = Bench([Outcome(REFUSED)] * 1_000).reconnecting()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(role.run)
        started = trio.current_time()
        with pytest.raises(RedisUnavailable):
            await role.wait_open(started + 0.3)
        assert trio.current_time() - started == pytest.approx(0.3)
        nursery.cancel_scope.cancel()


async def test_a_wait_within_the_grace_time_ends_with_the_new_connection() -> None:
    bench = Bench([Outcome(SILENT, lives_seconds=60), Outcome(REFUSED), Outcome(REFUSED)])
    role = bench.reconnecting()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(role.run)
        first = await role.wait_open()
        await trio.sleep(60.001)
        second = await role.wait_open()
        assert second is not first
        assert trio.current_time() - bench.attempts[0] < 60.3
        nursery.cancel_scope.cancel()


async def test_a_connection_that_is_just_closing_is_no_reason_to_give_up() -> None:
    bench = Bench([Outcome(SILENT, lives_seconds=60, closes_seconds=0.1)])
    role = bench.reconnecting()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(role.run)
        await role.wait_open()
        await trio.sleep(60.05)
        assert role.connection is None
        assert (await role.wait_open()).is_open
        assert trio.current_time() - bench.attempts[0] == pytest.approx(60.1)
        nursery.cancel_scope.cancel()


async def test_status_tells_since_when_and_why() -> None:
    bench = Bench([Outcome(REFUSED), Outcome(SILENT, lives_seconds=60), *[Outcome(REFUSED)] * 1_000])
    role = bench.reconnecting()
    assert role.status().seconds == 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(role.run)
        await role.wait_connected()
        await trio.sleep(10)
        up = role.status()
        assert (up.connected, up.server, up.failed_attempts) == (True, "redis 7.0.15", 0)
        assert up.seconds == pytest.approx(10)
        await trio.sleep(55)
        down = role.status()
        assert (down.connected, down.server, down.problem) == (False, "", REFUSED)
        assert down.failed_attempts > 2
        assert down.seconds == pytest.approx(5)
        nursery.cancel_scope.cancel()
