"""A page that is put together is, byte for byte, the one whose entries are encoded one by one."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redstreamd.encryption.unreadable import Why, unreadable
from redstreamd.presentation import entry_lines
from redstreamd.presentation.entries import views
from redstreamd.presentation.entry_lines import delivery_lines, encode_entries
from redstreamd.presentation.truncation import encode_delivery, encode_page
from redstreamd.redisio.reply_parsing import RawEntry
from redstreamd.streams.entry_encoding import Stamp, encode
from redstreamd.streams.entry_encryption import UnopenedEntry

NAMES = ["type", "id", 'a"b', "é\u202e", "50%", "%s", "\\", ""]
TEXTS = ["x", "", 'say "no"', "back\\slash", "tab\t", "50 %", "é", "\u202e", "\x7f", "\ud7ff", "x" * 300]
VALUES = [*TEXTS, 1, 2.5, True, None, {"a": [1]}, ["x"], -(2**53) + 1]
STAMPS = [
    Stamp(),
    Stamp("unix"),
    Stamp('un"ix', "50%", "answers"),
    Stamp("unix", in_reply_to="1-1 s"),
    Stamp("unix", released="1-1 someone"),
]
IDS = ["1-1", "1790000000000-0", "1790000000000-12", "18446744073709551615-18446744073709551615", "0-1"]


def words_of(members: dict[str, Any], stamp: Stamp) -> list[bytes]:
    return [part for pair in encode(members, stamp) for part in pair]


@st.composite
def pages(draw: st.DrawFn) -> list[RawEntry]:
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=4))
    kinds = [draw(st.sampled_from([TEXTS, VALUES])) for _ in names]
    stamp = draw(st.sampled_from(STAMPS))
    entries = []
    for entry_id in draw(st.lists(st.sampled_from(IDS), max_size=6)):
        members = {
            name: draw(st.sampled_from(kind))  # type: ignore[arg-type]
            for name, kind in zip(names, kinds, strict=True)
        }
        entries.append(RawEntry(entry_id, words_of(members, stamp)))
    # Now and then something is unusual: one entry, or the words of other programs.
    change = draw(st.sampled_from(["", "", "", "stamp", "bytes", "name", "none", "dead", "json", "unopened"]))
    if entries and change:
        entry = draw(st.sampled_from(entries))
        words = list(entry.words)
        if change == "stamp":
            words[-1] += b"!"
        elif change == "none":
            words = []
        elif change == "dead":
            words += [b"_rs.dead", b'{"reason":"x"}']
        elif change == "json":
            words += [b"_rs.json", b'["type","id"]']
        else:
            words[:2] = [b"name", draw(st.sampled_from([b"\xff", b"\xc3", b'"', b"x"]))]
        other = RawEntry(entry.id, words)
        if change == "unopened":
            other = UnopenedEntry(entry.id, words, unreadable(Why.NO_KEY, "k"))
        entries[entries.index(entry)] = other
    if draw(st.booleans()):
        with contextlib.suppress(UnicodeDecodeError):
            entries = [
                RawEntry(each.id, [word.decode() for word in each.words]) if type(each) is RawEntry else each
                for each in entries
            ]
    return entries


@given(
    st.lists(st.tuples(st.sampled_from(["orders", 'a "b" 5%', "é"]), pages()), max_size=2),
    st.sampled_from([0, 100, 200, 300, 500, 1_000, 32_768]),
)
def test_it_is_the_page_of_single_entries(parts: list[tuple[str, list[RawEntry]]], most: int) -> None:
    shown = [view for stream, entries in parts for view in views(stream, entries)]
    array, count = encode_page(shown, most)
    made, made_count = encode_entries(parts, most)
    assert (bytes(made), made_count) == (bytes(array), count)


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize("value", ["x", 'say "no"', 5])
@pytest.mark.parametrize(("most", "fitting"), [(2_000, 3), (300, 2)])
def test_usual_pages_are_put_together(
    monkeypatch: pytest.MonkeyPatch, value: object, most: int, fitting: int, *, as_text: bool
) -> None:
    words: list[Any] = words_of({"type": "order", "value": value}, Stamp("unix"))
    if as_text:
        words = [word.decode() for word in words]
    entries = [RawEntry(f"1-{number}", list(words)) for number in range(3)]
    array, _ = encode_page(views("orders", entries), most)
    monkeypatch.delattr(entry_lines, "views")
    made, count = encode_entries([("orders", entries)], most)
    assert (bytes(made), count) == (bytes(array), fitting)


@given(st.sampled_from(["orders", 'a "b" 5%', "é"]), pages())
def test_lines_of_a_delivery_are_those_of_single_entries(stream: str, entries: list[RawEntry]) -> None:
    lines = delivery_lines(stream, entries, 32_768)
    if lines is not None:
        shown = views(stream, entries)
        for line in shown:
            line.attempt = 1
        assert f"[{''.join(lines)[1:]}]".encode() == bytes(encode_delivery(shown, 32_768))
        assert len(lines) == len(entries)


def test_usual_deliveries_have_lines() -> None:
    entries = [RawEntry(f"1-{number}", words_of({"type": "order"}, Stamp("unix"))) for number in range(3)]
    lines = delivery_lines("orders", entries, 2_000)
    assert lines is not None
    assert all(line.startswith(',{"id":"1-') and line.endswith(',"attempt":1}') for line in lines)
    assert delivery_lines("orders", entries, 100) is None


@pytest.mark.parametrize("as_text", [False, True])
def test_a_usual_entry_alone_is_put_together_in_few_steps(
    monkeypatch: pytest.MonkeyPatch, *, as_text: bool
) -> None:
    words: list[Any] = words_of({"type": "order", "value": "x"}, Stamp("unix"))
    if as_text:
        words = [word.decode() for word in words]
    entry = RawEntry("1-1", words)
    array, _ = encode_page(views("orders", [entry]), 2_000)
    # What it has in common with others is known once one was seen.
    assert encode_entries([("orders", [entry])], 2_000) == (array, 1)
    monkeypatch.delattr(entry_lines, "_alike")
    assert encode_entries([("orders", [entry])], 2_000) == (array, 1)
