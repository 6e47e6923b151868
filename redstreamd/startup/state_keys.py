"""Makes the keys that a daemon keeps in its state directory."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path
from typing import Final

from redstreamd.startup.state_directory import LEASE_KEY, LEASE_KEY_BYTES

_KEY_BYTES: Final = 32
#: What link(2) says on a file system that has no hard links, such as vfat and some of FUSE and SMB.
_WITHOUT_LINKS: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


def lease_key_in(directory: Path) -> bytes:
    """Return the key of leases of a state directory; it and the directory are made if there is none. Blocks.

    Raises:
        OSError: It can be neither read nor made, or is too short.
    """
    path = directory / LEASE_KEY
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Another daemon may be first.
        with contextlib.suppress(FileExistsError):
            make_key(path)
    key = path.read_bytes()
    if len(key) < LEASE_KEY_BYTES:
        raise OSError(f"{path} holds {len(key)} bytes; a lease key has at least {LEASE_KEY_BYTES}")
    return key


def make_key(path: Path) -> None:
    """Make the file of a key of 32 random bytes, of mode 0600; it appears whole or not at all. Blocks.

    Raises:
        FileExistsError: There is such a file; it stays as it is.
        OSError: It cannot be made; nothing is left of it.
    """
    # A name that nobody else takes: in a container each daemon may have the number of the one before.
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(file, "wb") as written:
            written.write(secrets.token_bytes(_KEY_BYTES))
            # Otherwise a loss of power could leave an empty file, and no daemon would start again.
            written.flush()
            os.fsync(file)
        _name(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _name(draft: Path, path: Path) -> None:
    """Give a file its name; `FileExistsError` if that is taken, also by a link that leads nowhere."""
    try:
        # Unlike rename(2) it fails if the name is taken, whoever takes it meanwhile.
        os.link(draft, path)
    except OSError as error:
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        if error.errno not in _WITHOUT_LINKS:
            raise
        draft.rename(path)
