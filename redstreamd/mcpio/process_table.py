"""The processes of this host that share listening sockets: who they are, and how many connections each has.

systemd gives one socket to several services. Each writes a row of a file that all of them map into memory:
`shared_listener` decides by it who takes the next connection, and a report names all processes. A row belongs
to whoever holds the lock on its number, which the kernel releases however a process ends (fcntl(2)).
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

MAX_PROCESSES: Final = 64
"""Rows. Processes beyond that are served as they come."""

MAX_NAME_BYTES: Final = 32
_MAX_SOCKETS: Final = 12

# Process ID, connections, whether it has no place for more, name, inodes of its listening sockets.
_ROW: Final = struct.Struct(f"=III{MAX_NAME_BYTES}s{_MAX_SOCKETS}Q")
_FIGURES: Final = struct.Struct("=III")
# How many rows were ever taken, so that not all of them are looked at.
_HEAD: Final = struct.Struct("=I")
_HEAD_BYTES: Final = 64
# The locks of rows come before it.
_HEAD_LOCK: Final = MAX_PROCESSES
_BYTES: Final = _HEAD_BYTES + MAX_PROCESSES * _ROW.size


class SharingProcess(msgspec.Struct, frozen=True):
    """A process that shares a listening socket with this one, or this one.

    Attributes:
        row: Its row.
        pid: Its process ID, as it sees it.
        connections: Its open connections.
        is_full: Whether it has no place for more.
        name: What `daemon.instance` calls it; empty for the process without one.
    """

    row: int
    pid: int
    connections: int
    is_full: bool
    name: str = ""


class ProcessTable:
    """The table of one state directory, and the row of this process in it.

    Resource handling:
        Opening the file twice in a process would release its locks, so there is one table in a process.
        `close` gives the row up.

    Attributes:
        own: The row of this process; None if all are taken, or after `close`.
        connections: How many this process has, as last noted.
        is_full: Whether it has no place for more, as last noted.
    """

    def __init__(self, path: Path, name: str, sockets: Iterable[int]) -> None:
        """Take a row.

        Args:
            path: The file; made with mode 0600 if it is absent.
            name: Of this process.
            sockets: Inodes of the listening sockets.

        Raises:
            OSError: The file cannot be used.
        """
        self._sockets = tuple(sockets)[:_MAX_SOCKETS]
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.own: int | None = None
        self.connections = 0
        self.is_full = False
        try:
            if os.fstat(self._descriptor).st_size < _BYTES:
                os.ftruncate(self._descriptor, _BYTES)
            self._memory = mmap.mmap(self._descriptor, _BYTES)
            # Others may start at the same time, and `_HEAD` is read and then written.
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX, 1, _HEAD_LOCK)
            self._take_row(name)
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, _HEAD_LOCK)
        except OSError:
            # A file system without locks, for instance.
            os.close(self._descriptor)
            raise

    def _take_row(self, name: str) -> None:
        self.own = next((row for row in range(MAX_PROCESSES) if self._lock(row)), None)
        if self.own is None:
            return
        padding = (0,) * (_MAX_SOCKETS - len(self._sockets))
        encoded = name.encode()[:MAX_NAME_BYTES]
        _ROW.pack_into(self._memory, _at(self.own), os.getpid(), 0, 0, encoded, *self._sockets, *padding)
        if self.own >= self._rows():
            _HEAD.pack_into(self._memory, 0, self.own + 1)

    def close(self) -> None:
        """Give the row up: the others take all connections from now on. Idempotent."""
        if self._descriptor < 0:
            return
        if self.own is not None:
            self._clear(self.own)
        self.own = None
        self._memory.close()
        os.close(self._descriptor)
        self._descriptor = -1

    def note(self, connections: int, *, is_full: bool = False) -> None:
        """Tell the others how many connections this process has, and whether it has no place for more."""
        self.connections, self.is_full = connections, is_full
        if self.own is not None:
            _FIGURES.pack_into(self._memory, _at(self.own), os.getpid(), connections, is_full)

    def others(self, inode: int | None = None) -> Iterator[SharingProcess]:
        """Yield the others that share a socket with this process, without their names.

        A process that was killed is among them until `forget_if_ended`.

        Args:
            inode: Of the socket that they share; None for any.
        """
        if self.own is None:
            return
        shared = set(self._sockets if inode is None else (inode,))
        for row in range(self._rows()):
            if row == self.own:
                continue
            pid, connections, is_full, _, *sockets = _ROW.unpack_from(self._memory, _at(row))
            if pid and not shared.isdisjoint(sockets):
                yield SharingProcess(row, pid, connections, bool(is_full))

    def forget_if_ended(self, row: int) -> bool:
        """Clear the row of a process that has ended; return whether it has."""
        if self._descriptor < 0 or not self._lock(row):
            return False
        self._clear(row)
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, row)
        return True

    def processes(self) -> tuple[SharingProcess, ...]:
        """Return all that share a socket with this process, and itself, by name."""
        if self.own is None:
            return ()
        rows = [self.own, *(each.row for each in self.others() if not self.forget_if_ended(each.row))]
        return tuple(sorted(map(self._named, rows), key=lambda each: (len(each.name), each.name)))

    def _named(self, row: int) -> SharingProcess:
        pid, connections, is_full, name, *_ = _ROW.unpack_from(self._memory, _at(row))
        shown = name.rstrip(b"\0").decode("utf-8", "replace")
        return SharingProcess(row, pid, connections, bool(is_full), shown)

    def _rows(self) -> int:
        (rows,) = _HEAD.unpack_from(self._memory, 0)
        return min(int(rows), MAX_PROCESSES)

    def _clear(self, row: int) -> None:
        _ROW.pack_into(self._memory, _at(row), 0, 0, 0, b"", *(0,) * _MAX_SOCKETS)

    def _lock(self, row: int) -> bool:
        with contextlib.suppress(BlockingIOError, PermissionError):  # POSIX allows EAGAIN and EACCES
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, row)
            return True
        return False


def _at(row: int) -> int:
    return _HEAD_BYTES + row * _ROW.size
