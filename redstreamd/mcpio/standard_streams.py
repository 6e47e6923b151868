"""The process's standard input and output as a trio stream; knows nothing of what goes through it.

Owns three nuisances. Regular files cannot be polled, so threads read and write them. The
non-blocking flag belongs to the open file description, which our terminal or pipe may share with the
shell and with our own standard error: so it is set on a description of our own where the kernel gives
us one, and put back where it does not. And whatever prints to standard output would corrupt the protocol:
so while the stream is open, descriptor 1 is standard error, and descriptor 0 is empty.
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
    """Own descriptors 0 and 1 for the block, as one stream: pipes, terminals, sockets, files or devices.

    Afterwards both refer to what they did before, and block or not as before. Reading and writing can be
    cancelled, except while a file system makes a thread wait.

    Raises:
        OSError: Descriptor 0 or 1 is not open.
    """
    # Both are looked at before either is changed, because they may share one description.
    with (
        _kept(0, "standard input", sys.__stdin__) as incoming,
        _kept(1, "standard output", sys.__stdout__) as outgoing,
    ):
        _divert()
        outbound, inbound = _stream(outgoing, os.O_WRONLY), _stream(incoming, os.O_RDONLY)
        try:
            async with trio.StapledStream(outbound, inbound) as stream:
                yield stream
        finally:
            _flush_prints()


def listening_socket_on(descriptor: int) -> bool:
    """Tell whether a descriptor is a listening socket, as inetd and ``StandardInput=socket`` can hand over.

    Such a one is to be accepted on; anything else on descriptor 0 is the peer itself (SO_ACCEPTCONN in
    socket(7)).
    """
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as candidate:
        return bool(candidate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    return False


@contextlib.contextmanager
def _kept(descriptor: int, name: str, opened: object) -> Iterator[int]:
    """Yield a duplicate of a descriptor, and afterwards put back what the descriptor was.

    Python has no `opened` file for a descriptor that was closed when it started; by now it may be anything.
    """
    if opened is None:
        raise OSError(errno.EBADF, f"{name} (descriptor {descriptor}) was not open when the process started")
    try:
        # Above the standard ones, so that it cannot become one of them where one is closed.
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


def _divert() -> None:
    """Give the rest of the process, and its children, an empty input and standard error as output."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.dup2(null, 0)
        # Started without a standard error, prints go nowhere: descriptor 2 may be anything by now.
        os.dup2(null if sys.__stderr__ is None else 2, 1)
    finally:
        os.close(null)
    _flush_prints()


def _flush_prints() -> None:
    """Push out what was printed, as long as it cannot reach the peer."""
    # None or closed, in a process that was started without an output.
    with contextlib.suppress(AttributeError, ValueError, OSError):
        sys.stdout.flush()


def _stream(descriptor: int, access: int) -> trio.abc.Stream:
    if _can_be_polled(descriptor):
        return trio.lowlevel.FdStream(_own_description(descriptor, access))
    return _FileStream(os.dup(descriptor))


def _can_be_polled(descriptor: int) -> bool:
    """Ask the kernel, which refuses regular files and devices that never wait (EPERM in epoll_ctl(2))."""
    with select.epoll() as poller:
        try:
            poller.register(descriptor, 0)
        except PermissionError:
            return False
    return True


def _own_description(descriptor: int, access: int) -> int:
    """Open a pipe or terminal once more, so that its flags are nobody else's; fall back to a duplicate."""
    status = os.fstat(descriptor)
    is_terminal = stat.S_ISCHR(status.st_mode) and os.major(status.st_rdev) in _TERMINALS
    if is_terminal or stat.S_ISFIFO(status.st_mode):
        # Without /proc, with a terminal of another user's, or with a pipe that nobody reads any more.
        with contextlib.suppress(OSError):
            flags = access | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            return os.open(f"/proc/self/fd/{descriptor}", flags)
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)


class _FileStream(trio.abc.Stream):
    """A descriptor that cannot be polled, read and written by threads; these never wait for long."""

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
