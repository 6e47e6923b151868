"""What is different on Redis 6.2, and is served all the same."""

from __future__ import annotations

import pytest
import trio

from redstreamd.redisio.client import Redis
from redstreamd.redisio.standalone import Standalone
from redstreamd.redisio.target import Target
from redstreamd.streams.bus import Bus
from redstreamd.streams.tail_hub import TailHub
from tests.support.calls import call, refusal
from tests.support.servers import Server

STREAM, GROUP = "orders:new:stream", "g"


@pytest.fixture
def server(redis62_server: Server) -> Server:
    redis62_server.flush()
    return redis62_server


async def test_what_it_does_not_count_is_unknown_and_not_invented(bus: Bus, server: Server) -> None:
    server.commands(("XADD", "s", "1-1", "a", "1"), ("XGROUP", "CREATE", "s", GROUP, "0"))
    shape = await bus.streams.info("s")
    assert (shape.length, shape.groups, shape.last_id) == (1, 1, "1-1")
    assert shape.added is shape.deleted_id is None
    (group,) = await bus.redis.xinfo_groups("s")
    assert (group.name, group.last_delivered_id) == (GROUP, "0-0")
    assert group.entries_read is group.lag is None


async def test_where_tracking_is_refused_the_hub_polls(server: Server) -> None:
    server.command("ACL", "SETUSER", "limited", "on", ">pw", "~*", "+@all", "-client")
    try:
        topology = Standalone.of(Target(path=server.path, username="limited", password="pw"))
        hub = TailHub(Redis(topology), poll_seconds=0.05)
        async with trio.open_nursery() as nursery:
            await nursery.start(topology.run)
            await nursery.start(hub.run)
            with hub.watch(["s"]) as watch:
                for _ in range(3):
                    watch.reset()
                    await watch.changed()
                assert not hub.statistics().tracking
            nursery.cancel_scope.cancel()
    finally:
        server.command("ACL", "DELUSER", "limited")


async def test_the_main_job_is_done_and_refusals_inside_scripts_are_explained(
    bus: Bus, server: Server
) -> None:
    place = {"stream": STREAM, "group": GROUP}
    added = await call(bus, "stream_add", stream=STREAM, entries=[{"n": 1}, {"n": 2}])
    taken = await call(bus, "work_take", consumer="c", count=2, **place)
    assert [entry["id"] for entry in taken["entries"]] == added["ids"]
    assert (await call(bus, "work_done", lease=taken["lease"]))["done"] == added["ids"]
    server.command("SET", "orders:new:text", "x")
    text = {"stream": "orders:new:text", "group": GROUP, "consumer": "c"}
    assert (await refusal(bus, "work_take", **text))["code"] == "WRONG_TYPE"
    server.command("DEL", STREAM)
    assert (await refusal(bus, "work_done", lease=taken["lease"]))["code"] == "STREAM_NOT_FOUND"
