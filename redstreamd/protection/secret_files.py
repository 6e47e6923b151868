"""Files that hold secrets: who may read them, and whether they have changed."""

from __future__ import annotations

import os
from pathlib import Path

from redstreamd.errors import SettingsError


def version_of(path: str) -> tuple[int, int, int, int] | None:
    """Return what changes when a file does; None if it cannot be looked at. Blocks."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size, status.st_mode


def check_private(setting: str, path: str, file: int | None = None) -> None:
    """Refuse a secret file that everybody may read. A group may, on purpose. Blocks.

    Args:
        setting: The setting that names it.
        path: Where it is.
        file: Its descriptor, if it is open.

    Raises:
        SettingsError: Others may read or change it, or it cannot be looked at.
    """
    try:
        mode = (Path(path).stat() if file is None else os.fstat(file)).st_mode
    except OSError as error:
        raise unusable(setting, path, error.strerror or type(error).__name__) from error
    if mode & 0o007:
        reason = f"other users may read or change it (mode {mode & 0o777:04o}); run `chmod o= {path}`"
        raise unusable(setting, path, reason)


def unusable(setting: str, path: str, reason: str) -> SettingsError:
    """Return the error of a file that cannot be used."""
    return SettingsError(
        setting,
        value=path,
        source="the settings",
        allowed="a file that can be used",
        text=f"setting {setting}={path!r} cannot be used: {reason}",
    )
