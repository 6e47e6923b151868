"""What a filter matches, whoever wrote the entries; and what a scan costs the others."""

from __future__ import annotations

import json
import random
from typing import Any

import trio

from redstreamd import strict_json
from redstreamd.redisio.reply_parsing import RawEntry, entries
from redstreamd.streams import reading
from redstreamd.streams.bus import Bus
from redstreamd.streams.entry_decoding import decode
from redstreamd.streams.entry_encoding import Stamp, encode_fields
from redstreamd.streams.entry_pages import Batch
from redstreamd.streams.filters import Filter
from tests.support.buses import ON_REDIS
from tests.support.servers import Server

_NAMES = ["a", "b", "_rs.a", "_rs.=a", "a\\\\xff", "ä", "", "_rs.v"]
_VALUES: list[Any] = ["1", 1, 1.0, True, None, [1], ["1", "x"], {"a": 1}, "x", "ä", "/w==", "null", '"x"']


def test_the_words_that_are_looked_for_first_never_hide_an_entry_that_matches() -> None:
    choose = random.Random(7)
    seen = {True: 0, False: 0}
    without = 0
    for _ in range(6_000):
        entry = _entry(choose)
        wanted = {choose.choice(_NAMES): choose.choice(_VALUES) for _ in range(choose.choice((1, 1, 2)))}
        members = decode(entry.fields).members
        if members and choose.random() < 0.3:
            name = choose.choice(list(members))
            wanted = {name: members[name]}
        matching = all(
            name in members and strict_json.equal(members[name], value) for name, value in wanted.items()
        )
        filter_ = Filter(wanted)
        batch = Batch([entry, *(_entry(choose) for _ in range(choose.randint(0, 3)))], has_more=False)
        assert filter_.matches(entry) == matching, (entry, wanted)
        assert filter_.may_match_any(batch) or not matching, (batch, wanted)
        without += not filter_.may_match_any(batch)
        seen[matching] += 1
    assert min(without, *seen.values()) > 100


def _entry(choose: random.Random) -> RawEntry:
    """Return an entry of redstreamd or of another program, as the server sends it or encodes it as JSON."""
    if choose.random() < 0.4:
        members = {choose.choice(_NAMES): choose.choice(_VALUES) for _ in range(choose.randint(1, 3))}
        words = [word.encode() for pair in encode_fields(members, Stamp()).items() for word in pair]
    else:
        names = [*(name.encode() for name in _NAMES), b"a\xff", b"_rs.json"]
        values = [b"1", b"x", b"\xff", b"null", b'"x"', b'["a"]', "ä".encode(), b"[1]"]
        words = []
        for _ in range(choose.randint(1, 4)):
            words += [choose.choice(names), choose.choice(values)]
    try:
        texts = [word.decode() for word in words]
    except UnicodeDecodeError:
        return RawEntry("1-1", list(words))
    if choose.random() < 0.5:
        return RawEntry("1-1", list(words))
    (entry,) = entries(json.dumps([["1-1", texts]]).encode())
    return entry


@ON_REDIS
async def test_calls_with_a_filter_read_in_small_parts_and_a_few_at_a_time(bus: Bus, server: Server) -> None:
    """Else 64 of them hold up every other reply of the connection, and the daemon while it decodes."""
    server.commands(*[("XADD", "s", "*", "text", "x" * 1_000) for _ in range(1_500)])
    at_once, most, parts = 0, 0, []
    read = bus.reader._pages.read

    async def watched(*args: Any, **how: Any) -> Any:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        try:
            batch = await read(*args, **how)
        finally:
            at_once -= 1
        parts.append(sum(len(str(word)) for entry in batch.entries for word in entry.words))
        return batch

    bus.reader._pages.read = watched  # type: ignore[method-assign]
    pages = []

    async def scan() -> None:
        pages.append(await bus.reader.read("s", filter={"text": "nothing"}))

    async with trio.open_nursery() as nursery:
        for _ in range(32):
            nursery.start_soon(scan)
    assert all(page.has_more and not page.entries for page in pages)
    assert most == reading._SCANS_AT_ONCE
    assert max(parts) <= 2 * reading._SCANNED_BYTES
