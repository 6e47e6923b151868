"""Writes bytes to a descriptor without blocking: what does not go out now waits, within a bound.

Owns the trick by which each kind of descriptor is written to without changing it for those
who share it, and the backlog. Knows nothing of log records.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import functools
import os
import socket
import stat
from collections.abc import Callable


class NonblockingWriter:
    """A duplicate of a descriptor, and the chunks that wait for it. Not thread-safe by itself.

    Attributes:
        descriptor: To wait on until it is writable.
        written: Chunks that have gone out in full.
        dropped: Chunks that did not fit, or whose reader had gone.
        waiting_bytes: What waits now.
    """

    # Invariant: chunks go out in order, whole, or not at all: while one has gone out in part, nothing
    # is written past it and it is not dropped, unless the reader has gone.

    def __init__(self, descriptor: int, *, limit_bytes: int) -> None:
        """Prepare to write to what `descriptor` refers to.

        Args:
            descriptor: Stays open and as it is.
            limit_bytes: How much may wait.
        """
        self.descriptor, self._write, self._close = _writer(descriptor)
        self.written = self.dropped = self.waiting_bytes = 0
        self._limit_bytes = limit_bytes
        self._waiting: collections.deque[bytes] = collections.deque()

    def put(self, chunk: bytes) -> None:
        """Write a chunk behind those that wait, or let it wait, or drop and count it."""
        self.drain()
        if self.waiting_bytes + len(chunk) > self._limit_bytes:
            self.dropped += 1
            return
        self._waiting.append(chunk)
        self.waiting_bytes += len(chunk)
        if len(self._waiting) == 1:
            self.drain()

    def drain(self) -> None:
        """Write what waits, as far as the reader takes it now."""
        while self._waiting:
            chunk = self._waiting[0]
            try:
                count = self._write(chunk)
            except BlockingIOError:
                return
            except OSError:
                # The reader has gone. It may be replaced (`journald` after a crash), so go on trying.
                self.dropped += len(self._waiting)
                self._waiting.clear()
                self.waiting_bytes = 0
                return
            self.waiting_bytes -= count
            if count < len(chunk):
                self._waiting[0] = chunk[count:]
            else:
                self._waiting.popleft()
                self.written += 1

    def close(self) -> None:
        """Close the duplicate; what waits is lost."""
        self.descriptor = -1
        self._close()


def _writer(descriptor: int) -> tuple[int, Callable[[bytes], int], Callable[[], None]]:
    """Return a descriptor of our own, how to write to it without blocking, and how to close it.

    O_NONBLOCK belongs to the open file description, which others share: the shell the
    terminal, every process of the unit the journal's stream.
    """
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISSOCK(mode):
        stream = socket.socket(fileno=fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3))
        return stream.fileno(), lambda chunk: stream.send(chunk, socket.MSG_DONTWAIT), stream.close
    own = -1
    if stat.S_ISFIFO(mode):
        # Opened anew, a pipe has a description of its own. Another user's pipe may not be opened.
        with contextlib.suppress(OSError):
            own = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if own < 0:
        # Files do not block for long; on a terminal the person who stopped the output wants it stopped.
        own = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    return own, functools.partial(os.write, own), functools.partial(os.close, own)
