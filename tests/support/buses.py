"""The domain over real servers, without sockets and MCP."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

import pytest
import trio
import trio.testing

from redstreamd.redisio.client import Redis
from redstreamd.redisio.connection_manager import Manager, Role
from redstreamd.redisio.target import Target
from redstreamd.settings import Settings
from redstreamd.streams.bounds import DEFAULT_BOUNDS, Bounds
from redstreamd.streams.bus import Bus
from redstreamd.streams.lease_tokens import LeaseKey
from tests.support.servers import Server

KEY = LeaseKey(b"a key for tests, 32 bytes long..")

#: For a test of the domain that one server is enough for.
ON_REDIS = pytest.mark.parametrize("server", ["redis"], indirect=True)

T = TypeVar("T")


@asynccontextmanager
async def running_bus(
    server: Server,
    settings: Settings | None = None,
    key: LeaseKey = KEY,
    bounds: Bounds = DEFAULT_BOUNDS,
) -> AsyncIterator[Bus]:
    """Run one daemon's domain on `server` for the block, with lease tokens signed by `key`."""
    manager = Manager(Target(path=server.path))
    bus = Bus.over(Redis(manager), settings or Settings(), key, bounds)
    async with trio.open_nursery() as nursery:
        await nursery.start(manager.run)
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
        await bus.redis.execute("PING", key=None, role=Role.WATCH, retry_safe=True)
        await trio.testing.wait_all_tasks_blocked()
        if before[1] == tasks and (bus.hub.statistics(), bus.hub.waiting) == before:
            return


class BusThread:
    """Several daemons' domains in a thread of their own, for tests that are not async.

    Hypothesis's state machines call ordinary functions; the connections must outlive each call.
    """

    def __init__(
        self, server: Server, count: int, settings: Settings | None = None, bounds: Bounds = DEFAULT_BOUNDS
    ) -> None:
        self.buses: list[Bus] = []
        self._ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._main, server, count, settings, bounds))
        self._thread.start()
        assert self._ready.wait(20)

    async def _main(self, server: Server, count: int, settings: Settings | None, bounds: Bounds) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._stop = trio.Event()
        async with AsyncExitStack() as stack:
            for _ in range(count):
                self.buses.append(
                    await stack.enter_async_context(running_bus(server, settings, bounds=bounds))
                )
            self._ready.set()
            await self._stop.wait()

    def call(self, function: Callable[..., Awaitable[T]], *args: object) -> T:
        """Run an async function in the thread and return what it returns, within 20 s."""

        async def bounded() -> T:
            with trio.fail_after(20):
                return await function(*args)

        return trio.from_thread.run(bounded, trio_token=self._token)

    def close(self) -> None:
        """Stop the thread."""
        trio.from_thread.run_sync(self._stop.set, trio_token=self._token)
        self._thread.join(20)
        assert not self._thread.is_alive()
