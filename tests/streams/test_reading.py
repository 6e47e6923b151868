"""Pages, filters, cursors and listings on real servers."""

from __future__ import annotations

import gc
import json
from functools import partial
from typing import Any

import pytest
import trio

from redstreamd.errors import BusError, Code
from redstreamd.redisio.client import Redis
from redstreamd.redisio.standalone import Standalone
from redstreamd.redisio.target import Target
from redstreamd.settings import Settings, StreamsSettings
from redstreamd.streams import entry_ids
from redstreamd.streams.bounds import Bounds
from redstreamd.streams.bus import Bus
from redstreamd.streams.entry_encoding import Stamp
from redstreamd.streams.entry_pages import Batch, Pages
from redstreamd.streams.names import Kind, companion_key
from redstreamd.streams.reading import Page
from tests.support.buses import KEY
from tests.support.calls import call, refusal
from tests.support.servers import Server


async def fill(bus: Bus, stream: str, count: int) -> list[str]:
    """Add entries {"n": 0}, {"n": 1}, ... and return their IDs."""
    ids: list[str] = []
    for begin in range(0, count, 100):
        entries = [{"n": n, "even": n % 2 == 0} for n in range(begin, min(begin + 100, count))]
        ids += (await bus.publisher.add(stream, entries, Stamp())).ids
    return ids


async def read_all(bus: Bus, stream: str, **how: Any) -> list[Page]:
    """Follow next_cursor to the end."""
    pages = [await bus.reader.read(stream, **how)]
    while pages[-1].has_more:
        follow = {name: value for name, value in how.items() if name != "start"}
        pages.append(await bus.reader.read(stream, cursor=pages[-1].next_cursor, **follow))
    return pages


def ids_of(pages: list[Page]) -> list[str]:
    return [entry.id for page in pages for entry in page.entries]


@pytest.mark.parametrize("count", [1, 3, 10, 25])
async def test_pages_follow_one_another_in_either_direction(bus: Bus, count: int) -> None:
    ids = await fill(bus, "s", 25)
    forward = await read_all(bus, "s", count=count)
    assert ids_of(forward) == ids
    assert len(forward) == -(-25 // count)
    backward = await read_all(bus, "s", count=count, direction="backward")
    assert ids_of(backward) == ids[::-1]


async def test_start_and_end_are_inclusive_in_either_direction(bus: Bus, server: Server) -> None:
    for n in range(1, 6):
        server.command("XADD", "s", f"{n}000-1", "n", n)
    for start, end, direction, found in [
        ("2000-1", "4000-1", "forward", [2, 3, 4]),
        ("4000-1", "2000-1", "backward", [4, 3, 2]),
        ("1970-01-01T00:00:02Z", "1970-01-01T00:00:04Z", "forward", [2, 3, 4]),
        ("1970-01-01T00:00:04Z", "1970-01-01T00:00:02Z", "backward", [4, 3, 2]),
        ("1970-01-01T00:00:02.001Z", "1970-01-01T00:00:03.999Z", "forward", [3]),
        ("3000", None, "forward", [3, 4, 5]),
        ("4000", None, "backward", [4, 3, 2, 1]),
        ("latest", None, "backward", [5, 4, 3, 2, 1]),
        ("latest", None, "forward", []),
        ("earliest", None, "backward", []),
        ("2000-2", "2000-5", "forward", []),
    ]:
        page = await bus.reader.read("s", start=start, end=end, direction=direction)
        assert [int(entry.fields[0][1]) for entry in page.entries] == found, (start, end, direction)


@pytest.mark.parametrize(
    "start", ["earliest", "latest", "5000-0", "9000-1", "5000", "1970-01-01T00:00:05Z", None]
)
async def test_the_cursor_of_an_empty_page_leads_to_what_comes_later(
    bus: Bus, server: Server, start: str | None
) -> None:
    server.command("XGROUP", "CREATE", "s", "g", "$", "MKSTREAM")
    page = await bus.reader.read("s", start=start)
    assert page.entries == []
    server.command("XADD", "s", "9000-1", "f", "v")
    later = await bus.reader.read("s", cursor=page.next_cursor)
    assert [entry.id for entry in later.entries] == ["9000-1"]


@pytest.mark.bounds(Bounds(filter_scanned=150))
async def test_a_filter_is_followed_through_by_cursors(bus: Bus) -> None:
    ids = await fill(bus, "s", 500)
    pages = await read_all(bus, "s", filter={"n": 400})
    assert ids_of(pages) == [ids[400]]
    assert len(pages) == 4  # 150 entries are looked at by one call
    evens = await read_all(bus, "s", filter={"even": True}, count=7)
    assert ids_of(evens) == ids[::2]
    none = await read_all(bus, "s", filter={"even": "true"})
    assert ids_of(none) == []


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"v": 1}, ["1", "1.0"]),
        ({"v": True}, ["true"]),
        ({"v": False}, ["false"]),
        ({"v": 0}, ["0"]),
        ({"v": "1"}, ['"1"']),
        ({"v": None}, ["null"]),
        ({"v": [True]}, ["[true]"]),
        ({"v": [1]}, ["[1]"]),
        ({"v": {"a": True}}, ['{"a":true}']),
        ({"v": {"a": 1}}, ['{"a":1}']),
        ({"v": []}, []),
    ],
)
async def test_a_filter_tells_json_values_apart(bus: Bus, wanted: Any, found: list[str]) -> None:
    texts = ["1", "1.0", "true", "false", "0", '"1"', "null", "[true]", "[1]", '{"a":true}', '{"a":1}']
    ids = (await bus.publisher.add("s", [{"v": json.loads(text)} for text in texts], Stamp())).ids
    page = await bus.reader.read("s", filter=wanted, count=100)
    assert [texts[ids.index(entry.id)] for entry in page.entries] == found


