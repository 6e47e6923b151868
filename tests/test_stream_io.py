"""Writes at the end of a scheduler's pass: once each, in order, and nobody who waits for them sleeps on."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.lowlevel

from redstreamd.errors.defects import Defect
from redstreamd.mcpio.outbox import UNREAD_BYTES, Outbox
from redstreamd.stream_io import (
    answers_of_pass,
    flush_at_end_of_pass,
    nonblocking_write,
    write_answers,
    write_together,
)
from tests.mcpio.serving import socket_pair, virtual_time

#: Nothing else is due for as long, so whoever is not woken sleeps until the test's limit.
FOR_EVER = 3600


def awake(event: trio.Event) -> Callable[[], bool]:
    """Return a flush that sets an event, and so wakes who waits for it."""

    def flush() -> bool:
        event.set()
        return True

    return flush


async def test_a_flush_comes_once_after_all_tasks_of_the_pass() -> None:
    order: list[str] = []

    def flush() -> bool:
        order.append("flush")
        return False

    async def work(name: str) -> None:
        order.append(name)

    async with trio.open_nursery() as nursery:
        flush_at_end_of_pass(flush)
        nursery.start_soon(work, "one")
        nursery.start_soon(work, "two")
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
    # Those that were started in the pass run in the next one.
    assert order[0] == "flush"
    assert sorted(order) == ["flush", "one", "two"]


async def test_who_is_woken_by_a_flush_runs_although_the_loop_was_about_to_sleep() -> None:
    event = trio.Event()
    flush_at_end_of_pass(awake(event))
    with trio.move_on_after(FOR_EVER):
        await event.wait()
    assert event.is_set()


async def test_a_flush_that_asks_for_another_gets_it_without_waiting_for_input() -> None:
    event = trio.Event()

    def flush() -> bool:
        flush_at_end_of_pass(awake(event))
        return False

    flush_at_end_of_pass(flush)
    with trio.move_on_after(FOR_EVER):
        await event.wait()


async def test_a_flush_that_fails_is_reported_and_those_beside_it_and_after_it_come(
    defects: list[Defect],
) -> None:
    def fail() -> bool:
        raise RuntimeError("a defect")

    for _ in range(2):
        event = trio.Event()
        flush_at_end_of_pass(fail)
        flush_at_end_of_pass(awake(event))
        with trio.move_on_after(FOR_EVER):
            await event.wait()
    assert [str(each.error) for each in defects] == ["a defect"] * 2


async def test_what_is_written_together_comes_before_the_pass_ends_and_what_was_queued_before_does_not() -> (
    None
):
    order: list[str] = []

    def later(name: str) -> None:
        def flush() -> bool:
            order.append(name)
            return False

        answers_of_pass()(flush)

    def work() -> None:
        later("one")
        later("two")
        order.append("work")

    later("before")
    write_together(work)
    assert order == ["work", "one", "two"]
    await trio.lowlevel.checkpoint()
    await trio.lowlevel.checkpoint()
    assert order == ["work", "one", "two", "before"]


async def test_work_that_fails_has_its_writes_done_and_who_is_woken_by_them_runs() -> None:
    event = trio.Event()

    def work() -> None:
        answers_of_pass()(awake(event))
        raise ValueError("a defect")

    def at_the_end() -> bool:
        with pytest.raises(ValueError, match="a defect"):
            write_together(work)
        # It says nothing of whom it woke.
        return False

    flush_at_end_of_pass(at_the_end)
    with trio.move_on_after(FOR_EVER):
        await event.wait()
    assert event.is_set()


# --- The outbox --------------------------------------------------------------------------------


@attrs.define
class Sending:
    """An outbox over a socket, and what became of it.

    Attributes:
        outbox: What is tested.
        peer: The other end.
        broken: How often it said that the stream is broken.
        overflows: How often it said that a line does not fit.
        writers: How many writer tasks it started.
    """

    outbox: Outbox
    peer: trio.SocketStream
    broken: int = 0
    overflows: int = 0
    writers: int = 0


async def test_answers_are_written_with_the_pass_or_before_if_they_are_not_to_wait() -> None:
    async with sending() as state:
        outbox, peer = state.outbox, state.peer.socket
        outbox.send(b"one\n")
        outbox.send(b"two\n")
        with pytest.raises(BlockingIOError):
            peer._sock.recv(100)
        write_answers()
        assert peer._sock.recv(100) == b"one\ntwo\n"
        write_answers()
        outbox.send(b"three\n")
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        assert peer._sock.recv(100) == b"three\n"
        assert state.writers == 0


@asynccontextmanager
async def sending(max_bytes: int = 1 << 24, *, wrapped: bool = False) -> AsyncIterator[Sending]:
    ours, peer = socket_pair()
    ours.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    async with ours, peer, trio.open_nursery() as nursery:

        def start_soon(task: Callable[[], Awaitable[None]]) -> bool:
            state.writers += 1
            nursery.start_soon(task)
            return True

        def broken() -> None:
            state.broken += 1
            state.outbox.close()

        def overflow() -> None:
            state.overflows += 1

        stream: trio.abc.SendStream = Wrapped(ours) if wrapped else ours
        outbox = Outbox(stream, max_bytes, start_soon=start_soon, on_overflow=overflow, on_broken=broken)
        state = Sending(outbox, peer)
        yield state
        nursery.cancel_scope.cancel()


class Wrapped(trio.abc.SendStream):
    """A stream that is no descriptor, as TLS is none."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


