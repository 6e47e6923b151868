"""Sends records to journald over its socket of datagrams, without ever blocking.

The protocol is systemd's "native journal protocol" (https://systemd.io/JOURNAL_NATIVE_PROTOCOL): a datagram
holds the fields of one record. One that is larger than the socket takes lies in a sealed memfd, whose
descriptor is sent instead. Knows nothing of what a record holds.

While journald does not read (it is stopped, or its disk hangs), the socket takes some records. Others wait in
a bounded backlog; those that do not fit are dropped and counted. A journald that is replaced together with
its socket leaves records unread: those that it may not have read are sent again, rather twice than never.
"""

from __future__ import annotations

import array
import collections
import contextlib
import errno
import fcntl
import os
import socket
import sys
import termios
from typing import Final

PATH: Final = "/run/systemd/journal/socket"

#: journald has gone, or its socket was replaced: the next one listens at the same path.
_GONE: Final = {errno.ECONNREFUSED, errno.ECONNRESET, errno.ENOTCONN, errno.EPIPE, errno.ENOENT, errno.EACCES}
_TOO_LARGE: Final = {errno.EMSGSIZE, errno.ENOBUFS}
#: Of a socket, this asks how much of what was sent is unread: SIOCOUTQ, in unix(7).
_UNREAD: Final = termios.TIOCOUTQ
#: What a datagram counts for besides its bytes, at least: the kernel's structures around it (SKB_TRUESIZE).
_DATAGRAM_BYTES: Final = 512
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


class JournalSocket:
    """A socket to journald and its backlog of records. Not thread-safe.

    Attributes:
        descriptor: For waiting until it is writable; the same for the life of this object.
        is_connected: Whether journald was there at the last attempt.
        written: Records that journald was given.
        dropped: Records that did not fit into the backlog, or that the kernel refused.
        waiting_bytes: Size of the backlog.
    """

    # Invariant: records are sent in order. While is_connected is false, waiting until the descriptor is
    # writable is no use: it always is.

    def __init__(self, *, limit_bytes: int, path: str = PATH) -> None:
        """Connect, if journald is there.

        Args:
            limit_bytes: Largest size of the backlog.
            path: Of journald's socket.
        """
        self.written = self.dropped = self.waiting_bytes = 0
        self._path = path
        self._limit_bytes = limit_bytes
        self._waiting: collections.deque[bytes] = collections.deque()
        # What journald may not have read yet.
        self._sent: collections.deque[bytes] = collections.deque()
        self._sent_bytes = 0  # what it counts for, in the socket, at least
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.descriptor = self._socket.fileno()
        self.is_connected = self._connect()

    def put(self, record: bytes) -> bool:
        """Send a record after the backlog, or add it to that, or drop it if it does not fit.

        Returns:
            Whether that was done; False if there is no journald to give it to.
        """
        self.drain()
        if self.is_connected and self.waiting_bytes + len(record) > self._limit_bytes:
            self.dropped += 1
            return True
        self._waiting.append(record)
        self.waiting_bytes += len(record)
        if len(self._waiting) == 1:
            self.drain()
        if not self.is_connected:
            self.waiting_bytes -= len(self._waiting.pop())
        return self.is_connected

    def drain(self) -> None:
        """Send as much of the backlog as can be sent now; connect again if journald had gone."""
        if not self.is_connected:
            self.is_connected = self._connect()
        has_gone = False
        while self._waiting and self.is_connected:
            try:
                if not self._send(self._waiting[0]):
                    return
            except ConnectionError:
                self._take_back()
                self.is_connected = not has_gone and self._connect()
                has_gone = True
            else:
                self.waiting_bytes -= len(self._waiting.popleft())

    def close(self) -> None:
        """Close the socket; the backlog is lost."""
        self.descriptor = -1
        self._socket.close()

    def _connect(self) -> bool:
        try:
            # Also on a socket that was connected: so it keeps its descriptor.
            self._socket.connect(self._path)
        except OSError:
            return False
        return True

    def _take_back(self) -> None:
        """Put what the former journald may not have read before the backlog."""
        self._waiting.extendleft(reversed(self._sent))
        self.waiting_bytes += sum(map(len, self._sent))
        self.written -= len(self._sent)
        self._sent.clear()
        self._sent_bytes = 0

    def _send(self, record: bytes) -> bool:
        """Send a record; return whether it is done with, which it is not while journald does not read.

        Raises:
            ConnectionError: Journald has gone.
        """
        try:
            self._socket.send(record)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in _TOO_LARGE:
                return self._send_in_memory(record)
            if error.errno in _GONE:
                raise ConnectionError from error
            self.dropped += 1
            return True
        self._keep_unread(record)
        return True

    def _keep_unread(self, record: bytes) -> None:
        """Keep a record that was sent, and forget those that were certainly read."""
        self.written += 1
        self._sent.append(record)
        self._sent_bytes += len(record) + _DATAGRAM_BYTES
        unread = int.from_bytes(fcntl.ioctl(self.descriptor, _UNREAD, bytes(4)), sys.byteorder)
        while self._sent_bytes > unread:
            self._sent_bytes -= len(self._sent.popleft()) + _DATAGRAM_BYTES

    def _send_in_memory(self, record: bytes) -> bool:
        """Send a record as a sealed file in memory, which journald reads; return whether it is done with."""
        try:
            file = os.memfd_create("redstreamd-record", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError:
            self.dropped += 1
            return True
        try:
            view = memoryview(record)
            while view:
                view = view[os.write(file, view) :]
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
            rights = array.array("i", [file])
            self._socket.sendmsg([b""], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in _GONE:
                raise ConnectionError from error
            self.dropped += 1
            return True
        finally:
            with contextlib.suppress(OSError):
                os.close(file)
        # Not kept: the socket counts the descriptor only, and not what lies in memory.
        self.written += 1
        return True
