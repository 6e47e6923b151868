from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import pytest
import trio
from redis.backoff import ConstantBackoff
from redis.exceptions import RedisError

from redstreamd.redisio import Role
from redstreamd.redisio.delivery import deliver
from redstreamd.redisio.error_replies import reply_error
from redstreamd.redisio.lost_replies import Redirection
from redstreamd.redisio.node import Node
from redstreamd.redisio.redis_errors import (
    CommandTimedOut,
    NotSent,
    OutcomeUnknown,
    Problem,
    ProblemKind,
    RedisUnavailable,
    ReplyLost,
    ServerReplied,
)
from redstreamd.redisio.standalone import Standalone
from redstreamd.redisio.target import Deployment, Target
from tests.redisio.running import calls, running_node, running_topology, through
from tests.support.counts import numbers_until
from tests.support.proxy import Proxy, proxy_to
from tests.support.servers import Server
from tests.support.waiting import until

#: Whoever has something to send waits for the next connection, however long it takes to be made.
PATIENT: Mapping[str, Any] = {"connect_grace": 10.0, "command_timeout": 10.0}


async def test_a_write_whose_reply_is_lost_is_not_repeated(server: Server) -> None:
    async with proxy_to(server.path) as proxy, running_node(through(proxy), **PATIENT) as node:
        proxy.to_client.cut_after(0)
        with pytest.raises(OutcomeUnknown) as unknown:
            await node.execute("XADD", "s", "*", "f", "v")
        assert unknown.value.code == "OUTCOME_UNKNOWN"
        assert "XADD was sent" in unknown.value.message
        await node.wait_connected()
        assert await node.execute("XLEN", "s", retry_safe=True) == 1


async def test_a_reset_in_the_middle_of_a_reply_is_a_lost_reply(server: Server) -> None:
    server.command("SET", "large", b"x" * 300_000)
    async with proxy_to(server.path) as proxy, running_node(through(proxy), **PATIENT) as node:
        proxy.to_client.cut_after(100_000)
        with pytest.raises(OutcomeUnknown):
            await node.execute("GET", "large")
        proxy.to_client.cut_after(100_000)
        assert len(await node.execute("GET", "large", retry_safe=True)) == 300_000
        assert proxy.accepted == 3


async def test_a_read_whose_reply_is_lost_is_repeated(server: Server) -> None:
    server.command("SET", "key", "value")
    async with proxy_to(server.path) as proxy, running_node(through(proxy), **PATIENT) as node:
        proxy.to_client.cut_after(0)
        assert await node.execute("GET", "key", retry_safe=True) == b"value"
        assert proxy.accepted == 2
    assert calls(server, "get") >= 2


async def test_a_write_that_was_never_sent_is_sent_on_the_next_connection(redis: Server) -> None:
    outcomes: list[BaseException | bytes] = []

    async def add(node: Node, stream: str, size: int) -> None:
        try:
            outcomes.append(await node.execute("XADD", stream, "*", "f", b"x" * size))
        except OutcomeUnknown as unknown:
            outcomes.append(unknown)

    async with proxy_to(redis.path) as proxy, running_node(through(proxy), **PATIENT) as node:
        proxy.to_server.hold()
        async with trio.open_nursery() as nursery:
            # More than all buffers on the way hold: the writer gets stuck on it.
            nursery.start_soon(add, node, "first", 30_000_000)
            await until(lambda: _in_flight(node) == 1)
            nursery.start_soon(add, node, "second", 10)
            await until(lambda: _queued(node) == 1)
            proxy.cut()
            proxy.to_server.release()
        assert isinstance(outcomes[0], OutcomeUnknown)
        assert isinstance(outcomes[1], bytes)
        assert await node.execute("XLEN", "second") == 1


def _in_flight(node: Node) -> int:
    statistics = node.status().roles[Role.COMMAND].statistics
    return 0 if statistics is None else statistics.in_flight


def _queued(node: Node) -> int:
    statistics = node.status().roles[Role.COMMAND].statistics
    return 0 if statistics is None else statistics.queued


