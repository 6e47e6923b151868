"""The process's standard input and output as a trio stream.

Three problems are solved here. Regular files cannot be polled, so threads read and write them. O_NONBLOCK
belongs to the open file description, which the shell and our standard error may share: the file is opened
again where the kernel allows it, else the flag is restored afterwards. Text printed to standard output would
corrupt the protocol: while the stream is open, descriptor 1 is standard error, and descriptor 0 is /dev/null.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import socket
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Final

import trio

# Major numbers of virtual consoles and serial lines, and of the slave ends of pseudo-terminals (devices.txt
# of the Linux kernel). The master end is left out: to open that one again makes another terminal.
_TERMINALS: Final = frozenset({4, *range(136, 144)})
_FILE_CHUNK: Final = 65536


@contextlib.asynccontextmanager
async def open_stdio_stream() -> AsyncIterator[trio.abc.HalfCloseableStream]:
    """Yield descriptors 0 and 1 as one stream: pipes, terminals, sockets, files or devices.

    Afterwards both refer to the same files as before, in the same blocking mode. Reading and writing can be
    cancelled, except while a thread waits for a file system.

    Raises:
        OSError: Descriptor 0 or 1 is not open.
    """
    # Both are examined before either is changed, because they may share one description.
    with (
        _restored(0, "standard input", sys.__stdin__) as incoming,
        _restored(1, "standard output", sys.__stdout__) as outgoing,
    ):
        _redirect_standard_streams()
        outbound, inbound = _stream(outgoing, os.O_WRONLY), _stream(incoming, os.O_RDONLY)
        try:
            async with trio.StapledStream(outbound, inbound) as stream:
                yield stream
        finally:
            _flush_prints()


def listening_socket_on(descriptor: int) -> bool:
    """Return whether a descriptor is a listening socket (SO_ACCEPTCONN in socket(7)).

    inetd and ``StandardInput=socket`` can pass one as descriptor 0.
    """
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as candidate:
        return bool(candidate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    return False


@contextlib.contextmanager
def _restored(descriptor: int, name: str, opened: object) -> Iterator[int]:
    """Yield a duplicate of a descriptor, and restore the descriptor afterwards.

    `opened` is None if the descriptor was closed when Python started; it may have been reused since.
    """
    if opened is None:
        raise OSError(errno.EBADF, f"{name} (descriptor {descriptor}) was not open when the process started")
    try:
        # From 3 on, so that it does not become a standard descriptor if one is closed.
        duplicate = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    except OSError as exc:
        raise OSError(exc.errno, f"{name} (descriptor {descriptor}) is not open") from exc
    blocking = os.get_blocking(duplicate)
    try:
        yield duplicate
    finally:
        os.set_blocking(duplicate, blocking)
        os.dup2(duplicate, descriptor)
        os.close(duplicate)


def _redirect_standard_streams() -> None:
    """Make descriptor 0 /dev/null and descriptor 1 standard error, for this process and its children."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.dup2(null, 0)
        # Without a standard error at the start, descriptor 2 may have been reused: print to /dev/null.
        os.dup2(null if sys.__stderr__ is None else 2, 1)
    finally:
        os.close(null)
    _flush_prints()


def _flush_prints() -> None:
    """Flush printed text while descriptor 1 is standard error."""
    # sys.stdout is None or closed in a process that was started without one.
    with contextlib.suppress(AttributeError, ValueError, OSError):
        sys.stdout.flush()


def _stream(descriptor: int, access: int) -> trio.abc.Stream:
    if _can_be_polled(descriptor):
        return trio.lowlevel.FdStream(_own_description(descriptor, access))
    return _FileStream(os.dup(descriptor))


def _can_be_polled(descriptor: int) -> bool:
    """Return whether epoll accepts the descriptor; not so regular files and some devices (epoll_ctl(2))."""
    with select.epoll() as poller:
        try:
            poller.register(descriptor, 0)
        except PermissionError:
            return False
    return True


def _own_description(descriptor: int, access: int) -> int:
    """Open a pipe or terminal again, for flags of our own; fall back to a duplicate."""
    status = os.fstat(descriptor)
    is_terminal = stat.S_ISCHR(status.st_mode) and os.major(status.st_rdev) in _TERMINALS
    if is_terminal or stat.S_ISFIFO(status.st_mode):
        # Fails without /proc, for another user's terminal, and for a pipe without a reader.
        with contextlib.suppress(OSError):
            flags = access | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            return os.open(f"/proc/self/fd/{descriptor}", flags)
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)


class _FileStream(trio.abc.Stream):
    """A descriptor that cannot be polled, read and written by threads."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        try:
            return await trio.to_thread.run_sync(os.read, self._descriptor, max_bytes or _FILE_CHUNK)
        except OSError as exc:
            raise trio.BrokenResourceError(str(exc)) from exc

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.to_thread.run_sync(self._write_all, bytes(data))

    def _write_all(self, data: bytes) -> None:
        written = 0
        try:
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
        except OSError as exc:
            raise trio.BrokenResourceError(str(exc)) from exc

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)
        await trio.lowlevel.checkpoint()
