"""What is found on sentinels, on clusters, and on servers that are not what the settings take them for."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from redstreamd.doctor import Severity
from tests.doctor.conftest import Examine
from tests.support.redis_cluster import Cluster, running_cluster
from tests.support.sentinels import NAME, Sentinels, running_sentinels
from tests.support.servers import Server, free_port, start_redis
from tests.support.waiting import wait_until

#: Nothing on these machines is given up by the others, however busy they are.
_PATIENCE_MS = 60_000
#: What a primary without an append-only file or a replica is told; not what these tests are about.
_PERSISTENT = ("--save", "3600 1")


@pytest.fixture(scope="module")
def sentinels() -> Iterator[Sentinels]:
    """A primary, a replica and three sentinels, with passwords."""
    with running_sentinels(
        *_PERSISTENT,
        replicas=1,
        down_after_ms=_PATIENCE_MS,
        password="of-servers",
        sentinel_password="of-sentinels",
    ) as running:
        yield running


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three primaries, each with a replica."""
    with running_cluster(3, 1, *_PERSISTENT, node_timeout_ms=_PATIENCE_MS) as running:
        # A node names only replicas of which it has heard that they hold something.
        for key in running.keys_on_each():
            running.command("XADD", key, "*", "f", "v")
        wait_until(lambda: all(_names_replicas(node) for node in running.live()))
        yield running


def address(server: Server) -> str:
    return f"127.0.0.1:{server.port}"


def _names_replicas(node: Server) -> bool:
    return all(
        len(row) == len(("first", "last", "primary", "replica")) for row in node.command("CLUSTER", "SLOTS")
    )


async def test_sentinels_in_order_are_content_and_the_primary_is_checked_as_a_server_is(
    report: Examine, sentinels: Sentinels
) -> None:
    found = await report(sentinels.variables())
    primary = address(sentinels.primary())
    assert found["sentinels"].severity is Severity.OK
    assert found["sentinels"].seen == f"3 of 3 answer; the primary is {primary}; 3 sentinels, 1 replicas"
    assert found["topology"].seen == f"{primary} is the primary, and says so"
    worst = {name: each for name, each in found.items() if each.severity is Severity.ERROR}
    assert not worst
    assert found["tracking"].severity is found["scripts"].severity is Severity.OK
    assert found["login"].seen.startswith("accepted by redis ")
    assert "other server" in found["login"].tried


async def test_sentinels_that_do_not_answer_or_do_not_let_in_or_do_not_know_the_name_are_told_apart(
    report: Examine, sentinels: Sentinels
) -> None:
    told = sentinels.variables()
    nobody = f"127.0.0.1:{free_port()}"
    some = await report({**told, "REDIS_NODES": f"{told['REDIS_NODES']},{nobody}"})
    assert some["sentinels"].severity is Severity.WARNING
    assert f"3 of 4 answer; the primary is {address(sentinels.primary())}" in some["sentinels"].seen
    assert f"{nobody}: " in some["sentinels"].seen
    assert some["topology"].severity is Severity.OK

    strange = await report({**told, "REDSTREAMD_REDIS_SENTINEL_PRIMARY": "other"})
    assert strange["sentinels"].severity is Severity.ERROR
    assert f"it does not know a primary named 'other'; it knows {NAME}" in strange["sentinels"].seen
    assert "redis.sentinel_primary" in strange["sentinels"].todo
    assert strange["login"].severity is strange["streams"].severity is Severity.SKIPPED

    refused = await report({**told, "REDSTREAMD_REDIS_SENTINEL_PASSWORD": "wrong"})
    assert refused["sentinels"].severity is Severity.ERROR
    assert "WRONGPASS" in refused["sentinels"].seen
    assert "SENTINEL_PASSWORD" in refused["sentinels"].todo
    assert refused["topology"].severity is Severity.SKIPPED


async def test_a_password_that_only_the_primary_takes_is_a_warning_that_names_the_replica(
    report: Examine, sentinels: Sentinels
) -> None:
    (replica,) = sentinels.replicas()
    replica.command("CONFIG", "SET", "requirepass", "another")
    try:
        login = (await report(sentinels.variables()))["login"]
    finally:
        replica.login = ("another",)
        replica.command("CONFIG", "SET", "requirepass", "of-servers")
        replica.login = ("of-servers",)
    assert login.severity is Severity.WARNING
    assert f"{address(replica)}: WRONGPASS" in login.seen
    assert f"{address(sentinels.primary())}: accepted" in login.seen


