"""Marks of progress on a virtual clock."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from redstreamd.service.progress import Marks


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Trio with a clock that jumps as soon as everybody waits."""
    return ("trio", {"clock": MockClock(autojump_threshold=0)})


async def test_a_mark_is_fresh_for_as_long_as_it_may_be_old_and_then_stale() -> None:
    marks = Marks()
    mark = marks.register("hub", max_age_seconds=5)
    await trio.sleep(5)
    assert marks.stale() == ()
    await trio.sleep(1)
    [late] = marks.stale()
    assert (late.name, late.age_seconds, late.max_age_seconds) == ("hub", pytest.approx(6), 5)
    assert str(late) == "hub showed no progress for 6.0 s (allowed: 5 s)"
    mark.beat()
    assert marks.stale() == ()


async def test_nothing_is_expected_of_a_part_that_waits_for_the_outside() -> None:
    marks = Marks()
    mark = marks.register("acceptor", max_age_seconds=5)
    with mark.idle():
        await trio.sleep(1000)
        assert marks.stale() == ()
    await trio.sleep(4)
    assert marks.stale() == ()
    await trio.sleep(2)
    assert [late.name for late in marks.stale()] == ["acceptor"]


async def test_idle_blocks_may_be_nested() -> None:
    marks = Marks()
    mark = marks.register("acceptor", max_age_seconds=5)
    with mark.idle():
        with mark.idle():
            await trio.sleep(10)
        await trio.sleep(10)
        assert marks.stale() == ()


async def test_a_mark_goes_with_its_part_however_that_ends() -> None:
    marks = Marks()
    with pytest.raises(ValueError, match="crash"), marks.register("hub", max_age_seconds=5):
        raise ValueError("crash")
    await trio.sleep(100)
    assert marks.stale() == ()


async def test_marks_of_one_name_count_each_by_itself() -> None:
    """A part that is restarted registers again while its former life may still be ending."""
    marks = Marks()
    former = marks.register("hub", max_age_seconds=5)
    await trio.sleep(4)
    marks.register("hub", max_age_seconds=5)
    former.close()
    former.close()
    await trio.sleep(3)
    assert marks.stale() == ()
    await trio.sleep(3)
    assert len(marks.stale()) == 1