async def received(peer: trio.SocketStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += await peer.receive_some(8192)
    return data


@pytest.mark.parametrize("wrapped", [False, True], ids=["descriptor", "wrapped"])
async def test_lines_arrive_whole_and_in_order_however_little_the_socket_accepts(wrapped: bool) -> None:
    lines = [b"%d:" % number + b"x" * (number * 37 % 5000) + b"\n" for number in range(500)]
    async with sending(wrapped=wrapped) as state, trio.open_nursery() as nursery:

        async def send_all() -> None:
            for number, line in enumerate(lines):
                state.outbox.send(line)
                if number % 7 == 0:
                    await trio.lowlevel.checkpoint()
            await state.outbox.wait_written()
            assert state.outbox.size == 0

        nursery.start_soon(send_all)
        assert await received(state.peer, sum(map(len, lines))) == b"".join(lines)
    assert state.writers > 0
    assert (state.broken, state.overflows) == (0, 0)


async def test_what_the_socket_accepts_needs_no_writer_and_its_waiter_is_woken() -> None:
    async with sending() as state:
        for _ in range(10):
            state.outbox.send(b"a line\n")
            with trio.move_on_after(FOR_EVER):
                await state.outbox.wait_written()
            assert await received(state.peer, 7) == b"a line\n"
        assert state.writers == 0


async def test_a_peer_that_does_not_read_fills_the_outbox_to_its_bound_and_gets_all_of_it_later() -> None:
    async with sending(100_000) as state:
        sent = 0
        while not state.overflows:
            state.outbox.send(b"x" * 999 + b"\n")
            sent += 1 - state.overflows
            await trio.lowlevel.checkpoint()
        assert 90_000 < state.outbox.size <= 100_000
        with trio.move_on_after(0.05) as waiting:
            await state.outbox.wait_written()
        assert waiting.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(state.outbox.wait_written)
            assert len(await received(state.peer, 1000 * sent)) == 1000 * sent


@pytest.mark.parametrize("wrapped", [False, True], ids=["descriptor", "wrapped"])
async def test_a_broken_socket_is_told_and_ends_the_wait(wrapped: bool) -> None:
    async with sending(wrapped=wrapped) as state:
        await state.peer.aclose()
        state.outbox.send(b"a line\n")
        with trio.move_on_after(FOR_EVER):
            while not state.broken:
                await trio.lowlevel.checkpoint()
        assert state.broken == 1
        assert state.outbox.size == 0
        await state.outbox.wait_written()


async def test_a_socket_that_breaks_during_a_large_write_is_told_by_the_writer() -> None:
    async with sending() as state:
        state.outbox.send(b"x" * 1_000_000)
        await trio.lowlevel.checkpoint()
        assert state.writers == 1
        await state.peer.aclose()
        while not state.broken:  # noqa: ASYNC110 - the writer tells it
            await trio.sleep(0.001)
        assert state.broken == 1


async def test_a_descriptor_that_was_closed_is_an_error_and_no_other_socket_gets_the_bytes() -> None:
    ours, peer = socket_pair()
    write = nonblocking_write(ours)
    assert write is not None
    await ours.aclose()
    others = socket.socketpair()
    try:
        with pytest.raises(OSError, match="Bad file descriptor"):
            write(b"secret")
        for other in others:
            other.setblocking(False)
            with pytest.raises(BlockingIOError):
                other.recv(10)
    finally:
        for other in others:
            other.close()
        await peer.aclose()


def at_hand(peer: trio.SocketStream) -> bytes:
    """Return what has arrived, without letting anything else run."""
    try:
        return os.read(peer.socket.fileno(), 1 << 16)
    except BlockingIOError:
        return b""


@pytest.mark.parametrize("wrapped", [False, True])
async def test_a_line_that_none_is_to_follow_is_written_at_once_unless_others_wait(wrapped: bool) -> None:
    async with sending(wrapped=wrapped) as state:
        state.outbox.send(b"alone\n", is_last=True)
        assert at_hand(state.peer) == (b"" if wrapped else b"alone\n")
        if wrapped:
            assert await received(state.peer, 6) == b"alone\n"
        state.outbox.send(b"first\n")
        state.outbox.send(b"last\n", is_last=True)
        assert at_hand(state.peer) == b""
        assert await received(state.peer, 11) == b"first\nlast\n"
        # What the socket does not take at once follows, and what is sent meanwhile comes behind it.
        state.outbox.send(b"x" * 50_000, is_last=True)
        state.outbox.send(b"end\n", is_last=True)
        assert await received(state.peer, 50_004) == b"x" * 50_000 + b"end\n"
        assert state.broken == state.overflows == 0


async def test_a_line_that_cannot_be_written_at_once_is_reported_once() -> None:
    async with sending() as state:
        await state.peer.aclose()
        for _ in range(2):
            state.outbox.send(b"to nobody\n", is_last=True)
        assert state.broken == 1


@attrs.define
class Slow(trio.abc.SendStream):
    """A stream that is no descriptor, whose peer reads so many bytes a second."""

    rate: float
    taken: list[int] = attrs.field(factory=list)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.sleep(len(data) / self.rate)
        self.taken.append(len(data))

    async def wait_send_all_might_not_block(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        raise NotImplementedError


@virtual_time()
@pytest.mark.parametrize("size", [1_000, 1_000_000])
@pytest.mark.parametrize(("rate", "unread"), [(UNREAD_BYTES / 5, []), (1.0, ["unread"])])
async def test_a_peer_without_a_descriptor_has_its_time_for_each_piece(
    size: int, rate: float, unread: list[str]
) -> None:
    stream = Slow(rate)
    told: list[str] = []
    async with trio.open_nursery() as nursery:
        outbox = Outbox(
            stream,
            1 << 20,
            start_soon=lambda task: nursery.start_soon(task) is None,
            on_overflow=lambda: told.append("overflow"),
            on_broken=lambda: told.append("broken"),
            unread_seconds=10,
            on_unread=lambda: told.append("unread"),
        )
        outbox.send(b"x" * size)
    # A piece that takes longer leaves the stream unusable.
    assert told == unread
    assert sum(stream.taken) + outbox.size == size
    assert (outbox.size == 0) is (not unread)
