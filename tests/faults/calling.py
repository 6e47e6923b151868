"""Calls on the bus and on the daemon's tools, in the one form that `tests.support.history` takes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol

import trio
from redis.backoff import ConstantBackoff

from redstreamd.errors import BusError, Code
from redstreamd.redisio.client import Redis
from redstreamd.redisio.standalone import Standalone
from redstreamd.redisio.target import Target
from redstreamd.settings import Settings
from redstreamd.streams.bounds import DEFAULT_BOUNDS, Bounds
from redstreamd.streams.bus import Bus
from redstreamd.streams.entry_encoding import Stamp
from tests.support.buses import KEY
from tests.support.history import Add


@asynccontextmanager
async def bus_at(
    target: Target, settings: Settings | None = None, bounds: Bounds = DEFAULT_BOUNDS, **options: Any
) -> AsyncIterator[Bus]:
    """Run one daemon's domain for the block, with the given options of its connection topology."""
    topology = Standalone.of(target, **options)
    bus = Bus.over(Redis(topology), settings or Settings(), KEY, bounds)
    async with trio.open_nursery() as nursery:
        await nursery.start(topology.run)
        await nursery.start(bus.hub.run)
        yield bus
        nursery.cancel_scope.cancel()


#: For runs that cut connections many times a second: pauses as short as the cuts are frequent, and callers
#: who wait for the next connection also where that takes longer than a second.
QUICK: Mapping[str, Any] = {"backoff": ConstantBackoff(0.01), "connect_grace": 5.0}


def by_bus(bus: Bus, stream: str) -> Add:
    """Add through the domain."""

    async def add(entry: dict[str, Any], key: str | None) -> tuple[str, bool]:
        added = await bus.publisher.add(stream, [entry], Stamp(), idempotency_key=key)
        return added.ids[0], added.duplicate

    return add


class Caller(Protocol):
    """A client that nobody else uses at the same time."""

    async def call_tool(self, name: str, arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Send a `tools/call` and return its answer."""


def by_tool(client: Caller, stream: str) -> Add:
    """Add through the daemon's tool."""

    async def add(entry: dict[str, Any], key: str | None) -> tuple[str, bool]:
        more = {} if key is None else {"idempotency_key": key}
        answer = await tool(client, "stream_add", stream=stream, entries=[entry], **more)
        return answer["ids"][0], answer.get("duplicate", False)

    return add


async def tool(client: Caller, name: str, **arguments: Any) -> dict[str, Any]:
    """Call a tool and return its structured content.

    Raises:
        BusError: The tool answered with an error; as the agent sees it.
    """
    result = (await client.call_tool(name, arguments))["result"]
    content: dict[str, Any] = result["structuredContent"]
    if result["isError"]:
        raise BusError(
            Code(content["code"]), content["message"], cause=content["cause"], next_step=content["next_step"]
        )
    return content
