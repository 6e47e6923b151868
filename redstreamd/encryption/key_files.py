"""The keys that entries are encrypted with: one file a key, ``<ID>.key``, base64 of 32 random bytes.

They lie in a directory of their own, or are credentials of the service. A directory is not trusted: nobody
but its owner may write to it, its files are no links, and nobody but their owner may read them. The directory
of credentials is systemd's, which has seen to that, and where a group may read by an access list.

The bytes of a key are in no repr, log or error.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs
import msgspec

from redstreamd.errors import SettingsError

KEY_BYTES: Final = 32
SUFFIX: Final = ".key"
#: The names of keys; also in entries, so that they are short and need no escaping.
KEY_ID: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
ID_ALLOWED: Final = "1 to 32 characters of a-z, 0-9, '.', '_' and '-', the first a letter or digit"
#: More than rotation by the day makes in a year; each is read at a reload.
MAX_KEYS: Final = 512
_MAX_FILE_BYTES: Final = 1024
#: With it the 32 bytes of a key in base64, padding included, are what a file holds.
_TEXT: Final = re.compile(rb"[A-Za-z0-9+/]{43}=")
_KEYS: Final = "encryption.keys"


@attrs.frozen
class Key:
    """A key.

    Attributes:
        id: Its name, which entries carry.
        secret: Its 32 bytes.
    """

    id: str
    secret: bytes = attrs.field(repr=False)


class KeyPlace(msgspec.Struct, frozen=True):
    """Where the files of keys are.

    Attributes:
        directory: An absolute path.
        prefix: What their names begin with: nothing, or that of credentials. systemd loads each file of a
            directory as ``<credential>_<file>`` (LoadCredential= in systemd.exec(5)).
        is_trusted: Whether it is the directory of the service's credentials.
    """

    directory: str
    prefix: str = ""
    is_trusted: bool = False

    def path(self, key_id: str) -> str:
        """Return the file of a key."""
        return f"{self.directory}/{self.prefix}{key_id}{SUFFIX}"


class KeyFile(msgspec.Struct, frozen=True):
    """A file of a key, as it was found.

    Attributes:
        path: Where it is.
        id: The ID that its name gives.
        key: The key; None if it cannot be used.
        problem: Why not, and what to do; nothing if it can.
        mode: Its permissions; None if it cannot be looked at.
        changed: When it was last written, in seconds since 1970; None likewise.
    """

    path: str
    id: str
    key: Key | None = None
    problem: str = ""
    mode: int | None = None
    changed: float | None = None


def key_files(place: KeyPlace) -> list[KeyFile]:
    """Look at all files of keys, in the order of their IDs. Blocks.

    Raises:
        SettingsError: The directory cannot be used.
    """
    directory = check_directory(place)
    try:
        names = sorted(_names(place, os.listdir(directory)))  # noqa: PTH208 - the one that was checked
        if len(names) > MAX_KEYS:
            reason = f"it holds {len(names)} keys, more than {MAX_KEYS}; remove those of no entries"
            raise unusable(place, reason)
        if not names:
            raise unusable(place, _empty(place))
        return [_file(place, directory, name) for name in names]
    finally:
        os.close(directory)


def check_directory(place: KeyPlace) -> int:
    """Return a descriptor of the directory, for the caller to close.

    Raises:
        SettingsError: It cannot be used.
    """
    try:
        # Not the target of a link that somebody put in its place.
        follow = 0 if place.is_trusted else os.O_NOFOLLOW
        directory = os.open(place.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | follow)
    except OSError as error:
        raise unusable(place, _no_directory(place, error)) from None
    problem = "" if place.is_trusted else _directory_problem(place, os.fstat(directory))
    if problem:
        os.close(directory)
        raise unusable(place, problem)
    return directory


def _names(place: KeyPlace, names: list[str]) -> Iterator[str]:
    for name in names:
        # A file that is being written has a hidden name.
        if name.startswith(place.prefix) and name.endswith(SUFFIX) and not name.startswith("."):
            yield name


def _file(place: KeyPlace, directory: int, name: str) -> KeyFile:
    path = f"{place.directory}/{name}"
    key_id = name.removeprefix(place.prefix).removesuffix(SUFFIX)
    if not KEY_ID.fullmatch(key_id):
        return KeyFile(
            path, key_id, problem=f"its name gives no ID of a key, which is {ID_ALLOWED}; rename it"
        )
    follow = 0 if place.is_trusted else os.O_NOFOLLOW
    try:
        # A pipe in its place must not make the daemon wait.
        opened = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | follow, dir_fd=directory)
    except OSError as error:
        return KeyFile(path, key_id, problem=_unreadable(place, directory, name, error))
    try:
        status = os.fstat(opened)
        found = KeyFile(path, key_id, None, "", stat.S_IMODE(status.st_mode), status.st_mtime)
        problem = _file_problem(place, path, status)
        if not problem:
            secret, problem = _content(os.read(opened, _MAX_FILE_BYTES))
            if secret is not None:
                return msgspec.structs.replace(found, key=Key(key_id, secret))
        return msgspec.structs.replace(found, problem=problem)
    except OSError as error:
        return KeyFile(path, key_id, problem=error.strerror or type(error).__name__)
    finally:
        os.close(opened)


def _content(content: bytes) -> tuple[bytes | None, str]:
    """Return the key in a file, or what is wrong with it; never what it holds."""
    text = content.strip()
    if not text:
        return None, "it is empty; `redstreamd keys new` makes a key"
    if len(content) < _MAX_FILE_BYTES and _TEXT.fullmatch(text):
        try:
            return base64.b64decode(text, validate=True), ""
        except binascii.Error:
            pass
    return None, (
        f"it does not hold {KEY_BYTES} bytes in base64 and nothing else (44 characters); copy it again from "
        "the host that made it, or `redstreamd keys new` makes another key"
    )


def _owner_problem(status: os.stat_result) -> str:
    if status.st_uid in (0, os.geteuid()) or os.geteuid() == 0:
        return ""
    return f"it belongs to user {status.st_uid}, neither to root nor to the user of this process; `chown` it"


def _directory_problem(place: KeyPlace, status: os.stat_result) -> str:
    if problem := _owner_problem(status):
        return problem
    if status.st_mode & 0o022:
        mode = stat.S_IMODE(status.st_mode)
        return f"other users may put keys there (mode {mode:04o}); run `chmod go-w {place.directory}`"
    return ""


def _file_problem(place: KeyPlace, path: str, status: os.stat_result) -> str:
    if not stat.S_ISREG(status.st_mode):
        return "it is no regular file"
    if place.is_trusted:
        return ""
    if problem := _owner_problem(status):
        return problem
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        return f"other users may read or change it (mode {mode:04o}); run `chmod 0600 {path}`"
    return ""


def _unreadable(place: KeyPlace, directory: int, name: str, error: OSError) -> str:
    if isinstance(error, PermissionError):
        owner = os.stat(name, dir_fd=directory, follow_symlinks=False).st_uid
        return (
            f"it belongs to user {owner}, and user {os.geteuid()}, who runs this, may not read it; "
            "give it to the user of the daemon with `chown`"
        )
    if not place.is_trusted and Path(place.directory, name).is_symlink():
        return "it is a symbolic link, which is not followed; put the file itself there"
    return error.strerror or type(error).__name__


def _no_directory(place: KeyPlace, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such directory; `redstreamd keys new ID` makes it, and a key"
    if not place.is_trusted and Path(place.directory).is_symlink():
        return "it is a symbolic link, which is not followed; name the directory itself"
    return error.strerror or type(error).__name__


def _empty(place: KeyPlace) -> str:
    if not place.prefix:
        return f"it holds no file ID{SUFFIX}; `redstreamd keys new ID` makes one"
    name = place.prefix.removesuffix("_")
    return (
        f"the service has no credential {place.prefix}ID{SUFFIX}; LoadCredential={name}:DIRECTORY loads each "
        f"file ID{SUFFIX} of a directory as one, LoadCredentialEncrypted={place.prefix}ID{SUFFIX}:FILE a "
        "single one"
    )


def unusable(place: KeyPlace, reason: str) -> SettingsError:
    """Return the error of keys that cannot be used."""
    value = place.prefix.removesuffix("_") or place.directory
    return SettingsError(
        _KEYS,
        value=value,
        source="the settings",
        allowed="a directory of keys that can be used",
        text=f"setting {_KEYS}={value!r} cannot be used: {reason}",
    )
