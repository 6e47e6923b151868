"""Chunks that do not go out at once."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from redstreamd.service.nonblocking_writer import NonblockingWriter


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)
    os.close(writing)


def test_a_chunk_that_went_out_in_part_is_completed_before_anything_else(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    sink = NonblockingWriter(writing, limit_bytes=1_000_000)
    # More than a pipe holds, so that the kernel takes a part of it.
    first, second = b"a" * 200_000 + b"!", b"b" * 10
    sink.put(first)
    assert 0 < sink.waiting_bytes < len(first)
    sink.put(second)
    read = b""
    while sink.waiting_bytes:
        read += os.read(reading, 1 << 20)
        sink.drain()
    read += os.read(reading, 1 << 20)
    assert read == first + second
    assert (sink.written, sink.dropped) == (2, 0)
    sink.close()


def test_what_exceeds_the_limit_is_dropped_and_what_was_begun_is_not(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    sink = NonblockingWriter(writing, limit_bytes=200_000)
    sink.put(b"a" * 200_000)
    left = sink.waiting_bytes
    sink.put(b"b" * (200_000 - left + 1))
    assert (sink.dropped, sink.waiting_bytes) == (1, left)
    sink.put(b"c" * (200_000 - left))
    assert (sink.dropped, sink.waiting_bytes) == (1, 200_000)
    read = b""
    while sink.waiting_bytes:
        read += os.read(reading, 1 << 20)
        sink.drain()
    read += os.read(reading, 1 << 20)
    assert read == b"a" * 200_000 + b"c" * (200_000 - left)
    sink.close()


def test_a_reader_that_has_gone_takes_what_waits_along() -> None:
    reading, writing = os.pipe()
    sink = NonblockingWriter(writing, limit_bytes=1_000_000)
    sink.put(b"a" * 200_000)
    sink.put(b"b")
    os.close(reading)
    os.close(writing)
    sink.drain()
    assert (sink.written, sink.dropped, sink.waiting_bytes) == (0, 2, 0)
    sink.close()
