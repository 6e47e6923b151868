"""The tail hub on three nodes: each key is armed where it is served, wherever it moves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import pytest
import trio

from redstreamd.redisio import Role
from redstreamd.redisio.client import Redis
from redstreamd.redisio.cluster import Cluster as Topology
from redstreamd.settings import Settings
from redstreamd.streams.bus import Bus
from redstreamd.streams.names import quarantine_of
from redstreamd.streams.next_entries import Waited
from redstreamd.streams.tail_hub import TailHub
from redstreamd.streams.watches import Watch
from tests.redisio.running import calls
from tests.support.buses import asleep, running_bus
from tests.support.measured import measured
from tests.support.redis_cluster import Cluster, running_cluster
from tests.support.servers import Server
from tests.support.waiting import until

#: In which a change wakes; far below a sweep, which is half a minute.
SOON_SECONDS = 10


@pytest.fixture(
    scope="module",
    params=["redis", *(pytest.param(kind, marks=pytest.mark.soak) for kind in ("valkey", "redis8"))],
)
def shared(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with running_cluster(kind=request.param, replicas=0, node_timeout_ms=60_000) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared: Cluster) -> Cluster:
    shared.flush()
    return shared


async def armed(bus: Bus, *names: str) -> None:
    """Return once the keys are armed."""
    await until(lambda: 0 not in bus.hub.armed_by([name.encode() for name in names]))


def armed_at(bus: Bus, name: str) -> int | None:
    """Return the port of the node that is to push the next change of a key."""
    key = bus.hub._keys.all[name.encode()]
    return key.at.node.target.port if key.armed and key.at is not None else None


def other_than(cluster: Cluster, node: Server) -> Server:
    return next(one for one in cluster.primaries() if one is not node)


async def test_waits_at_a_hundred_streams_of_all_nodes_are_each_woken(cluster: Cluster) -> None:
    names = [f"s:{number}" for number in range(100)]
    nodes = {name: cluster.node_of(name).port for name in names}
    assert len(set(nodes.values())) == 3
    # Half of them exist.
    cluster.commands(*(("XADD", name, "1-1", "f", "v") for name in names[::2]))
    found: dict[str, Waited] = {}
    async with running_bus(cluster) as bus:

        async def wait(name: str) -> None:
            found[name] = await bus.next_entries.wait([name], timeout_seconds=60)

        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(wait, name)
            await until(lambda: bus.hub.waiting == 100)
            await armed(bus, *names)
            assert bus.hub.statistics().tracking
            assert {name: armed_at(bus, name) for name in names} == nodes
            with trio.fail_after(SOON_SECONDS):
                for name in names:
                    cluster.command("XADD", name, "*", "n", name)
                await until(lambda: len(found) == 100)
    assert {name: waited.entries[0][1].fields for name, waited in found.items()} == {
        name: ((b"n", name.encode()),) for name in names
    }


async def test_one_wait_at_streams_of_all_nodes_gets_what_any_of_them_gets(cluster: Cluster) -> None:
    names = cluster.keys_on_each()
    async with running_bus(cluster) as bus:
        for name in names:
            found: list[Waited] = []

            async def wait(found: list[Waited] = found) -> None:
                found.append(await bus.next_entries.wait(names, timeout_seconds=60))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                await until(lambda: bus.hub.waiting == 1)
                await armed(bus, *names)
                with trio.fail_after(SOON_SECONDS):
                    cluster.command("XADD", name, "*", "f", "v")
                    await until(lambda found=found: bool(found))
            assert [stream for stream, _ in found[0].entries] == [name]


async def test_who_waits_at_streams_of_two_nodes_reads_though_nothing_has_changed(cluster: Cluster) -> None:
    """Else a sign of life of the one node would stand for the other, which may hang."""
    names = cluster.keys_on_each()[:2]
    async with running_bus(cluster) as bus, trio.open_nursery() as nursery:
        nursery.start_soon(partial(bus.next_entries.wait, names, timeout_seconds=60))
        await armed(bus, *names)
        # It looks once more when they are.
        await trio.sleep(0.3)
        before = bus.redis.traffic()[Role.BULK].commands
        nursery.start_soon(partial(bus.next_entries.wait, names, timeout_seconds=60))
        # Sooner than it would look of its own accord.
        with trio.fail_after(SOON_SECONDS / 2):
            await until(lambda: bus.redis.traffic()[Role.BULK].commands - before >= len(names))
        nursery.cancel_scope.cancel()


async def test_no_arming_command_is_refused_for_its_slots_and_ten_thousand_keys_are_armed(
    cluster: Cluster,
) -> None:
    names = [f"many:{number}" for number in range(10_000)]
    for node in cluster.primaries():
        node.command("CONFIG", "RESETSTAT")
    async with running_bus(cluster) as bus:
        with bus.hub.watch(names, is_counted=False):
            await armed(bus, *names)
            assert bus.hub.statistics().armings == 10_000
            counts = [calls(node, "exists") for node in cluster.primaries()]
            errors = [node.command("INFO", "errorstats") for node in cluster.primaries()]
    assert sum(counts) >= 10_000
    assert min(counts) > 2_500
    assert not any(b"CROSSSLOT" in error for error in errors)


@pytest.mark.parametrize("exists", [True, False], ids=["exists", "absent"])
async def test_a_wait_at_a_key_whose_slot_moves_misses_nothing_and_is_woken_within_a_second(
    cluster: Cluster, exists: bool
) -> None:
    """Entries come at each stage of the move, from a client that knows where."""
    name = f"moving:{exists}"
    slot = cluster.slot(name)
    source = cluster.owner(slot)
    to = other_than(cluster, source)

    def write() -> None:
        if not exists:
            cluster.command("DEL", name)
        added.append(cluster.command("XADD", name, "*", "f", "v").decode())

    added: list[str] = []
    late: list[float] = []
    stages = (
        lambda: None,
        partial(cluster.begin_move, slot, to),
        partial(cluster.move_keys, slot, to),
        partial(cluster.end_move, slot, to),
        partial(cluster.move_slot, slot, source),
    )
    if exists:
        cluster.command("XADD", name, "0-1", "f", "v")
    seen: list[str] = []
    async with running_bus(cluster) as bus:
        for stage in stages:
            if not exists:
                cluster.command("DEL", name)
            at = added[-1] if added else "0-1"
            found: list[Waited] = []

            async def wait(at: str = at, found: list[Waited] = found) -> None:
                found.append(await bus.next_entries.wait([name], cursor=at, timeout_seconds=60))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                await until(lambda: bus.hub.waiting == 1)
                await armed(bus, name)
                stage()
                began = trio.current_time()
                write()
                with trio.fail_after(SOON_SECONDS):
                    await until(lambda found=found: bool(found))
                late.append(trio.current_time() - began)
            seen += [entry.id for _, entry in found[0].entries]
    assert seen == added
    with measured:
        assert max(late) < 1


async def test_a_push_of_the_node_that_served_a_key_before_unarms_nothing(cluster: Cluster) -> None:
    name = "{former}"
    slot = cluster.slot(name)
    source = cluster.owner(slot)
    to = other_than(cluster, source)
    async with running_bus(cluster) as bus:
        with bus.hub.watch([name]) as watch:
            await armed(bus, name)
            assert armed_at(bus, name) == source.port
            cluster.move_slot(slot, to)
            await until(lambda: armed_at(bus, name) == to.port)
            number = bus.hub.armed_by([name.encode()])
            (former,) = (node for node in bus.redis.nodes() if node.target.port == source.port)
            bus.hub._on_push(former, [b"invalidate", [name.encode()]])
            assert bus.hub.armed_by([name.encode()]) == number
            watch.reset()
            with trio.fail_after(SOON_SECONDS):
                cluster.command("XADD", name, "*", "f", "v")
                await watch.changed()
        cluster.move_slot(slot, source)


@pytest.fixture
def growing() -> Iterator[tuple[Cluster, Server, str]]:
    """A cluster, a node of it that serves nothing yet, and a key whose slot begins to move there."""
    with running_cluster(replicas=0, node_timeout_ms=60_000) as cluster:
        first, second, joined = cluster.nodes
        cluster.take_slots(joined, first)
        key = cluster.keys_on_each("grow")[cluster.primaries().index(second)]
        cluster.begin_move(cluster.slot(key), joined)
        yield cluster, joined, key


async def _map_asked(topology: Topology) -> None:
    """Return once the map has been asked for again."""
    known = topology._map
    topology.connection_lost(topology.nodes()[0])
    await until(lambda: topology._map is not known)


@pytest.mark.parametrize("is_told", [True, False], ids=["told", "swept"])
async def test_a_key_at_a_node_that_is_retired_is_armed_again(
    growing: tuple[Cluster, Server, str], is_told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It serves nothing by the map; the key's node names it in redirections."""
    cluster, joined, name = growing
    async with running_bus(cluster) as bus:
        topology, hub = bus.redis.topology, bus.hub
        assert isinstance(topology, Topology)
        with hub.watch([name]) as watch:
            await until(lambda: armed_at(bus, name) == joined.port)
            peer = hub._keys.all[name.encode()].at
            assert peer is not None
            if not is_told:
                bus.redis._on_moved = lambda: None
            monkeypatch.setattr("redstreamd.redisio.cluster._ASKED_SECONDS", 0.0)
            await _map_asked(topology)
            assert peer.node.is_retired
            monkeypatch.undo()
            if not is_told:
                peer.sweep()
            await until(lambda: armed_at(bus, name) and hub._keys.all[name.encode()].at is not peer)
            assert armed_at(bus, name) == joined.port
            watch.reset()
            with trio.fail_after(SOON_SECONDS):
                cluster.command("XADD", name, "*", "f", "v")
                await watch.changed()


