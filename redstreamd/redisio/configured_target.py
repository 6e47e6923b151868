"""From settings to the server that is meant: address, login and TLS, with credentials found.

Owns the one translation of ``settings.redis`` into a `Target`; for the daemon and for ``doctor``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial

from redstreamd.redisio.credentials import PasswordFile
from redstreamd.redisio.target import Deployment, Target
from redstreamd.redisio.tls import Tls
from redstreamd.settings import RedisSettings
from redstreamd.settings.credential_paths import path_of


def deployment_for(redis: RedisSettings, *, environ: Mapping[str, str] = os.environ) -> Deployment:
    """Return the servers that the settings name, and how they stand to each other. No file is read yet.

    Arguments and errors are those of `target_for`.
    """
    return Deployment(target_for(redis, environ=environ))


def target_for(redis: RedisSettings, *, environ: Mapping[str, str] = os.environ) -> Target:
    """Return the server that the settings name. No file is read yet.

    Args:
        redis: The settings.
        environ: Where the directory of credentials is looked up.

    Raises:
        SettingsError: A file is given as the name of a credential, and this process has none.
    """
    found = partial(path_of, environ=environ)

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
