"""Writes chunks of bytes to a descriptor without blocking, with a bounded backlog.

The descriptor's flags stay as they are, because other processes may share them. Knows nothing of log records.
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
    """A duplicate of a descriptor, and its backlog of chunks. Not thread-safe.

    Attributes:
        descriptor: For waiting until it is writable.
        written: Chunks written in full.
        dropped: Chunks that did not fit into the backlog, or had no reader.
        waiting_bytes: Size of the backlog.
    """

    # Invariant: chunks are written in order and whole, or dropped. One that is written in part is completed
    # before the next, and dropped only if the reader has gone.

    def __init__(self, descriptor: int, *, limit_bytes: int) -> None:
        """Prepare to write to what `descriptor` refers to.

        Args:
            descriptor: Stays open and unchanged.
            limit_bytes: Largest size of the backlog.
        """
        self.descriptor, self._write, self._close = _writer(descriptor)
        self.written = self.dropped = self.waiting_bytes = 0
        self._limit_bytes = limit_bytes
        self._waiting: collections.deque[bytes] = collections.deque()

    def put(self, chunk: bytes) -> None:
        """Write a chunk after the backlog, or add it to that, or drop it if it does not fit."""
        self.drain()
        if self.waiting_bytes + len(chunk) > self._limit_bytes:
            self.dropped += 1
            return
        self._waiting.append(chunk)
        self.waiting_bytes += len(chunk)
        if len(self._waiting) == 1:
            self.drain()

    def drain(self) -> None:
        """Write as much of the backlog as can be written now."""
        while self._waiting:
            chunk = self._waiting[0]
            try:
                count = self._write(chunk)
            except BlockingIOError:
                return
            except OSError:
                # The reader has gone, but may be replaced (journald after a crash): later chunks are tried.
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
        """Close the duplicate; the backlog is lost."""
        self.descriptor = -1
        self._close()


def _writer(descriptor: int) -> tuple[int, Callable[[bytes], int], Callable[[], None]]:
    """Return a descriptor of our own, how to write to it without blocking, and how to close it.

    O_NONBLOCK belongs to the open file description, which the shell or other processes of the unit share.
    """
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISSOCK(mode):
        stream = socket.socket(fileno=fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3))
        return stream.fileno(), lambda chunk: stream.send(chunk, socket.MSG_DONTWAIT), stream.close
    own = -1
    if stat.S_ISFIFO(mode):
        # Opened again, a pipe has a description of its own. Another user's pipe cannot be opened.
        with contextlib.suppress(OSError):
            own = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if own < 0:
        # Files block only briefly. A terminal blocks when a person has stopped the output.
        own = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    return own, functools.partial(os.write, own), functools.partial(os.close, own)
