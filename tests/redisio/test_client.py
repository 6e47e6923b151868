from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from redstreamd.redisio import Role, reply_parsing
from redstreamd.redisio.client import Redis
from redstreamd.redisio.node import Node
from redstreamd.redisio.redis_errors import RedisUnavailable, ServerReplied
from redstreamd.redisio.reply_parsing import ConsumerInfo, GroupInfo, PendingEntry, PendingSummary, RawEntry
from redstreamd.redisio.script import Script, ScriptCall
from redstreamd.redisio.standalone import Standalone
from redstreamd.redisio.target import Deployment, Target
from redstreamd.redisio.topology import QueueByKey
from tests.redisio.running import calls, running_topology
from tests.support.limits import Deferred
from tests.support.servers import Server

NAME = "größe:日本"

LENGTH = Script("return redis.call('XLEN', KEYS[1])")


@pytest.fixture
def redis(server: Server) -> Deferred[Redis]:
    """Redis over a node that is connected to each of the servers in turn."""

    @asynccontextmanager
    async def running() -> AsyncIterator[Redis]:
        async with running_topology(Standalone.of(Target(path=server.path))) as redis:
            yield redis

    return Deferred(running())


def send_with_retries(server: Server, consumer: str, count: int) -> None:
    """Let `consumer` of the group g have the next entries of the stream s."""
    server.command("XREADGROUP", "GROUP", "g", consumer, "COUNT", count, "STREAMS", "s", ">")


async def test_an_entry_keeps_its_bytes_its_order_and_repeated_fields(redis: Redis) -> None:
    fields = [(b"b", b"\xff\x00"), (b"a", b""), (b"b", b"again"), (b"", b"empty name")]
    entry_id = await redis.xadd(NAME, fields)
    assert await redis.xrange(NAME, "-", "+", 10) == [
        RawEntry(entry_id, [part for pair in fields for part in pair])
    ]


async def test_an_entry_without_fields_is_refused_before_it_is_sent(redis: Redis) -> None:
    with pytest.raises(Exception, match="non-empty"):
        await redis.xadd("s", [])


async def test_a_range_is_bounded(redis: Redis) -> None:
    ids = [await redis.xadd("s", [(b"n", b"%d" % number)]) for number in range(5)]
    assert await redis.xlen("s") == 5
    assert [entry.id for entry in await redis.xrange("s", "-", "+", 3)] == ids[:3]
    assert [entry.id for entry in await redis.xrange("s", f"({ids[1]}", "+", 9)] == ids[2:]
    assert await redis.xrange("absent", "-", "+", 9) == []


async def test_keys_are_told_apart(redis: Redis, server: Server) -> None:
    await redis.xadd("s", [(b"f", b"v")])
    server.command("SET", "text", "x")
    assert await redis.key_type("s") == "stream"
    assert await redis.key_type("text") == "string"
    assert await redis.key_type("absent") == "none"


async def test_a_scan_finds_streams_only_and_leaves_out_names_that_are_not_utf8(
    redis: Redis, server: Server
) -> None:
    server.commands(
        *(("XADD", f"s:{number}", "*", "f", "v") for number in range(50)),
        ("XADD", b"s:\xff", "*", "f", "v"),
        ("XADD", "other", "*", "f", "v"),
        ("SET", "s:text", "x"),
    )
    found: set[str] = set()
    cursor = None
    while True:
        cursor, names = await redis.scan_streams(cursor, "s:*", 20)
        found.update(names)
        if cursor is None:
            break
    assert found == {f"s:{number}" for number in range(50)}


async def test_groups_and_consumers_are_described(redis: Redis, server: Server) -> None:
    for number in (1, 2, 3):
        server.command("XADD", "s", f"{number}-1", "n", number)
    await redis.xgroup_create("s", "g", "0", mkstream=False)
    assert await redis.xinfo_groups("s") == [GroupInfo("g", 0, 0, "0-0", None, 3)]
    send_with_retries(server, "ann", 2)
    assert await redis.xinfo_groups("s") == [GroupInfo("g", 1, 2, "2-1", 2, 1)]
    server.command("XACK", "s", "g", "1-1")
    server.command("XGROUP", "CREATECONSUMER", "s", "g", "idle")
    ann, idle = await redis.xinfo_consumers("s", "g")
    assert isinstance(ann, ConsumerInfo)
    assert (ann.name, ann.pending) == ("ann", 1)
    assert 0 <= ann.idle_seconds < 10
    # Redis 7.0 does not tell, Valkey does; neither does for one that never took anything.
    assert ann.inactive_seconds is None or 0 <= ann.inactive_seconds < 10
    assert (idle.name, idle.pending, idle.inactive_seconds) == ("idle", 0, None)


