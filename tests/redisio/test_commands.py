from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from redstreamd.redisio import reply_parsing
from redstreamd.redisio.commands import Commands
from redstreamd.redisio.connection_manager import Role
from redstreamd.redisio.redis_errors import ServerReplied
from redstreamd.redisio.reply_parsing import ConsumerInfo, GroupInfo, PendingEntry, PendingSummary, RawEntry
from redstreamd.redisio.target import Target
from tests.redisio.running import running_manager
from tests.support.limits import Deferred
from tests.support.servers import Server

NAME = "größe:日本"


@pytest.fixture
def commands(server: Server) -> Deferred[Commands]:
    """The typed commands over a manager that is connected to each of the servers in turn."""

    @asynccontextmanager
    async def running() -> AsyncIterator[Commands]:
        async with running_manager(Target(path=server.path)) as manager:
            yield Commands(manager)

    return Deferred(running())


def send_with_retries(server: Server, consumer: str, count: int) -> None:
    """Let `consumer` of the group g have the next entries of the stream s."""
    server.command("XREADGROUP", "GROUP", "g", consumer, "COUNT", count, "STREAMS", "s", ">")


async def test_an_entry_keeps_its_bytes_its_order_and_repeated_fields(commands: Commands) -> None:
    fields = [(b"b", b"\xff\x00"), (b"a", b""), (b"b", b"again"), (b"", b"empty name")]
    entry_id = await commands.xadd(NAME, fields)
    assert await commands.xrange(NAME, "-", "+", 10) == [RawEntry(entry_id, tuple(fields))]


async def test_an_entry_without_fields_is_refused_before_it_is_sent(commands: Commands) -> None:
    with pytest.raises(Exception, match="non-empty"):
        await commands.xadd("s", [])


async def test_a_range_is_bounded(commands: Commands) -> None:
    ids = [await commands.xadd("s", [(b"n", b"%d" % number)]) for number in range(5)]
    assert await commands.xlen("s") == 5
    assert [entry.id for entry in await commands.xrange("s", "-", "+", 3)] == ids[:3]
    assert [entry.id for entry in await commands.xrange("s", f"({ids[1]}", "+", 9)] == ids[2:]
    assert await commands.xrange("absent", "-", "+", 9) == []


async def test_keys_are_told_apart(commands: Commands, server: Server) -> None:
    await commands.xadd("s", [(b"f", b"v")])
    server.command("SET", "text", "x")
    assert await commands.key_type("s") == "stream"
    assert await commands.key_type("text") == "string"
    assert await commands.key_type("absent") == "none"


async def test_a_scan_finds_streams_only_and_leaves_out_names_that_are_not_utf8(
    commands: Commands, server: Server
) -> None:
    server.commands(
        *(("XADD", f"s:{number}", "*", "f", "v") for number in range(50)),
        ("XADD", b"s:\xff", "*", "f", "v"),
        ("XADD", "other", "*", "f", "v"),
        ("SET", "s:text", "x"),
    )
    found: set[str] = set()
    cursor = 0
    while True:
        cursor, names = await commands.scan_streams(cursor, "s:*", 20)
        found.update(names)
        if cursor == 0:
            break
    assert found == {f"s:{number}" for number in range(50)}


async def test_groups_and_consumers_are_described(commands: Commands, server: Server) -> None:
    for number in (1, 2, 3):
        server.command("XADD", "s", f"{number}-1", "n", number)
    await commands.xgroup_create("s", "g", "0", mkstream=False)
    assert await commands.xinfo_groups("s") == [GroupInfo("g", 0, 0, "0-0", None, 3)]
    send_with_retries(server, "ann", 2)
    assert await commands.xinfo_groups("s") == [GroupInfo("g", 1, 2, "2-1", 2, 1)]
    server.command("XACK", "s", "g", "1-1")
    server.command("XGROUP", "CREATECONSUMER", "s", "g", "idle")
    ann, idle = await commands.xinfo_consumers("s", "g")
    assert isinstance(ann, ConsumerInfo)
    assert (ann.name, ann.pending) == ("ann", 1)
    assert 0 <= ann.idle_seconds < 10
    # Redis 7.0 does not tell, Valkey does; neither does for one that never took anything.
    assert ann.inactive_seconds is None or 0 <= ann.inactive_seconds < 10
    assert (idle.name, idle.pending, idle.inactive_seconds) == ("idle", 0, None)


async def test_creating_a_group_twice_is_told(commands: Commands) -> None:
    await commands.xgroup_create(NAME, "g", "$", mkstream=True)
    with pytest.raises(ServerReplied) as again:
        await commands.xgroup_create(NAME, "g", "$", mkstream=True)
    assert again.value.code == "GROUP_EXISTS"
    with pytest.raises(ServerReplied) as absent:
        await commands.xgroup_create("absent", "g", "$", mkstream=False)
    assert absent.value.code == "STREAM_NOT_FOUND"


async def test_pending_entries_are_summed_up_and_listed(commands: Commands, server: Server) -> None:
    for number in (1, 2, 3):
        server.command("XADD", "s", f"{number}-1", "n", number)
    await commands.xgroup_create("s", "g", "0", mkstream=False)
    assert await commands.xpending_summary("s", "g") == PendingSummary(0, None, None, ())
    send_with_retries(server, "ann", 2)
    send_with_retries(server, "bob", 1)
    # An hour ago, the second time.
    server.command("XCLAIM", "s", "g", "bob", 0, "3-1", "IDLE", 3_600_000, "RETRYCOUNT", 2, "JUSTID")
    assert await commands.xpending_summary("s", "g") == PendingSummary(
        3, "1-1", "3-1", (("ann", 2), ("bob", 1))
    )
    listed = await commands.xpending_range("s", "g", start="-", end="+", count=10)
    assert [(entry.id, entry.consumer, entry.deliveries) for entry in listed] == [
        ("1-1", "ann", 1),
        ("2-1", "ann", 1),
        ("3-1", "bob", 2),
    ]
    assert 3_600 <= listed[2].idle_seconds < 3_700
    of_bob = await commands.xpending_range("s", "g", start="-", end="+", count=10, consumer="bob")
    assert [entry.id for entry in of_bob] == ["3-1"]
    old = await commands.xpending_range("s", "g", start="-", end="+", count=10, min_idle_ms=60_000)
    assert isinstance(old[0], PendingEntry)
    assert [entry.id for entry in old] == ["3-1"]
    assert [
        entry.id for entry in await commands.xpending_range("s", "g", start="(1-1", end="+", count=1)
    ] == ["2-1"]


async def test_an_entry_deleted_while_pending_has_no_fields(commands: Commands, server: Server) -> None:
    server.commands(
        ("XGROUP", "CREATE", "s", "g", "0", "MKSTREAM"),
        ("XADD", "s", "1-1", "f", "v"),
        ("XREADGROUP", "GROUP", "g", "c", "STREAMS", "s", ">"),
        ("XDEL", "s", "1-1"),
    )
    own_history = server.command("XREADGROUP", "GROUP", "g", "c", "STREAMS", "s", "0")
    assert reply_parsing.entries(own_history[0][1]) == [RawEntry("1-1", ())]


async def test_the_server_tells_its_state(commands: Commands) -> None:
    await commands.ping()
    await commands.ping(role=Role.BULK)
    info = await commands.info("memory")
    assert int(info["used_memory"]) > 0
    assert "# Memory" not in info


async def test_names_that_look_like_several_words_stay_one_argument(commands: Commands) -> None:
    await commands.xgroup_create("two words", "a group", "$", mkstream=True)
    assert [group.name for group in await commands.xinfo_groups("two words")] == ["a group"]
