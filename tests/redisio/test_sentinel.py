"""Which server is used, by what sentinels say that a test makes say it; the servers are real.

Real sentinels are in ``test_real_sentinels`` and in tests/faults.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import attrs
import msgspec
import pytest
import trio

from redstreamd.errors import BusError
from redstreamd.redisio import Role
from redstreamd.redisio.client import Redis
from redstreamd.redisio.delivery import deliver_confirmed
from redstreamd.redisio.node import RedisEvent
from redstreamd.redisio.redis_errors import RedisUnavailable
from redstreamd.redisio.sentinel_events import PrimaryNamed, SentinelUnusable, SentinelUsable
from redstreamd.redisio.standalone import Standalone
from redstreamd.redisio.target import Deployment, Target
from redstreamd.redisio.topologies import topology_for
from redstreamd.redisio.topology import Topology
from tests.redisio.running import calls, over_tcp, running_topology, through
from tests.support.fair_clock import Clock
from tests.support.measured import measured
from tests.support.proxy import proxy_to
from tests.support.scripted_sentinel import ScriptedSentinel, deployment_of, scripted_sentinels
from tests.support.servers import Server, free_port, start_redis
from tests.support.waiting import until


@pytest.fixture(scope="module")
def servers() -> Iterator[list[Server]]:
    with start_redis("--bind", "127.0.0.1", "::1") as one, start_redis() as other, start_redis() as third:
        yield [one, other, third]


@pytest.fixture(autouse=True)
def _primaries(servers: list[Server]) -> None:
    for server in servers:
        server.command("REPLICAOF", "NO", "ONE")
        server.commands(("FLUSHALL",), ("SET", "name", server.port), ("CONFIG", "RESETSTAT"))


@attrs.define
class Run:
    """A topology that runs.

    Attributes:
        redis: It, as the domain holds it.
        topology: It.
        events: What it reported.
    """

    redis: Redis
    topology: Topology
    events: list[RedisEvent]

    async def used(self) -> int:
        """Return the port of the server that answers now, by its own name for itself."""
        return int(await self.redis.execute("GET", "name", key="name", retry_safe=True))

    def told(self, kind: type[Any]) -> list[Any]:
        """Return the events of a kind."""
        return [event for event in self.events if isinstance(event, kind)]

    async def until_used(self, server: Server) -> None:
        """Return once a server is used."""
        await until(lambda: self.topology.nodes() and self.topology.nodes()[0].target.port == server.port)
        assert await self.used() == server.port


#: Seconds that a command has, and waits for a connection, where the test is not about that: a busy machine
#: may hold up servers and sentinels, which are this process, for longer than a caller would wait.
PATIENCE = {"command_timeout": 60.0, "connect_grace": 60.0}


@contextlib.asynccontextmanager
async def running(deployment: Deployment, **options: Any) -> AsyncIterator[Run]:
    """Run the topology of a deployment for the block."""
    events: list[RedisEvent] = []
    topology = topology_for(deployment, on_event=events.append, **PATIENCE | options)
    async with trio.open_nursery() as nursery:
        await nursery.start(topology.run)
        yield Run(Redis(topology), topology, events)
        nursery.cancel_scope.cancel()


async def rounds(sentinels: list[ScriptedSentinel], count: int = 3) -> None:
    """Return once each sentinel has been asked so many times more: then what follows has been decided."""
    goals = [one.asked + count for one in sentinels]
    await until(lambda: all(one.asked >= goal for one, goal in zip(sentinels, goals, strict=True)))


async def test_whoever_tells_first_of_a_failover_is_followed_at_once(
    servers: list[Server], clock: Clock
) -> None:
    old, new, _ = servers
    async with scripted_sentinels(3) as sentinels:
        for one in sentinels:
            one.names(old, epoch=1)
        async with running(deployment_of(sentinels)) as run:
            assert await run.used() == old.port
            await until(lambda: len(run.topology.status().nodes) == 1 and sentinels[0].is_heard)
            began = clock()
            for epoch, server in enumerate((new, old) * 4, 2):
                await sentinels[0].switch(server, epoch=epoch)
                await run.until_used(server)
            with measured:
                # The question that comes by itself would take a quarter of a second each time, in the mean.
                assert clock() - began < 1
            named = run.told(PrimaryNamed)
            assert [(one.label, one.former, one.epoch) for one in named[:2]] == [
                (f"127.0.0.1:{old.port}", "", 1),
                (f"127.0.0.1:{new.port}", f"127.0.0.1:{old.port}", 2),
            ]


async def test_a_failover_is_noticed_where_its_message_is_lost_or_nobody_may_subscribe(
    servers: list[Server],
) -> None:
    old, new, _ = servers
    async with scripted_sentinels(1, may_subscribe=False) as sentinels:
        sentinels[0].names(old, epoch=1)
        async with running(deployment_of(sentinels)) as run:
            assert await run.used() == old.port
            sentinels[0].names(new, epoch=2)
            await run.until_used(new)
            assert run.topology.status().problems == ()
            assert not run.told(SentinelUnusable)


async def test_a_liar_about_a_dead_primary_is_not_believed_and_told_of(servers: list[Server]) -> None:
    old = servers[0]
    async with scripted_sentinels(3) as sentinels:
        liar = sentinels[0]
        for one in sentinels:
            one.names(old, epoch=1)
        liar.primary, liar.epoch = ("127.0.0.1", free_port()), 10**9
        async with running(deployment_of(sentinels)) as run:
            assert await run.used() == old.port
            await until(lambda: run.told(SentinelUnusable))
            (told,) = run.told(SentinelUnusable)
            assert told.sentinel == f"127.0.0.1:{liar.port}"
            assert f"127.0.0.1:{old.port} is used" in told.problem.cause
            assert "SENTINEL MASTER bus" in told.problem.next_step
            assert told.problem.cause in run.topology.status().problems[0].cause
            assert await run.used() == old.port
            assert len(run.told(PrimaryNamed)) == 1
            liar.names(old, epoch=1)
            await until(lambda: run.told(SentinelUsable))
            assert run.topology.status().problems == ()


async def test_a_replica_that_is_named_is_not_used(servers: list[Server]) -> None:
    old, replica, _ = servers
    replica.command("REPLICAOF", "127.0.0.1", old.port)
    async with scripted_sentinels(3) as sentinels:
        for one in sentinels:
            one.names(old, epoch=1)
        async with running(deployment_of(sentinels)) as run:
            assert await run.used() == old.port
            sentinels[0].names(replica, epoch=2)
            await rounds(sentinels)
            assert await run.used() == old.port
            # Promoted, it is: it says so itself.
            replica.command("REPLICAOF", "NO", "ONE")
            replica.command("SET", "name", replica.port)
            await run.until_used(replica)


async def test_what_most_name_is_used_also_while_it_is_a_replica_and_the_error_says_so(
    servers: list[Server],
) -> None:
    replica = servers[1]
    replica.command("REPLICAOF", "127.0.0.1", servers[0].port)
    async with scripted_sentinels(1) as sentinels:
        sentinels[0].names(replica, epoch=1)
        async with running(deployment_of(sentinels), command_timeout=0.5) as run:
            with pytest.raises(RedisUnavailable) as refused:
                await run.redis.execute("SET", "a", "1", key="a")
            assert refused.value.cause == "the server is a replica"
            assert "primary 'bus'" in refused.value.message
            assert calls(replica, "set") == 0


async def test_those_cut_off_with_the_former_primary_do_not_lead_back_to_it(servers: list[Server]) -> None:
    old, new, _ = servers
    async with scripted_sentinels(3) as sentinels:
        for one in sentinels:
            one.names(old, epoch=1)
        async with running(deployment_of(sentinels)) as run:
            assert await run.used() == old.port
            for one in sentinels[1:]:
                one.names(new, epoch=2)
            await run.until_used(new)
            # The minority with the former primary, which is up, is all that answers.
            for one in sentinels[1:]:
                one.answers = False
                one.hang_up()
            await until(lambda: len(run.topology.status().problems) == 3)
            await rounds(sentinels[:1])
            assert await run.used() == new.port
            assert len(run.told(PrimaryNamed)) == 2


async def test_more_than_half_lead_back_to_a_lower_epoch(servers: list[Server]) -> None:
    old, new, _ = servers
    async with scripted_sentinels(3) as sentinels:
        for one in sentinels:
            one.names(old, epoch=7)
        async with running(deployment_of(sentinels)) as run:
            assert await run.used() == old.port
            sentinels[0].names(new, epoch=0)
            await rounds(sentinels)
            assert await run.used() == old.port
            sentinels[1].names(new, epoch=0)
            await run.until_used(new)


async def test_without_sentinels_the_primary_known_last_is_used_and_that_is_a_problem(
    servers: list[Server],
) -> None:
    old = servers[0]
    async with scripted_sentinels(2) as sentinels:
        for one in sentinels:
            one.names(old, epoch=1)
        deployment = deployment_of(sentinels)
        async with running(deployment) as run:
            assert await run.used() == old.port
            for one in sentinels:
                one.answers = False
                one.hang_up()
            await until(lambda: len(run.topology.status().problems) == 3)
            status = run.topology.status()
            assert status.state.value == "degraded"
            assert "none of the 2 sentinels answers" in status.problems[0].cause
            assert status.problems[0].next_step
            assert await run.used() == old.port
            for one in sentinels:
                one.answers = True
            await until(lambda: run.topology.status().problems == ())
            assert {one.sentinel for one in run.told(SentinelUsable)} == {
                f"127.0.0.1:{one.port}" for one in sentinels
            }


@pytest.mark.parametrize(
    ("attributes", "sentinel", "cause", "step"),
    [
        ({}, Target(), "does not know a primary named 'bus'", "redis.sentinel_primary"),
        ({"password": "p"}, Target(password="q"), "WRONGPASS", "REDIS_SENTINEL_PASSWORD"),
        ({}, Target(password="q"), "without any password", "sentinel"),
    ],
    ids=["name", "password", "no password"],
)
async def test_what_keeps_sentinels_from_naming_a_primary_is_told_with_a_remedy(
    attributes: dict[str, Any], sentinel: Target, cause: str, step: str
) -> None:
    async with (
        scripted_sentinels(1, **attributes) as sentinels,
        running(deployment_of(sentinels, sentinel=sentinel)) as run,
    ):
        with pytest.raises(RedisUnavailable) as refused:
            await run.redis.execute("GET", "a", key="a")
        assert cause in refused.value.cause
        assert f"the sentinel at 127.0.0.1:{sentinels[0].port}" in refused.value.cause
        assert step in refused.value.next_step
        (told,) = run.told(SentinelUnusable)
        assert cause in told.problem.cause
        (problem,) = run.topology.status().problems
        assert cause in problem.cause
        assert step in problem.next_step


async def test_a_server_in_the_place_of_a_sentinel_and_nobody_there_are_told(servers: list[Server]) -> None:
    nodes = (("127.0.0.1", servers[0].port), ("127.0.0.1", free_port()))
    deployment = msgspec.structs.replace(deployment_of([]), nodes=nodes)
    async with running(deployment) as run:
        with pytest.raises(RedisUnavailable) as refused:
            await run.redis.execute("GET", "a", key="a")
        assert "this is no sentinel" in refused.value.cause
        assert "Connection refused" in refused.value.cause
        assert "redis.nodes" in refused.value.next_step
        assert not run.topology.nodes()
        assert run.topology.status().state.value == "degraded"


async def test_announced_addresses_are_mapped_and_may_be_names_or_ipv6(servers: list[Server]) -> None:
    one, other, _ = servers
    async with scripted_sentinels(1) as sentinels:
        announced = {("10.255.0.1", 6379): ("127.0.0.1", one.port)}
        sentinels[0].primary = ("10.255.0.1", 6379)
        async with running(deployment_of(sentinels, addresses=announced)) as run:
            assert await run.used() == one.port
            sentinels[0].primary, sentinels[0].epoch = ("localhost", other.port), 1
            await until(lambda: run.topology.nodes()[0].target.host == "localhost")
            assert await run.used() == other.port
            sentinels[0].primary, sentinels[0].epoch = ("::1", one.port), 2
            await until(lambda: run.topology.nodes()[0].label == f"[::1]:{one.port}")
            assert await run.used() == one.port


async def test_other_sentinels_are_learned_and_one_by_two_addresses_is_one(servers: list[Server]) -> None:
    old, new, _ = servers
    async with scripted_sentinels(3) as sentinels:
        for one in sentinels:
            one.names(old, epoch=1)
            one.known = [("127.0.0.1", each.port, each.run_id) for each in sentinels if each is not one]
            # As containers do: the same sentinels by addresses that lead nowhere, and one that is gone.
            one.known += [("127.0.0.1", free_port(), sentinels[0].run_id)]
            one.known += [("127.0.0.1", free_port(), "gone")]
        async with running(deployment_of(sentinels[:1])) as run:
            assert await run.used() == old.port
            await rounds(sentinels)
            assert run.topology.status().problems == ()
            # Two of three, which only were learned, are more than half.
            for one in sentinels[1:]:
                one.names(new, epoch=0)
            await run.until_used(new)


async def test_a_write_that_a_demoted_primary_refused_waits_for_the_next_one(servers: list[Server]) -> None:
    old, new, _ = servers
    async with scripted_sentinels(1) as sentinels:
        sentinels[0].names(old, epoch=1)
        async with running(deployment_of(sentinels)) as run:
            await run.redis.execute("INCR", "n", key="n")
            old.commands(("REPLICAOF", "127.0.0.1", new.port), ("CONFIG", "RESETSTAT"))
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(lambda: run.redis.execute("INCR", "n", key="n"))
                await until(lambda: calls(old, "role") >= 2)
                await sentinels[0].switch(new, epoch=2)
            assert int(new.command("GET", "n")) == 20
            # Each at most once, when its server was still thought to be the primary.
            assert calls(old, "incr") <= 20


async def test_a_demotion_that_nobody_tells_of_is_noticed_while_nobody_writes(servers: list[Server]) -> None:
    old, new, _ = servers
    async with scripted_sentinels(1) as sentinels:
        sentinels[0].names(old, epoch=1)
        async with running(deployment_of(sentinels)) as run:
            await run.topology.wait_connected(Role.WATCH)
            old.command("REPLICAOF", "127.0.0.1", new.port)
            node = run.topology.nodes()[0]
            await until(lambda: node.roles[Role.WATCH].connection is None)
            old.command("REPLICAOF", "NO", "ONE")
            await run.topology.wait_connected(Role.WATCH)


async def test_other_sentinels_and_logins_are_used_after_a_reload(servers: list[Server]) -> None:
    old, new, _ = servers
    async with scripted_sentinels(2) as sentinels:
        sentinels[0].names(old, epoch=9)
        sentinels[1].names(new, epoch=0)
        async with running(deployment_of(sentinels[:1])) as run:
            assert await run.used() == old.port
            run.topology.retarget(deployment_of(sentinels[1:]), command_timeout=3.0)
            await run.until_used(new)
            assert run.topology.command_timeout == 3.0


async def test_a_login_that_came_with_other_sentinels_is_not_sent_to_the_former_primary(
    servers: list[Server],
) -> None:
    old, new, _ = servers
    new.command("ACL", "SETUSER", "newcomer", "on", ">secret", "~*", "&*", "+@all")
    try:
        async with scripted_sentinels(2) as sentinels:
            sentinels[0].names(old, epoch=9)
            sentinels[1].answers = False
            async with running(deployment_of(sentinels[:1])) as run:
                assert await run.used() == old.port
                old.command("ACL", "LOG", "RESET")
                deployment = msgspec.structs.replace(
                    deployment_of(sentinels[1:]), target=Target(username="newcomer", password="secret")
                )
                run.topology.retarget(deployment, command_timeout=PATIENCE["command_timeout"])
                await trio.sleep(0.3)
                assert await run.used() == old.port
                sentinels[1].names(new, epoch=0)
                sentinels[1].answers = True
                await run.until_used(new)
                # It would have been refused there, which the server writes down.
                assert old.command("ACL", "LOG") == []
    finally:
        new.command("ACL", "DELUSER", "newcomer")


async def test_other_sentinels_that_name_the_same_primary_bring_the_login_there(
    servers: list[Server],
) -> None:
    server = servers[0]
    server.command("ACL", "SETUSER", "newcomer", "on", ">secret", "~*", "&*", "+@all")
    try:
        async with scripted_sentinels(2) as sentinels:
            for one in sentinels:
                one.names(server, epoch=9)
            async with running(deployment_of(sentinels[:1])) as run:
                assert await run.used() == server.port
                deployment = msgspec.structs.replace(
                    deployment_of(sentinels), target=Target(username="newcomer", password="secret")
                )
                run.topology.retarget(deployment, command_timeout=PATIENCE["command_timeout"])
                (node,) = run.topology.nodes()
                await until(lambda: node.target.username == "newcomer")
                assert await run.redis.execute("ACL", "WHOAMI", key="name") == b"newcomer"
                assert len(run.told(PrimaryNamed)) == 1
    finally:
        server.command("ACL", "DELUSER", "newcomer")


async def test_a_server_that_former_sentinels_named_is_not_used_once_others_are_asked(
    servers: list[Server],
) -> None:
    """One that is just being asked whether it is the primary when the settings are reloaded."""
    old, former, new = servers
    async with scripted_sentinels(4) as sentinels, proxy_to(former.port) as proxy:
        for one in sentinels:
            one.names(old, epoch=1)
        sentinels[3].names(new, epoch=0)
        async with running(deployment_of(sentinels[:3])) as run:
            assert await run.used() == old.port
            proxy.to_client.hold()
            sentinels[0].primary, sentinels[0].epoch = ("127.0.0.1", proxy.port), 9
            await until(lambda: proxy.to_server.forwarded > 0)
            run.topology.retarget(deployment_of(sentinels[3:]), command_timeout=PATIENCE["command_timeout"])
            proxy.to_client.release()
            await run.until_used(new)
            assert [one.label for one in run.told(PrimaryNamed)] == [
                f"127.0.0.1:{server.port}" for server in (old, new)
            ]


async def test_a_topology_can_be_run_again(servers: list[Server]) -> None:
    async with scripted_sentinels(1) as sentinels:
        sentinels[0].names(servers[0], epoch=1)
        topology = topology_for(deployment_of(sentinels))
        for _ in range(2):
            async with running_topology(topology) as redis:
                assert int(await redis.execute("GET", "name", key="name")) == servers[0].port


async def test_a_write_answered_by_a_server_just_given_up_is_not_confirmed_by_the_next(
    servers: list[Server],
) -> None:
    """WAIT on a connection that wrote nothing counts every replica, whatever became of the write."""
    old, new, replica = servers
    replica.command("REPLICAOF", "127.0.0.1", new.port)
    await until(lambda: b"connected_slaves:1" in new.command("INFO", "replication"))
    async with proxy_to(old.port) as proxy:
        topology = Standalone.of(through(proxy))
        async with running_topology(topology):
            await topology.wait_connected(Role.DURABLE)
            answers: list[Any] = []

            async def write() -> None:
                confirm = ("WAIT", 1, 200)
                answers.append(
                    await deliver_confirmed(
                        topology, ("INCR", "n"), confirm, "n", retry_safe=True, wrote=bool
                    )
                )

            proxy.to_client.hold()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write)
                await until(lambda: old.command("GET", "n") == b"1")
                topology.retarget(Deployment(over_tcp(new)), command_timeout=5.0)
                proxy.to_client.release()
            (answer,) = answers
            by_new = new.command("GET", "n") == b"1"  # this process was held up, and sent it again there
            assert answer.confirmation == 1 if by_new else isinstance(answer.confirmation, BusError)