async def test_a_node_that_takes_over_a_slot_is_kept_and_the_keys_there_stay_armed(
    growing: tuple[Cluster, Server, str],
) -> None:
    cluster, joined, name = growing
    source = cluster.node_of(name)
    async with running_bus(cluster) as bus:
        topology = bus.redis.topology
        assert isinstance(topology, Topology)
        with bus.hub.watch([name]) as watch:
            await until(lambda: armed_at(bus, name) == joined.port)
            number = bus.hub.armed_by([name.encode()])
            watch.reset()
            asked = calls(source, "exists")
            await _map_asked(topology)
            await until(lambda: calls(source, "exists") >= asked + 3, every=0.1)
            assert bus.hub.armed_by([name.encode()]) == number
            assert not _is_woken(watch)
            # The move is given up: nobody but who serves the key tells that.
            for node in (source, joined):
                node.command("CLUSTER", "SETSLOT", cluster.slot(name), "STABLE")
            with trio.fail_after(SOON_SECONDS):
                await watch.changed()
                await until(lambda: armed_at(bus, name) == source.port)


async def test_only_keys_that_moved_are_armed_again_and_their_watchers_woken(cluster: Cluster) -> None:
    names = cluster.keys_on_each("stay")
    slot = cluster.slot(names[0])
    source, to = cluster.owner(slot), cluster.owner(cluster.slot(names[1]))
    cluster.commands(*(("XADD", name, "1-1", "f", "v") for name in names))
    async with running_bus(cluster) as bus:
        with bus.hub.watch(names[:1]) as moving, bus.hub.watch(names[1:]) as staying:
            await armed(bus, *names)
            moving.reset()
            staying.reset()
            before = bus.hub.armed_by([name.encode() for name in names])
            cluster.move_slot(slot, to)
            with trio.fail_after(SOON_SECONDS):
                await moving.changed()
            await until(lambda: armed_at(bus, names[0]) == to.port)
            after = bus.hub.armed_by([name.encode() for name in names])
            assert before[0] != after[0]
            assert before[1:] == after[1:]
            assert not _is_woken(staying)
        cluster.move_slot(slot, source)


