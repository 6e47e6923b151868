"""Makes the file of a new key. It appears whole or not at all, and never takes the place of another one."""

from __future__ import annotations

import base64
import os
import secrets
from pathlib import Path

from redstreamd.encryption.key_files import KEY_BYTES, SUFFIX, KeyPlace, check_directory


def make_key(directory: Path, key_id: str) -> Path:
    """Make a key of random bytes, and return its file, of mode 0600. Blocks.

    The directory is made, too, if only it is missing. Root gives both to the user to whom the directory they
    are made in belongs: so the state directory of a service stays that of its user.

    Args:
        directory: An absolute path.
        key_id: A valid ID.

    Raises:
        FileExistsError: There is a key of this ID; it stays as it is.
        OSError: The file cannot be made.
        SettingsError: The directory cannot be trusted with keys.
    """
    if not directory.exists():
        directory.mkdir(mode=0o700)
        _hand_over(directory, directory.parent.stat())
    place = KeyPlace(str(directory))
    opened = check_directory(place)
    hidden = f".{key_id}{SUFFIX}.{secrets.token_hex(4)}"
    try:
        # Nobody can have put a link in the place of a name that nobody knew.
        file = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=opened)
        try:
            with os.fdopen(file, "wb") as written:
                os.fchmod(file, 0o600)
                _hand_over(file, os.fstat(opened))
                written.write(base64.b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n")
                written.flush()
                os.fsync(file)
            # Unlike rename(2) it fails if the name is taken.
            os.link(hidden, f"{key_id}{SUFFIX}", src_dir_fd=opened, dst_dir_fd=opened)
        finally:
            os.unlink(hidden, dir_fd=opened)
        os.fsync(opened)
    finally:
        os.close(opened)
    return Path(place.path(key_id))


def _hand_over(file: int | Path, owner: os.stat_result) -> None:
    if os.geteuid() == 0:
        os.chown(file, owner.st_uid, owner.st_gid)
