"""Reads the key of leases that the settings name, so that daemons of several hosts have the same one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from redstreamd.errors import SettingsError
from redstreamd.settings.credential_paths import path_of
from redstreamd.startup.state_directory import LEASE_KEY_BYTES

if TYPE_CHECKING:
    from redstreamd.settings.sections import DaemonSettings

_KEY = "daemon.lease_key_file"
_ALLOWED = (
    f"a file of at least {LEASE_KEY_BYTES} bytes that redstreamd's user may read, the same on all hosts: "
    "copy lease.key of the first host's state directory, or make one with `head -c 32 /dev/urandom`"
)


def read_lease_key(daemon: DaemonSettings, environ: Mapping[str, str] = os.environ) -> bytes | None:
    """Return the key of `daemon.lease_key_file`; None if the settings name none. Blocks.

    It is never made here: hosts that each made one would not have the same.

    Raises:
        SettingsError: It cannot be read, is too short, or is a credential that this process does not have.
    """
    path = path_of(_KEY, daemon.lease_key_file, environ)
    if path is None:
        return None
    try:
        key = Path(path).read_bytes()
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from error
    if len(key) < LEASE_KEY_BYTES:
        raise _unusable(path, f"it has {len(key)} bytes")
    return key


def _unusable(path: str, reason: str) -> SettingsError:
    text = f"setting {_KEY}='{path}' cannot be used: {reason}; allowed: {_ALLOWED}"
    return SettingsError(_KEY, value=path, source="the settings", allowed=_ALLOWED, text=text)