def _is_woken(watch: Watch) -> bool:
    return watch._woken.is_set()


async def test_nothing_is_missed_while_slots_move_again_and_again(cluster: Cluster) -> None:
    """Entries are added at any moment of the moves, and each is found by a wait."""
    names = cluster.keys_on_each("reshard")
    slots = [cluster.slot(name) for name in names]
    homes = [cluster.owner(slot) for slot in slots]
    rounds = 4
    added: dict[str, list[str]] = {name: [] for name in names}
    seen: dict[str, list[str]] = {name: [] for name in names}

    async with running_bus(cluster) as bus:

        async def follow(name: str) -> None:
            at = "0-0"
            while len(seen[name]) < 3 * rounds:
                waited = await bus.next_entries.wait([name], cursor=at, timeout_seconds=60)
                seen[name] += [entry.id for _, entry in waited.entries]
                at = waited.cursor_after(len(waited.entries))

        async def add(name: str) -> None:
            added[name].append(await bus.redis.xadd(name, [(b"f", b"v")]))

        with trio.fail_after(6 * SOON_SECONDS):
            async with trio.open_nursery() as nursery:
                for name in names:
                    nursery.start_soon(follow, name)
                for number in range(rounds):
                    for slot, name, home in zip(slots, names, homes, strict=True):
                        to = homes[(homes.index(home) + number + 1) % 3]
                        await add(name)
                        if cluster.owner(slot) is to:
                            await add(name)
                            await add(name)
                            continue
                        await trio.to_thread.run_sync(cluster.begin_move, slot, to)
                        await add(name)
                        await trio.to_thread.run_sync(cluster.move_keys, slot, to)
                        await trio.to_thread.run_sync(cluster.end_move, slot, to)
                        await add(name)
    assert seen == added


