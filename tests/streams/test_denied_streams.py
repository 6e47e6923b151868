"""Streams that the daemon's user of Redis may not access are not listed, nor named by a cursor."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest
import trio

from redstreamd.presentation.daemon_health import DaemonHealth
from redstreamd.presentation.views import Views
from redstreamd.redisio.client import Redis
from redstreamd.redisio.standalone import Standalone
from redstreamd.redisio.target import Target
from redstreamd.settings import Settings
from redstreamd.streams import listing
from redstreamd.streams.bus import Bus
from redstreamd.streams.listing import ASKED_AT_ONCE, MAX_ASKED
from tests.support.buses import KEY, ON_REDIS
from tests.support.servers import Server

#: In their order some that may be accessed stand before, between and after others.
NAMES = [f"{name:03}:{'open' if name in (3, 4, 40, 90) else 'secret'}" for name in range(100)]


@asynccontextmanager
async def fenced_bus(server: Server) -> AsyncIterator[Bus]:
    """Run a domain whose user of Redis may access `*:open` only."""
    server.command("ACL", "SETUSER", "fenced", "reset", "on", ">pw", "~*:open*", "+@all")
    topology = Standalone.of(Target(path=server.path, username="fenced", password="pw"))
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(topology.run)
            yield Bus.over(Redis(topology), Settings(), KEY)
            nursery.cancel_scope.cancel()
    finally:
        server.command("ACL", "DELUSER", "fenced")


@ON_REDIS
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 50, 100, 200])
async def test_pages_and_cursors_name_no_stream_that_may_not_be_accessed(server: Server, count: int) -> None:
    for name in NAMES:
        server.command("XADD", name, "*", "f", "v")
    async with fenced_bus(server) as bus:
        listed, cursors = await _paged(bus, count)
        assert listed == [name for name in NAMES if name.endswith("open")]
        assert [cursor for cursor in cursors if "secret" in cursor] == []
        # As many as are asked for, however many others stand between.
        assert len(cursors) <= len(listed) // count + 1
        nothing = await bus.lister.page("*secret", cursor=None, count=count)
    assert nothing == ([], "", False)


async def _paged(bus: Bus, count: int = 100, cursor: str | None = None) -> tuple[list[str], list[str]]:
    """Return the streams of all pages that follow, and their cursors."""
    listed, cursors, more = [], [], True
    while more:
        lines, cursor, more = await bus.lister.page("*", cursor=cursor, count=count)
        assert len(lines) <= count
        listed += [line.stream for line in lines]
        cursors.append(cursor)
    return listed, cursors


def _asked(server: Server) -> int:
    """Return how many scripts were run or refused."""
    for line in server.command("INFO", "commandstats").decode().splitlines():
        name, _, figures = line.partition(":")
        if name == "cmdstat_evalsha":
            counted = dict(part.split("=") for part in figures.split(","))
            return int(counted["calls"]) + int(counted.get("rejected_calls", 0))
    return 0


@ON_REDIS
async def test_streams_behind_a_long_row_that_may_not_be_accessed_are_reached(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The machine may be slow.
    monkeypatch.setattr(listing, "FRESH_SECONDS", 1_000.0)
    monkeypatch.setattr(listing, "PAGING_SECONDS", 1_000.0)
    server.command(
        "EVAL",
        "for i = 1, ARGV[1] do redis.call('XADD', string.format('%06d:secret', i), '*', 'f', 'v') end",
        0,
        2 * MAX_ASKED + 500,
    )
    for name in ("000000:open", "9:open"):
        server.command("XADD", name, "*", "f", "v")
    async with fenced_bus(server) as bus:
        # Connected: what was listed before is of another server.
        await bus.lister.position("9:open")
        lines, cursor, more = await bus.lister.page("*", cursor=None, count=100)
        assert ([line.stream for line in lines], more) == (["000000:open"], True)
        assert "secret" not in cursor
        before = _asked(server)
        second = await bus.lister.page("*", cursor=cursor, count=100)
        assert (second[0], second[2]) == ([], True)
        assert "secret" not in second[1]
        # Those of the first page are not asked for anew, neither by the second nor by the page of another.
        assert _asked(server) - before <= MAX_ASKED * (1 + 1 / ASKED_AT_ONCE) + 1
        before = _asked(server)
        listed, _ = await _paged(bus)
        assert listed == ["000000:open", "9:open"]
        assert _asked(server) - before <= 600
        assert (await _paged(bus, cursor=second[1]))[0] == ["9:open"]
        # A name is a cursor, too.
        assert (await _paged(bus, cursor="000000:open"))[0] == ["9:open"]
        # A daemon that did not give the cursor counts.
        async with fenced_bus(server) as other:
            assert (await _paged(other, cursor=second[1]))[0] == ["9:open"]


@ON_REDIS
@pytest.mark.parametrize("count", [1, 7, 100])
async def test_a_call_asks_for_a_bounded_number_of_streams_also_where_some_are_listed(
    server: Server, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "MAX_ASKED", 30)
    for name in NAMES:
        server.command("XADD", name, "*", "f", "v")
    async with fenced_bus(server) as bus:
        await bus.lister.page("*", cursor=None, count=count)
        before = _asked(server)
        await bus.lister.page("*", cursor="004:open", count=count)
        # Each alone, and one question for so many at a time.
        assert _asked(server) - before <= 30 + 30 // min(max(count, 1), ASKED_AT_ONCE) + 2
        listed, cursors = await _paged(bus, count)
    assert listed == [name for name in NAMES if name.endswith("open")]
    assert [cursor for cursor in cursors if "secret" in cursor] == []


@ON_REDIS
async def test_streams_that_go_meanwhile_make_a_page_skip_none(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "MAX_ASKED", 30)
    for name in NAMES:
        server.command("XADD", name, "*", "f", "v")
    async with fenced_bus(server) as bus:
        lines, cursor, more = await bus.lister.page("*", cursor=None, count=100)
        assert ([line.stream for line in lines], more) == (["003:open", "004:open"], True)
        server.command("DEL", *[name for name in NAMES[5:40] if name.endswith("secret")])
        assert (await _paged(bus, cursor=cursor))[0] == ["040:open", "090:open"]


@ON_REDIS
async def test_the_resource_of_the_first_streams_is_answered_where_these_may_not_be_accessed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "MAX_ASKED", 30)
    for name in NAMES[5:]:
        server.command("XADD", name, "*", "f", "v")
    async with fenced_bus(server) as bus:
        shown = await Views(bus, cast("DaemonHealth", None)).streams()
        assert (shown["streams"], shown["has_more"]) == ([], True)
        assert (await _paged(bus, cursor=shown["next_cursor"]))[0] == ["040:open", "090:open"]
