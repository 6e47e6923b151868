"""From settings to the servers that are meant: addresses, logins and TLS, with credentials found.

Owns the one translation of ``settings.redis`` into a `Deployment`; for the daemon and for ``doctor``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial

import attrs

from redstreamd.redisio.credentials import PasswordFile
from redstreamd.redisio.setting_names import CLUSTER_NODE, SENTINELS, WATCHED
from redstreamd.redisio.target import Deployment, Target, TopologyKind
from redstreamd.redisio.tls import Tls
from redstreamd.settings import RedisSettings
from redstreamd.settings.credential_paths import path_of
from redstreamd.settings.node_address import NodeAddress
from redstreamd.settings.redis_topology import REDIS_PORT, nodes_of, uses_sentinel_tls


def deployment_for(redis: RedisSettings, *, environ: Mapping[str, str] = os.environ) -> Deployment:
    """Return the servers that the settings name, and how they stand to each other. No file is read yet.

    Arguments and errors are those of `target_for`.
    """
    target = target_for(redis, environ=environ)
    kind = TopologyKind(redis.topology)
    if kind is TopologyKind.STANDALONE:
        return Deployment(target)
    return Deployment(
        attrs.evolve(target, settings=WATCHED if kind is TopologyKind.SENTINEL else CLUSTER_NODE),
        kind,
        nodes=tuple(map(_place, nodes_of(redis))),
        primary_name=redis.sentinel_primary,
        sentinel=_sentinel(redis, environ),
        addresses={_place(each.announced): _place(each.address) for each in redis.node_addresses},
    )


def _place(node: NodeAddress) -> tuple[str, int]:
    return (node.host, node.port or REDIS_PORT)


def _sentinel(redis: RedisSettings, environ: Mapping[str, str]) -> Target:
    """Return what all sentinels have in common."""
    found = partial(path_of, environ=environ)
    tls = Tls(
        ca_file=found("redis.sentinel_ca_file", redis.sentinel_ca_file)
        or found("redis.ca_file", redis.ca_file),
        certificate_file=found("redis.certificate_file", redis.certificate_file),
        key_file=found("redis.key_file", redis.key_file),
        server_name=redis.sentinel_server_name,
        minimum_version=redis.tls_min_version,
    )
    key = SENTINELS.password_file
    file = found(key, redis.sentinel_password_file)
    user = redis.sentinel_username
    return Target(
        username=user,
        password=redis.sentinel_password,
        credentials=None if file is None else PasswordFile(file, user, key=key),
        tls=tls if uses_sentinel_tls(redis) else None,
        connect_timeout=redis.connect_timeout_seconds,
        settings=SENTINELS,
    )


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
