"""The one line of `systemctl status` says what `redstreamd status` does."""

from __future__ import annotations

import re

import pytest
from mcp.server.lowlevel import Server as McpServer

from redstreamd.daemon.status_line import StatusLine
from redstreamd.errors import BusError
from redstreamd.mcpio.acceptor import Acceptor
from redstreamd.mcpio.protocol_eras import Kernels
from redstreamd.redisio.node import Role
from redstreamd.streams.bus import Bus
from tests.support.buses import ON_REDIS, running_bus
from tests.support.servers import Server, start_redis
from tests.support.waiting import until


@ON_REDIS
async def test_the_line_says_how_busy_the_daemon_is_and_how_far_redis(bus: Bus, server: Server) -> None:
    line = StatusLine(bus, Acceptor([], Kernels(McpServer("test"))))
    await bus.redis.wait_connected()
    assert line() == f"0 connections, 0 waits, 0 entries/s; Redis at {server.path}"


@ON_REDIS
async def test_the_line_says_that_newcomers_are_rejected(bus: Bus, server: Server) -> None:
    line = StatusLine(bus, Acceptor([], Kernels(McpServer("test")), room=lambda: 0))
    assert line().startswith("0 connections (as many as can be: newcomers may be rejected), 0 waits")


@ON_REDIS
async def test_a_server_that_refuses_writes_is_degraded(bus: Bus, server: Server) -> None:
    line = StatusLine(bus, Acceptor([], Kernels(McpServer("test"))))
    try:
        server.command("CONFIG", "SET", "maxmemory", 1)
        with pytest.raises(BusError):
            await bus.redis.xadd("s", [(b"f", b"v")])
    finally:
        server.command("CONFIG", "SET", "maxmemory", 0)
    refused = rf"DEGRADED: Redis at {re.escape(server.path)}: Redis refuses writes \(for \d+ s now\): "
    assert re.match(refused, line())


async def test_any_missing_connection_is_degraded() -> None:
    with start_redis() as server:
        async with running_bus(server) as bus:
            line = StatusLine(bus, Acceptor([], Kernels(McpServer("test"))))
            await bus.redis.wait_connected()
            await bus.redis.wait_connected(Role.BULK)
            client = await bus.redis.execute("CLIENT", "ID", key=None, role=Role.BULK)
            await bus.redis.execute("CONFIG", "SET", "maxclients", 1, key=None)
            await bus.redis.execute("CLIENT", "KILL", "ID", client, key=None)
            await until(lambda: line().startswith("DEGRADED"))
            assert "no connection for large reads: " in line()
            assert bus.redis.status().roles[Role.COMMAND].connected
