from __future__ import annotations

import signal

import pytest
import trio

from redstreamd.errors import BusError
from redstreamd.redisio.node import Node, RedisEvent, Role
from redstreamd.redisio.redis_errors import CommandTimedOut, OutcomeUnknown, RedisUnavailable
from redstreamd.redisio.server_health import Connected, ConnectFailed, ConnectionLost, Degraded, Usable
from redstreamd.redisio.target import Target
from tests.redisio.running import over_tcp, running_node, through
from tests.support.fair_clock import Clock
from tests.support.measured import measured
from tests.support.proxy import proxy_to
from tests.support.servers import Server, free_port, start_redis
from tests.support.waiting import until


async def test_redis_absent_at_start_is_a_state_and_ends_by_itself(clock: Clock) -> None:
    events: list[RedisEvent] = []
    with start_redis() as server:
        server.stop()
        began, started = trio.current_time(), clock()
        async with running_node(over_tcp(server), connected=False, events=events) as node:
            with pytest.raises(RedisUnavailable) as refused:
                await node.execute("PING")
            assert trio.current_time() - began >= 1.0
            with measured:
                assert clock() - started < 1.4
            assert refused.value.code == "CONNECTION_ERROR"
            assert refused.value.cause == "Connection refused"
            assert f"127.0.0.1:{server.port}" in refused.value.message
            # Known to be down: no second wait.
            started = clock()
            with pytest.raises(RedisUnavailable):
                await node.execute("PING")
            with measured:
                assert clock() - started < 0.2
            server.start()
            started = clock()
            await node.wait_connected()
            with measured:
                assert clock() - started < 2.5
            assert await node.execute("PING") == b"PONG"
    assert [type(event) for event in events] == [ConnectFailed, Degraded, Connected, Usable]


async def test_a_restart_of_redis_is_one_outage_and_one_pause(clock: Clock) -> None:
    events: list[RedisEvent] = []
    with start_redis() as server:
        async with running_node(over_tcp(server), events=events) as node:
            await trio.sleep(1.1)  # long enough to count as a connection that worked
            server.kill()
            await until(lambda: not node.status().roles[Role.COMMAND].connected)
            with pytest.raises(RedisUnavailable):
                await node.execute("XADD", "s", "*", "f", "v")
            server.start()
            started = clock()
            await node.wait_connected()
            with measured:
                assert clock() - started < 2.5
            assert await node.execute("XLEN", "s") == 0
    began, failed, ended = events[:2], events[3], events[5]
    assert [type(event) for event in began] == [Connected, Usable]
    assert [type(event) for event in events[2:]] == [
        ConnectionLost,
        ConnectFailed,
        Degraded,
        Connected,
        Usable,
    ]
    assert isinstance(failed, ConnectFailed)
    assert failed.problem.cause == "Connection refused"
    assert isinstance(ended, Connected)
    assert ended.attempts > 0


async def test_a_server_that_hangs_costs_one_deadline_then_fails_fast_and_recovers(clock: Clock) -> None:
    outcomes: dict[str, tuple[type[BusError], float]] = {}

    async def run(node: Node, name: str, retry_safe: bool) -> None:
        started = clock()
        try:
            await node.execute("INCR", "n", retry_safe=retry_safe)
        except BusError as error:
            outcomes[name] = type(error), clock() - started

    with start_redis() as server:
        target = Target(path=server.path, connect_timeout=0.5)
        async with running_node(target, command_timeout=0.5, connect_grace=0.2) as node:
            server.signal(signal.SIGSTOP)
            began = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run, node, "safe", True)
                nursery.start_soon(run, node, "never", False)
            assert {name: kind for name, (kind, _) in outcomes.items()} == {
                "safe": CommandTimedOut,
                "never": OutcomeUnknown,
            }
            assert trio.current_time() - began >= 0.5
            with measured:
                assert all(seconds < 0.8 for _, seconds in outcomes.values())
            await run(node, "within grace", False)
            assert outcomes["within grace"][0] is RedisUnavailable
            with measured:
                assert outcomes["within grace"][1] < 0.4
            await run(node, "known", False)
            assert outcomes["known"][0] is RedisUnavailable
            with measured:
                assert outcomes["known"][1] < 0.15
            server.signal(signal.SIGCONT)
            started = clock()
            await node.wait_connected()
            with measured:
                assert clock() - started < 2.5
            assert await node.execute("PING") == b"PONG"


