"""Marks of progress on a virtual clock."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from redstreamd.service.heartbeats import Heartbeats


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Trio with a clock that jumps as soon as everybody waits."""
    return ("trio", {"clock": MockClock(autojump_threshold=0)})


async def test_a_mark_is_fresh_for_as_long_as_it_may_be_old_and_then_stale() -> None:
    heartbeats = Heartbeats()
    heartbeat = heartbeats.register("hub", max_age_seconds=5)
    await trio.sleep(5)
    assert heartbeats.stale() == ()
    await trio.sleep(1)
    [late] = heartbeats.stale()
    assert (late.name, late.age_seconds, late.max_age_seconds) == ("hub", pytest.approx(6), 5)
    assert str(late) == "hub showed no progress for 6.0 s (allowed: 5 s)"
    heartbeat.beat()
    assert heartbeats.stale() == ()


async def test_nothing_is_expected_of_a_part_that_waits_for_the_outside() -> None:
    heartbeats = Heartbeats()
    heartbeat = heartbeats.register("acceptor", max_age_seconds=5)
    with heartbeat.idle():
        await trio.sleep(1000)
        assert heartbeats.stale() == ()
    await trio.sleep(4)
    assert heartbeats.stale() == ()
    await trio.sleep(2)
    assert [late.name for late in heartbeats.stale()] == ["acceptor"]


async def test_idle_blocks_may_be_nested() -> None:
    heartbeats = Heartbeats()
    heartbeat = heartbeats.register("acceptor", max_age_seconds=5)
    with heartbeat.idle():
        with heartbeat.idle():
            await trio.sleep(10)
        await trio.sleep(10)
        assert heartbeats.stale() == ()


async def test_a_mark_goes_with_its_part_however_that_ends() -> None:
    heartbeats = Heartbeats()
    with pytest.raises(ValueError, match="crash"), heartbeats.register("hub", max_age_seconds=5):
        raise ValueError("crash")
    await trio.sleep(100)
    assert heartbeats.stale() == ()


async def test_marks_of_one_name_count_each_by_itself() -> None:
    """A part that is restarted registers again while its former life may still be ending."""
    heartbeats = Heartbeats()
    former = heartbeats.register("hub", max_age_seconds=5)
    await trio.sleep(4)
    heartbeats.register("hub", max_age_seconds=5)
    former.close()
    former.close()
    await trio.sleep(3)
    assert heartbeats.stale() == ()
    await trio.sleep(3)
    assert len(heartbeats.stale()) == 1
