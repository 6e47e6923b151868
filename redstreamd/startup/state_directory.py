"""Whether the state directory can be used, and by how many; light, to be used before the heavy imports."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from redstreamd.errors import SettingsError

LEASE_KEY_BYTES: Final = 16
"""The shortest key that authenticates leases."""


@contextmanager
def state_in(directory: Path) -> Iterator[None]:
    """Report what the system does not let us do in the state directory as a setting that cannot be used.

    Raises:
        SettingsError: The block raised an OSError.
    """
    try:
        yield
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        allowed = "a directory that redstreamd may create files in"
        raise SettingsError(
            "daemon.state_directory",
            value=str(directory),
            source="the settings",
            allowed=allowed,
            text=f"setting daemon.state_directory cannot be used: {reason}; allowed: {allowed}",
        ) from error


def check_state_directory(directory: Path) -> None:
    """Make the state directory if it is absent, with mode 0700, and find out what is wrong with it.

    Raises:
        SettingsError: It cannot be made, holds a lease key that cannot be used, or holds none yet and cannot
            be written to.
    """
    with state_in(directory):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = directory / "lease.key"
        # A key that is there is only read, so it may be on a read-only file system.
        if not key.exists() and not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(directory))
    try:
        length = len(key.read_bytes()) if key.exists() else LEASE_KEY_BYTES
    except OSError as error:
        reason = error.strerror or str(error)
        remedy = (
            f"a file that redstreamd's user may read; `chown --reference={directory} {key}` makes it that"
        )
    else:
        if length >= LEASE_KEY_BYTES:
            return
        reason = f"it holds {length} bytes, and a key has at least {LEASE_KEY_BYTES}"
        remedy = (
            "the key of before, or none: without the file a new one is made, and work that is leased now has "
            "to be taken again"
        )
    raise SettingsError(
        "daemon.state_directory",
        value=str(directory),
        source="the settings",
        allowed=remedy,
        text=f"{key} cannot be used: {reason}; allowed: {remedy}",
    )


def take_place(directory: Path, count: int) -> bool:
    """Take one of `count` places for as long as this process lives; tell whether there was one.

    A place is a byte of a file, locked (fcntl(2)): the kernel frees it however the process ends. To be called
    once in a process.

    Raises:
        SettingsError: The file cannot be made.
    """
    with state_in(directory):
        # Never closed here, because that would give the place back.
        descriptor = os.open(directory / "places.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for number in range(count):
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except (BlockingIOError, PermissionError):  # EAGAIN or EACCES, which of them is open in POSIX
            continue
        return True
    return False
