"""Opens listening sockets; knows nothing of what is served on them."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import trio

from redstreamd.errors.remedies import setting

# The kernel lowers it to net.core.somaxconn, which the administrator sets.
BACKLOG: Final = 65535


class ListenError(OSError):
    """A listening socket could not be opened; the text says which, why, and what to do."""

    def __str__(self) -> str:
        """Return the text without the error number of `OSError`."""
        return str(self.strerror)


class UnixListener(trio.abc.Listener[trio.SocketStream]):
    """A listening Unix socket and its file.

    Resource handling:
        `aclose` removes the file, unless another process has replaced it.

    Attributes:
        path: The socket's file.
        socket: The listening socket.
    """

    def __init__(self, listener: trio.SocketListener, path: Path) -> None:
        """Own `listener`, which is bound to `path`."""
        self._listener = listener
        self._file = _identity(path)
        self.path = path
        self.socket = listener.socket

    async def accept(self) -> trio.SocketStream:
        """Wait for a connection and return its stream; see `trio.SocketListener.accept`."""
        return await self._listener.accept()

    async def aclose(self) -> None:
        """Stop listening and remove the file, if it is still ours; idempotent."""
        ours, self._file = self._file, None
        if ours is not None and _identity(self.path) == ours:
            with suppress(FileNotFoundError):
                self.path.unlink()
        await self._listener.aclose()


async def open_unix_listener(path: str | Path, *, mode: int = 0o600) -> UnixListener:
    """Listen on a Unix socket.

    The parent directory is created with mode 0700 if it is absent. A stale socket file, as a crash leaves it,
    is replaced.

    Args:
        path: At most 107 bytes (unix(7)).
        mode: Permissions of the socket file; connecting needs write permission.

    Raises:
        ListenError: A process listens there already, or the file is not a socket, or a system call failed.
    """
    path = Path(path)
    await trio.lowlevel.checkpoint()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(path.parent):
            _remove_stale_socket(path)
            listening = _bind(path, mode)
    except ListenError:
        raise
    except OSError as exc:
        # A path that is too long is reported without an errno.
        raise ListenError(exc.errno, f"cannot listen on {path}: {exc.strerror or exc}") from exc
    return UnixListener(trio.SocketListener(trio.socket.from_stdlib_socket(listening)), path)


async def open_tcp_listeners(host: str, port: int) -> list[trio.SocketListener]:
    """Listen on a TCP port, on every address of a host name.

    Args:
        host: A name or an address; "localhost" often has an IPv4 and an IPv6 address.
        port: 0 lets the kernel choose, for each address separately.

    Raises:
        ListenError: The name is unknown, the port is in use, or a system call failed.
    """
    try:
        return await trio.open_tcp_listeners(port, host=host, backlog=BACKLOG)
    except OSError as exc:
        # Includes socket.gaierror, whose number is not an errno.
        text = f"cannot listen on {host}:{port}: {exc.strerror or exc}"
        if exc.errno == errno.EADDRINUSE:
            text += f"; stop the process that uses it (`ss -ltnp`), or change {setting('daemon.listen')}"
        raise ListenError(exc.errno, text) from exc


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Lock a directory, so that another process does not take our unfinished socket for a stale one.

    flock(2) on the directory itself leaves no lock file, and ends with the process.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            text = f"another process is opening a socket in {directory}; try again"
            raise ListenError(exc.errno, text) from exc
        yield
    finally:
        os.close(descriptor)


def _remove_stale_socket(path: Path) -> None:
    """Remove a stale socket file, and nothing else."""
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise ListenError(
            errno.EEXIST,
            f"cannot listen on {path}: a file that is not a socket is there; remove or rename it",
        )
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        refused = probe.connect_ex(os.fspath(path))
    # Only ECONNREFUSED proves that no process listens (connect(2)); a full backlog, missing permission or a
    # datagram socket do not.
    if refused == errno.ECONNREFUSED:
        path.unlink(missing_ok=True)
    elif refused != errno.ENOENT:
        who = "listens" if refused == 0 else f"may be listening ({os.strerror(refused)})"
        raise ListenError(
            errno.EADDRINUSE,
            f"cannot listen on {path}: another process {who} there; stop it, or choose another path",
        )


def _bind(path: Path, mode: int) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Linux creates the file with the permissions of the unbound socket (less the umask), so others cannot
        # connect before chmod.
        os.fchmod(listening.fileno(), mode)
        listening.bind(os.fspath(path))
        path.chmod(mode)
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    return listening
