"""Listings of many streams, and hints in errors, cost the server and the daemon a bounded part."""

from __future__ import annotations

import random

import pytest
import trio

from redstreamd.errors import BusError
from redstreamd.streams import known_names, listing
from redstreamd.streams.bus import Bus
from redstreamd.streams.error_context import stream_not_found
from redstreamd.streams.listing_pages import ASKED_AT_ONCE
from redstreamd.streams.name_listing import sorted_listing
from tests.support.buses import ON_REDIS
from tests.support.longest_step import longest_step, unit_seconds
from tests.support.measured import measured
from tests.support.servers import Server

_MANY = 20_000


async def _make(server: Server, count: int) -> list[str]:
    names = [f"team:{number % 97:02d}:s{number}" for number in range(count)]
    # In a thread: the connections of the bus must not wait for it.
    await trio.to_thread.run_sync(
        lambda: server.commands(*[("XADD", name, "1-1", "a", "b") for name in names])
    )
    return sorted(names)


def _calls(server: Server, command: str) -> int:
    for line in server.command("INFO", "commandstats").decode().splitlines():
        if line.startswith(f"cmdstat_{command}:"):
            return int(line.partition("calls=")[2].partition(",")[0])
    return 0


@ON_REDIS
async def test_the_pages_of_a_long_listing_come_from_one_scan_that_holds_up_nobody(
    bus: Bus, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The machine may be slow.
    monkeypatch.setattr(listing, "FRESH_SECONDS", 1_000.0)
    monkeypatch.setattr(listing, "PAGING_SECONDS", 1_000.0)
    names = await _make(server, _MANY)
    with longest_step(but=("test_the_pages",)) as step:
        page, cursor, more = await bus.lister.page("*", cursor=None, count=50)
    assert [each.stream for each in page] == names[:50]
    # To sort so many names at once takes 10 units, and to check them 40.
    with measured:
        assert step.seconds < 5 * unit_seconds()
    scans = _calls(server, "scan")
    assert scans >= _MANY // listing.SCANNED_AT_ONCE
    found = [each.stream for each in page]
    asked = _calls(server, "evalsha")
    while more and len(found) < 2_000:
        page, cursor, more = await bus.lister.page("*", cursor=cursor, count=100)
        found += [each.stream for each in page]
    assert found == names[: len(found)]
    # Where they end is asked for many at a time.
    scripts_of_page = -(-(100 + 1) // ASKED_AT_ONCE)
    assert _calls(server, "evalsha") - asked == -(-(len(found) - 50) // 100) * scripts_of_page
    # Nor does whoever lists them at the same time.
    async with trio.open_nursery() as nursery:
        for _ in range(64):
            nursery.start_soon(bus.lister.names, "*")
    assert _calls(server, "scan") == scans


@ON_REDIS
async def test_a_new_stream_is_in_the_listing_when_the_kept_one_is_too_old(
    bus: Bus, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "FEW_KEYS", 100)
    # The machine may be slow.
    monkeypatch.setattr(listing, "FRESH_SECONDS", 1_000.0)
    monkeypatch.setattr(listing, "PAGING_SECONDS", 1_000.0)
    await _make(server, 1_000)
    # Connected: what was listed before is of another server, and not kept.
    await bus.lister.position("team:00:s0")
    before = (await bus.lister.names("*")).total
    server.command("XADD", "a new one", "1-1", "a", "b")
    assert (await bus.lister.names("*")).total == before
    monkeypatch.setattr(listing, "FRESH_SECONDS", 0.0)
    fresh = await bus.lister.names("*")
    assert fresh.total == before + 1
    assert fresh.after(None, 1) == ["a new one"]
    # Those who go on see one listing to its end.
    assert (await bus.lister.names("*", goes_on=True)) is fresh


@ON_REDIS
async def test_kept_listings_have_a_bounded_number_of_names(
    bus: Bus, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "FEW_KEYS", 100)
    monkeypatch.setattr(listing, "MAX_KEYS_SCANNED", 3_000)
    await _make(server, 1_000)
    for number in range(20):
        await bus.lister.names(f"team:*{number}*")
        await bus.lister.names("*" * (number + 1))
    kept = bus.lister._kept
    assert len(kept) <= listing.MAX_KEPT
    assert sum(each.total for each in kept.values()) <= 3_000


async def test_a_listing_is_sorted_without_repetitions_and_found_in_from_any_place() -> None:
    choose = random.Random(3)
    for count in (0, 1, 7, 300, 5_000):
        names = [
            f"{choose.choice('abc')}:{choose.randrange(10 ** choose.randint(1, 6))}" for _ in range(count)
        ]
        pages = [names[at : at + 100] for at in range(0, count, 100)]
        listed = await sorted_listing(pages, 0.0, trio.lowlevel.checkpoint)
        expected = sorted(set(names))
        assert list(listed) == expected
        assert listed.total == len(expected)
        for _ in range(50):
            at = choose.choice((*names, "", "b", "b:5", "zz"))
            assert listed.after(at, 20) == [name for name in expected if name > at][:20]
            matching = [name for name in expected if name.startswith(at)]
            assert listed.beginning_with(at, 20) == (matching[:20], len(matching))


@ON_REDIS
async def test_an_error_about_a_missing_stream_does_not_look_through_all_streams(
    bus: Bus, server: Server
) -> None:
    """Nor does it take longer where there are many: its hints are of names that all who ask share."""
    await _make(server, _MANY)
    scans = _calls(server, "scan")
    with longest_step(but=("test_an_error",)) as step:
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(stream_not_found, bus.redis, "team:01:nothing")
    assert _calls(server, "scan") - scans <= 3
    with measured:
        assert step.seconds < 6 * unit_seconds()


@ON_REDIS
async def test_where_there_are_few_streams_the_hints_know_them_all(bus: Bus, server: Server) -> None:
    await _make(server, known_names._SCANNED // 4)
    not_found = await stream_not_found(bus.redis, "team:07:s8x")
    assert "The nearest names are: 'team:07:s7'" in not_found.with_hint(None).cause
    server.command("XADD", "orders:new:eu", "1-1", "a", "b")
    with pytest.raises(BusError) as absent:
        await bus.reader.read("orders:new:ue")
    assert "'orders:new:eu'" in absent.value.with_hint(None).cause


@ON_REDIS
async def test_a_page_of_streams_with_large_entries_asks_for_few_at_a_time(bus: Bus, server: Server) -> None:
    names = [f"large:{number:02d}" for number in range(30)]
    for name in names:
        server.command("XADD", name, "1-1", "text", "x" * 50_000)
    found, _, has_more = await bus.lister.page("large:*", cursor=None, count=30)
    assert ([line.stream for line in found], has_more) == (names, False)
    assert {(line.length, line.last_id) for line in found} == {(1, "1-1")}
