"""Whoever can write to Redis can destroy an entry, and can neither change nor move what it says.

Each row of the table writes an entry anew with one thing changed. All of them lie in one stream, between
entries that nobody touched: each is refused for itself, and everything that needs no content goes on with it.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from redstreamd.settings import LeasesSettings, Settings, ToolsSettings
from redstreamd.streams.bus import Bus
from tests.encryption.rings import InForce, KeyDirectory
from tests.support.buses import ON_REDIS, running_bus
from tests.support.calls import call, texts
from tests.support.limits import Deferred
from tests.support.servers import Server

pytestmark = ON_REDIS

HEADER, CLEAR, SEALED, JSON = b"_rs.enc", b"_rs.clear", b"_rs.sealed", b"_rs.json"
RULES = ("open:* are encrypted except kind", "hidden:* are encrypted with names except kind")
STREAMS = ("open:jobs", "hidden:jobs")
PLACE = {"group": "g", "consumer": "c"}
STAMPS = {"correlation_id": "c-1", "reply_to": "replies"}

Fields = list[tuple[bytes, bytes]]
#: The fields of an entry, and those of another one in the same batch and of one in another.
Change = Callable[[Fields, Fields, Fields], Fields]


def members(number: int) -> dict[str, Any]:
    return {"kind": "job", "token": f"token {number}", "other": f"other {number}", "data": {"n": number}}


def replaced(name: bytes, by: Callable[[bytes], bytes]) -> Change:
    def change(fields: Fields, *_: Fields) -> Fields:
        assert name in dict(fields)
        return [(each, by(value) if each == name else value) for each, value in fields]

    return change


def sealed_names(fields: Fields) -> list[bytes]:
    """Return the names of the fields with encrypted values."""
    return [
        name for name, _ in fields if name == SEALED or (not name.startswith(b"_rs.") and name != b"kind")
    ]


def in_sealed(by: Callable[[bytes], bytes]) -> Change:
    """Change the first encrypted value."""
    return lambda fields, *_: replaced(sealed_names(fields)[0], by)(fields)


def flipped(place: float) -> Callable[[bytes], bytes]:
    """Change one bit of what is encrypted, at a part of its length."""

    def flip(value: bytes) -> bytes:
        data = bytearray(base64.b64decode(value + b"=" * (-len(value) % 4)))
        data[min(int(len(data) * place), len(data) - 1)] ^= 1
        return (
            base64.b64encode(bytes(data)).rstrip(b"=") if not value.endswith(b"=") else base64.b64encode(data)
        )

    return flip


def swapped(fields: Fields, *_: Fields) -> Fields:
    values = dict(fields)
    values[b"token"], values[b"other"] = values[b"other"], values[b"token"]
    return list(values.items())


def from_another(fields: Fields, *others: Fields, which: int) -> Fields:
    name = sealed_names(fields)[0]
    return [(each, dict(others[which])[name] if each == name else value) for each, value in fields]


def without(name: bytes) -> Change:
    def change(fields: Fields, *_: Fields) -> Fields:
        assert name in dict(fields)
        return [(each, value) for each, value in fields if each != name]

    return change


def with_field(name: bytes, value: bytes, *, last: bool = False) -> Change:
    return lambda fields, *_: [*fields, (name, value)] if last else [(name, value), *fields]


def header_part(number: int, by: bytes | Callable[[bytes], bytes]) -> Change:
    """Change one word of the header: version, key, series, nonce, tag."""

    def change(header: bytes) -> bytes:
        words = header.split(b" ")
        words[number] = by(words[number]) if callable(by) else by
        return b" ".join(words)

    return replaced(HEADER, change)


def other_letter(word: bytes) -> bytes:
    return (b"B" if word[:1] == b"A" else b"A") + word[1:]


def other_order(fields: Fields, *_: Fields) -> Fields:
    names = [name for name, _ in fields if not name.startswith(b"_rs.")]
    values = dict(fields)
    end = [(name, value) for name, value in fields if name.startswith(b"_rs.")]
    return [(name, values[name]) for name in reversed(names)] + end


#: For both ways of writing.
TABLE: dict[str, Change] = {
    "first byte": in_sealed(flipped(0)),
    "a byte in the middle": in_sealed(flipped(0.5)),
    "last byte": in_sealed(flipped(1)),
    "shorter": in_sealed(lambda value: value[:-4]),
    "truncated base64": in_sealed(lambda value: value[:-1]),
    "longer": in_sealed(lambda value: value.rstrip(b"=") + b"AAAA"),
    "empty": in_sealed(lambda value: b""),
    "no base64": in_sealed(lambda value: b"%" + value[1:]),
    "no text": in_sealed(lambda value: b"\xff" + value[1:]),
    "clear text in its place": in_sealed(lambda value: b"my own"),
    "of another entry of the batch": lambda *fields: from_another(*fields, which=0),
    "of an entry of another batch": lambda *fields: from_another(*fields, which=1),
    "sender": replaced(b"_rs.sender", lambda value: b"somebody"),
    "no sender": without(b"_rs.sender"),
    "reply_to": replaced(b"_rs.reply_to", lambda value: b"mine"),
    "no reply_to": without(b"_rs.reply_to"),
    "correlation_id": replaced(b"_rs.correlation_id", lambda value: b"c-2"),
    "in_reply_to": with_field(b"_rs.in_reply_to", b"1-1 s", last=True),
    "clear value": replaced(b"kind", lambda value: b"order"),
    "no clear value": without(b"kind"),
    "another clear field": with_field(b"more", b"1"),
    "clear field twice": with_field(b"kind", b"order"),
    "no clear names": without(CLEAR),
    "more clear names": replaced(CLEAR, lambda value: b'["kind","token"]'),
    "clear names that are none": replaced(CLEAR, lambda value: b"[[]]"),
    "version": header_part(0, lambda word: word + b"9"),
    "another key": header_part(1, b"second"),
    "an unknown key": header_part(1, b"nobody-has-it"),
    "no key": header_part(1, b""),
    "series": header_part(2, other_letter),
    "a short series": header_part(2, lambda word: word[:-2]),
    "nonce": header_part(3, other_letter),
    "a huge nonce": header_part(3, b"9" * 400),
    "tag": header_part(4, other_letter),
    "no tag": header_part(4, b""),
    "half a tag": header_part(4, lambda word: word[:11]),
    "more words": replaced(HEADER, lambda value: value + b" 1"),
    "fewer words": replaced(HEADER, lambda value: value.rpartition(b" ")[0]),
    "an empty header": replaced(HEADER, lambda value: b""),
    "a huge header": replaced(HEADER, lambda value: value + b"0" * 300_000),
    "a header that is no text": replaced(HEADER, lambda value: b"\xff\xfe"),
    "header of another entry of the batch": lambda fields, near, far: replaced(
        HEADER, lambda value: dict(near)[HEADER]
    )(fields),
    "header of another batch": lambda fields, near, far: replaced(HEADER, lambda value: dict(far)[HEADER])(
        fields
    ),
    "two headers": lambda fields, near, far: [*fields, (HEADER, dict(far)[HEADER])],
}
#: Where each field is encrypted for itself.
TABLE_OF_FIELDS: dict[str, Change] = {
    "swapped": swapped,
    "other order": other_order,
    "no value": without(b"other"),
    "a value more": with_field(b"third", b"AAAA" * 12),
    "text as JSON": replaced(JSON, lambda value: b'["data","token"]'),
    "JSON as text": without(JSON),
    "other JSON": replaced(JSON, lambda value: b'["token"]'),
    "another name": lambda fields, *_: [(b"tokem" if name == b"token" else name, v) for name, v in fields],
}


@pytest.fixture
def ring(tmp_path: Path) -> KeyDirectory:
    return KeyDirectory(tmp_path / "keys", "first", "second")


@pytest.fixture
def bus(server: Server, ring: KeyDirectory) -> Deferred[Bus]:
    chosen = Settings(tools=ToolsSettings(max_result_bytes=1 << 20), leases=LeasesSettings(max_deliveries=0))
    encryption = InForce(ring, "first", *RULES).encryption()
    return Deferred(running_bus(server, chosen, encryption=encryption))


def raw(server: Server, stream: str) -> list[Fields]:
    return [
        list(zip(flat[::2], flat[1::2], strict=True))
        for _, flat in server.command("XRANGE", stream, "-", "+")
    ]


def write(server: Server, stream: str, fields: Fields) -> str:
    reply = server.command("XADD", stream, "*", *(word for pair in fields for word in pair))
    assert isinstance(reply, bytes), reply
    return reply.decode()


async def tampered(bus: Bus, server: Server, stream: str) -> dict[str, str]:
    """Write the whole table into a stream, between two good entries; return the row of each bad one."""
    await call(bus, "stream_add", stream="elsewhere", entries=[{"n": 0}])
    await call(bus, "stream_add", stream=stream, entries=[members(1), members(2)], **STAMPS)
    await call(bus, "stream_add", stream=stream, entries=[members(3)], **STAMPS)
    other = "hidden:else" if stream.startswith("hidden") else "open:else"
    await call(bus, "stream_add", stream=other, entries=[members(4)], **STAMPS)
    whole, near, far = raw(server, stream)
    table = TABLE | (TABLE_OF_FIELDS if stream.startswith("open") else {})
    bad = {}
    for row, change in table.items():
        fields = change(list(whole), near, far)
        assert fields != whole, row
        bad[write(server, stream, fields)] = row
    bad[write(server, stream, raw(server, other)[0])] = "of another stream"
    await call(bus, "stream_add", stream=stream, entries=[members(5)], **STAMPS)
    return bad


def pages(entries: list[dict[str, Any]], bad: dict[str, str]) -> Iterator[str]:
    """Check entries, each by itself, and yield the rows of what was refused."""
    for entry in entries:
        row = bad.get(entry["id"])
        if row is None:
            assert "unreadable" not in entry
            assert entry["fields"]["token"].startswith("token ")
            assert entry["fields"] == members(entry["fields"]["data"]["n"])
            continue
        assert "unreadable" in entry, (row, entry)
        assert entry["unreadable"].keys() >= {"cause", "next_step"}, row
        assert entry["unreadable"]["cause"], row
        assert entry["unreadable"]["next_step"], row
        # Nothing is shown as if it were the content.
        assert "token " not in str(entry["fields"]), row
        yield row


@pytest.mark.parametrize("stream", STREAMS)
async def test_each_change_is_refused_for_its_entry_and_nothing_stands_still(
    bus: Bus, server: Server, stream: str
) -> None:
    bad = await tampered(bus, server, stream)
    total = len(bad) + 4
    read = await call(bus, "stream_read", stream=stream, count=100)
    assert len(read["entries"]) == total
    assert sorted(pages(read["entries"], bad)) == sorted(bad.values())
    by_row = {bad[entry["id"]]: entry["unreadable"] for entry in read["entries"] if entry["id"] in bad}
    assert by_row["an unknown key"]["key"] == "nobody-has-it"
    assert "nobody-has-it" in str(by_row["an unknown key"])
    waited = await call(bus, "stream_wait", streams=[stream], cursor="0-0", count=100, timeout_seconds=0)
    assert sorted(pages(waited["entries"], bad)) == sorted(bad.values())
    # It can be filtered by what is clear, and the program before this one gets all of them.
    filtered = await call(bus, "stream_read", stream=stream, count=100, filter={"kind": "job"})
    assert len(filtered["entries"]) >= total - 10
    assert len(await texts(bus, "get_stream_messages", stream=stream, count=1_000)) == total

    # All can be taken, given back, taken again, finished, dead-lettered, looked at and replayed.
    place = {"stream": stream, **PLACE}
    taken = await call(bus, "work_take", **place, count=100)
    assert sorted(pages(taken["entries"], bad)) == sorted(bad.values())
    ids = [entry["id"] for entry in taken["entries"]]
    assert len(ids) == total
    await call(bus, "work_fail", lease=taken["lease"], action="release", reason="not yet")
    taken = await call(bus, "work_take", **place, count=100)
    assert [entry["attempt"] for entry in taken["entries"]] == [2] * total
    lease = {"lease": taken["lease"]}
    await call(bus, "work_extend", **lease)
    half = total // 2
    done = await call(bus, "work_done", **lease, entry_ids=ids[:half])
    assert done["done"] == ids[:half]
    failed = await call(bus, "work_fail", **lease, entry_ids=ids[half:], action="dead_letter", reason="bad")
    assert failed["dead_lettered"] == ids[half:]
    letters = {"stream": stream, "group": "g"}
    listed = await call(bus, "dead_letter_replay", **letters, count=100)
    assert listed["total"] == total - half
    assert {entry["dead_letter"]["reason"] for entry in listed["entries"]} == {"bad"}
    shown = {entry["id"]: entry for entry in listed["entries"]}
    bad_letters = {
        one: bad[e["dead_letter"]["id"]] for one, e in shown.items() if e["dead_letter"]["id"] in bad
    }
    assert sorted(pages(listed["entries"], bad_letters)) == sorted(bad_letters.values())
    replayed = await call(bus, "dead_letter_replay", **letters, action="replay", count=100, dry_run=False)
    assert len(replayed["replayed"]) == total - half
    new = {
        line["new_id"]: bad_letters[line["id"]] for line in replayed["replayed"] if line["id"] in bad_letters
    }
    read = await call(bus, "stream_read", stream=stream, start=replayed["replayed"][0]["new_id"], count=100)
    assert sorted(pages(read["entries"], new)) == sorted(new.values())
    taken = await call(bus, "work_take", **place, count=100)
    assert len((await call(bus, "work_done", lease=taken["lease"], delete=True))["done"]) == total - half
    health = await call(bus, "stream_health", stream=stream, detail="full")
    (group,) = health["groups"]
    assert (group["pending"], group["lag"], group["dead_letters"]) == (0, 0, 0)
    trim = {"stream": stream, "action": "trim", "max_length": 0, "dry_run": False}
    assert (await call(bus, "stream_manage", **trim))["effect"]["removed"] == total


async def test_a_writer_cannot_forge_what_is_reserved(bus: Bus, server: Server) -> None:
    """Members with the names of reserved fields come out as they went in."""
    stream = STREAMS[0]
    await call(bus, "stream_add", stream=stream, entries=[members(1)])
    (whole,) = raw(server, stream)
    forged = {name.decode(): value.decode() for name, value in whole} | {"_rs.clear": '["token"]'}
    for place in (*STREAMS, "elsewhere"):
        await call(bus, "stream_add", stream=place, entries=[forged])
        last = await call(bus, "stream_read", stream=place, direction="backward", count=1)
        assert last["entries"][0]["fields"] == forged
        assert "unreadable" not in last["entries"][0]
