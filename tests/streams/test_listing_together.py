"""Many who list streams at the same time: they share what is the same, and wait for each other otherwise."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from redstreamd.errors import BusError, Code
from redstreamd.redisio.every_node import ScanCursor
from redstreamd.streams import listing
from redstreamd.streams.bus import Bus
from tests.support.buses import ON_REDIS
from tests.support.servers import Server


class Watched:
    """Takes the place of a bus's SCAN; counts the looks that begin and those at the same time."""

    def __init__(self, bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = self.now = self.most = 0
        self.go_on = trio.Event()
        self.fail = False
        self._scan = bus.redis.scan_streams
        monkeypatch.setattr(bus.redis, "scan_streams", self)

    async def __call__(self, cursor: ScanCursor | None, *how: Any) -> tuple[ScanCursor | None, list[str]]:
        self.begun += cursor is None
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self.go_on.wait()
            if self.fail:
                raise BusError(Code.CONNECTION_ERROR, "away", cause="test", next_step="test")
            return await self._scan(cursor, *how)
        finally:
            self.now -= 1


@ON_REDIS
async def test_who_asks_for_the_same_shares_a_look_that_began_after_the_question(
    bus: Bus, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.command("XADD", "s:1", "1-1", "a", "b")
    found: list[list[str]] = []

    async def ask(bus: Bus) -> None:
        found.append(list(await bus.lister.names("*")))

    async with trio.open_nursery() as nursery:
        watched = Watched(bus, monkeypatch)
        nursery.start_soon(ask, bus)
        await trio.testing.wait_all_tasks_blocked()
        server.command("XADD", "s:2", "1-1", "a", "b")
        for _ in range(100):
            nursery.start_soon(ask, bus)
        await trio.testing.wait_all_tasks_blocked()
        watched.go_on.set()
    assert len(found) == 101
    assert found[1:] == [["s:1", "s:2"]] * 100
    assert watched.begun == 2
    assert not bus.lister.scans


@ON_REDIS
async def test_who_asks_for_something_else_waits_and_failures_and_cancelled_calls_hold_up_nobody(
    bus: Bus, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.command("XADD", "s:1", "1-1", "a", "b")
    watched = Watched(bus, monkeypatch)
    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(bus.lister.names, f"{number}*")
            nursery.start_soon(bus.lister.names, f"{number}*")
        await trio.testing.wait_all_tasks_blocked()
        assert watched.now == listing.MAX_SCANS_AT_ONCE
        nursery.cancel_scope.cancel()
    watched.fail = True
    watched.go_on.set()
    for _ in range(3):
        with pytest.raises(BusError):
            await bus.lister.names("*")
    watched.fail = False
    assert list(await bus.lister.names("*")) == ["s:1"]
    assert watched.most == listing.MAX_SCANS_AT_ONCE
    assert not bus.lister.scans
