"""Writes at the end of the scheduler's pass, so that many small messages become one system call.

Within one pass of trio's scheduler many tasks run, each of which may queue messages for the same socket. What
is queued is written once, after the last of them and before trio waits for input: without a task that writes,
and without waking one. Only what a socket does not accept at once is left to a task.

Beside the packages, because both transports rest on it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Final

import trio

Flush = Callable[[], bool]
"""Writes what is queued; never blocks. Returns whether it made a task runnable."""

Write = Callable[[bytes | bytearray], int]
"""Writes some of the bytes without blocking and returns how many, perhaps none; or raises OSError."""

_log = logging.getLogger(__name__)


class _EndOfPass(trio.abc.Instrument):
    """Calls functions when a pass has ended."""

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self.flushes: list[Flush] = []

    def before_io_wait(self, timeout: float) -> None:
        if not self.flushes:
            return
        flushes, self.flushes = self.flushes, []
        woke = False
        for flush in flushes:
            try:
                woke |= flush()
            except Exception:  # noqa: BLE001 - trio removes an instrument that raises
                woke = True
                _log.exception("a deferred write failed unexpectedly")
        if woke or self.flushes:
            # Trio has decided how long to wait before it called this.
            self._token.run_sync_soon(_wake)


_END_OF_PASS: Final = trio.lowlevel.RunVar[_EndOfPass]("redstreamd end of pass")


def flush_at_end_of_pass(flush: Flush) -> None:
    """Call `flush` once, before trio waits the next time. To be called within a run of trio."""
    try:
        instrument = _END_OF_PASS.get()
    except LookupError:
        instrument = _EndOfPass()
        trio.lowlevel.add_instrument(instrument)
        _END_OF_PASS.set(instrument)
    instrument.flushes.append(flush)


def nonblocking_write(stream: trio.abc.SendStream) -> Write | None:
    """Return how to write to a stream without blocking; None if it is not simply a descriptor (TLS)."""
    if isinstance(stream, trio.StapledStream):
        stream = stream.send_stream
    if isinstance(stream, trio.SocketStream):
        fileno = stream.socket.fileno
    elif isinstance(stream, trio.lowlevel.FdStream):
        fileno = stream.fileno
    else:
        return None

    def write(data: bytes | bytearray) -> int:
        try:
            # Trio has made the descriptor non-blocking. It is asked for each time, because it is -1 once
            # closed.
            return os.write(fileno(), data)
        except BlockingIOError:
            return 0

    return write


def _wake() -> None: ...
