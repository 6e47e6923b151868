from __future__ import annotations

import time

import pytest
import trio

from redstreamd.redisio.node import Node, Role
from redstreamd.redisio.redis_errors import RedisUnavailable, ServerReplied
from redstreamd.redisio.target import Target
from tests.redisio.running import calls, running_node, slow_loading
from tests.support.servers import Server, free_port, start_redis
from tests.support.waiting import until


async def test_commands_wait_while_redis_loads_its_data(server: Server) -> None:
    with slow_loading(server, 0.5):
        async with running_node(Target(path=server.path)) as node, trio.open_nursery() as nursery:
            added, waited = 0, 0.0
            # Where this process is held up for half a second, the server has loaded before it is asked.
            while waited < 0.1:
                nursery.start_soon(trio.to_thread.run_sync, server.command, "DEBUG", "RELOAD")
                await until(lambda: str(server.command("PING")).startswith("LOADING"))
                began = trio.current_time()
                await node.execute("XADD", "s", "*", "f", "v")
                waited = trio.current_time() - began
                added += 1
            assert await node.execute("XLEN", "s") == added
            # The connection has survived it: a server that says LOADING is not broken.
            assert node.status().roles[Role.COMMAND].problem is None


async def test_commands_wait_for_a_long_script_and_never_kill_it(redis: Server) -> None:
    loop = "local t = redis.call('TIME')[1] while redis.call('TIME')[1] - t < 2 do end return 'finished'"
    replies: list[object] = []

    def run_loop() -> None:
        # On Redis 7.0 TIME moves on inside a script; later servers freeze it.
        replies.append(redis.command("EVAL", loop, 0))

    redis.command("CONFIG", "SET", "busy-reply-threshold", 50)
    try:
        async with running_node(Target(path=redis.path)) as node, trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, run_loop)
            await until(lambda: str(redis.command("PING")).startswith("BUSY"))
            await node.execute("XADD", "s", "*", "f", "v")
            assert await node.execute("XLEN", "s") == 1
    finally:
        redis.command("CONFIG", "SET", "busy-reply-threshold", 5000)
    assert replies == [b"finished"]


@pytest.mark.parametrize(
    ("command", "break_it", "heal_it", "code"),
    [
        (
            ("XADD", "s", "*", "f", "v"),
            [("CONFIG", "SET", "min-replicas-to-write", 1)],
            [("CONFIG", "SET", "min-replicas-to-write", 0)],
            "NOREPLICAS",
        ),
        (
            ("XLEN", "s"),
            [("CONFIG", "SET", "replica-serve-stale-data", "no"), ("REPLICAOF", "127.0.0.1", 1)],
            [("REPLICAOF", "NO", "ONE"), ("CONFIG", "SET", "replica-serve-stale-data", "yes")],
            "MASTERDOWN",
        ),
    ],
)
async def test_commands_that_were_not_executed_are_repeated_until_the_server_heals(
    redis: Server,
    command: tuple[str, ...],
    break_it: list[tuple[str | int, ...]],
    heal_it: list[tuple[str | int, ...]],
    code: str,
) -> None:
    replies: list[object] = []

    async def run(node: Node) -> None:
        replies.append(await node.execute(*command))

    async with (
        running_node(Target(path=redis.path), command_timeout=0.5) as hasty,
        running_node(Target(path=redis.path)) as node,
    ):
        try:
            redis.commands(*break_it)
            with pytest.raises(RedisUnavailable, match=code):
                await hasty.execute(*command)
            redis.command("CONFIG", "RESETSTAT")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run, node)
                await until(lambda: calls(redis, command[0].lower()) >= 2)
                assert replies == []
                redis.commands(*heal_it)
        finally:
            redis.commands(*heal_it)
        assert len(replies) == 1
        assert await node.execute("XLEN", "s") == (1 if command[0] == "XADD" else 0)
        # Degraded is not dead: all of it happened on the first connection of each.
        assert hasty.status().roles[Role.COMMAND].problem is None
        assert node.status().roles[Role.COMMAND].problem is None


@pytest.mark.parametrize("retry_safe", [False, True])
async def test_a_refusal_stays_the_answer_when_no_time_is_left_to_repeat(
    redis: Server, *, retry_safe: bool
) -> None:
    async def hold_up() -> None:
        await until(lambda: calls(redis, "xadd") >= 2)
        time.sleep(0.6)  # noqa: ASYNC251 - the whole process is held up in a pause before a repeat

    redis.command("CONFIG", "SET", "min-replicas-to-write", 1)
    try:
        async with (
            running_node(Target(path=redis.path), command_timeout=0.5) as node,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(hold_up)
            with pytest.raises(RedisUnavailable, match="NOREPLICAS"):
                await node.execute("XADD", "s", "*", "f", "v", retry_safe=retry_safe)
    finally:
        redis.command("CONFIG", "SET", "min-replicas-to-write", 0)


async def test_a_cluster_that_does_not_serve_the_slot_is_waited_for() -> None:
    # The default bus port is the port plus 10,000, which may be more than there are.
    options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    with start_redis(*options) as server:
        async with running_node(Target(path=server.path), command_timeout=15.0) as node:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(node.execute, "XADD", "s", "*", "f", "v")
                await until(lambda: calls(server, "xadd") >= 2)
                server.command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            assert await node.execute("XLEN", "s") == 1


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("XLEN", "text"), "WRONG_TYPE"),
        (("XREADGROUP", "GROUP", "g", "c", "STREAMS", "s", ">"), "GROUP_NOT_FOUND"),
        (("XGROUP", "CREATE", "absent", "g", "$"), "STREAM_NOT_FOUND"),
    ],
)
async def test_permanent_errors_are_not_repeated(server: Server, command: tuple[str, ...], code: str) -> None:
    server.commands(("SET", "text", "x"), ("XADD", "s", "*", "f", "v"), ("CONFIG", "RESETSTAT"))
    async with running_node(Target(path=server.path)) as node:
        with pytest.raises(ServerReplied) as replied:
            await node.execute(*command, retry_safe=True)
    assert replied.value.code == code
    name = "xgroup|create" if command[0] == "XGROUP" else command[0].lower()
    assert calls(server, name) == 1
