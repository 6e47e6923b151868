"""Checks of the state directory; light, to be used before the heavy imports."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from redstreamd.errors import SettingsError

LEASE_KEY: Final = "lease.key"
"""The file of the key that authenticates leases."""

LEASE_KEY_BYTES: Final = 16
"""The shortest key that authenticates leases."""

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def state_in(directory: Path) -> Iterator[None]:
    """Convert OSErrors of the block to an error of the setting.

    Raises:
        SettingsError: The block raised an OSError.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.filename:
            reason = f"{error.filename}: {reason}"
        subject = "setting daemon.state_directory"
        allowed = "a directory that redstreamd may create files in"
        if error.errno in _FULL:
            allowed += f"; see `df {directory}` and `df -i {directory}`, and remove what fills it"
        raise _unusable(subject, directory, reason, allowed) from error


def own_state(directory: Path, instance: str | None) -> Path:
    """Return where in the state directory a process keeps what it shares with no other.

    Args:
        directory: The state directory.
        instance: The name of the process; None for the one that shares it with none, or is first among those
            that do.
    """
    return directory if instance is None else directory / "instances" / instance


def check_state_directory(directory: Path, instance: str | None = None) -> None:
    """Create the state directory with mode 0700 if it is absent, and check it.

    Args:
        directory: The state directory.
        instance: See `own_state`; that directory is created, too.

    Raises:
        SettingsError: It cannot be created, its lease key cannot be used, or it has no key and is not
            writable.
    """
    key = directory / LEASE_KEY
    with state_in(directory):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # An existing key is only read, so it may be on a read-only file system.
        if not key.exists() and not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(directory))
        if instance is not None:
            own_state(directory, instance).mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        length = len(key.read_bytes()) if key.exists() else LEASE_KEY_BYTES
    except OSError as error:
        reason = error.strerror or str(error)
        remedy = f"a file that redstreamd's user may read, as after `chown --reference={directory} {key}`"
        raise _unusable(str(key), directory, reason, remedy) from error
    if length < LEASE_KEY_BYTES:
        reason = f"it has {length} bytes, and a key has at least {LEASE_KEY_BYTES}"
        remedy = "the former key, or no file: then a new key is made, and leased work has to be taken again"
        raise _unusable(str(key), directory, reason, remedy)


def _unusable(subject: str, directory: Path, reason: str, allowed: str) -> SettingsError:
    return SettingsError(
        "daemon.state_directory",
        value=str(directory),
        source="the settings",
        allowed=allowed,
        text=f"{subject} cannot be used: {reason}; allowed: {allowed}",
    )


def take_place(directory: Path, count: int) -> bool:
    """Take one of `count` places until this process ends; return False if all are taken.

    A place is a locked byte of a file (fcntl(2)), which the kernel unlocks when the process ends. To be
    called once in a process.

    Raises:
        SettingsError: The file cannot be created.
    """
    with state_in(directory):
        # Never closed here: that would release the place.
        descriptor = os.open(directory / "places.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for number in range(count):
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except (BlockingIOError, PermissionError):  # POSIX allows EAGAIN and EACCES
            continue
        return True
    return False
