"""Commands reach the node that serves their key, whatever the cluster does meanwhile; on real clusters."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import trio

from redstreamd.redisio import Role
from redstreamd.redisio.client import Redis
from redstreamd.redisio.cluster import Cluster as Topology
from redstreamd.redisio.cluster_events import ClusterChanged, ClusterDegraded, ClusterKnown
from redstreamd.redisio.node import Node, RedisEvent
from redstreamd.redisio.redis_errors import RedisUnavailable, ServerReplied
from redstreamd.redisio.script import Script
from redstreamd.redisio.setting_names import CLUSTER_NODE
from redstreamd.redisio.slot_map import SLOTS, slot_of
from redstreamd.redisio.target import Deployment, Target, TopologyKind
from tests.redisio.running import running_topology
from tests.support.daemon import running_daemon
from tests.support.redis_cluster import Cluster, running_cluster
from tests.support.scripted_node import Reply, scripted_node
from tests.support.servers import Server, free_port
from tests.support.waiting import until, wait_until

#: A node that does not answer for so long is missed; only a test that says so lets that happen.
PATIENCE_MS = 60_000
ADD = Script("return redis.call('XADD', KEYS[1], '*', 'n', ARGV[1])")


@pytest.fixture(scope="module")
def shared() -> Iterator[Cluster]:
    """A cluster for tests that leave it as it was, but for who serves what."""
    with running_cluster(node_timeout_ms=PATIENCE_MS) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared: Cluster) -> Cluster:
    shared.flush()
    return shared


def topology_of(cluster: Cluster, events: list[RedisEvent] | None = None, **login: Any) -> Topology:
    return Topology(cluster.deployment(**login), on_event=([] if events is None else events).append)


def server_of(cluster: Cluster, node: Node | None) -> Server:
    assert node is not None
    return next(each for each in cluster.nodes if node.target.port in (each.port, each.tls_port))


def refusals(cluster: Cluster, code: str) -> int:
    """How many commands nodes have answered with this error so far."""
    found = 0
    for node in cluster.live():
        text = node.command("INFO", "errorstats").decode()
        found += sum(int(count) for count in re.findall(rf"errorstat_{code}:count=(\d+)", text))
    return found


def other_primary(cluster: Cluster, key: str) -> Server:
    """Return a primary that does not serve a key."""
    return next(node for node in cluster.primaries() if node is not cluster.node_of(key))


async def test_each_key_goes_to_its_node_by_every_way_of_sending(cluster: Cluster) -> None:
    keys = [*cluster.keys_on_each(), "ü{ä}x", "{}a", "{b}c"]
    moved = refusals(cluster, "MOVED")
    topology = topology_of(cluster)
    # On a busy machine replicas take their time to confirm.
    topology.command_timeout = 60.0
    async with running_topology(topology) as redis:
        for key in keys:
            assert slot_of(key) == cluster.slot(key)
            assert server_of(cluster, redis.node_for(key)) is cluster.node_of(key)
            await redis.xadd(key, [(b"n", b"1")])
            await redis.run_script(ADD, [key], ["2"], retry_safe=False)
            answered = trio.Event()
            redis.queues[Role.COMMAND].submit(
                ("XADD", key, "*", "n", "3"), lambda _reply, done=answered: done.set(), key
            )
            await answered.wait()
            confirmed = await redis.execute_confirmed(
                ("XADD", key, "*", "n", "4"), ("WAIT", 1, 20_000), key=key
            )
            assert confirmed.confirmation == 1
            assert await redis.xlen(key) == 4
            assert [entry.words[1] for entry in await redis.xrange(key, "-", "+", 9)] == [
                b"1",
                b"2",
                b"3",
                b"4",
            ]
        await redis.ping()
        assert len(redis.nodes()) == 3
        assert redis.status().state.value == "usable"
    assert refusals(cluster, "MOVED") == moved


async def test_a_slot_that_has_moved_is_followed_once(cluster: Cluster) -> None:
    key = cluster.keys_on_each()[0]
    calls: list[int] = []
    async with running_topology(topology_of(cluster)) as redis:
        redis.topology.on_moved = lambda: calls.append(1)
        await redis.xadd(key, [(b"n", b"1")])
        moved, there = refusals(cluster, "MOVED"), other_primary(cluster, key)
        # In one step for this process, so that nobody tells it before the command meets it.
        cluster.move_slot(slot_of(key), there)
        await redis.xadd(key, [(b"n", b"2")])
        assert refusals(cluster, "MOVED") == moved + 1
        assert calls
        assert server_of(cluster, redis.node_for(key)) is there
        for _ in range(10):
            await redis.xadd(key, [(b"n", b"3")])
        assert refusals(cluster, "MOVED") == moved + 1
        assert await redis.xlen(key) == 12


async def test_what_was_submitted_is_followed_too(cluster: Cluster) -> None:
    key = cluster.keys_on_each()[1]
    command = ("XADD", key, "*", "n", "1")
    async with running_topology(topology_of(cluster)) as redis:
        cluster.move_slot(slot_of(key), other_primary(cluster, key))
        replies: list[Any] = []
        redis.queues[Role.COMMAND].submit(command, replies.append, key)
        await until(lambda: replies)
        assert "MOVED" in type(replies[0]).__name__.upper()
        deadline = trio.current_time() + 5
        await redis.complete(command, replies[0], key=key, retry_safe=False, deadline=deadline)
        assert await redis.xlen(key) == 1


async def test_two_nodes_that_name_each_other_for_a_moment_are_no_error(cluster: Cluster) -> None:
    """They do where the source of a slot is told first that the move has ended, as some tools do."""
    key = cluster.keys_on_each("ring")[0]
    slot, source, there = slot_of(key), cluster.node_of(key), other_primary(cluster, key)
    given = ("CLUSTER", "SETSLOT", slot, "NODE", cluster.ids[there.port])
    async with running_topology(topology_of(cluster)) as redis:
        await redis.xadd(key, [(b"n", b"1")])
        cluster.begin_move(slot, there)
        cluster.move_keys(slot, there)
        cluster.wait_epochs()
        moved = refusals(cluster, "MOVED")
        assert source.command(*given) == b"OK"
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(redis.xadd, key, [(b"n", b"2")])
                # More refusals than redirections in a row are followed.
                await until(lambda: refusals(cluster, "MOVED") > moved + 6)
                assert there.command(*given) == b"OK"
        finally:
            there.command(*given)
            cluster.end_move(slot, there)
        assert await redis.xlen(key) == 2


async def test_keys_of_a_slot_that_is_half_moved_are_found_on_both_sides(cluster: Cluster) -> None:
    tag = cluster.keys_on_each()[0]
    keys = [f"{tag}:{number}" for number in range(6)]
    slot = slot_of(tag)
    async with running_topology(topology_of(cluster)) as redis:
        for key in keys[:4]:
            await redis.xadd(key, [(b"n", b"1")])
        there = other_primary(cluster, tag)
        asked = refusals(cluster, "ASK")
        cluster.begin_move(slot, there)
        try:
            cluster.move_keys(slot, there, *keys[:2])
            # Kept on one side, moved, and new ones, which belong to the new side.
            for key in keys:
                await redis.xadd(key, [(b"n", b"2")])
                await redis.run_script(ADD, [key], ["3"], retry_safe=False)
            assert [await redis.xlen(key) for key in keys] == [3, 3, 3, 3, 2, 2]
            assert refusals(cluster, "ASK") >= asked + 3 * 4
            # It is still the old one's, so nothing is learned from that.
            assert server_of(cluster, redis.node_for(tag)) is not there
        finally:
            cluster.move_keys(slot, there)
            cluster.end_move(slot, there)
        assert [await redis.xlen(key) for key in keys] == [3, 3, 3, 3, 2, 2]


async def test_a_command_whose_keys_are_on_both_sides_waits_for_the_move(cluster: Cluster) -> None:
    tag = cluster.keys_on_each()[2]
    keys = [f"{tag}:{number}" for number in range(2)]
    slot = slot_of(tag)
    read = ("XREAD", "STREAMS", *keys, "0", "0")
    async with running_topology(topology_of(cluster)) as redis:
        for key in keys:
            await redis.xadd(key, [(b"n", b"1")])
        there = other_primary(cluster, tag)
        cluster.begin_move(slot, there)
        cluster.move_keys(slot, there, keys[0])
        refused = refusals(cluster, "TRYAGAIN")
        found: list[Any] = []

        async def ask() -> None:
            found.append(await redis.execute(*read, key=keys[0], retry_safe=True))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            # More refusals than redirections in a row are followed.
            await until(lambda: refusals(cluster, "TRYAGAIN") >= refused + 6, every=0.05)
            assert not found
            cluster.move_keys(slot, there)
            cluster.end_move(slot, there)
        assert len(found[0]) == 2


async def test_changes_that_no_command_meets_are_noticed(cluster: Cluster) -> None:
    """Those who wait send nothing; they are told to look where their keys are."""
    key = cluster.keys_on_each()[0]
    events: list[RedisEvent] = []
    async with running_topology(topology_of(cluster, events)) as redis:
        changed = trio.Event()
        redis.topology.on_moved = changed.set
        source, there = cluster.node_of(key), other_primary(cluster, key)
        await trio.to_thread.run_sync(cluster.move_slot, slot_of(key), there)
        await changed.wait()
        assert server_of(cluster, redis.node_for(key)) is there

        # The epoch rises with the first slot that moves to a node, and not with those that follow.
        slots = [slot for each in cluster.row(source).slots for slot in each]
        for slot in slots[:3]:
            changed = trio.Event()
            redis.topology.on_moved = changed.set
            await trio.to_thread.run_sync(cluster.move_slot, slot, there)
            await changed.wait()

        changed = trio.Event()
        redis.topology.on_moved = changed.set
        before, replica = cluster.node_of(key), cluster.replica_of(cluster.node_of(key))
        await trio.to_thread.run_sync(cluster.failover, replica)
        await changed.wait()
        await until(lambda: server_of(cluster, redis.node_for(key)) is replica)
        told = await until(
            lambda: [each for each in events if isinstance(each, ClusterChanged) and each.left]
        )
        assert told[0].left == (f"127.0.0.1:{before.port}",)
        assert told[0].joined == (f"127.0.0.1:{replica.port}",)
        await redis.xadd(key, [(b"n", b"1")])
        # Nothing is left of the one that serves nothing any more.
        await until(lambda: b"name=redstreamd:command" not in before.command("CLIENT", "LIST"))
        assert [type(each) for each in events if isinstance(each, ClusterKnown | ClusterDegraded)] == [
            ClusterKnown
        ]


async def test_calls_go_on_while_replicas_take_over(cluster: Cluster) -> None:
    keys = cluster.keys_on_each("going on")
    acknowledged = dict.fromkeys(keys, 0)
    over = False
    async with running_topology(topology_of(cluster)) as redis:

        async def add(key: str) -> None:
            while not over:
                await redis.xadd(key, [(b"n", b"1")])
                acknowledged[key] += 1

        async with trio.open_nursery() as nursery:
            for key in keys:
                nursery.start_soon(add, key)
            for key in keys:
                replica = cluster.replica_of(cluster.node_of(key))
                await trio.to_thread.run_sync(cluster.failover, replica)
                before = dict(acknowledged)
                await until(lambda before=before: all(acknowledged[each] > before[each] for each in keys))
            over = True
        for key in keys:
            assert await redis.xlen(key) == acknowledged[key]


async def test_other_settings_are_used_while_calls_go_on(cluster: Cluster) -> None:
    keys = cluster.keys_on_each("reload")
    topology = topology_of(cluster)
    added, over = 0, False
    async with running_topology(topology) as redis:

        async def add(key: str) -> None:
            nonlocal added
            while not over:
                await redis.xadd(key, [(b"n", b"1")])
                added += 1

        async with trio.open_nursery() as nursery:
            for key in keys:
                nursery.start_soon(add, key)
            for turn in range(3):
                deployment = cluster.deployment(client_name=f"turn{turn}")
                # Named by one that is no primary: the others are learned from it.
                seed = cluster.replica_of(cluster.node_of(keys[0]))
                topology.retarget(
                    msgspec.structs.replace(deployment, nodes=(("127.0.0.1", seed.port),)),
                    command_timeout=5.0,
                )
                before = added
                await until(lambda before=before: added > before + 10)
            over = True
        assert sum([await redis.xlen(key) for key in keys]) == added
        assert b"name=turn2:command" in cluster.node_of(keys[0]).command("CLIENT", "LIST")


async def test_nodes_of_a_former_cluster_are_not_logged_in_to_as_those_of_another(cluster: Cluster) -> None:
    topology = topology_of(cluster, client_name="former")
    async with running_topology(topology):
        other = msgspec.structs.replace(
            cluster.deployment(client_name="other"), nodes=(("127.0.0.1", free_port()),)
        )
        topology.retarget(other, command_timeout=5.0)
        assert not topology.nodes()
        await until(topology.problems)
        for node in cluster.nodes:
            await until(lambda node=node: b"name=former" not in node.command("CLIENT", "LIST"))
            assert b"name=other" not in node.command("CLIENT", "LIST")


async def test_a_server_that_is_no_cluster_is_named_with_the_setting(redis: Server) -> None:
    events: list[RedisEvent] = []
    deployment = Deployment(Target(), TopologyKind.CLUSTER, (("127.0.0.1", redis.port),))
    topology = Topology(deployment, on_event=events.append)
    async with trio.open_nursery() as nursery:
        await nursery.start(topology.run)
        with pytest.raises(RedisUnavailable) as raised:
            await Redis(topology).xlen("s")
        assert f"127.0.0.1:{redis.port}: it is no node of a cluster" in raised.value.cause
        assert "redis.topology" in raised.value.next_step
        assert [problem.cause for problem in topology.problems()] == [raised.value.cause]
        assert [type(each) for each in events] == [ClusterDegraded]
        nursery.cancel_scope.cancel()
    assert not topology.nodes()


async def test_nodes_that_are_all_down_are_found_again() -> None:
    events: list[RedisEvent] = []
    with running_cluster(replicas=0, node_timeout_ms=2_000) as cluster:
        topology = topology_of(cluster, events)
        keys = cluster.keys_on_each()
        async with running_topology(topology) as redis:
            for node in cluster.nodes:
                await trio.to_thread.run_sync(cluster.kill, node)
            await until(topology.problems)
            with pytest.raises(RedisUnavailable):
                await redis.xlen(keys[0])
            assert redis.status().state.value == "degraded"
            for node in cluster.nodes:
                await trio.to_thread.run_sync(cluster.restart, node)
            await until(lambda: not topology.status().problems)
            for key in keys:
                await redis.xadd(key, [(b"n", b"1")])
            assert isinstance([each for each in events if "Cluster" in type(each).__name__][-1], ClusterKnown)


async def test_slots_that_nobody_serves_are_named_and_others_served() -> None:
    options = ("--cluster-require-full-coverage", "no")
    with running_cluster(2, 0, *options, node_timeout_ms=PATIENCE_MS) as cluster:
        keys = cluster.keys_on_each()
        async with running_topology(topology_of(cluster)) as redis:
            for node in cluster.nodes:
                node.command("CLUSTER", "DELSLOTS", slot_of(keys[0]))
            # It is asked for no reason but that commands are refused.
            with pytest.raises(RedisUnavailable):
                await redis.xlen(keys[0])
            await until(redis.topology.problems)
            assert redis.topology.problems()[0].cause.endswith(f"serves the slots {slot_of(keys[0])}")
            with pytest.raises(RedisUnavailable) as raised:
                await redis.xlen(keys[0])
            assert f"slot {slot_of(keys[0])}" in raised.value.cause
            await redis.xadd(keys[1], [(b"n", b"1")])
            # Commands that wait for it are served when somebody serves it again.
            cluster.nodes[1].command("CLUSTER", "ADDSLOTS", slot_of(keys[0]))
            await until(lambda: not redis.topology.problems())
            await redis.xadd(keys[0], [(b"n", b"1")])


async def test_nodes_that_come_and_go_are_used_and_let_go() -> None:
    with running_cluster(2, 0, node_timeout_ms=PATIENCE_MS) as cluster:
        key = cluster.keys_on_each()[0]
        old, other = cluster.nodes
        async with running_topology(topology_of(cluster)) as redis:
            await redis.xadd(key, [(b"n", b"1")])
            # The whole range of a node moves, so that it serves nothing any more.
            slots = [each for row in cluster.row(old).slots for each in row]
            cluster.begin_move(slot_of(key), other)
            cluster.move_keys(slot_of(key), other)
            mine = [("CLUSTER", "SETSLOT", slot, "NODE", cluster.ids[other.port]) for slot in slots]
            for node in (other, old):
                assert set(node.commands(*mine)) == {b"OK"}
            await until(lambda: len(redis.nodes()) == 1)
            assert await redis.xlen(key) == 1
            await until(lambda: b"redstreamd" not in old.command("CLIENT", "LIST"))


async def test_nodes_behind_a_mapping_of_ports_are_used_where_they_answer() -> None:
    """As containers do: each announces its port within, where nothing listens out here."""
    announced: dict[int, int] = {}

    def options_of(port: int) -> tuple[str, ...]:
        announced[port] = free_port()
        return ("--cluster-announce-port", str(announced[port]))

    with running_cluster(3, 0, node_timeout_ms=PATIENCE_MS, options_of=options_of) as cluster:
        keys = cluster.keys_on_each()
        plain = cluster.deployment()
        places = {("127.0.0.1", announced[node.port]): ("127.0.0.1", node.port) for node in cluster.nodes}
        # All are named, or one, with the others' addresses.
        for deployment in (plain, msgspec.structs.replace(plain, nodes=plain.nodes[:1], addresses=places)):
            async with running_topology(Topology(deployment)) as redis:
                for key in keys:
                    await redis.xadd(key, [(b"n", b"1")])
                assert {node.target.port for node in redis.nodes()} == {node.port for node in cluster.nodes}
                there = other_primary(cluster, keys[0])
                cluster.move_slot(slot_of(keys[0]), there)
                await redis.xadd(keys[0], [(b"n", b"1")])
                assert server_of(cluster, redis.node_for(keys[0])) is there
        assert cluster.command("XLEN", keys[0]) == 4


async def test_nodes_that_announce_no_host_are_used_where_they_were_asked(cluster: Cluster) -> None:
    key = cluster.keys_on_each("nameless")[0]
    for node in cluster.nodes:
        node.command("CONFIG", "SET", "cluster-preferred-endpoint-type", "unknown-endpoint")
    try:
        async with running_topology(topology_of(cluster)) as redis:
            await redis.xadd(key, [(b"n", b"1")])
            cluster.move_slot(slot_of(key), other_primary(cluster, key))
            await redis.xadd(key, [(b"n", b"1")])
            assert await redis.xlen(key) == 2
    finally:
        for node in cluster.nodes:
            node.command("CONFIG", "SET", "cluster-preferred-endpoint-type", "ip")


async def test_a_name_that_can_be_none_costs_nothing_but_the_node_that_announces_it() -> None:
    """One that the settings name is used there; else its slots have the cause and the remedy told."""
    with running_cluster(2, 0, node_timeout_ms=PATIENCE_MS) as cluster:
        keys, (good, bad) = cluster.keys_on_each(), cluster.nodes
        good.command("CONFIG", "SET", "cluster-announce-hostname", "localhost")
        bad.command("CONFIG", "SET", "cluster-announce-hostname", "redis..internal")
        for node in cluster.nodes:
            node.command("CONFIG", "SET", "cluster-preferred-endpoint-type", "hostname")
        wait_until(lambda: "redis..internal" in str(good.command("CLUSTER", "SLOTS")))
        plain = cluster.deployment(settings=CLUSTER_NODE)
        async with running_topology(Topology(plain)) as redis:
            for key in keys:
                await redis.xadd(key, [(b"n", b"1")])
        topology = Topology(msgspec.structs.replace(plain, nodes=plain.nodes[:1]), connect_grace=0.1)
        async with trio.open_nursery() as nursery:
            await nursery.start(topology.run)
            redis = Redis(topology)
            await redis.xadd(keys[0], [(b"n", b"1")])
            with pytest.raises(RedisUnavailable) as raised:
                await redis.xadd(keys[1], [(b"n", b"1")])
            assert "'redis..internal' can be no name of a host" in raised.value.cause
            assert "redis.node_addresses" in raised.value.next_step
            nursery.cancel_scope.cancel()


async def test_every_node_is_logged_in_to_over_tls() -> None:
    rights = "~* +@all -@dangerous +info -cluster +cluster|slots +cluster|info +cluster|myid"
    user = ("--user", *f"bus on >secret {rights}".split())
    with running_cluster(3, 0, *user, node_timeout_ms=PATIENCE_MS, password="root", tls=True) as cluster:
        keys = cluster.keys_on_each()
        async with running_topology(topology_of(cluster, username="bus", password="secret")) as redis:
            for key in keys:
                await redis.xadd(key, [(b"n", b"1")])
            assert all(node.target.tls and node.target.username == "bus" for node in redis.nodes())
            assert {node.target.port for node in redis.nodes()} == {node.tls_port for node in cluster.nodes}
            there = other_primary(cluster, keys[0])
            cluster.begin_move(slot_of(keys[0]), there)
            cluster.move_keys(slot_of(keys[0]), there)
            await redis.xadd(keys[0], [(b"n", b"1")])
            cluster.end_move(slot_of(keys[0]), there)
            await redis.xadd(keys[0], [(b"n", b"1")])
            assert await redis.xlen(keys[0]) == 3
        for node in cluster.nodes:
            node.command("ACL", "SETUSER", "bus", "-cluster")
        topology = topology_of(cluster, username="bus", password="secret")
        async with trio.open_nursery() as nursery:
            await nursery.start(topology.run)
            with pytest.raises(RedisUnavailable) as raised:
                await Redis(topology).xlen(keys[0])
            assert "NOPERM" in raised.value.cause
            assert "+cluster|slots" in raised.value.next_step
            nursery.cancel_scope.cancel()


def lies(redirect: str) -> Any:
    """Return the script of a node that claims all slots, and redirects every XADD."""

    def script(port: int) -> dict[str, Reply]:
        places = (f"127.{high}.{low}.1:1" for high in range(1, 255) for low in range(255))
        me = b"a" * 40
        info = b"cluster_state:ok\r\ncluster_current_epoch:1\r\ncluster_my_epoch:1\r\n"
        slots = b"*1\r\n*3\r\n:0\r\n:%d\r\n*3\r\n$9\r\n127.0.0.1\r\n:%d\r\n$40\r\n%b\r\n" % (
            SLOTS - 1,
            port,
            me,
        )
        return {
            "CLUSTER MYID": lambda _: b"$40\r\n%b\r\n" % me,
            "CLUSTER INFO": lambda _: b"$%d\r\n%b\r\n" % (len(info), info),
            "CLUSTER SLOTS": lambda _: slots,
            "XADD": lambda _: f"-{redirect}\r\n".format(port=port, next=next(places)).encode(),
        }

    return script


@pytest.mark.parametrize("redirect", ["MOVED 1 127.0.0.1:{port}", "ASK 1 :{port}"])
async def test_a_node_that_redirects_for_ever_has_until_the_deadline(redis: Server, redirect: str) -> None:
    """It is asked six times in a row, and then after pauses, which grow to half a second."""
    async with scripted_node(redis.path, lies(redirect)) as node:
        deployment = Deployment(Target(), TopologyKind.CLUSTER, (("127.0.0.1", node.port),))
        async with running_topology(Topology(deployment, command_timeout=2)) as client:
            with trio.fail_after(30), pytest.raises(RedisUnavailable, match="do not agree"):
                await client.xadd("s", [(b"n", b"1")])
            count = node.commands["XADD"]
            assert count % 6 == 0
            # Pauses of at least 10, 20, 40, 80, 160 and then 250 ms.
            assert 6 < count <= 6 * 13
            assert await client.xlen("s") == 0


@pytest.mark.parametrize(
    "redirect",
    ["MOVED 16384 127.0.0.1:1", "MOVED -1 h:1", "MOVED 1 h:70000", "MOVED 1", "ASK x y:z", "MOVED"],
)
async def test_a_redirection_to_nowhere_is_an_error_reply(redis: Server, redirect: str) -> None:
    async with scripted_node(redis.path, lies(redirect)) as node:
        deployment = Deployment(Target(), TopologyKind.CLUSTER, (("127.0.0.1", node.port),))
        async with running_topology(Topology(deployment)) as client:
            with pytest.raises(ServerReplied):
                await client.xadd("s", [(b"n", b"1")])
            assert node.commands["XADD"] == 1


async def test_a_map_without_end_is_refused_and_asked_for_again(
    redis: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redstreamd.redisio.decoder.MAX_REPLY_BYTES", 4096)
    endless = [True]

    def script(port: int) -> dict[str, Reply]:
        script = lies("ASK 1 127.0.0.1:{port}")(port)
        slots = script["CLUSTER SLOTS"]
        return script | {
            "CLUSTER SLOTS": lambda command: b"$999999\r\n" + b"." * 200_000 if endless else slots(command)
        }

    async with scripted_node(redis.path, script) as node:
        deployment = Deployment(Target(), TopologyKind.CLUSTER, (("127.0.0.1", node.port),))
        topology = Topology(deployment)
        async with trio.open_nursery() as nursery:
            await nursery.start(topology.run)
            await until(topology.problems)
            assert re.search("exceeds|larger than", topology.problems()[0].cause)
            endless.clear()
            await topology.wait_connected()
            nursery.cancel_scope.cancel()


async def test_redirections_to_ever_other_nodes_leave_nothing_behind(redis: Server) -> None:
    async with scripted_node(redis.path, lies("MOVED 1 {next}")) as node:
        deployment = Deployment(Target(), TopologyKind.CLUSTER, (("127.0.0.1", node.port),))
        topology = Topology(deployment, connect_grace=0.05, command_timeout=1)
        async with running_topology(topology) as client:

            async def add(number: int) -> None:
                with pytest.raises((RedisUnavailable, ServerReplied)):
                    await client.xadd(f"s{number}", [(b"n", b"1")])

            async with trio.open_nursery() as nursery:
                for number in range(50):
                    nursery.start_soon(add, number)
            assert await client.xlen("s") == 0
            assert len(topology.nodes()) == 1


def test_one_server_imports_nothing_of_a_cluster() -> None:
    code = "import json, sys, redstreamd.daemon.serving; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(json.loads(done.stdout))
    assert "redstreamd.redisio.topologies" in modules
    assert not {f"redstreamd.redisio.{name}" for name in ("cluster", "cluster_views", "slot_map")} & modules


@pytest.mark.limit(60)
def test_a_daemon_serves_a_cluster_without_an_error_in_its_records(cluster: Cluster) -> None:
    keys = cluster.keys_on_each("daemon")
    # As a process of its own that has imported nothing yet: what it imports, and when, is its own.
    with running_daemon(cluster, preload=False) as daemon:
        for key in keys:
            added = daemon.call("stream_add", stream=key, entries=[{"n": 1}])["structuredContent"]
            read = daemon.call("stream_read", stream=key)["structuredContent"]
            assert [each["id"] for each in read["entries"]] == added["ids"]
        moved = other_primary(cluster, keys[0])
        cluster.move_slot(slot_of(keys[0]), moved)
        assert not daemon.call("stream_add", stream=keys[0], entries=[{"n": 2}])["isError"]
        wait_until(lambda: "the Redis cluster serves all slots" in daemon.log)
        assert not [line for line in daemon.log.splitlines() if re.search("ERROR|Traceback|failed", line)]
