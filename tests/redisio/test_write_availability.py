"""A server that answers and refuses writes: known from the first refusal, until the server has changed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio

from redstreamd.redisio import write_availability
from redstreamd.redisio.node import Node, RedisEvent
from redstreamd.redisio.redis_errors import ServerReplied
from redstreamd.redisio.script import Script
from redstreamd.redisio.server_health import Degraded, WritesAccepted
from redstreamd.redisio.target import Target
from tests.redisio.running import run_script, running_node
from tests.support.servers import Server, start_redis
from tests.support.waiting import until

ADD = Script("return redis.call('XADD', KEYS[1], '*', 'f', 'v')")
COMMAND = ("XADD", "s", "*", "f", "v")


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_availability, "_ASK_SECONDS", 0.05)


def told(events: Sequence[RedisEvent]) -> list[str]:
    """The codes that were refused with, and "accepted"."""
    return [
        event.problem.cause.split()[2] if isinstance(event, Degraded) else "accepted"
        for event in events
        if isinstance(event, Degraded | WritesAccepted)
    ]


@pytest.mark.parametrize("by_script", [False, True])
@pytest.mark.parametrize(
    ("code", "break_it", "heal_it"),
    [
        ("OOM", ("CONFIG", "SET", "maxmemory", 1), ("CONFIG", "SET", "maxmemory", 0)),
        ("READONLY", ("REPLICAOF", "127.0.0.1", 1), ("REPLICAOF", "NO", "ONE")),
    ],
)
async def test_refused_writes_are_told_once_and_their_end_is_found_though_nobody_writes(
    server: Server,
    code: str,
    break_it: tuple[str | int, ...],
    heal_it: tuple[str | int, ...],
    by_script: bool,
) -> None:
    async def add(node: Node) -> None:
        if by_script:
            await run_script(node, ADD, ["s"], [], retry_safe=False)
        else:
            await node.execute(*COMMAND)

    events: list[RedisEvent] = []
    async with running_node(Target(path=server.path), events=events) as node:
        await add(node)
        assert node.status().problems == ()
        try:
            server.command(*break_it)
            for _ in range(3):
                with pytest.raises(ServerReplied, match=code):
                    await add(node)
                await node.execute("XLEN", "s")
            await trio.sleep(0.3)  # several questions, each refused
            (problem,) = node.status().problems
            assert "refuses writes" in problem.effect
            assert code in problem.cause
            assert problem.next_step
            assert told(events) == [code]
        finally:
            server.command(*heal_it)
        await until(lambda: not node.status().problems)
    assert told(events) == [code, "accepted"]
    # The questions left no trace.
    assert (server.command("XLEN", "s"), server.command("DBSIZE")) == (1, 1)


async def test_a_script_without_keys_is_noticed_too(redis: Server) -> None:
    script = Script("return redis.call('SET', 'a', 'b')")
    async with running_node(Target(path=redis.path)) as node:
        try:
            redis.command("CONFIG", "SET", "maxmemory", 1)
            with pytest.raises(ServerReplied, match="OOM"):
                await run_script(node, script, [], [], retry_safe=False)
            assert node.status().problems
        finally:
            redis.command("CONFIG", "SET", "maxmemory", 0)
        await until(lambda: not node.status().problems)


async def test_what_a_full_server_still_does_is_no_sign_that_it_writes(server: Server) -> None:
    events: list[RedisEvent] = []
    async with running_node(Target(path=server.path), events=events) as node:
        await node.execute(*COMMAND)
        try:
            server.command("CONFIG", "SET", "maxmemory", 1)
            for _ in range(3):
                with pytest.raises(ServerReplied):
                    await node.execute(*COMMAND)
                await node.execute("XTRIM", "s", "MAXLEN", 100)
            assert told(events) == ["OOM"]
        finally:
            server.command("CONFIG", "SET", "maxmemory", 0)


async def test_a_user_who_may_not_ask_is_told_of_the_end_when_nothing_was_refused_for_long(
    redis: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_availability, "_FORGET_SECONDS", 0.5)
    redis.command("ACL", "SETUSER", "worker", "on", ">secret", "~*", "+@all", "-xadd")
    events: list[RedisEvent] = []
    target = Target(path=redis.path, username="worker", password="secret")
    async with running_node(target, events=events) as node:
        try:
            redis.command("CONFIG", "SET", "maxmemory", 1)
            began = trio.current_time()
            with pytest.raises(ServerReplied):
                await node.execute("SET", "s", "v")
            assert node.status().problems
            await until(lambda: not node.status().problems)
            assert trio.current_time() - began >= 0.5
        finally:
            redis.commands(("CONFIG", "SET", "maxmemory", 0), ("ACL", "DELUSER", "worker"))
    assert told(events) == ["OOM", "accepted"]


async def test_a_server_that_cannot_save_is_noticed_by_the_ping_of_an_idle_connection() -> None:
    events: list[RedisEvent] = []
    with start_redis("--save", "3600 1000000", "--dbfilename", "d.rdb") as server:
        async with running_node(Target(path=server.path), events=events, ping_interval=0.05) as node:
            server.command(*COMMAND)
            # A directory of that name: the dump cannot be written.
            (server.directory / "d.rdb").mkdir()
            server.command("BGSAVE")
            await until(lambda: node.status().problems)
            assert "MISCONF" in node.status().problems[0].cause
            server.command("CONFIG", "SET", "save", "")
            await until(lambda: not node.status().problems)
    assert told(events) == ["MISCONF", "accepted"]