async def test_a_page_ends_where_its_content_is_large_and_says_that_there_is_more(
    bus: Bus, server: Server
) -> None:
    for n, size in enumerate([10, 10, 40_000, 10, 10, 50_000]):
        server.command("XADD", "s", f"{n + 1}-0", "n", "x" * size)
    pages = await read_all(bus, "s", count=100)
    assert [[entry.id for entry in page.entries] for page in pages] == [
        ["1-0", "2-0", "3-0"],
        ["4-0", "5-0", "6-0"],
    ]
    backward = await read_all(bus, "s", count=100, direction="backward")
    assert [len(page.entries) for page in backward] == [1, 3, 2]
    # A filter looks at all of them in one call.
    (found,) = await read_all(bus, "s", filter={"n": "x" * 10}, count=100)
    assert ids_of([found]) == ["1-0", "2-0", "4-0", "5-0"]


async def test_whatever_bytes_are_stored_are_read_in_pages_of_any_size(bus: Bus, server: Server) -> None:
    every = bytes(range(256))
    texts = [
        "".join(map(chr, range(128))).encode(),
        '\u00e9\u2028\U0001f600 \\ / " \x7f'.encode(),
        b"",
        b"{}",
    ]
    for fields in (
        [b"a", b"1"],
        [part for text in texts for part in (text, text)],
        [b"twice", b"1", b"twice", b"2"],
        [every, every],
        [b"\xed\xa0\x80", b"\xc3"],
        [b"\\u00e9", b"\\"],
    ):
        server.command("XADD", "s", "*", *fields)
    stored = server.command("XRANGE", "s", "-", "+")
    assert len(stored) == 6
    for most in (1, 2, 3, 6):
        # Beyond a megabyte the server does not encode what it read.
        for max_bytes in (100_000, 2_000_000, 20):
            cursor, read = "-", []
            while len(read) < 6:
                page = await Pages(bus.redis).read("s", cursor, "+", max_entries=most, max_bytes=max_bytes)
                read += page.entries
                cursor = f"({read[-1].id}"
                assert page.has_more == (len(read) < 6)
            assert [(each.id, each.fields) for each in read] == [
                (entry_id.decode(), tuple(zip(flat[::2], flat[1::2], strict=True)))
                for entry_id, flat in stored
            ]


async def test_the_greatest_entry_id_ends_a_page(bus: Bus, server: Server) -> None:
    greatest = f"{2**64 - 1}-{2**64 - 1}"
    server.command("XADD", "s", greatest, "f", "v")
    for direction in ("forward", "backward"):
        (page,) = await read_all(bus, "s", direction=direction)
        assert ids_of([page]) == [greatest]


async def test_beyond_either_end_of_all_ids_there_is_nothing(bus: Bus, server: Server) -> None:
    server.command("XADD", "s", "1-1", "f", "v")
    server.command("XADD", "s", entry_ids.LAST, "f", "v")
    server.command("SET", "text", "x")
    before = await bus.reader.read("s", start="earliest", end="0-0", direction="backward")
    assert (before.entries, before.next_cursor) == ([], "0-0")
    for cursor in (before.next_cursor, "0", "00-0"):
        assert not (await bus.reader.read("s", cursor=cursor, direction="backward")).entries
    for start, at in (("latest", None), (None, entry_ids.LAST)):
        after = await bus.reader.read("s", start=start, cursor=at)
        assert (after.entries, after.next_cursor) == ([], entry_ids.LAST)
        waited = await bus.next_entries.wait(["s"], timeout_seconds=0, cursor=at)
        assert (waited.entries, waited.cursor_after(0)) == ([], entry_ids.LAST)
    server.command("XGROUP", "CREATE", "s", "g", entry_ids.LAST)
    assert (await bus.groups.state("s", "g")).lag.entries == 0
    with pytest.raises(BusError) as failed:
        await bus.reader.read("text", cursor=entry_ids.LAST)
    assert failed.value.code is Code.WRONG_TYPE
    with pytest.raises(BusError) as failed:
        await bus.publisher.add("s", [{"n": 1}], Stamp())
    assert failed.value.code is Code.INVALID_STREAM
    assert "greatest entry ID" in failed.value.message


