"""Long lists of consumers are asked for once for all who ask; short ones each time."""

from __future__ import annotations

import pytest
import trio

from redstreamd.streams import long_lists
from redstreamd.streams.bus import Bus
from redstreamd.streams.consumer_lists import ConsumerList, ConsumerLists

KEY = ("s", "g")


class CountedLists(ConsumerLists):
    """Lists of consumers that count how often the server was asked."""

    asked = 0

    async def _list(self, key: tuple[str, str]) -> ConsumerList:
        self.asked += 1
        return await super()._list(key)


async def add_consumers(bus: Bus, first: int, last: int) -> None:
    for number in range(first, last + 1):
        await bus.redis.execute("XGROUP", "CREATECONSUMER", *KEY, f"c{number}", key="s")


async def test_those_who_ask_at_the_same_time_share_a_list(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_lists, "FRESH_SECONDS", 1_000.0)
    await bus.redis.execute("XGROUP", "CREATE", *KEY, "0", "MKSTREAM", key="s")
    await add_consumers(bus, 1, long_lists.FEW + 1)
    lists, found = CountedLists(bus.redis), []

    async def ask() -> None:
        found.append(await lists.of(KEY))

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(ask)
    assert lists.asked == 1
    assert [len(each) for each in found] == [long_lists.FEW + 1] * 50
    await add_consumers(bus, long_lists.FEW + 2, long_lists.FEW + 2)
    # It is used for a while, unless somebody has to know.
    assert len(await lists.of(KEY)) == long_lists.FEW + 1
    lists.forget(KEY)
    assert len(await lists.of(KEY)) == long_lists.FEW + 2


async def test_few_consumers_are_listed_each_time(bus: Bus) -> None:
    await bus.redis.execute("XGROUP", "CREATE", *KEY, "0", "MKSTREAM", key="s")
    lists = ConsumerLists(bus.redis)
    for number in range(1, 4):
        await add_consumers(bus, number, number)
        listed = await lists.of(KEY)
        assert list(listed.consumers) == [f"c{each}" for each in range(1, number + 1)]