async def test_a_deadline_is_kept_under_latency(redis: Server, clock: Clock) -> None:
    async with (
        proxy_to(redis.path) as proxy,
        running_node(through(proxy), command_timeout=0.3) as node,
    ):
        proxy.to_client.delay = lambda: 5.0
        began, started = trio.current_time(), clock()
        with pytest.raises(CommandTimedOut):
            await node.execute("GET", "key", retry_safe=True)
        assert trio.current_time() - began >= 0.3
        with measured:
            assert clock() - started < 0.5


async def test_a_killed_client_is_back_with_its_login_at_once(redis: Server, clock: Clock) -> None:
    redis.command("ACL", "SETUSER", "agent", "on", ">secret", "~*", "+@all")
    target = Target(path=redis.path, username="agent", password="secret", database=2)
    events: list[RedisEvent] = []
    async with running_node(target, events=events) as node:
        first = await node.execute("CLIENT", "ID")
        await node.execute("SET", "key", "value")
        assert redis.command("CLIENT", "KILL", "ID", first) == 1
        started = clock()
        await until(lambda: any(isinstance(event, ConnectionLost) for event in events))
        await node.wait_connected()
        assert await node.execute("GET", "key") == b"value"
        with measured:
            assert clock() - started < 0.5
        info = (await node.execute("CLIENT", "INFO")).decode()
    assert f"id={first} " not in info
    assert "name=redstreamd:command " in info
    assert "db=2 " in info
    assert "user=agent " in info


async def test_a_refused_login_fails_commands_at_once_and_is_told_once(redis: Server, clock: Clock) -> None:
    events: list[RedisEvent] = []
    async with (
        proxy_to(redis.path) as proxy,
        running_node(through(proxy, password="x"), connected=False, events=events) as node,
    ):
        for _ in range(3):
            started = clock()
            with pytest.raises(RedisUnavailable, match="a password is configured here"):
                await node.execute("PING")
            with measured:
                assert clock() - started < 0.5
        assert proxy.accepted == 1
    assert [type(event) for event in events] == [ConnectFailed, Degraded]


async def test_a_server_that_accepts_and_hangs_up_is_not_called_in_a_tight_loop(redis: Server) -> None:
    async with proxy_to(redis.path) as proxy, running_node(through(proxy)) as node:
        started = trio.current_time()
        for _ in range(6):
            await node.wait_connected()
            proxy.cut()
            await until(lambda: not node.status().roles[Role.COMMAND].connected)
        # Five pauses of at least half of 0.05 s, 0.1 s, ... lie between them.
        assert trio.current_time() - started > 0.025 + 0.05 + 0.1 + 0.2 + 0.4


async def test_waiting_ends_when_the_manager_does(redis: Server) -> None:
    errors: list[RedisUnavailable] = []
    target = Target(host="127.0.0.1", port=free_port())
    async with trio.open_nursery() as nursery:

        async def ask(node: Node) -> None:
            with pytest.raises(RedisUnavailable) as refused:
                await node.execute("PING")
            errors.append(refused.value)

        async with running_node(target, connected=False, connect_grace=60) as node:
            nursery.start_soon(ask, node)
            await until(lambda: node.status().roles[Role.COMMAND].failed_attempts > 1)
    assert "shutting down" in errors[0].cause


async def test_a_manager_may_be_run_again(redis: Server) -> None:
    node = Node(Target(path=redis.path))
    for _ in range(2):
        async with trio.open_nursery() as nursery:
            await nursery.start(node.run)
            assert await node.execute("ECHO", "x") == b"x"
            nursery.cancel_scope.cancel()
        with pytest.raises(RedisUnavailable, match="shutting down"):
            await node.execute("PING")
