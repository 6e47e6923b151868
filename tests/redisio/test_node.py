from __future__ import annotations

import pytest
import trio

from redstreamd.errors.defects import Defect
from redstreamd.redisio import Role, pipeline
from redstreamd.redisio.node import Node, NodeHooks
from redstreamd.redisio.redis_errors import QueueFull, ServerReplied
from redstreamd.redisio.script import Script
from redstreamd.redisio.target import Target
from tests.redisio.running import calls, over_tcp, run_script, running_node
from tests.support.fair_clock import Clock
from tests.support.measured import measured
from tests.support.servers import Server
from tests.support.waiting import until


async def test_each_role_has_a_connection_of_its_own_opened_when_first_needed(redis: Server) -> None:
    async with running_node(Target(path=redis.path)) as node:
        assert _names(redis) == {"redstreamd:command"}
        assert not node.status().roles[Role.BULK].wanted
        assert await node.execute("ECHO", "x", role=Role.BULK) == b"x"
        assert _names(redis) == {"redstreamd:command", "redstreamd:bulk"}
        await node.wait_connected(Role.WATCH)
        assert _names(redis) == {"redstreamd:command", "redstreamd:bulk", "redstreamd:watch"}
        await node.wait_connected(Role.DURABLE)
        await node.wait_connected(Role.LARGE)
        assert len(_names(redis)) == len(Role)
        status = node.status()
        assert all(role.connected and role.server.startswith("redis 7") for role in status.roles.values())
        assert status.label == redis.path


def _names(server: Server) -> set[str]:
    fields = server.command("CLIENT", "LIST").decode().split()
    return {field.partition("=")[2] for field in fields if field.startswith("name=redstreamd")}


@pytest.mark.limit(90)
async def test_a_large_reply_does_not_hold_up_short_commands(redis: Server, clock: Clock) -> None:
    redis.command("SET", "large", b"x" * 100_000_000)
    pings: list[float] = []
    async with running_node(over_tcp(redis), command_timeout=60) as node:
        await node.wait_connected(Role.BULK)
        fetched = trio.Event()

        async def fetch() -> None:
            reply = await node.execute("GET", "large", role=Role.BULK, retry_safe=True)
            assert len(reply) == 100_000_000
            fetched.set()

        began = clock()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetch)
            while not fetched.is_set():
                started = clock()
                await node.execute("PING")
                pings.append(clock() - started)
        took = clock() - began
    # Behind the reply on one connection, a PING would have taken as long as all of it, and there would be
    # two. Here many got through while it was arriving; the longest waited while its last copy was made.
    *others, _ = sorted(pings)
    assert len(others) > 5
    with measured:
        assert others[len(others) // 2] < took / 5
        assert others[-1] < took / 2


async def test_the_watch_hooks_see_each_connection_before_its_replies(server: Server) -> None:
    seen: list[object] = []
    pushed = trio.Event()

    def on_push(_node: Node, message: list[object]) -> None:
        seen.append(message)
        pushed.set()

    async with running_node(Target(path=server.path)) as node:
        node.hooks = NodeHooks(on_push, lambda _node: seen.append("connected"))
        client = await node.execute("CLIENT", "ID", role=Role.WATCH)
        seen.append("first reply")
        await node.execute("CLIENT", "TRACKING", "ON", role=Role.WATCH)
        await node.execute("EXISTS", "s", role=Role.WATCH)
        server.command("XADD", "s", "*", "f", "v")
        await pushed.wait()
        server.command("CLIENT", "KILL", "ID", client)
        await until(lambda: seen.count("connected") == 2)
        await node.execute("PING", role=Role.WATCH, retry_safe=True)
    assert seen == ["connected", "first reply", [b"invalidate", [b"s"]], "connected"]


async def test_hooks_that_raise_cost_nothing(redis: Server, defects: list[Defect]) -> None:
    def broken(*_args: object) -> None:
        raise RuntimeError("a defect in a hook")

    node = Node(Target(path=redis.path), on_event=broken)
    node.hooks = NodeHooks(broken, broken)
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        for role in Role:
            assert await node.execute("ECHO", "x", role=role) == b"x"
        nursery.cancel_scope.cancel()
    # Of each role, and of all that were wanted together.
    told = [each.what for each in defects]
    assert told.count("the hook for Redis events failed") == 2 * len(Role)
    assert told.count("the hook for a new watch connection failed") == 1


async def test_the_round_trip_of_the_last_ping_is_known(redis: Server) -> None:
    async with running_node(Target(path=redis.path), ping_interval=0.02) as node:

        def round_trip() -> float | None:
            statistics = node.status().roles[Role.COMMAND].statistics
            return None if statistics is None else statistics.round_trip_seconds

        await until(lambda: round_trip() is not None)
        assert 0 < (round_trip() or 0) < 1


async def test_too_many_commands_at_once_are_refused(redis: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "MAX_REQUESTS", 5)
    results: list[object] = []

    async def ask(node: Node) -> None:
        try:
            results.append(await node.execute("ECHO", "x"))
        except QueueFull as full:
            results.append(str(full.code))

    async with running_node(Target(path=redis.path)) as node, trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(ask, node)
    assert results.count(b"x") == 5
    assert results.count("RATE_LIMITED") == 3


async def test_a_script_is_sent_in_full_only_once(server: Server) -> None:
    script = Script("return {KEYS[1], ARGV[1], ARGV[2]}")
    server.commands(("SCRIPT", "FLUSH"), ("CONFIG", "RESETSTAT"))
    async with running_node(Target(path=server.path)) as node:
        for _ in range(3):
            reply = await run_script(node, script, ["key"], [1, b"two"], retry_safe=True)
            assert reply == [b"key", b"1", b"two"]
        assert (calls(server, "evalsha"), calls(server, "eval")) == (3, 1)
        server.command("SCRIPT", "FLUSH")
        assert await run_script(node, script, ["key"], [1, 2], retry_safe=False)
    assert calls(server, "eval") == 2


async def test_an_error_of_a_script_reaches_its_caller(server: Server) -> None:
    script = Script("return redis.error_reply('CUSTOM no luck')")
    async with running_node(Target(path=server.path)) as node:
        with pytest.raises(ServerReplied) as replied:
            await run_script(node, script, [], [], retry_safe=False)
    assert str(replied.value.reply) == "CUSTOM no luck"
    assert replied.value.code == "INTERNAL"
