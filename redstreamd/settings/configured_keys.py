"""From settings to the keys of encryption; for the daemon, check-config, doctor and the command keys."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from redstreamd.encryption.key_files import SUFFIX, KeyPlace
from redstreamd.encryption.key_ring import NO_KEYS, KeyRing
from redstreamd.settings.credential_paths import path_of
from redstreamd.settings.encryption_settings import EncryptionSettings


def key_place(encryption: EncryptionSettings, environ: Mapping[str, str] = os.environ) -> KeyPlace | None:
    """Return where the keys are; None if there are none.

    Args:
        encryption: The settings.
        environ: Where the directory of credentials is looked up.

    Raises:
        SettingsError: They are credentials, and this process has none.
    """
    path = path_of("encryption.keys", encryption.keys, environ)
    if path is None or encryption.keys is None:
        return None
    if encryption.keys.is_absolute():
        return KeyPlace(path)
    return KeyPlace(str(Path(path).parent), prefix=f"{encryption.keys}_", is_trusted=True)


def key_ring_of(encryption: EncryptionSettings, environ: Mapping[str, str] = os.environ) -> KeyRing:
    """Read the keys. Blocks.

    Raises:
        SettingsError: They cannot be used.
    """
    place = key_place(encryption, environ)
    return NO_KEYS if place is None else KeyRing.read(place, encryption.writing_key)


def unreadable_keys(place: KeyPlace) -> str | None:
    """Return the directory or the file of a key that this process may not read; None if it may. Blocks."""
    try:
        names = os.listdir(place.directory)  # noqa: PTH208 - nothing but the names is used
    except PermissionError:
        return place.directory
    except OSError:
        return None  # whoever reads it says why
    paths = (f"{place.directory}/{name}" for name in names if name.endswith(SUFFIX))
    return next((path for path in paths if not os.access(path, os.R_OK) and Path(path).exists()), None)
