"""Cutting bytes into lines: each case whole, byte by byte, and with trailing data."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redstreamd.mcpio.framing import LineSplitter

LIMIT = 10


def lines(splitter: LineSplitter) -> list[bytes]:
    """Take all lines there are."""
    return [splitter.lines.pop() for _ in range(len(splitter.lines))]


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
    assert splitter.take_rest() == rest
    assert not splitter.overlong


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
    assert splitter.take_rest() == rest


@CASES
def test_trailing_bytes_belong_to_the_next_line(data: bytes, expected: list[bytes], rest: bytes) -> None:
    splitter = LineSplitter(LIMIT)
    splitter.feed(data + (b"\n" if rest else b"") + b"tail")
    assert lines(splitter) == expected + ([rest] if rest else [])
    assert splitter.take_rest() == b"tail"


@pytest.mark.parametrize("byte_by_byte", [False, True])
@pytest.mark.parametrize("trailing", [b"", b"\n", b"\nok\n"])
def test_a_line_beyond_the_limit_ends_it_after_the_lines_before(byte_by_byte: bool, trailing: bytes) -> None:
    splitter = LineSplitter(LIMIT)
    data = b"first\n" + b"x" * (LIMIT + 1) + trailing
    for chunk in [bytes([byte]) for byte in data] if byte_by_byte else [data]:
        splitter.feed(chunk)
    assert splitter.overlong
    assert lines(splitter) == [b"first"]
    splitter.feed(b"more\n")
    assert lines(splitter) == []


def test_an_endless_line_is_not_kept() -> None:
    splitter = LineSplitter(LIMIT)
    for _ in range(1000):
        splitter.feed(b"x" * 1000)
    assert splitter.overlong
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


@given(st.binary(max_size=40), st.integers(0, 5))
def test_what_is_unread_lets_another_splitter_go_on(stream: bytes, taken: int) -> None:
    first, second, reference = LineSplitter(100), LineSplitter(100), LineSplitter(100)
    first.feed(stream)
    before = [first.lines.pop() for _ in range(min(taken, len(first.lines)))]
    second.feed(first.unread())
    second.feed(b"!\n")
    reference.feed(stream + b"!\n")
    assert before + lines(second) == lines(reference)