async def test_creating_a_group_twice_is_told(redis: Redis) -> None:
    await redis.xgroup_create(NAME, "g", "$", mkstream=True)
    with pytest.raises(ServerReplied) as again:
        await redis.xgroup_create(NAME, "g", "$", mkstream=True)
    assert again.value.code == "GROUP_EXISTS"
    with pytest.raises(ServerReplied) as absent:
        await redis.xgroup_create("absent", "g", "$", mkstream=False)
    assert absent.value.code == "STREAM_NOT_FOUND"


async def test_pending_entries_are_summed_up_and_listed(redis: Redis, server: Server) -> None:
    for number in (1, 2, 3):
        server.command("XADD", "s", f"{number}-1", "n", number)
    await redis.xgroup_create("s", "g", "0", mkstream=False)
    assert await redis.xpending_summary("s", "g") == PendingSummary(0, None, None, ())
    send_with_retries(server, "ann", 2)
    send_with_retries(server, "bob", 1)
    # An hour ago, the second time.
    server.command("XCLAIM", "s", "g", "bob", 0, "3-1", "IDLE", 3_600_000, "RETRYCOUNT", 2, "JUSTID")
    assert await redis.xpending_summary("s", "g") == PendingSummary(3, "1-1", "3-1", (("ann", 2), ("bob", 1)))
    listed = await redis.xpending_range("s", "g", start="-", end="+", count=10)
    assert [(entry.id, entry.consumer, entry.deliveries) for entry in listed] == [
        ("1-1", "ann", 1),
        ("2-1", "ann", 1),
        ("3-1", "bob", 2),
    ]
    assert 3_600 <= listed[2].idle_seconds < 3_700
    of_bob = await redis.xpending_range("s", "g", start="-", end="+", count=10, consumer="bob")
    assert [entry.id for entry in of_bob] == ["3-1"]
    old = await redis.xpending_range("s", "g", start="-", end="+", count=10, min_idle_ms=60_000)
    assert isinstance(old[0], PendingEntry)
    assert [entry.id for entry in old] == ["3-1"]
    assert [entry.id for entry in await redis.xpending_range("s", "g", start="(1-1", end="+", count=1)] == [
        "2-1"
    ]


async def test_an_entry_deleted_while_pending_has_no_fields(redis: Redis, server: Server) -> None:
    server.commands(
        ("XGROUP", "CREATE", "s", "g", "0", "MKSTREAM"),
        ("XADD", "s", "1-1", "f", "v"),
        ("XREADGROUP", "GROUP", "g", "c", "STREAMS", "s", ">"),
        ("XDEL", "s", "1-1"),
    )
    own_history = server.command("XREADGROUP", "GROUP", "g", "c", "STREAMS", "s", "0")
    assert reply_parsing.entries(own_history[0][1]) == [RawEntry("1-1", [])]


async def test_the_server_tells_its_state(redis: Redis) -> None:
    await redis.ping()
    await redis.ping(role=Role.BULK)
    info = await redis.info("memory", key=None)
    assert int(info["used_memory"]) > 0
    assert "# Memory" not in info


async def test_names_that_look_like_several_words_stay_one_argument(redis: Redis) -> None:
    await redis.xgroup_create("two words", "a group", "$", mkstream=True)
    assert [group.name for group in await redis.xinfo_groups("two words")] == ["a group"]


class TwoServers(Standalone):
    """Chooses a server by the first letter of the key."""

    def __init__(self, left: Target, right: Target) -> None:
        super().__init__(Deployment(left))
        self.queues = {role: QueueByKey(self, role) for role in Role}
        self._right = self._new_node(right)
        #: The keys by which servers were chosen.
        self.keys: list[str | bytes | None] = []

    def node_for(self, key: str | bytes | None) -> Node:
        self.keys.append(key)
        return self._right if key is not None and key[:1] in ("r", b"r") else self.node

    async def wait_node(self, key: str | bytes | None, _deadline: float) -> Node:
        return self.node_for(key)

    def nodes(self) -> tuple[Node, ...]:
        return (self.node, self._right)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            for node in self.nodes():
                await nursery.start(node.run)
            task_status.started()


