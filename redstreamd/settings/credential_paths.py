"""Where a file is that a setting names: a path, or a credential of the service (systemd.exec(5))."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from redstreamd.addresses.address_syntax import MASK
from redstreamd.errors import SettingsError

CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"
"""Where systemd puts the credentials of a service."""

#: What is given itself by mistake where its file is asked for, and the setting that takes it.
_SECRETS = {
    "redis.password_file": "a password itself is redis.password",
    "redis.sentinel_password_file": "a password itself is redis.sentinel_password",
    "listeners.token_file": "",
    "http.token_file": "a token itself is made by `redstreamd tokens new`",
    "encryption.keys": "",
    "daemon.lease_key_file": "",
}


def path_of(key: str, path: Path | None, environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the path of a file that a setting names; None if it names none.

    Args:
        key: The setting.
        path: Its value.
        environ: Where the directory of credentials is looked up.

    Raises:
        SettingsError: It is the name of a credential, and this process has none.
    """
    if path is None or path.is_absolute():
        return None if path is None else str(path)
    directory = environ.get(CREDENTIALS_VARIABLE)
    if directory:
        return str(Path(directory) / path)
    # Some give the secret where its file is asked for.
    shown, name = (MASK, "NAME") if key in _SECRETS else (str(path), str(path))
    allowed = (
        f"an absolute path; the name of a credential needs ${CREDENTIALS_VARIABLE}, which systemd sets for a "
        f"service with LoadCredential={name}:FILE"
    )
    if hint := _SECRETS.get(key):
        allowed += f"; {hint}"
    raise SettingsError(
        key,
        value=shown,
        source="the settings",
        allowed=allowed,
        text=f"setting {key}='{shown}' cannot be used: this process has no credentials; allowed: {allowed}",
    )
