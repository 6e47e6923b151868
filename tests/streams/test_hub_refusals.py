"""One key that cannot be watched keeps nobody from being woken for another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from redstreamd.redisio.client import Redis
from redstreamd.redisio.standalone import Standalone
from redstreamd.redisio.target import Target
from redstreamd.streams.tail_hub import TailHub
from tests.support.servers import Server, start_redis
from tests.support.waiting import until

#: Far beyond what a push takes, far below the sweep that would wake everybody in its place.
PATIENCE = 60


@asynccontextmanager
async def running_hub(target: Target) -> AsyncIterator[TailHub]:
    topology = Standalone.of(target)
    hub = TailHub(Redis(topology), sweep_seconds=3_600)
    async with trio.open_nursery() as nursery:
        await nursery.start(topology.run)
        await nursery.start(hub.run)
        yield hub
        nursery.cancel_scope.cancel()


async def all_are_woken(hub: TailHub, server: Server, names: list[str]) -> None:
    """Watch the names, change one after the other, and see its watcher woken by that."""
    with hub.watch(names[:1]) as first, hub.watch(names[1:2]) as second, hub.watch(names[2:]) as third:
        for name, watch in zip(names, (first, second, third), strict=True):
            with trio.fail_after(PATIENCE):
                # Armed: woken once to look.
                await watch.changed()
                watch.reset()
                server.command("XADD", name, "*", "a", "b")
                await watch.changed()


@pytest.fixture
def limited(redis: Server) -> Iterator[Target]:
    redis.command("ACL", "SETUSER", "limited", "reset", "on", ">pw", "~mine:*", "+@all")
    yield Target(path=redis.path, username="limited", password="pw")
    redis.command("ACL", "DELUSER", "limited")


async def test_a_key_that_the_user_may_not_read_leaves_the_others_watched(
    redis: Server, limited: Target
) -> None:
    async with running_hub(limited) as hub:
        with hub.watch(["theirs", "mine:0"]) as watch:
            # Its watchers look, too, and are told what is wrong.
            await watch.changed()
            await all_are_woken(hub, redis, ["mine:1", "mine:2", "mine:3"])


async def test_a_refused_key_is_not_asked_for_again_before_the_next_sweep(
    redis: Server, limited: Target
) -> None:
    async with running_hub(limited) as hub:
        with hub.watch(["theirs"], is_eager=True) as watch, hub.watch(["mine:x"]) as other:
            await watch.changed()
            await other.changed()
            armings = hub.statistics().armings
            async with trio.open_nursery() as nursery:
                watch.reset()
                nursery.start_soon(watch.changed)
                await trio.testing.wait_all_tasks_blocked()
                # What it would send is answered before these.
                for _ in range(10):
                    other.reset()
                    redis.command("XADD", "mine:x", "*", "a", "b")
                    await other.changed()
                assert watch.waiting
                nursery.cancel_scope.cancel()
            assert hub.statistics().armings == armings + 10


async def test_keys_in_several_slots_of_a_cluster_are_watched() -> None:
    with start_redis("--cluster-enabled", "yes") as cluster:
        cluster.command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        await until(lambda: b"cluster_state:ok" in cluster.command("CLUSTER", "INFO"))
        async with running_hub(Target(path=cluster.path)) as hub:
            await all_are_woken(hub, cluster, ["a", "b", "c"])
