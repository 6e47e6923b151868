"""The locks that keep a second daemon or server off the same data, and how a process is ended.

Owns locks and process handles. Knows nothing of Redis.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import trio

STOP_SECONDS = 5.0
"""How long a server may take to stop before it is killed. It has written everything down before it
answered, so stopping is one fsync; systemd's own limit (90 s) must not be used up here."""


class StateDirectoryInUseError(Exception):
    """Another daemon works in this state directory; the process should exit with status 75.

    Attributes:
        directory: The state directory.
        pid: The other daemon's process, where it could be read.
    """

    def __init__(self, directory: Path, pid: int | None) -> None:
        """Compose the message."""
        other = "another process" if pid is None else f"process {pid}"
        super().__init__(
            f"{other} is using the state directory {directory}; an embedded server serves one daemon. "
            "Connect to the daemon that runs, stop it, or give this one another directory with "
            "--set daemon.state_directory=PATH"
        )
        self.directory = directory
        self.pid = pid


@contextlib.contextmanager
def claimed(state_directory: Path) -> Iterator[None]:
    """Hold the daemon's lock on a state directory; the kernel frees it however the daemon ends.

    Args:
        state_directory: It exists; its file ``daemon.lock`` stays there, with our process ID.

    Raises:
        StateDirectoryInUseError: Another process, or another claim of this one, holds it.
    """
    with (state_directory / "daemon.lock").open("a+") as lock:
        if not try_lock(lock.fileno()):
            lock.seek(0)
            written = lock.read(32).strip()
            raise StateDirectoryInUseError(state_directory, int(written) if written.isdecimal() else None)
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def try_lock(descriptor: int) -> bool:
    """Lock an open file for as long as any process has it open (flock(2)); False if it is locked."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def listener_of(path: str) -> int | None:
    """Return the process ID of the listener on a Unix socket, or None if there is none."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except OSError:
            return None
        # The credentials are those of the process that called listen() (unix(7)).
        pid, _, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return pid or None


async def end_process(pid: int) -> None:
    """Stop a process that is not a child of this one: SIGTERM, and SIGKILL after `STOP_SECONDS`."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # A pidfd names one process for good, where a number may be given to the next.
        signal.pidfd_send_signal(handle, signal.SIGTERM)
        with trio.move_on_after(STOP_SECONDS):
            await trio.lowlevel.wait_readable(handle)
            return
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        await trio.lowlevel.wait_readable(handle)
    except ProcessLookupError:
        return
    finally:
        trio.lowlevel.notify_closing(handle)
        os.close(handle)


async def stop_child(process: trio.Process) -> None:
    """Stop a child process and reap it; SIGKILL after `STOP_SECONDS`. Shielded from cancellation."""
    with trio.CancelScope(shield=True):
        process.terminate()
        with trio.move_on_after(STOP_SECONDS):
            await process.wait()
            return
        # The child leads a process group; its own children are in it.
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