async def test_keys_wait_for_a_node_that_is_not_known(cluster: Cluster) -> None:
    """A watch may begin before the cluster has told who serves what."""
    topology = Topology(cluster.deployment())
    hub = TailHub(Redis(topology))
    with hub.watch(["early"]) as watch:
        assert hub.armed_by([b"early"]) == (0,)
        async with trio.open_nursery() as nursery:
            await nursery.start(hub.run)
            await nursery.start(topology.run)
            with trio.fail_after(SOON_SECONDS):
                await watch.changed()
            await until(lambda: hub.armed_by([b"early"]) != (0,))
            nursery.cancel_scope.cancel()


async def test_a_killed_watch_connection_concerns_the_keys_of_its_node_alone(cluster: Cluster) -> None:
    names = cluster.keys_on_each("kill")
    cluster.commands(*(("XADD", name, "1-1", "f", "v") for name in names))
    async with running_bus(cluster) as bus:
        with bus.hub.watch(names):
            await armed(bus, *names)
            encoded = [name.encode() for name in names]
            before = bus.hub.armed_by(encoded)
            node = bus.redis.node_for(names[0])
            assert node is not None
            client = await node.execute("CLIENT", "ID", role=Role.WATCH)
            cluster.node_of(names[0]).command("CLIENT", "KILL", "ID", client)
            await until(lambda: bus.hub.armed_by(encoded)[0] not in (0, before[0]))
            assert bus.hub.armed_by(encoded)[1:] == before[1:]
            assert bus.hub.statistics().tracking


