"""Replies come out as they were sent, wherever the bytes were cut."""

from __future__ import annotations

from typing import Any

import pytest

from redstreamd.redisio.decoder import Decoder

LARGE = b"v" * 2_000_000
NEXT = b"*2\r\n*2\r\n$3\r\n1-1\r\n*2\r\n$1\r\nf\r\n$1\r\nv\r\n%1\r\n+k\r\n:7\r\n"
DECODED: list[Any] = [[b"1-1", [b"f", b"v"]], {b"k": 7}]


def bulk(value: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(value), value)


def in_pieces(decoder: Decoder, data: bytes, size: int) -> list[Any]:
    return [
        reply for start in range(0, len(data), size) for reply in decoder.feed(data[start : start + size])
    ]


@pytest.mark.parametrize("between", [0, 1, 2], ids="{} small replies between".format)
def test_a_reply_behind_a_large_one_may_be_cut_anywhere(between: int) -> None:
    small = b":1\r\n" * between
    for cut in range(len(NEXT) + 1):
        decoder = Decoder()
        large = bulk(LARGE)
        replies = in_pieces(decoder, large[:-10], 1_000_000)
        replies += decoder.feed(large[-10:] + small + NEXT[:cut])
        replies += decoder.feed(NEXT[cut:]) if cut < len(NEXT) else []
        assert replies == [LARGE, *[1] * between, DECODED]


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_replies_of_every_size_come_in_order_from_pieces_of_any(size: int) -> None:
    decoder = Decoder()
    data = (NEXT + b"+OK\r\n" + bulk(b"x" * 100)) * 20
    assert in_pieces(decoder, data, size) == [DECODED, b"OK", b"x" * 100] * 20


def test_the_buffer_of_a_large_reply_is_given_back() -> None:
    decoder = Decoder()
    before = decoder._reader
    assert in_pieces(decoder, bulk(LARGE), 1_000_000) == [LARGE]
    assert decoder._reader is not before
    after = decoder._reader
    assert decoder.feed(NEXT) == [DECODED]
    assert decoder._reader is after