async def test_the_key_alone_decides_which_server_a_command_goes_to(
    redis_server: Server, valkey_server: Server
) -> None:
    for server in (redis_server, valkey_server):
        server.flush()
    servers = TwoServers(Target(path=redis_server.path), Target(path=valkey_server.path))
    async with running_topology(servers) as both:
        servers.keys = []
        ports = {"left": redis_server.port, "right": valkey_server.port}
        for stream in ("left", "right"):
            await both.xadd(stream, [(b"f", b"v")])
            (entry,) = await both.xrange(stream, "-", "+", 9)
            assert await both.xlen(stream) == 1
            assert await both.key_type(stream) == "stream"
            await both.xgroup_create(stream, "g", "0", mkstream=False)
            await both.xgroup_setid(stream, "g", "$")
            assert [group.last_delivered_id for group in await both.xinfo_groups(stream)] == [entry.id]
            assert await both.xinfo_consumers(stream, "g") == []
            assert await both.xpending_summary(stream, "g") == PendingSummary(0, None, None, ())
            assert await both.xpending_range(stream, "g", start="-", end="+", count=1) == []
            assert await both.run_script(LENGTH, [stream], [], retry_safe=True) == 1
            assert await both.run_script(LENGTH, [stream.encode(), "other"], [], retry_safe=True) == 1
            written = await both.execute_confirmed(
                ("XADD", stream, "*", "f", "v"), ("WAIT", 0, 1), key=stream.encode()
            )
            assert written.confirmation == 0
            assert await both.execute("XLEN", stream, key=stream) == 2
            assert ("valkey_version" in await both.info("server", key=stream)) == (stream == "right")
            assert await both.config_get("port", key=stream) == str(ports[stream])
        by_key, servers.keys = servers.keys, []
        assert by_key.count("left") + by_key.count(b"left") == len(by_key) / 2
        await both.ping()
        await both.info("memory", key=None)
        assert await both.config_get("maxclients", key=None) == "10000"
        assert servers.keys == [None] * 2
        cursor, names = await both.scan_streams(None, "*", 10)
        assert names == ["left"]
        assert await both.scan_streams(cursor, "*", 10) == (None, ["right"])
    assert redis_server.command("KEYS", "*") == [b"left"]
    assert valkey_server.command("KEYS", "*") == [b"right"]


ADD: tuple[str, ...] = ("XADD", "s", "*", "f", "v")
WAIT = ("WAIT", 1, 1)


async def test_a_confirmed_write_is_a_command_or_a_script_on_the_durable_connection(
    redis: Redis, server: Server
) -> None:
    added = await redis.execute_confirmed(ADD, WAIT, key="s")
    assert added.confirmation == 0  # nobody replicates this server
    client = await redis.execute("CLIENT", "ID", key=None, role=Role.DURABLE)
    script = Script("return {redis.call('XLEN', KEYS[1]), ARGV[1]}")
    for _ in ("by its text", "by its digest"):
        counted = await redis.execute_confirmed(ScriptCall(script, ["s"], ["x"]), WAIT, key="s")
        assert (counted.reply, counted.confirmation) == ([1, b"x"], 0)
    durable = server.command("CLIENT", "LIST", "ID", client).decode()
    assert "name=redstreamd:durable " in durable
    assert "cmd=wait " in durable


async def test_an_error_of_the_write_is_raised_and_one_of_the_confirmation_is_returned(
    redis: Redis, server: Server
) -> None:
    refused = await redis.execute_confirmed(ADD, ("WAIT", "some", 1), key="s")
    assert refused.reply is not None
    assert isinstance(refused.confirmation, ServerReplied)
    assert server.command("XLEN", "s") == 1
    server.command("SET", "text", "x")
    server.command("CONFIG", "RESETSTAT")
    with pytest.raises(ServerReplied, match="WRONGTYPE"):
        await redis.execute_confirmed(("XADD", "text", "*", "f", "v"), WAIT, key="text")
    assert calls(server, "wait") == 0


async def test_nothing_is_asked_where_nothing_was_written(redis: Redis, server: Server) -> None:
    server.command("CONFIG", "RESETSTAT")
    known = ("XADD", "s", "NOMKSTREAM", "*", "f", "v")
    written = await redis.execute_confirmed(known, WAIT, key="s", wrote=lambda reply: reply is not None)
    assert (written.reply, written.confirmation) == (None, None)
    assert calls(server, "wait") == 0


async def test_no_other_connection_than_the_one_that_answered_confirms(redis: Redis, server: Server) -> None:
    client = await redis.execute("CLIENT", "ID", key=None, role=Role.DURABLE)

    def cut(_reply: object) -> bool:
        # Between the reply and the question. With a pause there, the next connection would be asked.
        assert server.command("CLIENT", "KILL", "ID", client) == 1
        return True

    written = await redis.execute_confirmed(ADD, WAIT, key="s", wrote=cut)
    assert isinstance(written.confirmation, RedisUnavailable)
    assert server.command("XLEN", "s") == 1
