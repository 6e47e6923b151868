"""What is served, and what is told, while one of the nodes of a cluster is away."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio

from redstreamd.errors import BusError, Code
from redstreamd.metrics.page_figures import Page, _add_redis
from redstreamd.presentation.daemon_health import DaemonHealth
from redstreamd.redisio import Role
from redstreamd.redisio.server_health import State
from redstreamd.streams import entry_ids
from redstreamd.streams.bus import Bus
from redstreamd.streams.error_context import stream_not_found
from redstreamd.streams.next_entries import Waited
from redstreamd.streams.subscriptions.feeds import Feeds
from redstreamd.streams.subscriptions.updates import Updates
from tests.support.buses import running_bus
from tests.support.redis_cluster import Cluster, running_cluster
from tests.support.waiting import until


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One that goes on without a node, which nobody replaces."""
    with running_cluster(replicas=0, node_timeout_ms=60_000) as cluster:
        yield cluster


async def armed(bus: Bus, *names: str) -> None:
    """Return once the keys are armed."""
    await until(lambda: 0 not in bus.hub.armed_by([name.encode() for name in names]))


async def test_streams_of_other_nodes_are_served_and_the_missing_node_is_named(cluster: Cluster) -> None:
    lost, *others = cluster.keys_on_each("away")
    node = cluster.node_of(lost)
    cluster.commands(*(("XADD", name, "1-1", "f", "v") for name in (lost, *others)))
    async with running_bus(cluster) as bus:
        await bus.redis.wait_connected(Role.BULK)
        waited: list[Waited] = []

        async def wait() -> None:
            waited.append(await bus.next_entries.wait([lost, *others], timeout_seconds=120))

        health = DaemonHealth(bus.redis, bus.hub, Updates(Feeds(bus)), version="1")
        well = (await health.report())["redis"]
        assert (well["topology"], well["ping"]["answered"], well["troubles"]) == ("cluster", True, [])
        assert [each["address"] for each in well["nodes"]] == [
            f"127.0.0.1:{each.port}" for each in cluster.primaries()
        ]
        assert all(each["ping"]["answered"] for each in well["nodes"])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await until(lambda: bus.hub.waiting == 1)
            await armed(bus, lost, *others)
            cluster.kill(node)
            await until(lambda: not bus.redis.is_connected(Role.BULK, key=lost))
            with pytest.raises(BusError) as away:
                await bus.reader.read(lost)
            assert away.value.code == Code.CONNECTION_ERROR
            assert str(node.port) in away.value.message

            # One who waits already is woken by the others, and one who comes gets what they have.
            assert not waited
            cluster.node_of(others[0]).command("XADD", others[0], "*", "f", "v")
            await until(lambda: bool(waited))
            assert [stream for stream, _ in waited[0].entries] == [others[0]]
            # The lost stream stays where it was.
            assert waited[0].positions[lost] == "1-1"
        names = [lost, *others]
        again = await bus.next_entries.wait(
            names, cursor=entry_ids.join_cursor(names, ["0-0", "1-1", "1-1"]), timeout_seconds=0
        )
        assert [stream for stream, _ in again.entries] == [others[0]]
        assert again.positions[lost] == "0-0"

        # A wait at nothing new says what is missing, when it begins.
        with pytest.raises(BusError) as nothing:
            await bus.next_entries.wait(names, cursor=again.cursor_after(1), timeout_seconds=60)
        assert nothing.value.code == Code.CONNECTION_ERROR

        # Hints of an error are those of the nodes that are there.
        not_found = await stream_not_found(bus.redis, others[0] + "x")
        assert not_found.code == Code.STREAM_NOT_FOUND

        # A listing would look complete.
        with pytest.raises(BusError) as listing:
            await bus.lister.names("*")
        assert str(node.port) in listing.value.message

        report = (await health.report())["redis"]
        assert report["ping"]["answered"] is False
        assert f"127.0.0.1:{node.port}" in report["ping"]["cause"]
        pings = {each["address"]: each["ping"]["answered"] for each in report["nodes"]}
        assert pings == {f"127.0.0.1:{each.port}": each is not node for each in cluster.nodes}
        troubles = {each["address"]: bool(each["troubles"]) for each in report["nodes"]}
        assert troubles == {address: not answered for address, answered in pings.items()}
        assert any(f"127.0.0.1:{node.port}: " in each["cause"] for each in report["troubles"])

        page = Page()
        _add_redis(page, bus.redis)
        assert page.rows["redstreamd_redis_nodes"] == [((), 3)]
        assert {label: usable for (label,), usable in page.rows["redstreamd_redis_node_usable"]} == pings
        # Those that are not usable come first.
        assert page.rows["redstreamd_redis_node_usable"][0][1] == 0

        status = bus.redis.status()
        assert (status.name, status.state) == ("Redis cluster of 3 nodes", State.DEGRADED)
        with pytest.raises(BusError) as ping:
            await bus.redis.ping()
        assert str(node.port) in ping.value.message
        await bus.redis.ping_any()

        # It is back without its data; nobody has to ask for the connection.
        cluster.restart(node)
        await until(lambda: bus.redis.status().state is State.USABLE)
        await bus.redis.ping()
        with bus.hub.watch([lost]) as watch:
            await armed(bus, lost)
            watch.reset()
            cluster.command("XADD", lost, "*", "f", "v")
            await watch.changed()
