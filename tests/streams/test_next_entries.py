"""Waits for the next entries, on real servers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio

from redstreamd.streams import entry_ids
from redstreamd.streams.bounds import Bounds
from redstreamd.streams.bus import Bus
from redstreamd.streams.entry_encoding import Stamp
from redstreamd.streams.entry_pages import Batch
from redstreamd.streams.next_entries import Waited
from redstreamd.streams.shared_pages import SharedPages
from tests.streams.test_reading import fill
from tests.support.buses import asleep
from tests.support.servers import Server
from tests.support.waiting import until


@pytest.mark.bounds(Bounds(filter_scanned=150))
async def test_a_wait_with_a_filter_looks_through_all_there_is(bus: Bus) -> None:
    ids = await fill(bus, "s", 500)
    # Nothing is added meanwhile, so nothing but its own search can find the entry.
    waited = await bus.next_entries.wait(["s"], cursor="0-0", filter={"n": 400}, timeout_seconds=15)
    assert [entry.id for _, entry in waited.entries] == [ids[400]]
    # Without time one call looks as far as one call may, and the next one goes on.
    cursor, calls = "0-0", 0
    while True:
        waited = await bus.next_entries.wait(["s"], cursor=cursor, filter={"n": 499}, timeout_seconds=0)
        cursor, calls = waited.cursor_after(len(waited.entries)), calls + 1
        if waited.entries:
            break
    assert calls == 4


@pytest.mark.bounds(Bounds(filter_scanned=1_000, scanned_at_once=20))
@pytest.mark.parametrize("comes", [False, True])
async def test_a_search_for_a_wait_ends_with_those_who_wait(
    bus: Bus, comes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await fill(bus, "s", 1_000)
    replies, gone = 0, trio.CancelScope()
    found: list[Waited] = []
    read = SharedPages.read

    async def look(self: SharedPages, *args: Any, **kwargs: Any) -> Batch:
        nonlocal replies
        replies += 1
        if replies == 3:
            gone.cancel()
        return await read(self, *args, **kwargs)

    monkeypatch.setattr(SharedPages, "read", look)
    wait = partial(bus.next_entries.wait, ["s"], cursor="0-0", filter={"n": 999}, timeout_seconds=20)
    async with trio.open_nursery() as nursery:
        with gone:
            await wait()
        assert gone.cancelled_caught
        if comes:
            # While that ends.
            nursery.start_soon(_put, wait, found)
        await until(lambda: len(bus.places) == 0)
    if comes:
        assert [[entry.id for _, entry in each.entries] for each in found] == [ids[999:]]
    else:
        assert replies == 3


async def _put(wait: Callable[[], Awaitable[Waited]], into: list[Waited]) -> None:
    into.append(await wait())


async def test_a_wait_without_a_cursor_sees_only_what_comes_after_it(bus: Bus) -> None:
    async with trio.open_nursery() as nursery:
        await fill(bus, "s", 3)
        waited = []

        async def wait() -> None:
            waited.append(await bus.next_entries.wait(["s", "not:yet:there"], timeout_seconds=10))

        nursery.start_soon(wait)
        # The positions are taken before the first look, and both keys are armed: it waits.
        await asleep(bus)
        await bus.reader.read("s")
        assert not waited
        (late,) = (await bus.publisher.add("not:yet:there", [{"n": "late"}], Stamp())).ids
        await until(lambda: waited)
        assert [(stream, entry.id) for stream, entry in waited[0].entries] == [("not:yet:there", late)]


async def test_a_wait_that_ends_empty_gives_back_its_cursor(bus: Bus) -> None:
    ids = await fill(bus, "s", 3)
    waited = await bus.next_entries.wait(["s"], cursor=ids[-1], timeout_seconds=0.05)
    assert waited.entries == []
    assert waited.cursor_after(0) == ids[-1]
    absent = await bus.next_entries.wait(["s", "t"], timeout_seconds=0)
    assert absent.absent == ["t"]


async def test_waits_on_several_streams_go_through_everything_once(bus: Bus) -> None:
    """Whatever the count, and however much of an answer is passed on, following the cursor loses nothing."""
    names = ["a", "b", "c"]
    expected = {(name, entry_id) for name in names for entry_id in await fill(bus, name, 20)}
    for count, passed_on in [(1, 1), (7, 7), (7, 3), (100, 100), (100, 1), (30, 25)]:
        seen: list[tuple[str, str]] = []
        cursor = bus_cursor(names)
        while True:
            waited = await bus.next_entries.wait(names, cursor=cursor, count=count, timeout_seconds=0)
            if not waited.entries:
                break
            kept = waited.entries[:passed_on]
            seen += [(stream, entry.id) for stream, entry in kept]
            cursor = waited.cursor_after(len(kept))
        assert len(seen) == len(expected)
        assert set(seen) == expected


@pytest.mark.parametrize(("count", "passed_on"), [(2, 2), (1, 1), (10, 1)])
async def test_a_stream_that_never_runs_dry_does_not_hold_up_the_others(
    bus: Bus, server: Server, count: int, passed_on: int
) -> None:
    """Neither where the count is less than there is, nor where less is passed on."""
    names = ["a", "b", "c", "d"]
    for name in names[1:]:
        server.command("XADD", name, "1-1", "f", "v")
    cursor, seen = bus_cursor(names), list[str]()
    for n in range(1, 61):
        server.commands(*[["XADD", "a", f"{n}-{part}", "f", "v"] for part in range(1, 11)])
        waited = await bus.next_entries.wait(names, cursor=cursor, count=count, timeout_seconds=0)
        kept = waited.entries[:passed_on]
        seen += [stream for stream, _ in kept]
        cursor = waited.cursor_after(len(kept))
    assert sorted(set(seen)) == names
    assert [seen.count(name) for name in names[1:]] == [1, 1, 1]


def bus_cursor(names: list[str]) -> str:
    return entry_ids.join_cursor(names, ["0-0"] * len(names))


async def test_a_filtered_wait_sleeps_through_what_does_not_match(bus: Bus) -> None:
    async with trio.open_nursery() as nursery:
        waited = []

        async def wait() -> None:
            waited.append(await bus.next_entries.wait(["s"], filter={"n": 5}, timeout_seconds=10))

        nursery.start_soon(wait)
        await asleep(bus)
        ids = await fill(bus, "s", 10)
        await until(lambda: waited)
        assert [entry.id for _, entry in waited[0].entries] == [ids[5]]


async def test_a_cancelled_wait_leaves_nothing_behind(bus: Bus) -> None:
    for _ in range(20):
        with trio.move_on_after(0.005):
            await bus.next_entries.wait(["s", "t"], cursor=None, timeout_seconds=100)
    assert bus.hub.statistics().watches == 0
    assert bus.hub.statistics().keys == 0
