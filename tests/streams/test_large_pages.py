"""Pages that are large are read apart from others, and nobody's page waits behind them twice."""

from __future__ import annotations

import pytest
import trio

from redstreamd.admission.accounts import Accounts, Peer
from redstreamd.admission.turns import ACCOUNT
from redstreamd.policy import Principal
from redstreamd.redisio import Role, connect_errors, decoder
from redstreamd.redisio.redis_errors import ReplyLost
from redstreamd.settings import Settings, ToolsSettings
from redstreamd.streams.bus import Bus
from redstreamd.streams.entry_pages import Pages
from redstreamd.streams.plans import complete_plan
from tests.support.buses import ON_REDIS, running_bus
from tests.support.servers import Server

LARGE = 400_000


def _sent(bus: Bus, role: Role) -> int:
    """Return how many commands were sent on the connection of a role."""
    connection = bus.redis.nodes()[0].roles[role].connection
    return 0 if connection is None else connection.pipeline.sent


def _calls(server: Server, command: str) -> int:
    """Return how often Redis has executed a command, also in scripts."""
    info = server.command("INFO", "commandstats").decode()
    return sum(int(part.split(",")[0]) for part in info.split(f"cmdstat_{command}:calls=")[1:])


@ON_REDIS
@pytest.mark.parametrize("direction", ["forward", "backward"])
async def test_a_large_page_is_whole_and_the_next_is_asked_for_where_nobody_waits(
    bus: Bus, server: Server, direction: str
) -> None:
    server.commands(("XADD", "large", "1-0", "text", "x" * LARGE), ("XADD", "large", "2-0", "text", "y"))
    server.command("XADD", "small", "1-0", "text", "x")
    await bus.redis.wait_connected(Role.BULK)
    ids = []
    for times in (1, 2):
        cursor, more = None, True
        while more:
            page = await bus.reader.read("large", cursor=cursor, direction=direction, count=1)  # type: ignore[arg-type]
            ids += [entry.id for entry in page.entries]
            assert len(page.entries[0].words[1]) in (1, LARGE)
            cursor, more = page.next_cursor, page.has_more
        assert ids == times * (["1-0", "2-0"] if direction == "forward" else ["2-0", "1-0"])
        if times == 1:
            sent = _sent(bus, Role.BULK)
            assert sent
    assert _sent(bus, Role.BULK) == sent
    assert (await bus.reader.read("small")).entries
    assert _sent(bus, Role.BULK) == sent + 1


@ON_REDIS
@pytest.mark.parametrize("direction", ["forward", "backward"])
async def test_an_entry_that_exceeds_a_page_is_not_read_by_a_script_again(
    server: Server, direction: str
) -> None:
    async with running_bus(server, Settings(tools=ToolsSettings(max_result_bytes=LARGE))) as bus:

        async def read() -> tuple[list[str], bool]:
            page = await bus.reader.read("large", direction=direction, count=5)  # type: ignore[arg-type]
            return [entry.id for entry in page.entries], page.has_more

        def counts() -> list[int]:
            """Return what was sent for large pages, and what Redis executed: scripts, and ranges in all."""
            ranges = _calls(server, "xrange") + _calls(server, "xrevrange")
            return [_sent(bus, Role.LARGE), _calls(server, "evalsha"), ranges]

        server.command("XADD", "large", "5-0", "text", "x" * 2 * LARGE)
        assert await read() == (["5-0"], False)
        before = counts()
        for _ in range(3):
            assert await read() == (["5-0"], False)
        # A script has asked what follows the entry, and nothing else; the entry came by a command.
        assert [after - each for after, each in zip(counts(), before, strict=True)] == [6, 3, 6]
        # Whatever is there now is found.
        server.command("XADD", "large", "6-0", "text", "y")
        expected = (["5-0"], True) if direction == "forward" else (["6-0", "5-0"], False)
        for _ in range(2):
            assert await read() == expected
        server.command("DEL", "large")
        server.commands(*(("XADD", "large", f"{number}-0", "text", "z") for number in range(1, 4)))
        for _ in range(2):
            ids, more = await read()
            assert (sorted(ids), more) == (["1-0", "2-0", "3-0"], False)


@ON_REDIS
@pytest.mark.parametrize("direction", ["forward", "backward"])
async def test_of_large_entries_beside_each_other_one_is_in_a_reply(
    bus: Bus, server: Server, monkeypatch: pytest.MonkeyPatch, direction: str
) -> None:
    monkeypatch.setattr(decoder, "MAX_REPLY_BYTES", 3 * LARGE)
    await bus.redis.wait_connected(Role.BULK)
    for number in range(1, 4):
        server.command("XADD", "large", f"{number}-0", "text", "x" * 2 * LARGE)
    for _ in range(2):
        cursor, ids, more = None, [], []
        while not more or more[-1]:
            page = await bus.reader.read("large", cursor=cursor, direction=direction, count=5)  # type: ignore[arg-type]
            ids += [entry.id for entry in page.entries]
            more.append(page.has_more)
            cursor = page.next_cursor
        assert ids == (["1-0", "2-0", "3-0"] if direction == "forward" else ["3-0", "2-0", "1-0"])
        assert more == [True, True, False]
    # One that comes later is not in a reply with the last one either.
    server.command("XADD", "large", "4-0", "text", "x" * 2 * LARGE)
    for _ in range(2):
        page = await bus.reader.read("large", cursor="2-0", count=5)
        assert ([entry.id for entry in page.entries], page.has_more) == (["3-0"], True)


