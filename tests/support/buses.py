"""The domain over real servers, without sockets and MCP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
import trio.testing

from redstreamd.redisio import Role
from redstreamd.redisio.client import Redis
from redstreamd.redisio.topologies import topology_for
from redstreamd.settings import Settings
from redstreamd.streams.bounds import DEFAULT_BOUNDS, Bounds
from redstreamd.streams.bus import Bus
from redstreamd.streams.entry_encryption import Encryption
from redstreamd.streams.lease_tokens import LeaseKey
from tests.support.topologies import Deployed, deployment_of
from tests.support.trio_thread import TrioThread

KEY = LeaseKey(b"a key for tests, 32 bytes long..")

#: For a test of the domain that one server is enough for.
ON_REDIS = pytest.mark.parametrize("server", ["redis"], indirect=True)


@asynccontextmanager
async def running_bus(
    server: Deployed,
    settings: Settings | None = None,
    key: LeaseKey = KEY,
    bounds: Bounds = DEFAULT_BOUNDS,
    encryption: Encryption | None = None,
) -> AsyncIterator[Bus]:
    """Run one daemon's domain on `server` for the block, with lease tokens signed by `key`."""
    topology = topology_for(deployment_of(server))
    bus = Bus.over(Redis(topology), settings or Settings(), key, bounds, encryption=encryption)
    async with trio.open_nursery() as nursery:
        await nursery.start(topology.run)
        await nursery.start(bus.hub.run)
        yield bus
        nursery.cancel_scope.cancel()


async def asleep(bus: Bus, tasks: int = 1) -> None:
    """Return once so many tasks wait for the hub to wake them, and nothing is on its way that would.

    That the hub knows their keys does not say so: whoever begins to wait looks before that, and looks again
    when it is so; and what it did meanwhile, such as making its stream, is a change that wakes it once more.
    """
    while True:
        before = bus.hub.statistics(), bus.hub.waiting
        # A push comes before the reply to what is asked after the change; so does the reply to the hub.
        await bus.redis.ping(role=Role.WATCH)
        await trio.testing.wait_all_tasks_blocked()
        if before[1] == tasks and (bus.hub.statistics(), bus.hub.waiting) == before:
            return


class BusThread(TrioThread[list[Bus]]):
    """Several daemons' domains in a thread of their own; see `TrioThread`."""

    def __init__(
        self,
        server: Deployed,
        count: int,
        settings: Settings | None = None,
        bounds: Bounds = DEFAULT_BOUNDS,
        encryption: Callable[[], Encryption] = Encryption,
    ) -> None:
        super().__init__(_several(server, count, settings, bounds, encryption))

    @property
    def buses(self) -> list[Bus]:
        """The domains."""
        return self.value


@asynccontextmanager
async def _several(
    server: Deployed,
    count: int,
    settings: Settings | None,
    bounds: Bounds,
    encryption: Callable[[], Encryption],
) -> AsyncIterator[list[Bus]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                running_bus(server, settings, bounds=bounds, encryption=encryption())
            )
            for _ in range(count)
        ]
