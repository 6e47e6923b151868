"""From settings to the server that is meant: address, login and TLS, with credentials found.

Owns the one translation of ``settings.redis`` into a `Target`; for the daemon and for ``doctor``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from redstreamd.addresses.address_syntax import MASK
from redstreamd.errors import SettingsError
from redstreamd.redisio.credentials import PasswordFile
from redstreamd.redisio.target import Target
from redstreamd.redisio.tls import Tls
from redstreamd.settings import RedisSettings

CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"
"""Where systemd puts the credentials of a service (systemd.exec(5))."""


def target_for(redis: RedisSettings, *, environ: Mapping[str, str] = os.environ) -> Target:
    """Return the server that the settings name. No file is read yet.

    Args:
        redis: The settings.
        environ: Where the directory of credentials is looked up.

    Raises:
        SettingsError: A file is given as the name of a credential, and this process has none.
    """

    def found(key: str, path: Path | None) -> str | None:
        return None if path is None else _found(key, path, environ)

    tls = Tls(
        ca_file=found("redis.ca_file", redis.ca_file),
        certificate_file=found("redis.certificate_file", redis.certificate_file),
        key_file=found("redis.key_file", redis.key_file),
        server_name=redis.server_name,
        minimum_version=redis.tls_min_version,
    )
    password_file = found("redis.password_file", redis.password_file)
    return Target(
        host=redis.host,
        port=redis.port,
        path=None if redis.path is None else str(redis.path),
        username=redis.username,
        password=redis.password,
        credentials=None if password_file is None else PasswordFile(password_file, redis.username),
        tls=tls if redis.tls else None,
        database=redis.database,
        connect_timeout=redis.connect_timeout_seconds,
    )


def _found(key: str, path: Path, environ: Mapping[str, str]) -> str:
    if path.is_absolute():
        return str(path)
    directory = environ.get(CREDENTIALS_VARIABLE)
    if directory:
        return str(Path(directory) / path)
    # Some give the password where its file is asked for.
    secret = key == "redis.password_file"
    shown, name = (MASK, "NAME") if secret else (str(path), str(path))
    allowed = (
        f"an absolute path; the name of a credential needs ${CREDENTIALS_VARIABLE}, which systemd sets for a "
        f"service with LoadCredential={name}:FILE"
    )
    if secret:
        allowed += "; a password itself is redis.password"
    raise SettingsError(
        key,
        value=shown,
        source="the settings",
        allowed=allowed,
        text=f"setting {key}='{shown}' cannot be used: this process has no credentials; allowed: {allowed}",
    )
