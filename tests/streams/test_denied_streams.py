"""Streams that the daemon's user of Redis may not access are not listed, nor named by a cursor."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import cast

import pytest
import trio

from redstreamd.presentation.daemon_health import DaemonHealth
from redstreamd.presentation.suggestions import Suggester, Suggestions
from redstreamd.presentation.views import Views
from redstreamd.redisio.client import Redis
from redstreamd.redisio.standalone import Standalone
from redstreamd.redisio.target import Target
from redstreamd.settings import LimitsSettings, Settings
from redstreamd.streams import listing, listing_pages
from redstreamd.streams.bus import Bus
from redstreamd.streams.error_context import stream_not_found
from redstreamd.streams.listing_pages import ASKED_AT_ONCE, MAX_ASKED
from redstreamd.streams.name_listing import Listing
from tests.support.buses import KEY, ON_REDIS
from tests.support.calls import answer
from tests.support.servers import Server

#: In their order some that may be accessed stand before, between and after others.
NAMES = [f"{name:03}:{'open' if name in (3, 4, 40, 90) else 'secret'}" for name in range(100)]


@asynccontextmanager
async def fenced_bus(server: Server, settings: Settings | None = None) -> AsyncIterator[Bus]:
    """Run a domain whose user of Redis may access `*:open` only."""
    server.command("ACL", "SETUSER", "fenced", "reset", "on", ">pw", "~*:open*", "+@all")
    topology = Standalone.of(Target(path=server.path, username="fenced", password="pw"))
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(topology.run)
            yield Bus.over(Redis(topology), settings or Settings(), KEY)
            nursery.cancel_scope.cancel()
    finally:
        server.command("ACL", "DELUSER", "fenced")


@ON_REDIS
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 50, 100, 200])
async def test_pages_and_cursors_name_no_stream_that_may_not_be_accessed(server: Server, count: int) -> None:
    for name in NAMES:
        server.command("XADD", name, "*", "f", "v")
    async with fenced_bus(server) as bus:
        listed, cursors = await _paged(bus, count)
        assert listed == [name for name in NAMES if name.endswith("open")]
        assert [cursor for cursor in cursors if "secret" in cursor] == []
        # As many as are asked for, however many others stand between.
        assert len(cursors) <= len(listed) // count + 1
        nothing = await bus.lister.page("*secret", cursor=None, count=count)
    assert nothing == ([], "", False)


async def _paged(bus: Bus, count: int = 100, cursor: str | None = None) -> tuple[list[str], list[str]]:
    """Return the streams of all pages that follow, and their cursors."""
    listed, cursors, more = [], [], True
    while more:
        lines, cursor, more = await bus.lister.page("*", cursor=cursor, count=count)
        assert len(lines) <= count
        listed += [line.stream for line in lines]
        cursors.append(cursor)
    return listed, cursors


def _asked(server: Server) -> int:
    """Return how many scripts were run or refused."""
    return _calls(server, "evalsha")


@ON_REDIS
async def test_streams_behind_a_long_row_that_may_not_be_accessed_are_reached(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The machine may be slow.
    monkeypatch.setattr(listing, "FRESH_SECONDS", 1_000.0)
    monkeypatch.setattr(listing, "PAGING_SECONDS", 1_000.0)
    server.command(
        "EVAL",
        "for i = 1, ARGV[1] do redis.call('XADD', string.format('%06d:secret', i), '*', 'f', 'v') end",
        0,
        2 * MAX_ASKED + 500,
    )
    for name in ("000000:open", "9:open"):
        server.command("XADD", name, "*", "f", "v")
    async with fenced_bus(server) as bus:
        # Connected: what was listed before is of another server.
        await bus.lister.position("9:open")
        lines, cursor, more = await bus.lister.page("*", cursor=None, count=100)
        assert ([line.stream for line in lines], more) == (["000000:open"], True)
        assert "secret" not in cursor
        before = _asked(server)
        second = await bus.lister.page("*", cursor=cursor, count=100)
        assert (second[0], second[2]) == ([], True)
        assert "secret" not in second[1]
        # Those of the first page are not asked for anew, neither by the second nor by the page of another.
        assert _asked(server) - before <= MAX_ASKED + 4 * (MAX_ASKED // 101 + 1)
        before = _asked(server)
        listed, _ = await _paged(bus)
        assert listed == ["000000:open", "9:open"]
        assert _asked(server) - before <= 600
        assert (await _paged(bus, cursor=second[1]))[0] == ["9:open"]
        # A name is a cursor, too.
        assert (await _paged(bus, cursor="000000:open"))[0] == ["9:open"]
        # A daemon that did not give the cursor begins behind what was listed.
        async with fenced_bus(server) as other:
            assert (await _paged(other, cursor=second[1]))[0] == ["9:open"]


@ON_REDIS
@pytest.mark.parametrize("count", [1, 7, 100])
async def test_a_call_asks_for_a_bounded_number_of_streams_also_where_some_are_listed(
    server: Server, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing_pages, "MAX_ASKED", 30)
    for name in NAMES:
        server.command("XADD", name, "*", "f", "v")
    async with fenced_bus(server) as bus:
        await bus.lister.page("*", cursor=None, count=count)
        before = _asked(server)
        await bus.lister.page("*", cursor="004:open", count=count)
        # Each alone, and one question for so many at a time.
        assert _asked(server) - before <= 30 + 30 // min(max(count, 1), ASKED_AT_ONCE) + 2
        listed, cursors = await _paged(bus, count)
    assert listed == [name for name in NAMES if name.endswith("open")]
    assert [cursor for cursor in cursors if "secret" in cursor] == []


@ON_REDIS
async def test_streams_that_go_meanwhile_make_a_page_skip_none(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing_pages, "MAX_ASKED", 30)
    for name in NAMES:
        server.command("XADD", name, "*", "f", "v")
    async with fenced_bus(server) as bus:
        lines, cursor, more = await bus.lister.page("*", cursor=None, count=100)
        assert ([line.stream for line in lines], more) == (["003:open", "004:open"], True)
        server.command("DEL", *[name for name in NAMES[5:40] if name.endswith("secret")])
        assert (await _paged(bus, cursor=cursor))[0] == ["040:open", "090:open"]


@ON_REDIS
@pytest.mark.parametrize("lost", ["by a restart", "because of others"])
async def test_a_cursor_whose_place_is_lost_skips_and_repeats_no_stream(
    server: Server, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing_pages, "MAX_ASKED", 30)
    monkeypatch.setattr(listing_pages, "_MAX_PLACES", 5)
    for name in NAMES:
        server.command("XADD", name, "*", "f", "v")
    gone = [name for name in NAMES[5:25] if name.endswith("secret")]
    async with fenced_bus(server) as bus, fenced_bus(server) as other:
        _, cursor, more = await bus.lister.page("*", cursor=None, count=100)
        assert (cursor.partition(":rs:call:")[0], more) == ("004:open", True)
        if lost == "because of others":
            for number in range(5):
                await bus.lister.page("*" * (number + 2), cursor=None, count=100)
            assert len(bus.lister._places._places) == 5
        server.command("DEL", *gone)
        going_on = other if lost == "by a restart" else bus
        assert (await _paged(going_on, cursor=cursor))[0] == ["040:open", "090:open"]


@ON_REDIS
@pytest.mark.parametrize("forged", ["{}:rs:call:1", "{}:rs:call:999999", "{}:rs:call:0123456789abcdef"])
@pytest.mark.parametrize("count", [1, 2])
async def test_a_forged_cursor_finds_out_no_name(server: Server, forged: str, count: int) -> None:
    for name in ("payroll:secret", "zzz:open"):
        server.command("XADD", name, "*", "f", "v")
    async with fenced_bus(server) as bus:
        # Before the name that is denied, at it and behind it.
        for begun in ("", "a", "pay", "payroll:secret", "payroll:secreu", "q"):
            for page in (bus.lister.page, partial(_name_page, bus)):
                lines, _, more = await page("*", cursor=forged.format(begun), count=count)
                assert (len(lines), more) == (1, False)


@ON_REDIS
async def test_no_cursor_makes_a_step_look_at_many_names(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at = []

    def after(self: Listing, name: str | None, count: int) -> list[str]:
        looked_at.append(count)
        return found(self, name, count)

    found = Listing.after
    monkeypatch.setattr(Listing, "after", after)
    for name in NAMES:
        server.command("XADD", name, "*", "f", "v")
    async with fenced_bus(server) as bus:
        for cursor in (":rs:call:999999", "003:open:rs:call:9999999", "0:rs:call:0:rs:call:1"):
            lines, *_ = await bus.lister.page("*", cursor=cursor, count=100)
            assert "090:open" in [line.stream for line in lines]
    assert max(looked_at) <= 250


@ON_REDIS
async def test_whether_there_is_more_tells_nothing_of_streams_that_may_not_be_accessed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a:open", "b:open", "pa:secret", "zz:secret"):
        server.command("XADD", name, "*", "f", "v")
    async with fenced_bus(server) as bus:
        for page in (bus.lister.page, partial(_name_page, bus)):
            for pattern in ("[ap]*", "[ap][:a]*", "[ap][:b]*", "[az]*", "a*"):
                lines, cursor, more = await page(pattern, cursor=None, count=1)
                assert (len(lines), cursor, more) == (1, "a:open", False)
            lines, cursor, more = await page("*", cursor=None, count=1)
            assert (cursor, more) == ("a:open", True)
            assert (await page("*", cursor=cursor, count=1))[1:] == ("b:open", False)
        names = await bus.lister.names("*")
        assert await bus.lister.permitted(names, list(names), 2) == (["a:open", "b:open"], True)
        # But it does where not all may be asked for; what was asked for is not asked for again.
        monkeypatch.setattr(listing_pages, "MAX_ASKED", 3)
        lines, cursor, more = await bus.lister.page("*", cursor=None, count=2)
        assert (len(lines), cursor.partition(":rs:call:")[0], more) == (2, "b:open", True)
        assert (await bus.lister.page("*", cursor=cursor, count=2))[::2] == ([], False)


@ON_REDIS
async def test_each_page_gets_further_while_its_place_is_remembered(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing_pages, "MAX_ASKED", 7)
    for name in NAMES:
        server.command("XADD", name, "*", "f", "v")
    async with fenced_bus(server) as bus:
        # Nothing is kept of a listing of so few.
        listed, cursors = await _paged(bus)
    assert listed == [name for name in NAMES if name.endswith("open")]
    assert len(cursors) <= len(NAMES) // 7 + 1


async def _name_page(
    bus: Bus, pattern: str, *, cursor: str | None, count: int
) -> tuple[list[str], str, bool]:
    names = await bus.lister.names(pattern, goes_on=cursor is not None)
    return await bus.lister.name_page_of(names, pattern, cursor=cursor, count=count, readable=None)


@ON_REDIS
@pytest.mark.parametrize("denied", [0, 1, 400])
async def test_the_number_of_suggestions_counts_no_stream_that_may_not_be_accessed(
    server: Server, denied: int
) -> None:
    names = [f"m:{name:03}:open" for name in range(120)] + [f"m:z{name:03}:secret" for name in range(denied)]
    server.commands(*(("XADD", name, "*", "f", "v") for name in names))
    async with fenced_bus(server) as bus:
        suggested = await Suggester(Views(bus, cast("DaemonHealth", None))).suggest("stream", "m:", {})
    assert suggested == Suggestions(names[:100], 120)


@ON_REDIS
@pytest.mark.parametrize("largest", [500, 0])
async def test_whether_names_fit_one_answer_tells_nothing_of_streams_that_may_not_be_accessed(
    server: Server, largest: int
) -> None:
    names = [f"{n:03}{'n' * largest}:open" for n in range(100)] + ["zz:open"]
    denied = [f"{n:03}{'n' * 500}:secret" for n in range(300)]
    server.commands(*(("XADD", name, "*", "f", "v") for name in names))
    small = Settings(limits=LimitsSettings(max_message_bytes=65_536))
    async with fenced_bus(server, small) as bus:

        async def told(pattern: str) -> list[str]:
            whole = await answer(bus, "list_streams", pattern=pattern)
            return [part["text"] for part in whole["content"]]

        before = [await told(pattern) for pattern in ("*", "z*")]
        server.commands(*(("XADD", name, "*", "f", "v") for name in denied))
        assert [await told(pattern) for pattern in ("*", "z*")] == before
    assert ("TOO_LARGE" in before[0][0], "zz:open" in before[0][0]) == (largest > 0, largest == 0)


@ON_REDIS
async def test_the_resource_of_the_first_streams_is_answered_where_these_may_not_be_accessed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing_pages, "MAX_ASKED", 30)
    for name in NAMES[5:]:
        server.command("XADD", name, "*", "f", "v")
    async with fenced_bus(server) as bus:
        shown = await Views(bus, cast("DaemonHealth", None)).streams()
        assert (shown["streams"], shown["has_more"]) == ([], True)
        assert (await _paged(bus, cursor=shown["next_cursor"]))[0] == ["040:open", "090:open"]


def _calls(server: Server, command: str) -> int:
    """Return how many calls of a command were answered or refused."""
    for line in server.command("INFO", "commandstats").decode().splitlines():
        name, _, figures = line.partition(":")
        if name == f"cmdstat_{command}":
            counted = dict(part.split("=") for part in figures.split(","))
            return int(counted["calls"]) + int(counted.get("rejected_calls", 0))
    return 0


async def _paged_names(bus: Bus, count: int) -> tuple[list[str], list[str]]:
    """Return the names of all pages, and their cursors."""
    listed, cursors, cursor, more = [], [], None, True
    while more:
        page, cursor, more = await _name_page(bus, "*", cursor=cursor, count=count)
        assert len(page) <= count
        listed += page
        cursors.append(cursor)
    return listed, cursors


@ON_REDIS
@pytest.mark.parametrize("count", [1, 3, 50, 100])
@pytest.mark.parametrize("most", [30, MAX_ASKED])
async def test_pages_of_names_alone_have_the_same_streams(
    server: Server, count: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing_pages, "MAX_ASKED", most)
    for name in NAMES:
        server.command("XADD", name, "*", "f", "v")
    async with fenced_bus(server) as bus:
        listed, cursors = await _paged_names(bus, count)
    assert listed == [name for name in NAMES if name.endswith("open")]
    assert [cursor for cursor in cursors if "secret" in cursor] == []


@ON_REDIS
async def test_where_nothing_is_denied_a_page_of_names_is_one_command(bus: Bus, server: Server) -> None:
    for name in NAMES:
        server.command("XADD", name, "*", "f", "v")
    names = await bus.lister.names("*")
    before = _calls(server, "exists"), _calls(server, "evalsha")
    page, cursor, more = await bus.lister.name_page_of(names, "*", cursor=None, count=60, readable=None)
    assert (page, cursor, more) == (NAMES[:60], NAMES[59], True)
    assert (_calls(server, "exists"), _calls(server, "evalsha")) == (before[0] + 1, before[1])
    assert await bus.lister.permitted(names, NAMES, 100) == (NAMES, True)
    assert await bus.lister.permitted(names, NAMES, 10) == (NAMES[:10], False)
    assert await bus.lister.permitted(names, [], 0) == ([], True)
    assert _calls(server, "evalsha") == before[1]


@ON_REDIS
async def test_names_that_may_be_told_are_asked_for_within_a_bound(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing_pages, "MAX_ASKED", 30)
    monkeypatch.setattr(listing, "SCANNED_AT_ONCE", 10)
    for name in NAMES:
        server.command("XADD", name, "*", "f", "v")
    async with fenced_bus(server) as bus:
        names = await bus.lister.names("*")
        before = _asked(server)
        # Of 0 to 9, 10 to 19 and 20 to 29; others are left out.
        assert await bus.lister.permitted(names, NAMES, 100) == (["003:open", "004:open"], False)
        assert _asked(server) - before <= 30 + 3
        assert len(names.denied) == 28
        # What is known is not asked for again.
        before = _asked(server)
        found, is_all = await bus.lister.permitted(names, NAMES[:60], 100)
        assert (found, is_all) == (["003:open", "004:open", "040:open"], True)
        assert _asked(server) - before <= 30 + 3


@ON_REDIS
async def test_an_error_names_only_streams_that_may_be_accessed_and_asks_once(server: Server) -> None:
    for name in ("1:openx", "2:openx", "opens:ecret"):
        server.command("XADD", name, "*", "f", "v")
    async with fenced_bus(server) as bus:
        await bus.lister.position("1:openx")
        before = _calls(server, "type")
        error = await stream_not_found(bus.redis, "opens:openx")
        assert sorted(error.similar) == ["1:openx", "2:openx"]
        assert _calls(server, "type") - before == 3
