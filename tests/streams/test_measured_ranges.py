"""What was read before is read by XRANGE, whoever asks, and nothing else is."""

from __future__ import annotations

from redstreamd.streams.bus import Bus
from redstreamd.streams.entry_pages import Pages
from tests.support.buses import ON_REDIS
from tests.support.servers import Server

BYTES = 32_768


def _calls(server: Server, command: str) -> int:
    """Return how often the server has run a command, also in scripts."""
    stats = server.command("INFO", "commandstats").decode()
    lines = [line for line in stats.splitlines() if line.startswith(f"cmdstat_{command}:")]
    return sum(int(line.partition("calls=")[2].partition(",")[0]) for line in lines)


async def _ids(pages: Pages, first: str, most: int, size: int = BYTES) -> tuple[list[str], bool]:
    batch = await pages.read("s", first, "+", max_entries=most, max_bytes=size)
    return [entry.id for entry in batch.entries], batch.has_more


def _named(first: int, last: int) -> list[str]:
    return [f"{number}-0" for number in range(first, last + 1)]


@ON_REDIS
async def test_what_one_read_others_read_without_a_script(bus: Bus, server: Server) -> None:
    server.commands(*(("XADD", "s", f"{number}-0", "text", "x" * 50) for number in range(1, 301)))
    pages = Pages(bus.redis)
    at = "-"
    for last in (100, 200):
        assert await _ids(pages, at, 100) == (_named(last - 99, last), True)
        at = f"({last}-0"
    scripts = _calls(server, "evalsha")
    # Of the range that was read, any part that it has one entry more than.
    for first, found in (("-", 1), ("1-0", 1), ("(57-0", 58), ("58", 58), ("(99-0", 100), ("100-1", 101)):
        assert await _ids(pages, first, 99) == (_named(found, found + 98), True)
    assert _calls(server, "evalsha") == scripts
    # It goes on beyond the range; it might be larger than a page.
    assert await _ids(pages, "(100-0", 100) == (_named(101, 200), True)
    assert _calls(server, "evalsha") == scripts
    assert await _ids(pages, "(101-0", 100) == (_named(102, 201), True)
    assert _calls(server, "evalsha") == scripts + 1
    assert await _ids(pages, "-", 100, 5_000) == (_named(1, 93), True)
    assert _calls(server, "evalsha") == scripts + 2


@ON_REDIS
async def test_what_was_deleted_or_is_another_stream_is_read_as_it_is(bus: Bus, server: Server) -> None:
    server.commands(*(("XADD", "s", f"{number}-0", "text", "x") for number in range(1, 21)))
    pages = Pages(bus.redis)
    await _ids(pages, "-", 15)
    server.command("XDEL", "s", "2-0", "3-0", "14-0")
    found = ["1-0", *_named(4, 13), *_named(15, 18)]
    assert await _ids(pages, "-", 15) == (found, True)
    assert await _ids(pages, "-", 3) == (["1-0", "4-0", "5-0"], True)
    server.commands(
        ("DEL", "s"), *(("XADD", "s", f"{number}-0", "text", "x" * 20_000) for number in range(1, 21))
    )
    for _ in range(2):
        assert await _ids(pages, "-", 3) == (["1-0", "2-0"], True)


@ON_REDIS
async def test_the_size_of_entries_that_are_gone_is_forgotten(bus: Bus, server: Server) -> None:
    server.command("XADD", "s", "1-0", "text", "x" * BYTES)
    pages = Pages(bus.redis)
    assert await _ids(pages, "-", 10) == (["1-0"], False)
    server.command("DEL", "s")
    server.commands(*(("XADD", "s", f"{number}-0", "text", "x") for number in range(2, 23)))
    assert await _ids(pages, "-", 20) == (_named(2, 21), True)
    scripts = _calls(server, "evalsha")
    assert await _ids(pages, "-", 20) == (_named(2, 21), True)
    assert _calls(server, "evalsha") == scripts


@ON_REDIS
async def test_a_large_entry_behind_a_page_is_read_once(bus: Bus, server: Server) -> None:
    server.commands(*(("XADD", "s", f"{number}-0", "text", "x") for number in range(1, 6)))
    server.command("XADD", "s", "6-0", "text", "x" * 1_000_000)
    pages = Pages(bus.redis)
    for _ in range(2):
        assert await _ids(pages, "-", 5) == (_named(1, 5), True)
    before = _sent(server)
    for _ in range(3):
        assert await _ids(pages, "-", 5) == (_named(1, 5), True)
    assert _sent(server) - before < 500_000
    # Behind all that there is.
    batch = await pages.read("s", "+", "+", max_entries=1, max_bytes=BYTES)
    assert batch.entries == []


def _sent(server: Server) -> int:
    """Return how many bytes the server has sent."""
    stats = server.command("INFO", "stats").decode()
    return int(stats.partition("total_net_output_bytes:")[2].split()[0])