async def test_sentinels_that_cannot_begin_a_failover_are_a_warning(report: Examine) -> None:
    with running_sentinels(replicas=0, sentinels=1, down_after_ms=_PATIENCE_MS) as few:
        few.sentinels[0].command("SENTINEL", "SET", NAME, "quorum", "2")
        found = (await report(few.variables()))["sentinels"]
    assert found.severity is Severity.WARNING
    for words in ("NOQUORUM", "there is one sentinel", "no replica"):
        assert words in found.seen
    assert "Run three" in found.todo


async def test_a_sentinel_that_names_a_replica_is_found_by_the_replica_s_role(report: Examine) -> None:
    with running_sentinels(replicas=1, sentinels=1, down_after_ms=_PATIENCE_MS) as running:
        primary, (replica,) = running.primary(), running.replicas()
        # Slower than this test: a sentinel sets a server right that is not what it takes it for.
        sentinel = running.sentinels[0]
        sentinel.command("SENTINEL", "REMOVE", NAME)
        sentinel.command("SENTINEL", "DEBUG", "info-period", 600_000)
        sentinel.command("SENTINEL", "MONITOR", NAME, "127.0.0.1", replica.port, 1)
        found = await report(running.variables())
    assert found["topology"].severity is Severity.ERROR
    assert f"a replica of 127.0.0.1:{primary.port}" in found["topology"].seen
    assert found["scripts"].severity is Severity.SKIPPED


async def test_a_cluster_in_order_is_content_and_every_node_is_checked(
    report: Examine, cluster: Cluster
) -> None:
    found = await report(cluster.variables())
    assert found["nodes"].seen == "6 of 6 answer"
    assert found["topology"].seen == "3 primaries, 3 replicas; all slots are served"
    assert found["login"].seen.startswith("accepted by redis ")
    assert {each.severity for each in found.values()} <= {Severity.OK, Severity.SKIPPED, Severity.WARNING}
    # Each asked with a key of its own: no redirection is taken for an answer.
    assert found["scripts"].seen == "it ran"
    assert found["tracking"].severity is Severity.OK
    tracked = found["tracking"].seen
    # Nodes are named where results differ: a tenth of a millisecond may be the same on all.
    if not re.fullmatch(r"the push came within [\d.]+ ms", tracked):
        assert tracked.count("the push came within") > 1
        assert all(cluster.address(node) in tracked for node in cluster.primaries()), tracked
    assert "MOVED" not in "".join(each.seen for each in found.values())
    assert sum(found["streams"].seen.count(f"{node.port}") for node in cluster.primaries()) == 3


async def test_one_node_is_enough_and_one_that_does_not_answer_is_a_warning(
    report: Examine, cluster: Cluster
) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    one = cluster.address(cluster.nodes[0])
    found = await report({**cluster.variables(), "REDIS_NODES": f"{one},{nobody}"})
    assert found["nodes"].severity is Severity.WARNING
    assert found["nodes"].seen.startswith(f"1 of 2 answer; {nobody}: ")
    assert found["topology"].severity is Severity.OK
    none = await report({**cluster.variables(), "REDIS_NODES": nobody})
    assert none["nodes"].severity is Severity.ERROR
    assert none["login"].severity is none["scripts"].severity is Severity.SKIPPED


async def test_what_differs_between_nodes_is_told_with_the_nodes_name(
    report: Examine, cluster: Cluster
) -> None:
    primary, *others = cluster.primaries()
    primary.command("CONFIG", "SET", "maxmemory", "1gb")
    primary.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    replica = cluster.replica_of(others[0])
    login = {"REDIS_USERNAME": "agent", "REDIS_PASSWORD": "secret"}
    for node in cluster.live():
        rules = ("~*", "&*", "+@all", *(("-xadd",) if node is replica else ()))
        node.command("ACL", "SETUSER", "agent", "reset", "on", ">secret", *rules)
    others[1].command("ACL", "SETUSER", "agent", ">other", "<secret")
    try:
        found = await report({**cluster.variables(), **login})
    finally:
        primary.command("CONFIG", "SET", "maxmemory", "0")
        primary.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
        for node in cluster.live():
            node.command("ACL", "DELUSER", "agent")
    assert found["memory"].severity is Severity.WARNING
    assert "noeviction" in found["memory"].todo
    assert f"{cluster.address(primary)}: " in found["memory"].seen
    # A primary that lets nobody in is an error, what a replica will not do after a failover a warning.
    assert found["login"].severity is Severity.ERROR
    assert f"{cluster.address(others[1])}: WRONGPASS" in found["login"].seen
    assert found["permissions"].severity is Severity.WARNING
    assert f"{cluster.address(replica)}: user 'agent' may not add: XADD" in found["permissions"].seen


