"""Scans of all streams while another server takes the place of the one that is scanned; both have the same.

A position of SCAN belongs to one process: each has an order of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import attrs
import pytest
import trio

from redstreamd.redisio.client import Redis
from redstreamd.redisio.node import Node
from redstreamd.redisio.target import Deployment
from redstreamd.redisio.topologies import topology_for
from redstreamd.redisio.topology import Topology
from redstreamd.settings import Settings
from redstreamd.streams.bus import Bus
from redstreamd.streams.known_names import KnownStreams
from redstreamd.streams.listing import FEW_KEYS
from redstreamd.streams.names import quarantine_of
from tests.redisio.running import over_tcp
from tests.support.buses import KEY
from tests.support.scripted_sentinel import deployment_of, scripted_sentinels
from tests.support.servers import Server, start_redis
from tests.support.waiting import until

NAMES = sorted(f"s:{number:04}" for number in range(FEW_KEYS + 500))


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Server, Server]]:
    with start_redis() as one, start_redis() as other:
        yield one, other


@pytest.fixture(autouse=True)
def _filled(servers: tuple[Server, Server]) -> None:
    for server in servers:
        server.commands(("FLUSHALL",), *(("XADD", name, "1-1", "f", "v") for name in NAMES))


@attrs.define
class Moving:
    """A bus whose one node can be given the other server.

    Attributes:
        bus: It.
        move: Has the other server be used, and returns once it is.
        positions: Which were asked for so far.
        at_step: At which step it moves by itself, once that is answered.
    """

    bus: Bus
    move: Callable[[], Awaitable[None]]
    positions: list[int] = attrs.field(factory=list)
    at_step: int | None = None

    def __attrs_post_init__(self) -> None:
        scan = self.bus.redis.scan_node

        async def scan_node(node: Node, position: int, pattern: str, count: int) -> tuple[int, list[str]]:
            self.positions.append(position)
            found = await scan(node, position, pattern, count)
            if len(self.positions) == self.at_step:
                await self.move()
            return found

        self.bus.redis.scan_node = scan_node  # type: ignore[method-assign]


@contextlib.asynccontextmanager
async def _running(
    topology: Topology, move: Callable[[], Awaitable[None]], to: Server
) -> AsyncIterator[Moving]:
    async def move_and_wait() -> None:
        await move()
        await until(lambda: topology.nodes()[0].target.port == to.port)
        await topology.wait_connected()

    async with trio.open_nursery() as nursery:
        await nursery.start(topology.run)
        await topology.wait_connected()
        yield Moving(Bus.over(Redis(topology), Settings(), KEY), move_and_wait)
        nursery.cancel_scope.cancel()


@pytest.fixture(params=["failover", "reload"])
async def moving(request: pytest.FixtureRequest, servers: tuple[Server, Server]) -> AsyncIterator[Moving]:
    old, new = servers
    async with scripted_sentinels(3) as sentinels:
        for one in sentinels:
            one.names(old, epoch=1)
        deployment = deployment_of(sentinels) if request.param == "failover" else Deployment(over_tcp(old))
        topology = topology_for(deployment)

        async def move() -> None:
            if request.param == "failover":
                for one in sentinels:
                    one.names(new, epoch=2)
            else:
                topology.retarget(Deployment(over_tcp(new)), command_timeout=5.0)

        async with _running(topology, move, new) as running:
            yield running


async def test_a_listing_has_each_stream_once(moving: Moving) -> None:
    moving.at_step = 4
    assert list(await moving.bus.lister.names("*")) == NAMES
    assert moving.positions[4] == 0


async def test_a_listing_of_the_former_server_is_not_used_again(
    moving: Moving, servers: tuple[Server, Server]
) -> None:
    lister = moving.bus.lister
    assert list(await lister.names("*")) == NAMES
    servers[1].command("XADD", "t", "1-1", "f", "v")
    assert list(await lister.names("*", goes_on=True)) == NAMES
    await moving.move()
    assert list(await lister.names("*", goes_on=True)) == [*NAMES, "t"]


async def test_what_waits_for_a_release_is_listed_for_each_stream(
    moving: Moving, servers: tuple[Server, Server]
) -> None:
    held = NAMES[::10]
    for server in servers:
        server.commands(*(("XADD", quarantine_of(name), "1-1", "_rs.quarantine", name) for name in held))
    moving.at_step = 4
    found = await moving.bus.quarantine.streams(lambda _name: True)
    assert sorted(each.stream for each in found) == held
    assert moving.positions[4] == 0


async def test_names_for_hints_are_taken_from_the_beginning(moving: Moving) -> None:
    known = moving.bus.redis.shared(KnownStreams)
    assert await known.names()
    assert moving.positions == [0]
    await moving.move()
    known._until = 0.0
    assert await known.names()
    assert moving.positions == [0, 0]


async def test_a_step_that_another_server_answered_begins_again(moving: Moving) -> None:
    """It was asked to go on where its predecessor had been, which may be its own end."""
    redis = moving.bus.redis
    cursor, _ = await redis.scan_streams(None, "*", 10)
    assert cursor is not None
    assert cursor.position
    scan = redis.scan_node

    async def at_the_end(node: Node, position: int, pattern: str, count: int) -> tuple[int, list[str]]:
        await moving.move()
        _, names = await scan(node, position, pattern, count)
        return 0, names

    redis.scan_node = at_the_end  # type: ignore[method-assign]
    cursor, _ = await redis.scan_streams(cursor, "*", 10)
    redis.scan_node = scan  # type: ignore[method-assign]
    assert cursor is not None
    await redis.scan_streams(cursor, "*", 10)
    assert moving.positions[-1] == 0
