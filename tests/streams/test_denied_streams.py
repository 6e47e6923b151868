"""Streams that the daemon's user of Redis may not access are not listed, nor named by a cursor."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from redstreamd.errors import BusError
from redstreamd.redisio.client import Redis
from redstreamd.redisio.standalone import Standalone
from redstreamd.redisio.target import Target
from redstreamd.settings import Settings
from redstreamd.streams.bus import Bus
from redstreamd.streams.listing import MAX_PASSED
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
        listed: list[str] = []
        cursors: list[str] = []
        more, cursor = True, None
        while more:
            lines, cursor, more = await bus.lister.page("*", cursor=cursor, count=count)
            assert len(lines) <= count
            listed += [line.stream for line in lines]
            cursors.append(cursor)
        assert listed == [name for name in NAMES if name.endswith("open")]
        assert [cursor for cursor in cursors if "secret" in cursor] == []
        # As many as are asked for, however many others stand between.
        assert len(cursors) <= len(listed) // count + 1
        nothing = await bus.lister.page("*secret", cursor=None, count=count)
    assert nothing == ([], "", False)


@ON_REDIS
async def test_a_long_row_of_streams_that_may_not_be_accessed_is_an_error_that_names_none(
    server: Server,
) -> None:
    server.command(
        "EVAL",
        "for i = 1, ARGV[1] do redis.call('XADD', string.format('%06d:secret', i), '*', 'f', 'v') end",
        0,
        MAX_PASSED + 500,
    )
    for name in ("000000:open", "9:open"):
        server.command("XADD", name, "*", "f", "v")
    async with fenced_bus(server) as bus:
        lines, cursor, more = await bus.lister.page("*", cursor=None, count=100)
        assert ([line.stream for line in lines], cursor, more) == (["000000:open"], "000000:open", True)
        with pytest.raises(BusError, match="Too many streams") as refused:
            await bus.lister.page("*", cursor=cursor, count=100)
        assert "secret" not in str(refused.value)
        lines, _, more = await bus.lister.page("9*", cursor=None, count=100)
    assert ([line.stream for line in lines], more) == (["9:open"], False)
