"""Deadlines: each function is called at its time, and never once it was removed."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from redstreamd.streams.deadlines import Deadline, Deadlines


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Trio with a clock that jumps as soon as everybody waits."""
    return ("trio", {"clock": MockClock(autojump_threshold=0)})


@asynccontextmanager
async def running_deadlines() -> AsyncIterator[Deadlines]:
    deadlines = Deadlines()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(deadlines.run)
        yield deadlines
        nursery.cancel_scope.cancel()


async def test_each_is_called_at_its_time_and_none_that_was_removed() -> None:
    rng = random.Random(5)
    called: dict[int, float] = {}
    added: list[Deadline] = []
    removed: set[int] = set()
    async with running_deadlines() as deadlines:
        began = trio.current_time()
        for number in range(2_000):
            at = trio.current_time() + rng.uniform(0, 100)
            added.append(
                deadlines.add(at, lambda number=number: called.setdefault(number, trio.current_time()))
            )
            if rng.random() < 0.7:
                chosen = rng.randrange(len(added))
                for _ in range(2):
                    deadlines.remove(added[chosen])
                if chosen not in called:
                    removed.add(chosen)
            if rng.random() < 0.01:
                await trio.sleep(0.1)
        assert len(deadlines) == len(added) - len(removed) - len(called)
        await trio.sleep(101)
        assert len(deadlines) == 0
    assert trio.current_time() - began > 101
    assert called.keys() == set(range(2_000)) - removed
    assert all(added[number].at <= when < added[number].at + 0.001 for number, when in called.items())


async def test_a_sooner_one_that_comes_later_is_called_in_time() -> None:
    called: list[float] = []
    async with running_deadlines() as deadlines:
        began = trio.current_time()

        def call() -> None:
            called.append(trio.current_time() - began)
            if len(called) == 1:
                deadlines.add(began + 2, call)

        deadlines.add(began + 10, call)
        await trio.sleep(0.5)
        deadlines.add(began + 1, call)
        await trio.sleep(20)
    assert called == pytest.approx([1, 2, 10])


async def test_those_that_were_removed_do_not_pile_up() -> None:
    async with running_deadlines() as deadlines:
        for _ in range(10_000):
            deadlines.remove(deadlines.add(trio.current_time() + 1_000, lambda: None))
        assert len(deadlines) == 0
        assert len(deadlines._heap) < 1_000
