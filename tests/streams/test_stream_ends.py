"""What follows an end that was just seen is read by XRANGE, and is the same as the script reads."""

from __future__ import annotations

import random

from redstreamd.streams.bus import Bus
from redstreamd.streams.entry_pages import Batch, Pages
from redstreamd.streams.stream_ends import PageKey, StreamEnds
from tests.support.buses import ON_REDIS
from tests.support.calls import call
from tests.support.servers import Server

BYTES = 32_768


def _scripts(server: Server) -> int:
    """Return how many scripts the server has run by their digest."""
    stats = server.command("INFO", "commandstats").decode()
    return sum(
        int(line.partition("calls=")[2].partition(",")[0])
        for line in stats.splitlines()
        if line.startswith("cmdstat_evalsha:")
    )


def _content(batch: Batch) -> tuple[list[tuple[str, object]], bool]:
    return [(entry.id, entry.fields) for entry in batch.entries], batch.has_more


async def _read(pages: Pages, first: str, last: str, most: int, size: int, *, forward: bool = True) -> Batch:
    return await pages.read("s", first, last, max_entries=most, max_bytes=size, forward=forward)


@ON_REDIS
async def test_what_comes_next_is_read_without_a_script_and_no_more_of_it_than_fits(
    bus: Bus, server: Server
) -> None:
    server.command("XADD", "s", "1-0", "text", "x")
    pages = Pages(bus.redis)
    assert not (await _read(pages, "-", "+", 10, BYTES)).has_more
    scripts = _scripts(server)
    # However slow this machine is, what is read is the same; it is seldom too slow every time.
    for number in range(2, 30):
        server.command("XADD", "s", f"{number}-0", "text", "x")
        batch = await _read(pages, f"({number - 1}-0", "+", 10, BYTES)
        assert _content(batch) == ([(f"{number}-0", ((b"text", b"x"),))], False)
    assert _scripts(server) < scripts + 28
    await _read(pages, "(29-0", "+", 10, BYTES)
    server.commands(*(("XADD", "s", f"{number}-0", "text", "x" * 20_000) for number in range(30, 34)))
    for pages_ in (pages, Pages(bus.redis)):
        batch = await _read(pages_, "(29-0", "+", 10, BYTES)
        assert ([entry.id for entry in batch.entries], batch.has_more) == (["30-0", "31-0"], True)


@ON_REDIS
async def test_more_than_may_be_read_without_its_size_is_read_by_the_script(bus: Bus, server: Server) -> None:
    """However they came to be there at once, few entries of an unknown size are asked for."""
    pages = Pages(bus.redis)
    await pages.read("none", "-", "+", max_entries=10, max_bytes=BYTES)
    scripts = _scripts(server)
    for number in range(10):
        stream = f"s{number}"
        server.command("XADD", stream, "1-0", "text", "x")
        await pages.read(stream, "-", "+", max_entries=10, max_bytes=BYTES)
        # All at once.
        adds = [("XADD", stream, f"{entry}-0", "text", "x") for entry in range(2, 102)]
        server.commands(("MULTI",), *adds, ("EXEC",))
        batch = await pages.read(stream, "(1-0", "+", max_entries=100, max_bytes=BYTES)
        assert (len(batch.entries), batch.has_more) == (100, False)
    assert _scripts(server) == scripts + 20


def test_an_end_counts_for_a_moment_and_for_what_follows_it() -> None:
    known = StreamEnds()

    def key(first: str, last: str = "+", command: str = "XRANGE") -> PageKey:
        return PageKey("s", command, first, last, 10, BYTES)

    assert not known.begins_at_end(key("(5-0"), 1.0)
    known.note_end(key("-"), "5-0", 1.0)
    assert known.begins_at_end(key("(5-0"), 1.05)
    assert not known.begins_at_end(key("(5-0"), 1.2)
    assert not known.begins_at_end(key("(4-0"), 1.05)
    assert not known.begins_at_end(key("(5-0", "9-0"), 1.05)
    assert not known.begins_at_end(key("(5-0", "+", "XREVRANGE"), 1.05)
    # Nothing has come.
    known.note_end(key("(5-0"), None, 2.0)
    assert known.begins_at_end(key("(5-0"), 2.05)
    # That the range ends says nothing of the stream.
    known.note_end(key("-", "7-0"), "6-0", 3.0)
    assert known.begins_at_end(key("(5-0"), 2.05)


async def test_whatever_happens_to_a_stream_pages_are_as_the_script_reads_them(
    bus: Bus, server: Server
) -> None:
    choose = random.Random(5)
    pages = Pages(bus.redis)
    ids = [0]
    repeated = ["-", "+", "(1-0", "(5-0", "20-0"]
    for _ in range(250):
        match choose.randrange(8):
            case 0 | 1 | 2:
                ids.append(ids[-1] + choose.randint(1, 2))
                value = choose.choice([b"x", b"\xff\x00", "é" * 50, "x" * 3_000, "x" * 9_000])
                server.command(
                    "XADD", "s", f"{ids[-1]}-0", "text", value, *(("n", "1") if ids[-1] % 3 else ())
                )
            case 3 if choose.random() < 0.3:
                server.command("XDEL", "s", f"{choose.choice(ids)}-0")
            case 4 if choose.random() < 0.2:
                server.command("XTRIM", "s", "MAXLEN", str(choose.randint(0, 30)))
            case _:
                forward = choose.random() < 0.8
                first = choose.choice([*repeated, f"({ids[-2:][0]}-0"])
                if first == "+":
                    forward = False
                last = choose.choice(["+", "25-0"]) if forward else "-"
                most, size = choose.choice([1, 3, 10]), choose.choice([200, BYTES])
                read = [
                    _content(await _read(each, first, last, most, size, forward=forward))
                    for each in (pages, pages, Pages(bus.redis))
                ]
                assert read[0] == read[1] == read[2]


async def test_work_is_the_same_whether_it_is_text_or_not(bus: Bus, server: Server) -> None:
    for number, value in enumerate((b"text \xc3\xa9", b"\xff\x00\x7f\x80", b"x" * 50_000), 1):
        server.command("XADD", "s", f"{number}-0", b"\xfe" if number == 2 else b"n", value)
    found = []
    for _ in range(3):
        taken = await call(bus, "work_take", stream="s", group="g", consumer="c", count=1, start="earliest")
        found += [(entry["id"], entry["attempt"], entry["fields"]) for entry in taken["entries"]]
        assert (await call(bus, "work_done", lease=taken["lease"]))["done"] == [taken["entries"][0]["id"]]
    assert [each[:2] for each in found] == [("1-0", 1), ("2-0", 1), ("3-0", 1)]
    assert found[0][2] == {"n": "text é"}
    assert found[1][2] == {"\\xfe": "/wB/gA=="}