async def test_streams_of_all_nodes_are_listed_once_each(cluster: Cluster) -> None:
    names = sorted(f"listed:{number:03}" for number in range(300))
    cluster.commands(*(("XADD", name, "1-1", "f", "v") for name in names))
    async with running_bus(cluster, Settings()) as bus:
        assert list(await bus.lister.names("*")) == names
        page, cursor, more = await bus.lister.page("listed:*", cursor=None, count=200)
        rest, _, end = await bus.lister.page("listed:*", cursor=cursor, count=200)
        assert [each.stream for each in (*page, *rest)] == names
        assert (more, end) == (True, False)


async def test_names_are_asked_for_once_at_each_node_and_those_denied_are_left_out(cluster: Cluster) -> None:
    names = sorted(f"listed:{number:03}" for number in range(60))
    secret = names[7:50:9]
    cluster.commands(*(("XADD", name, "1-1", "f", "v") for name in names))
    async with running_bus(cluster, Settings()) as bus:
        listing = await bus.lister.names("*")
        before = [calls(node, "exists") for node in cluster.primaries()]
        assert await bus.lister.permitted(listing, names, 60) == (names, True)
        assert all(
            calls(node, "exists") <= count + 1
            for node, count in zip(cluster.primaries(), before, strict=True)
        )
    open_keys = [f"~{name}*" for name in names if name not in secret]
    try:
        for node in cluster.primaries():
            node.command("ACL", "SETUSER", "default", "resetkeys", *open_keys)
        async with running_bus(cluster, Settings()) as bus:
            listing = await bus.lister.names("*")
            page = await bus.lister.name_page_of(listing, "*", cursor=None, count=100, readable=None)
            assert page[0] == [name for name in names if name not in secret]
            assert listing.denied == set(secret)
    finally:
        for node in cluster.primaries():
            node.command("ACL", "SETUSER", "default", "allkeys")


async def _listed(bus: Bus) -> list[str]:
    return list(await bus.lister.names("*"))


async def _in_quarantine(bus: Bus) -> list[str]:
    return [waiting.stream for waiting in await bus.quarantine.streams(lambda _name: True)]


@pytest.mark.parametrize(
    ("key_of", "list_all"), [(str, _listed), (quarantine_of, _in_quarantine)], ids=["stream", "quarantine"]
)
async def test_a_stream_that_moves_to_a_node_that_was_scanned_is_listed(
    cluster: Cluster, key_of: Callable[[str], str], list_all: Callable[[Bus], Awaitable[list[str]]]
) -> None:
    names = cluster.keys_on_each("pass")
    cluster.commands(*(("XADD", key_of(name), "1-1", "f", "v") for name in names))
    async with running_bus(cluster) as bus:
        await bus.redis.wait_connected()
        first, *_, last = bus.redis.nodes()
        by_port = {node.port: node for node in cluster.primaries()}
        moving = next(name for name in names if bus.redis.node_for(name) is last)
        scan = bus.redis.scan_node
        moved = False

        async def scan_node(node, position, pattern, count):
            nonlocal moved
            step = await scan(node, position, pattern, count)
            if node is first and not moved:
                # From the last to the first, which has been scanned.
                moved = True
                moves = bus.redis.moves
                slot = cluster.slot(moving)
                await trio.to_thread.run_sync(cluster.move_slot, slot, by_port[first.target.port])
                # Any client may be the one to whom a node tells it.
                assert await bus.redis.key_type(key_of(moving)) == "stream"
                assert bus.redis.moves > moves
            return step

        bus.redis.scan_node = scan_node  # type: ignore[method-assign]
        assert sorted(await list_all(bus)) == sorted(names)
        assert moved
        cluster.move_slot(cluster.slot(moving), by_port[last.target.port])


async def test_asleep_counts_waits_of_all_nodes(cluster: Cluster) -> None:
    names = cluster.keys_on_each("asleep")
    async with running_bus(cluster) as bus, trio.open_nursery() as nursery:
        nursery.start_soon(partial(bus.next_entries.wait, names, timeout_seconds=60))
        await armed(bus, *names)
        await asleep(bus, 1)
        nursery.cancel_scope.cancel()
