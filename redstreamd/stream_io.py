"""Reads and writes of streams in few system calls and few steps.

A read waits before its first attempt, because what was there was read before. Within one pass of trio's
scheduler many tasks run, each of which may queue messages for the same socket. What is queued is written
once, after the last of them and before trio waits for input: without a task that writes, and without waking
one. Only what a socket does not accept at once is left to a task.

Beside the packages, because both transports rest on it.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from redstreamd.errors.defects import report_defect

Receive = Callable[[int], Awaitable[bytes | bytearray]]
"""Receives at most so many bytes; as `trio.abc.ReceiveStream.receive_some`."""

Flush = Callable[[], bool]
"""Writes what is queued; never blocks. Returns whether it made a task runnable."""

Write = Callable[[bytes | bytearray], int]
"""Writes some of the bytes without blocking and returns how many, perhaps none; or raises OSError."""


class _EndOfPass(trio.abc.Instrument):
    """Calls functions when a pass has ended."""

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        # Invariant: always the same lists.
        self.flushes: Final[list[Flush]] = []
        self.answers: Final[list[Flush]] = []

    def before_io_wait(self, timeout: float) -> None:
        # Either may lead to others.
        while self.flushes or self.answers:
            self.call(self.flushes)
            self.call(self.answers)

    def call(self, flushes: list[Flush]) -> None:
        """Call functions in their order, and empty the list."""
        woke = False
        # Those that are added meanwhile, too: what one joins another writes.
        for flush in flushes:
            try:
                woke |= flush()
            except Exception as exc:  # noqa: BLE001 - trio removes an instrument that raises
                woke = True
                report_defect("a deferred write failed unexpectedly", exc)
        flushes.clear()
        if woke:
            # At the end of a pass trio has decided before how long it waits.
            self._token.run_sync_soon(_wake)


_END_OF_PASS: Final = trio.lowlevel.RunVar[_EndOfPass]("redstreamd end of pass")


def _instrument() -> _EndOfPass:
    try:
        return _END_OF_PASS.get()
    except LookupError:
        instrument = _EndOfPass()
        trio.lowlevel.add_instrument(instrument)
        _END_OF_PASS.set(instrument)
        return instrument


def end_of_pass() -> Callable[[Flush], None]:
    """Return what `flush_at_end_of_pass` does in this run of trio, for those who need it often."""
    return _instrument().flushes.append


def answers_of_pass() -> Callable[[Flush], None]:
    """Return what is called with functions that write answers to clients: by `write_answers` at the latest.

    As those of `end_of_pass`, they are called when the pass ends, unless that is called before.
    """
    return _instrument().answers.append


def write_answers() -> None:
    """Write answers now: who waits for them is not to wait for the end of the pass."""
    instrument = _instrument()
    if instrument.answers:
        instrument.call(instrument.answers)


def write_together(work: Callable[[], None]) -> None:
    """Call a function, and write the answers at once that it has left for the end of the pass.

    Who reads from many sockets would fall asleep between two writes that do not follow on each other, and to
    wake it takes longer than to write.
    """
    instrument = _instrument()
    answers = instrument.answers
    begin = len(answers)
    try:
        work()
    finally:
        left = answers[begin:]
        del answers[begin:]
        instrument.call(left)


def flush_at_end_of_pass(flush: Flush) -> None:
    """Call `flush` once, before trio waits the next time. To be called within a run of trio."""
    end_of_pass()(flush)


def receiver(stream: trio.abc.ReceiveStream) -> Receive:
    """Return how to receive from a stream, for its one reader.

    Where the stream is simply a descriptor, this costs half as much as its own `receive_some`, which first
    attempts to read, and after a success yields to other tasks nevertheless.
    """
    if isinstance(stream, trio.StapledStream):
        stream = stream.receive_stream
    fileno = _fileno(stream)
    if fileno is None:
        return stream.receive_some

    async def receive(most: int) -> bytes:
        while True:
            descriptor = fileno()
            if descriptor < 0:
                raise trio.ClosedResourceError("the stream was closed")
            await trio.lowlevel.wait_readable(descriptor)
            try:
                return os.read(descriptor, most)
            except BlockingIOError:
                continue
            except OSError as error:
                raise trio.BrokenResourceError(f"reading failed: {error}") from error

    return receive


def nonblocking_receiver(stream: trio.abc.ReceiveStream) -> Receive | None:
    """Return how to receive what has arrived: it raises `trio.WouldBlock` instead of waiting for more.

    None if the stream is not simply a descriptor (TLS).
    """
    if isinstance(stream, trio.StapledStream):
        stream = stream.receive_stream
    fileno = _fileno(stream)
    if fileno is None:
        return None

    async def receive(most: int) -> bytes:
        try:
            return os.read(fileno(), most)
        except BlockingIOError:
            raise trio.WouldBlock from None
        except OSError as error:
            raise trio.BrokenResourceError(f"reading failed: {error}") from error

    return receive


def nonblocking_write(stream: trio.abc.SendStream) -> Write | None:
    """Return how to write to a stream without blocking; None if it is not simply a descriptor (TLS)."""
    if isinstance(stream, trio.StapledStream):
        stream = stream.send_stream
    fileno = _fileno(stream)
    if fileno is None:
        return None

    def write(data: bytes | bytearray) -> int:
        try:
            # Trio has made the descriptor non-blocking. It is asked for each time, because it is -1 once
            # closed.
            return os.write(fileno(), data)
        except BlockingIOError:
            return 0

    return write


def descriptor(stream: trio.abc.Stream) -> Callable[[], int]:
    """Return what returns the descriptor that input arrives at; -1: it is closed, or there is more to it."""
    if isinstance(stream, trio.StapledStream):
        stream = stream.receive_stream
    return _fileno(stream) or _no_descriptor


def _no_descriptor() -> int:
    return -1


def _fileno(stream: trio.abc.AsyncResource) -> Callable[[], int] | None:
    """Return what returns the descriptor of a stream, -1 once it is closed; None if there is more to it."""
    if isinstance(stream, trio.SocketStream):
        return stream.socket.fileno
    if isinstance(stream, trio.lowlevel.FdStream):
        return stream.fileno
    return None


def _wake() -> None: ...