@pytest.mark.limit(60)
async def test_every_answer_about_a_write_is_true_whatever_the_network_does(redis: Server) -> None:
    """Acknowledged: there once. Unknown: there at most once. Unavailable: not there."""
    rng = random.Random(1953)
    acknowledged: set[int] = set()
    unknown: set[int] = set()
    unavailable: set[int] = set()
    # All of it is to happen, and often.
    numbers = numbers_until(4_000, lambda: len(unavailable) > 50 and len(unknown) > 100)

    async def add_again_and_again(node: Node) -> None:
        for number in numbers:
            try:
                await node.execute("XADD", "s", "*", "n", number)
                acknowledged.add(number)
            except OutcomeUnknown:
                unknown.add(number)
            except RedisUnavailable:
                unavailable.add(number)
                await node.wait_connected()

    async def cut_again_and_again(proxy: Proxy) -> None:
        while True:
            flow = rng.choice([proxy.to_client, proxy.to_server])
            flow.cut_after(rng.randint(0, 6_000), reset=rng.random() < 0.5)
            await until(lambda flow=flow: not flow.cut_pending)

    async with (
        proxy_to(redis.path) as proxy,
        # Pauses as short as the cuts are frequent.
        running_node(through(proxy), connect_grace=0.02, backoff=ConstantBackoff(0.01)) as node,
        trio.open_nursery() as cutting,
    ):
        proxy.to_client.delay = lambda: rng.uniform(0, 0.005)
        proxy.to_server.delay = lambda: rng.uniform(0, 0.005)
        cutting.start_soon(cut_again_and_again, proxy)
        async with trio.open_nursery() as adding:
            for _ in range(50):
                adding.start_soon(add_again_and_again, node)
        cutting.cancel_scope.cancel()
    numbers_there = [int(entry[1][1]) for entry in redis.command("XRANGE", "s", "-", "+")]
    there = set(numbers_there)
    assert len(numbers_there) == len(there)
    assert acknowledged <= there
    assert unavailable.isdisjoint(there)
    assert len(acknowledged) > 1_000
    # Unknown went either way.
    assert len(unknown & there) > 20
    assert len(unknown - there) > 20
    assert proxy.accepted > 10


class Unknown(Standalone):
    """Does not know the node at the moment, as while a new primary is elected."""

    def node_for(self, _key: str | bytes | None) -> Node:
        return None  # type: ignore[return-value]

    async def wait_node(self, _key: str | bytes | None, _deadline: float) -> Node:
        raise RedisUnavailable("Nobody is elected yet", cause="a test", next_step="Wait.")


async def test_a_lost_reply_is_an_unknown_outcome_also_where_the_node_is_not_known_any_more() -> None:
    nowhere = Unknown.of(Target(path="/nowhere"))
    problem = Problem(ProblemKind.UNREACHABLE, "a test", "Wait.")

    async def go_on(after: Exception, *, retry_safe: bool) -> Any:
        deadline = trio.current_time() + 5
        return await deliver(
            nowhere, ("INCR", "n"), "n", Role.COMMAND, retry_safe=retry_safe, deadline=deadline, after=after
        )

    with pytest.raises(OutcomeUnknown):
        await go_on(ReplyLost(problem), retry_safe=False)
    for after, retry_safe in [(ReplyLost(problem), True), (NotSent(problem), False)]:
        with pytest.raises(RedisUnavailable, match="Nobody is elected"):
            await go_on(after, retry_safe=retry_safe)
    with pytest.raises(ServerReplied) as refused:
        await go_on(reply_error("WRONGTYPE not a number"), retry_safe=True)
    assert refused.value.kind == "WRONGTYPE"


class Redirecting(Standalone):
    """Its node names another one for what it refuses, as the owner of a slot that moves does."""

    def __init__(self, deployment: Deployment, other: Target) -> None:
        super().__init__(deployment)
        self.other = self._new_node(other)

    def follow(self, _node: Node, _key: str | bytes | None, _error: RedisError) -> Redirection:
        return Redirection(self.other, asking=True)


@pytest.mark.parametrize("was_sent", [False, True])
async def test_what_may_have_been_executed_is_not_refused_as_if_it_were_not(
    redis: Server, was_sent: bool
) -> None:
    """Its repetition is refused until there is no time left."""
    problem = Problem(ProblemKind.UNREACHABLE, "a test", "Wait.")
    topology = Redirecting(Deployment(Target(path=redis.path)), Target(path=redis.path))
    async with running_topology(topology), trio.open_nursery() as nursery:
        await nursery.start(topology.other.run)
        await topology.other.wait_connected()
        with pytest.raises(CommandTimedOut if was_sent else RedisUnavailable) as refused:
            await deliver(
                topology,
                ("NOSUCH",),
                "k",
                Role.COMMAND,
                retry_safe=True,
                deadline=trio.current_time() + 1.5,
                after=ReplyLost(problem) if was_sent else NotSent(problem),
            )
        assert ("Nothing was changed" in refused.value.next_step) is not was_sent
        assert "NOSUCH" in refused.value.cause
        assert ("a test" in refused.value.cause) is was_sent
        nursery.cancel_scope.cancel()


async def test_a_node_that_is_named_and_does_not_answer_is_waited_for_and_named(redis: Server) -> None:
    away = Target(path=f"{redis.path}.away", connect_timeout=1)
    topology = Redirecting(Deployment(Target(path=redis.path)), away)
    async with running_topology(topology), trio.open_nursery() as nursery:
        await nursery.start(topology.other.run)
        deadline = trio.current_time() + 2.5
        with pytest.raises(RedisUnavailable) as refused:
            await deliver(topology, ("NOSUCH",), "k", Role.COMMAND, retry_safe=False, deadline=deadline)
        assert away.label in refused.value.message
        # Not before the time is nearly over: it may be back at any moment.
        assert trio.current_time() > deadline - 1
        nursery.cancel_scope.cancel()
