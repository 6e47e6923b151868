"""Those who rely on a server are told once whether it is there, and it is asked only if it is silent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
from redis.exceptions import ResponseError
from trio.testing import MockClock

from redstreamd.redisio import connect_errors
from redstreamd.redisio.redis_errors import ReplyLost
from redstreamd.streams.deadlines import Deadlines
from redstreamd.streams.life_signs import QUIET_SECONDS, LifeSigns


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Trio with a clock that jumps as soon as everybody waits."""
    return ("trio", {"clock": MockClock(autojump_threshold=0)})


class Waiter:
    """Notes what it is told."""

    keys = frozenset([b"s"])

    def __init__(self) -> None:
        self.told: list[bool] = []
        self.began = trio.current_time()

    def heard(self, at: float) -> None:
        assert self.began < at
        self.told.append(True)

    def unheard(self) -> None:
        self.told.append(False)


@pytest.mark.parametrize(
    ("reply", "is_there"),
    [
        (b"PONG", True),
        (ResponseError("MISCONF it cannot save"), True),
        (ReplyLost(connect_errors.SHUTTING_DOWN), False),
    ],
)
async def test_a_silent_server_is_asked_once_for_all(reply: object, is_there: bool) -> None:
    asked: list[Callable[[Any], None]] = []
    deadlines = Deadlines()
    signs = LifeSigns(deadlines, asked.append)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(deadlines.run)
        signs.note()
        waiters = [Waiter() for _ in range(100)]
        for waiter in waiters:
            # All in the time until it is asked.
            await trio.sleep(QUIET_SECONDS / 200)
            signs.expect(waiter, trio.current_time())
            signs.expect(waiter, trio.current_time())
        await trio.sleep(QUIET_SECONDS)
        assert len(asked) == 1
        assert not any(waiter.told for waiter in waiters)
        asked.pop()(reply)
        assert all(waiter.told == [is_there] for waiter in waiters)
        await trio.sleep(10 * QUIET_SECONDS)
        assert not asked
        nursery.cancel_scope.cancel()


async def test_a_server_that_talks_is_not_asked() -> None:
    asked: list[Callable[[Any], None]] = []
    deadlines = Deadlines()
    signs = LifeSigns(deadlines, asked.append)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(deadlines.run)
        waiters = [Waiter() for _ in range(100)]
        for waiter in waiters:
            signs.expect(waiter, trio.current_time())
            await trio.sleep(QUIET_SECONDS / 3)
            signs.note()
        await trio.sleep(2 * QUIET_SECONDS)
        assert not asked
        assert all(waiter.told == [True] for waiter in waiters)
        nursery.cancel_scope.cancel()


async def test_what_was_heard_before_is_no_sign_and_who_comes_again_and_again_is_told() -> None:
    asked: list[Callable[[Any], None]] = []
    deadlines = Deadlines()
    signs = LifeSigns(deadlines, asked.append)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(deadlines.run)
        signs.note()
        waiter = Waiter()
        for _ in range(5):
            await trio.sleep(QUIET_SECONDS / 3)
            signs.expect(waiter, trio.current_time())
        assert len(asked) == 1
        assert not waiter.told
        nursery.cancel_scope.cancel()