async def test_what_cannot_be_read_is_explained(bus: Bus, server: Server) -> None:
    server.command("SET", "text", "x")
    server.command("XADD", "orders:eu:new", "*", "f", "v")
    with pytest.raises(BusError) as failed:
        await bus.reader.read("orders:eu:now")
    assert failed.value.code is Code.STREAM_NOT_FOUND
    assert "orders:eu:new" in failed.value.with_hint(None).cause
    with pytest.raises(BusError) as failed:
        await bus.reader.read("text")
    assert failed.value.code is Code.WRONG_TYPE
    assert "string" in failed.value.cause
    with pytest.raises(BusError) as failed:
        await bus.reader.read("orders:eu:new", start="earliest", cursor="0-0")
    assert failed.value.code is Code.INVALID_ARGUMENT
    with pytest.raises(BusError) as failed:
        await bus.reader.read("orders:eu:new", start="")
    assert failed.value.code is Code.INVALID_START


async def test_a_listing_is_sorted_paged_and_without_companion_keys(bus: Bus, server: Server) -> None:
    names = sorted(f"x:{n}" for n in range(25))
    for name in names:
        await bus.publisher.add(name, [{"a": 1}], Stamp(), idempotency_key="k")
    server.command("XADD", companion_key("x:1", Kind.DEAD, "g"), "*", "f", "v")
    server.command("SET", "x:text", "no stream")
    seen: list[str] = []
    cursor = None
    while True:
        page, cursor, more = await bus.lister.page("x:*", cursor=cursor, count=10)
        seen += [line.stream for line in page]
        assert all(line.length == 1 for line in page)
        if not more:
            break
    assert seen == names
    assert await bus.lister.page("nothing*", cursor=None, count=10) == ([], "", False)


async def test_a_listing_is_as_large_as_an_answer_may_be_and_paging_goes_on(bus: Bus, server: Server) -> None:
    names = sorted(f"{n:02}" + "\u00e4" * 255 for n in range(60))
    server.commands(*[["XADD", name, "*", "f", "v"] for name in names])
    seen: list[str] = []
    more: dict[str, Any] = {}
    while more != {"cursor": ""}:
        page = await call(bus, "stream_list", **more)
        assert len(json.dumps(page["streams"], ensure_ascii=False).encode()) < 40_000
        seen += [line["stream"] for line in page["streams"]]
        more = {"cursor": page["next_cursor"] if page["has_more"] else ""}
    assert seen == names


async def test_a_stream_that_the_user_of_redis_may_not_touch_keeps_no_other_from_being_listed(
    server: Server,
) -> None:
    server.commands(*[["XADD", name, "*", "f", "v"] for name in ("mine:a", "theirs:b", "mine:c")])
    server.command("ACL", "SETUSER", "limited", "reset", "on", ">pw", "~mine:*", "+@all")
    topology = Standalone.of(Target(path=server.path, username="limited", password="pw"))
    bus = Bus.over(Redis(topology), Settings(), KEY)
    async with trio.open_nursery() as nursery:
        await nursery.start(topology.run)
        listed = await call(bus, "stream_list")
        # What it may not do at all is told.
        server.command("ACL", "SETUSER", "limited", "-evalsha", "-eval")
        denied = await refusal(bus, "stream_list")
        nursery.cancel_scope.cancel()
    server.command("ACL", "DELUSER", "limited")
    assert [line["stream"] for line in listed["streams"]] == ["mine:a", "mine:c"]
    assert denied["code"] == "PERMISSION_DENIED"


@pytest.mark.settings(Settings(streams=StreamsSettings(max_name_bytes=100)))
async def test_names_that_no_call_takes_are_not_listed(bus: Bus, server: Server) -> None:
    """Shown with escapes, a name that is not UTF-8 would be that of another stream."""
    names: list[str | bytes] = ["", "control\n", "l" * 101, b"\xffbytes", "good", "l" * 100]
    server.commands(*[["XADD", name, "*", "f", "v"] for name in names])
    assert list(await bus.lister.names("*")) == ["good", "l" * 100]


async def test_reads_with_filters_hold_nothing_they_have_looked_at_while_they_wait(bus: Bus) -> None:
    await fill(bus, "s", 900)
    held: list[int] = []

    async def look() -> None:
        while True:
            # A look takes some 10 ms.
            await trio.sleep(0.01)
            held.append(sum(type(each) is Batch for each in gc.get_objects()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        async with trio.open_nursery() as readers:
            for _ in range(40):
                readers.start_soon(partial(bus.reader.read, "s", filter={"n": -1}))
        nursery.cancel_scope.cancel()
    # Two are scanning at a time.
    assert held
    assert max(held) <= 8
