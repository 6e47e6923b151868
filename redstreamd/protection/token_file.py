"""Changes the file of bearer tokens: whole or not at all, and one program at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import attrs

from redstreamd.protection.secret_files import unusable
from redstreamd.protection.token_records import SETTING, TokenList, read_tokens

_MISSING = "there is no such file; `redstreamd tokens new NAME` makes it"


@attrs.define
class Change:
    """What the file holds; another value is written.

    Attributes:
        value: The list.
    """

    value: TokenList


def tokens_in(path: str) -> TokenList:
    """Return what a file of tokens holds. Blocks.

    Raises:
        SettingsError: It cannot be used.
    """
    try:
        return read_tokens(path)
    except OSError as error:
        reason = _MISSING if isinstance(error, FileNotFoundError) else error.strerror or type(error).__name__
        raise unusable(SETTING, path, reason) from None


@contextlib.contextmanager
def changed_tokens(path: str, *, may_make: bool = False) -> Iterator[Change]:
    """Read the file, and write it anew at the end of the block if the list is another one. Blocks.

    A file that is there keeps its mode and owner. A new one has mode 0600; root gives it to the user to whom
    the directory belongs, so that a service can read what lies in its own.

    Args:
        path: The file.
        may_make: Whether it may be missing.

    Raises:
        SettingsError: It cannot be used.
        OSError: It cannot be written; it is as it was.
    """
    directory = os.open(Path(path).parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Held until the directory is closed. The file itself is replaced by another one.
        fcntl.flock(directory, fcntl.LOCK_EX)
        is_new = may_make and not Path(path).exists()
        before = None if is_new else tokens_in(path)
        change = Change(before or TokenList.empty())
        yield change
        if change.value != before:
            owner = os.fstat(directory) if is_new else Path(path).stat()
            _replace(path, change.value.text(), 0o600 if is_new else owner.st_mode & 0o777, owner)
            os.fsync(directory)
    finally:
        os.close(directory)


def _replace(path: str, content: bytes, mode: int, owner: os.stat_result) -> None:
    target = Path(path).resolve()
    hidden = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    # Nobody can have put a link in the place of a name that nobody knew.
    file = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(file, "wb") as written:
            if os.geteuid() == 0:
                os.fchown(file, owner.st_uid, owner.st_gid)
            os.fchmod(file, mode)
            written.write(content)
            written.flush()
            os.fsync(file)
        hidden.rename(target)
    except BaseException:
        hidden.unlink(missing_ok=True)
        raise
