"""Cutting bytes into lines: each case whole, byte by byte, and with trailing data."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redstreamd.admission.accounts import Account, Accounts, Held, Peer
from redstreamd.admission.memory import Memory
from redstreamd.mcpio.framing import BEGINNING_BYTES, LineSplitter, LongLine
from redstreamd.policy import Principal

LIMIT = 10


def lines(splitter: LineSplitter) -> list[bytes]:
    """Take all lines there are; of one that was too long, its beginning, marked."""
    taken = [splitter.lines.pop() for _ in range(len(splitter.lines))]
    return [b"TOO LONG " + line.beginning if isinstance(line, LongLine) else line for line in taken]


def rest_of(splitter: LineSplitter) -> bytes:
    """End the stream, and return the last line, which had no newline."""
    splitter.end()
    return b"".join(lines(splitter))


CASES = pytest.mark.parametrize(
    ("data", "expected", "rest"),
    [
        (b"", [], b""),
        (b"\n", [b""], b""),
        (b"a\n", [b"a"], b""),
        (b"a\nb\n", [b"a", b"b"], b""),
        (b"\n\n\n", [b"", b"", b""], b""),
        (b"a\r\n", [b"a\r"], b""),
        (b"a", [], b"a"),
        (b"a\nbc", [b"a"], b"bc"),
        (b"0123456789\n", [b"0123456789"], b""),
        (b"0123456789", [], b"0123456789"),
        # These end lines elsewhere, but not here.
        ("a\u2028\n".encode(), ["a\u2028".encode()], b""),
        (b"a\rb\x0b\x0c\x85\n", [b"a\rb\x0b\x0c\x85"], b""),
    ],
)


@CASES
def test_bytes_that_come_at_once_are_cut_at_newlines(data: bytes, expected: list[bytes], rest: bytes) -> None:
    splitter = LineSplitter(LIMIT)
    splitter.feed(data)
    assert lines(splitter) == expected
    assert rest_of(splitter) == rest


@CASES
def test_bytes_that_come_one_by_one_make_the_same_lines(
    data: bytes, expected: list[bytes], rest: bytes
) -> None:
    splitter = LineSplitter(LIMIT)
    taken = []
    for byte in data:
        splitter.feed(bytes([byte]))
        taken += lines(splitter)
    assert taken == expected
    assert rest_of(splitter) == rest


@CASES
def test_trailing_bytes_belong_to_the_next_line(data: bytes, expected: list[bytes], rest: bytes) -> None:
    splitter = LineSplitter(LIMIT)
    splitter.feed(data + (b"\n" if rest else b"") + b"tail")
    assert lines(splitter) == expected + ([rest] if rest else [])
    assert rest_of(splitter) == b"tail"


@pytest.mark.parametrize("byte_by_byte", [False, True])
@pytest.mark.parametrize("length", [LIMIT + 1, 3 * LIMIT])
def test_a_line_beyond_the_limit_is_skipped_to_its_newline(byte_by_byte: bool, length: int) -> None:
    splitter = LineSplitter(LIMIT)
    data = b"first\n" + b"x" * length + b"\nok\n" + b"y" * length + b"\n\nlast\n"
    for chunk in [bytes([byte]) for byte in data] if byte_by_byte else [data]:
        splitter.feed(chunk)
    first, second = (b"TOO LONG " + each * (LIMIT + 1 if byte_by_byte else length) for each in (b"x", b"y"))
    assert lines(splitter) == [b"first", first, b"ok", second, b"", b"last"]
    assert splitter.unread() == b""


def test_of_a_line_beyond_the_limit_the_beginning_is_there_before_its_end() -> None:
    splitter = LineSplitter(10 * BEGINNING_BYTES)
    text = bytes(range(32, 127)) * 1_000
    splitter.feed(text[:5_000])
    assert lines(splitter) == []
    splitter.feed(text[5_000:])
    assert lines(splitter) == [b"TOO LONG " + text[:BEGINNING_BYTES]]
    splitter.feed(b"more")
    splitter.end()
    assert lines(splitter) == []


def test_an_endless_line_is_not_kept() -> None:
    splitter = LineSplitter(LIMIT)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(1000):
            splitter.feed(b"x" * 1000)
        assert tracemalloc.get_traced_memory()[0] - before < 10_000
    finally:
        tracemalloc.stop()
    assert len(lines(splitter)) == 1
    assert splitter.unread() == b""


@given(st.lists(st.binary(max_size=LIMIT), max_size=8), st.data())
def test_however_bytes_are_cut_nothing_is_lost_or_added(pieces: list[bytes], data: st.DataObject) -> None:
    pieces = [piece.replace(b"\n", b"") for piece in pieces]
    stream = b"".join(piece + b"\n" for piece in pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    splitter = LineSplitter(LIMIT)
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        splitter.feed(stream[start:end])
    assert lines(splitter) == pieces


@given(st.text("ab\n", max_size=60), st.integers(0, 5), st.text("ab\n", max_size=20))
def test_what_is_unread_lets_another_splitter_go_on(before: str, taken: int, after: str) -> None:
    first, second, reference = LineSplitter(LIMIT), LineSplitter(LIMIT), LineSplitter(LIMIT)
    first.feed(before.encode())
    reference.feed(before.encode())
    reference.feed(after.encode())
    expected = lines(reference)
    taken = min(taken, len(first.lines))
    del first.lines[len(first.lines) - taken :]
    # What a session puts before it changes nothing.
    second.resume(b"early\n" + first.unread(), first.long_lines())
    assert second.lines.pop() == b"early"
    second.feed(after.encode())
    assert lines(second) == expected[taken:]
    assert rest_of(second) == rest_of(reference)


@given(st.lists(st.sampled_from([b"\n" * 100, b" \n" * 60, b"{}\n", b"x" * (LIMIT + 1) + b"\n"]), max_size=9))
def test_which_lines_were_too_long_is_handed_over_whatever_blank_ones_there_are(pieces: list[bytes]) -> None:
    first, second = LineSplitter(LIMIT), LineSplitter(LIMIT)
    for piece in pieces:
        first.feed(piece)
    second.resume(first.unread(), first.long_lines())
    assert lines(second) == lines(first)
    assert [isinstance(line, LongLine) for line in second.lines] == [
        isinstance(line, LongLine) for line in first.lines
    ]


class CountedSearches(bytes):
    """Bytes that count how often something is looked for in them."""

    searches = 0

    def find(self, *args: Any) -> int:
        self.searches += 1
        return super().find(*args)


@pytest.mark.parametrize("before", [b"", b"x" * 70 + b"\n", (b"x" * 70 + b"\n") * 40])
def test_many_short_lines_are_split_together(before: bytes) -> None:
    splitter = LineSplitter(1 << 20)
    data = CountedSearches(before + b"a\n" * 65_536 + b"tail")
    splitter.feed(data)
    assert data.searches < 100
    assert lines(splitter) == data.split(b"\n")[:-1]
    assert rest_of(splitter) == b"tail"


@pytest.mark.parametrize("blank", [b"\n", b"\r\n", b" \t\n"])
def test_of_many_blank_lines_hardly_any_is_left_and_no_other_is_lost(blank: bytes) -> None:
    splitter = LineSplitter(LIMIT)
    for _ in range(2):
        splitter.feed(b"a" + blank * 5_000 + b" b \n" + blank * 5_000 + b"c\n\nd")
    splitter.feed(blank * 5_000)
    taken = lines(splitter)
    assert [each.strip() for each in taken if each.strip()] == [b"a", b"b", b"c", b"da", b"b", b"c", b"d"]
    assert len(taken) < 20
    assert rest_of(splitter) == b""


def test_among_many_short_lines_one_beyond_the_limit_is_found() -> None:
    splitter = LineSplitter(LIMIT)
    splitter.feed(b"a\n" * 1_000 + b"x" * 11 + b"\nb\n")
    assert lines(splitter) == [*[b"a"] * 1_000, b"TOO LONG " + b"x" * 11, b"b"]


class CountedLooks(list[bytes]):
    """Lines that count how often all of them are looked at."""

    looks = 0

    def __iter__(self) -> Iterator[bytes]:
        self.looks += 1
        return super().__iter__()


def counted_splitter() -> tuple[LineSplitter, Account]:
    accounts = Accounts()
    account = accounts.open(Principal("me", "unix"), Peer(1000, 1), "1")
    memory = Memory(accounts, 1 << 20)
    splitter = LineSplitter(1 << 20, memory.open(account, Nobody()))
    return splitter, account


class Nobody:
    """What holds memory, and is never asked for it here."""

    def give_back(self) -> bool:
        raise AssertionError("the budget is not exceeded")

    def on_refused(self) -> None:
        raise AssertionError("nothing is refused")


@pytest.mark.parametrize("tail", [b"", b"x" * 5_000])
def test_whole_lines_are_counted_until_they_are_taken_and_not_all_for_each(tail: bytes) -> None:
    splitter, account = counted_splitter()
    splitter.feed(b"0123456789\n" * 5_000 + tail)
    assert account.held[Held.BYTES] == splitter.held == 55_000 + len(tail)
    splitter.lines = looked_at = CountedLooks(splitter.lines)
    looked_at.looks = 0
    for left in range(4_999, -1, -1):
        splitter.took(looked_at.pop())
        assert abs(account.held[Held.BYTES] - (11 * left + len(tail))) <= 4_096
    assert looked_at.looks == 0
    assert account.held[Held.BYTES] == len(tail)


def test_a_line_that_is_put_back_is_counted_again() -> None:
    splitter, account = counted_splitter()
    splitter.feed(b"x" * 5_000 + b"\n")
    line = splitter.lines.pop()
    splitter.took(line)
    assert account.held[Held.BYTES] == 0
    splitter.put_back(line)
    assert account.held[Held.BYTES] == 5_001
    splitter.clear()
    assert account.held[Held.BYTES] == 0
