"""Long lists of groups and consumers are asked for once for all who ask; short ones each time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import cast

import pytest
import trio

from redstreamd.presentation.daemon_health import DaemonHealth
from redstreamd.presentation.views import Views
from redstreamd.streams import long_lists
from redstreamd.streams.admin.stream_admin import Removal
from redstreamd.streams.bus import Bus
from redstreamd.streams.consumer_lists import ConsumerList, ConsumerLists
from redstreamd.streams.group_lists import GroupLists
from redstreamd.streams.subscriptions.topics import GroupTopic
from tests.support.servers import Server
from tests.support.waiting import until

KEY = ("s", "g")


class CountedLists(ConsumerLists):
    """Lists of consumers that count how often the server was asked."""

    asked = 0

    async def _list(self, key: tuple[str, str]) -> ConsumerList:
        self.asked += 1
        return await super()._list(key)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    """Up to how many consumers are few; lists of more are used for a long time."""
    monkeypatch.setattr(long_lists, "FRESH_SECONDS", 1_000.0)
    monkeypatch.setattr(long_lists, "SHORT", 1)
    return 1


async def add_consumers(bus: Bus, first: int, last: int) -> None:
    for number in range(first, last + 1):
        await bus.redis.execute("XGROUP", "CREATECONSUMER", *KEY, f"c{number}", key="s")


async def create(bus: Bus, consumers: int, *, group: str = "g") -> None:
    await bus.redis.execute("XGROUP", "CREATE", "s", group, "0", "MKSTREAM", key="s")
    await add_consumers(bus, 1, consumers)


async def test_those_who_ask_at_the_same_time_share_a_list(bus: Bus, few: int) -> None:
    await create(bus, few + 1)
    lists, found = CountedLists(bus.redis), []

    async def ask() -> None:
        found.append(await lists.of(KEY))

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(ask)
    assert lists.asked == 1
    assert [len(each) for each in found] == [few + 1] * 50
    await add_consumers(bus, few + 2, few + 2)
    # It is used for a while, unless somebody has to know.
    assert len(await lists.of(KEY)) == few + 1
    lists.forget(KEY)
    assert len(await lists.of(KEY)) == few + 2


async def test_few_consumers_are_listed_each_time(bus: Bus) -> None:
    await create(bus, 0)
    lists = ConsumerLists(bus.redis)
    for number in range(1, 4):
        await add_consumers(bus, number, number)
        listed = await lists.of(KEY)
        assert list(listed.consumers) == [f"c{each}" for each in range(1, number + 1)]


async def test_up_to_a_thousand_consumers_are_listed_each_time(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_lists, "FRESH_SECONDS", 1_000.0)
    await create(bus, 999)
    lists = CountedLists(bus.redis)
    for number in (1_000, 1_001, 1_002):
        await add_consumers(bus, number, number)
        await lists.of(KEY)
    assert (len(await lists.of(KEY)), lists.asked) == (1_001, 2)


class SlowLists(ConsumerLists):
    """Lists of consumers whose making takes until it is let go on."""

    def __init__(self, bus: Bus) -> None:
        super().__init__(bus.redis)
        self.made: list[trio.Event] = []

    async def _list(self, key: tuple[str, str]) -> ConsumerList:
        listed = await super()._list(key)
        go_on = trio.Event()
        self.made.append(go_on)
        await go_on.wait()
        return listed


async def test_who_asks_after_a_list_was_forgotten_gets_none_that_was_made_before(bus: Bus, few: int) -> None:
    await create(bus, few + 1)
    lists, found = SlowLists(bus), {}

    async def ask(who: str) -> None:
        found[who] = len(await lists.of(KEY))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, "before")
        await until(lambda: len(lists.made) == 1)
        await add_consumers(bus, few + 2, few + 2)
        lists.forget(KEY)
        nursery.start_soon(ask, "after")
        await until(lambda: len(lists.made) == 2)
        # In either order: the older list is not kept instead of the newer.
        lists.made[1].set()
        await until(lambda: "after" in found)
        lists.made[0].set()
    assert found == {"before": few + 1, "after": few + 2}
    assert len(await lists.of(KEY)) == few + 2
    assert len(lists.made) == 2


async def test_a_list_whose_time_is_over_is_dropped_though_nobody_asks(
    bus: Bus, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_lists, "FRESH_SECONDS", 0.05)
    await create(bus, few + 1)
    await create(bus, 0, group="h")
    for lists, key in ((bus.redis.shared(ConsumerLists), KEY), (bus.redis.shared(GroupLists), "s")):
        await lists.of(key)  # type: ignore[arg-type]
        assert lists.kept_items == few + 1
        await until(lambda lists=lists: lists.kept_items == 0)


async def test_lists_are_kept_up_to_a_number_of_items(
    bus: Bus, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_lists, "_MAX_KEPT", 5)
    lists = bus.redis.shared(ConsumerLists)
    for name, count in (("g", 3), ("h", 2), ("i", 2), ("j", 6)):
        await bus.redis.execute("XGROUP", "CREATE", "s", name, "0", "MKSTREAM", key="s")
        for number in range(count):
            await bus.redis.execute("XGROUP", "CREATECONSUMER", "s", name, f"c{number}", key="s")
        assert len(await lists.of(("s", name))) == count
        # The oldest goes for a newer one, and one that is too long is not kept.
        assert lists.kept_items == {"g": 3, "h": 5, "i": 4, "j": 4}[name]
    bus.forget()
    assert lists.kept_items == 0


async def shown(bus: Bus) -> tuple[list[str], list[str]]:
    """Return the groups and the consumers of a group that are shown."""
    views = Views(bus, cast("DaemonHealth", None))
    groups = [each["name"] for each in (await views.stream("s"))["groups"]]
    return groups, [each["name"] for each in (await views.group("s", "g"))["consumers"]]


async def remove_consumer(bus: Bus) -> None:
    await bus.groups.remove_consumer("s", "g", "c1", heir=None, heir_seconds=None)


async def create_group(bus: Bus) -> None:
    await bus.work.create_group("s", "new", "0")


async def destroy_and_create(bus: Bus) -> None:
    await bus.groups.destroy("s", "g", delete_dead_letters=False)
    await bus.work.create_group("s", "g", "0")


async def delete_and_create(bus: Bus) -> None:
    info = await bus.streams.info("s")
    await bus.streams.remove(info, Removal.DELETE, [], execute=True, force=True)
    await bus.work.create_group("s", "g", "0")


@pytest.mark.parametrize(
    ("change", "groups", "consumers"),
    [
        (remove_consumer, ["g", "h"], ["c2", "c3"]),
        (create_group, ["g", "h", "new"], ["c1", "c2", "c3"]),
        (destroy_and_create, ["g", "h"], []),
        (delete_and_create, ["g"], []),
    ],
)
async def test_what_redstreamd_changed_is_shown_at_once(
    bus: Bus, few: int, change: Callable[[Bus], Awaitable[None]], groups: list[str], consumers: list[str]
) -> None:
    await create(bus, few + 2)
    await create(bus, 0, group="h")
    assert await shown(bus) == (["g", "h"], ["c1", "c2", "c3"])
    await change(bus)
    assert await shown(bus) == (groups, consumers)


async def test_whoever_is_notified_of_a_group_reads_its_consumers_as_they_are(
    bus: Bus, server: Server, few: int
) -> None:
    await create(bus, few + 1)
    server.command("XADD", "s", "*", "a", "1")
    topic, views = GroupTopic("s", "g"), Views(bus, cast("DaemonHealth", None))

    async def pending() -> dict[str, int]:
        return {each["name"]: each["pending"] for each in (await views.group("s", "g"))["consumers"]}

    known = await topic.read_version(bus)
    assert await pending() == {"c1": 0, "c2": 0}
    # Another program takes, of which no list knows.
    server.command("XREADGROUP", "GROUP", "g", "c1", "STREAMS", "s", ">")
    assert await topic.read_version(bus) != known
    assert await pending() == {"c1": 1, "c2": 0}