@ON_REDIS
async def test_those_who_wait_get_a_large_page_too(bus: Bus, server: Server) -> None:
    found: list[str] = []

    async def wait(**how: object) -> None:
        waited = await bus.next_entries.wait(["large"], cursor="0-0", timeout_seconds=10, **how)  # type: ignore[arg-type]
        found.extend(entry.id for _, entry in waited.entries)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        # Both read the same page, and what the one asked for is shared by the other.
        for value in ("x" * LARGE, "nothing"):
            nursery.start_soon(lambda value=value: wait(filter={"text": value}))
        server.command("XADD", "large", "1-0", "text", "x" * LARGE)
        server.command("XADD", "large", "2-0", "text", "nothing")
    assert sorted(found) == ["1-0", "1-0", "2-0"] or sorted(found) == ["1-0", "1-0", "2-0", "2-0"]


@ON_REDIS
@pytest.mark.parametrize("size", [1, LARGE])
async def test_of_those_who_ask_at_once_for_a_stream_that_was_not_read_yet_one_has_it_looked_at(
    bus: Bus, server: Server, size: int
) -> None:
    """Else Redis looks for each of them before it serves anybody else, which large entries make seconds."""
    await bus.redis.wait_connected(Role.BULK)
    server.command("XADD", "new", "1-0", "text", "x" * size)
    pages = Pages(bus.redis)

    async def read() -> None:
        page = await pages.read("new", "-", "+", max_entries=5, max_bytes=1000)
        assert [len(entry.words[1]) for entry in page.entries] == [size]

    async def read_at_once() -> None:
        async with trio.open_nursery() as readers:
            for _ in range(8):
                readers.start_soon(read)

    # The script itself is loaded, and counted, with the first read of anything.
    await pages.read("none", "-", "+", max_entries=5, max_bytes=1000)
    before = _calls(server, "evalsha")
    await read_at_once()
    # What is small is looked at again: that it was read by others is known of large pages only. Of those each
    # is asked whether anything follows.
    assert _calls(server, "evalsha") - before == (1 + 8 if size == LARGE else 8)
    # Then it is known which connection is the one for it.
    sent = [_sent(bus, Role.BULK), _sent(bus, Role.LARGE)]
    await read_at_once()
    grown = [_sent(bus, Role.BULK) - sent[0], _sent(bus, Role.LARGE) - sent[1]]
    assert grown == ([8, 0] if size == 1 else [0, 2 * 8])


@ON_REDIS
async def test_a_look_whose_reply_is_lost_does_not_keep_others_from_looking(bus: Bus) -> None:
    pages = Pages(bus.redis)

    def write() -> object:
        plan = pages.plan("new", "-", "+", max_entries=1, max_bytes=1000)
        assert plan.role is Role.BULK
        return plan.write

    assert write() != ("XLEN", "new") == write()
    pages._asked["new"] -= bus.redis.command_timeout
    assert write() != ("XLEN", "new") == write()


@ON_REDIS
async def test_those_who_share_a_look_share_it_where_the_server_does_not_know_the_script(
    bus: Bus, server: Server
) -> None:
    await bus.redis.wait_connected(Role.BULK)
    server.command("XADD", "new", "1-0", "text", "x")
    server.command("SCRIPT", "FLUSH")
    found: dict[str, list[str]] = {}

    async def read(value: str) -> None:
        page = await bus.reader.read("new", filter={"text": value})
        found[value] = [entry.id for entry in page.entries]

    async with trio.open_nursery() as nursery:
        for value in ("x", "y", "z"):
            nursery.start_soon(read, value)
    assert found == {"x": ["1-0"], "y": [], "z": []}


@ON_REDIS
async def test_those_who_share_a_plan_behind_a_look_each_go_on_where_its_reply_was_lost(
    bus: Bus, server: Server
) -> None:
    server.command("XADD", "new", "1-0", "text", "x")
    pages = Pages(bus.redis)
    _, plan = (pages.plan("new", "-", "+", max_entries=1, max_bytes=1000) for _ in range(2))
    assert plan.write == ("XLEN", "new")
    found: list[str] = []

    async def go_on() -> None:
        lost = ReplyLost(connect_errors.SHUTTING_DOWN)
        batch = await complete_plan(bus.redis, plan, lost, trio.current_time() + 10)
        found.extend(entry.id for entry in batch.entries)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(go_on)
    assert found == ["1-0"] * 3


@ON_REDIS
async def test_large_reads_are_sent_one_at_a_time(server: Server) -> None:
    """Else those of one client are all at the server before anybody knows how large they are."""
    server.command("XADD", "large", "1-0", "text", "x" * LARGE)
    async with running_bus(server, Settings(tools=ToolsSettings(max_result_bytes=2 * LARGE))) as bus:
        await bus.reader.read("large")
        most = 0
        connection = bus.redis.nodes()[0].roles[Role.LARGE].connection
        assert connection is not None

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, connection.pipeline.in_flight)
                await trio.lowlevel.checkpoint()

        async def read() -> None:
            assert (await bus.reader.read("large")).entries

        ACCOUNT.set(Accounts().open(Principal("a", "unix"), Peer(), "one"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            async with trio.open_nursery() as readers:
                for _ in range(8):
                    readers.start_soon(read)
            nursery.cancel_scope.cancel()
        assert most == 1