async def test_an_announced_address_that_nobody_reaches_names_the_setting_that_maps_it(
    report: Examine,
) -> None:
    gone = free_port()

    def announced(port: int) -> tuple[str, ...]:
        return ("--cluster-announce-port", str(gone)) if port == odd[0] else ()

    odd: list[int] = []

    def options_of(port: int) -> tuple[str, ...]:
        if not odd:
            odd.append(port)
        return announced(port)

    with running_cluster(2, 0, node_timeout_ms=_PATIENCE_MS, options_of=options_of) as cluster:
        found = await report(cluster.variables())
        mapped = {"REDSTREAMD_REDIS_NODE_ADDRESSES": f"127.0.0.1:{gone}=127.0.0.1:{odd[0]}"}
        better = await report({**cluster.variables(), **mapped})
    assert found["nodes"].severity is Severity.OK
    assert found["topology"].severity is Severity.OK
    assert found["connect"].severity is Severity.ERROR
    assert f"127.0.0.1:{gone}: " in found["connect"].seen
    assert "redis.node_addresses" in found["connect"].todo
    assert better["connect"].severity is better["login"].severity is Severity.OK
    assert better["replication"].severity is Severity.WARNING
    assert "add a replica" in better["replication"].todo


async def test_slots_that_nobody_serves_are_an_error(report: Examine) -> None:
    with running_cluster(1, 0, node_timeout_ms=_PATIENCE_MS) as cluster:
        alone = await report(host="127.0.0.1", port=cluster.nodes[0].port)
        cluster.nodes[0].command("CLUSTER", "DELSLOTSRANGE", 5, 9)
        found = await report(cluster.variables())
        part = await report(host="127.0.0.1", port=cluster.nodes[0].port)
    assert found["topology"].severity is Severity.ERROR
    assert "nobody serves the slots 5-9" in found["topology"].seen
    # A cluster's only primary serves as one server, until it is not the only one.
    assert alone["topology"].severity is Severity.WARNING
    assert alone["scripts"].severity is Severity.OK, alone
    assert part["topology"].severity is Severity.ERROR
    for each in (alone, part):
        assert "redis.topology and redis.nodes" in each["topology"].todo
        assert 'to "cluster"' in each["topology"].todo


async def test_a_sentinel_and_a_cluster_s_node_that_are_taken_for_one_server_are_recognised(
    report: Examine, sentinels: Sentinels, cluster: Cluster
) -> None:
    place = {"host": "127.0.0.1", "password": "of-sentinels"}
    sentinel = await report(port=sentinels.sentinels[0].port, **place)
    node = await report(host="127.0.0.1", port=cluster.nodes[0].port)
    for check, kind in ((sentinel["login"], "sentinel"), (node["topology"], "cluster")):
        assert check.severity is Severity.ERROR
        assert "redis.topology and redis.nodes" in check.todo
        assert f'"{kind}"' in check.todo
    assert sentinel["version"].severity is node["version"].severity is Severity.SKIPPED
    assert "sentinel" in sentinel["login"].seen
    assert "is a node of a cluster" in node["topology"].seen


async def test_one_server_that_is_taken_for_a_cluster_or_a_sentinel_is_recognised(report: Examine) -> None:
    with start_redis() as server:
        place = f"127.0.0.1:{server.port}"
        cluster = await report({"REDIS_TOPOLOGY": "cluster", "REDIS_NODES": place})
        sentinel = await report({"REDIS_TOPOLOGY": "sentinel", "REDIS_NODES": place})
    assert cluster["nodes"].severity is sentinel["sentinels"].severity is Severity.ERROR
    assert "redis.topology" in cluster["nodes"].todo
    assert "redis.nodes" in sentinel["sentinels"].todo
