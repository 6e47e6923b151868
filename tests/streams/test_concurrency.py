"""Asking for many names: together, and never more at once than leaves room for everybody else."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from redstreamd.errors import BusError, Code
from redstreamd.streams.concurrency import MAX_IN_FLIGHT, gather


class Asked:
    """Answers once it is told to; knows how many ask at the moment, and how many did at most."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.answer = trio.Event()

    async def __call__(self, name: str) -> str:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self.answer.wait()
            await trio.lowlevel.checkpoint()
        finally:
            self.now -= 1
        return name.upper()


NAMES = [f"s{number}" for number in range(100)]


async def test_calls_that_ask_for_many_names_wait_for_each_other_and_get_all_answers() -> None:
    asked, answers = Asked(), list[dict[str, str]]()

    async def ask() -> None:
        answers.append(await gather(asked, NAMES))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        assert asked.now == MAX_IN_FLIGHT
        # Whoever asks for one thing only does not wait.
        alone = Asked()
        alone.answer.set()
        assert await gather(alone, ["one"]) == {"one": "ONE"}
        asked.answer.set()
    assert answers == [{name: name.upper() for name in NAMES}] * 20
    assert asked.most == MAX_IN_FLIGHT


async def test_calls_that_fail_or_are_cancelled_give_the_room_back() -> None:
    async def fail(name: str) -> str:
        await trio.lowlevel.checkpoint()
        raise BusError(Code.CONNECTION_ERROR, name, cause="test", next_step="test")

    with pytest.raises(BusError):
        await gather(fail, NAMES)
    for give_up in (trio.testing.wait_all_tasks_blocked, trio.lowlevel.checkpoint):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(gather, Asked(), NAMES)
            await give_up()
            nursery.cancel_scope.cancel()
    full = Asked()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gather, full, NAMES)
        await trio.testing.wait_all_tasks_blocked()
        assert full.now == MAX_IN_FLIGHT
        full.answer.set()
