"""Texts for errors and log records that name what to change, and where."""

from __future__ import annotations

from typing import Final

from redstreamd.visible_text import visible

SETTINGS_FILE: Final = "/etc/redstreamd/redstreamd.toml"

#: For secrets; all users of the host may read the settings file.
ENVIRONMENT_FILE: Final = "/etc/redstreamd/environment"

#: Settings with a usual variable that is shorter than REDSTREAMD_REDIS_...
VARIABLES: Final = {
    "redis.url": "REDIS_URL",
    "redis.host": "REDIS_HOST",
    "redis.port": "REDIS_PORT",
    "redis.username": "REDIS_USERNAME",
    "redis.database": "REDIS_DB",
    "redis.password_file": "REDIS_PASSWORD_FILE",
    "redis.topology": "REDIS_TOPOLOGY",
    "redis.nodes": "REDIS_NODES",
    "redis.sentinel_primary": "REDIS_SENTINEL_PRIMARY",
    "redis.sentinel_username": "REDIS_SENTINEL_USERNAME",
    "redis.sentinel_password_file": "REDIS_SENTINEL_PASSWORD_FILE",
}

#: Where to set the password of Redis, and that of the sentinels.
PASSWORD: Final = f"REDIS_PASSWORD in {ENVIRONMENT_FILE}"
SENTINEL_PASSWORD: Final = f"REDIS_SENTINEL_PASSWORD in {ENVIRONMENT_FILE}"


def setting(*keys: str) -> str:
    """Return the names of settings and where to set them, for use after a verb.

    Args:
        keys: Dotted keys, such as ``redis.host``; several if they are set together.
    """
    known = [VARIABLES[key] for key in keys if key in VARIABLES]
    variables = f" ({' and '.join(known)} in the environment)" if known else ""
    return f"{' and '.join(keys)} in {SETTINGS_FILE}{variables}"


def unit_setting(*names: str) -> str:
    """Return directives of the service, such as ``MemoryMax=``, and where to set them."""
    return f"{' and '.join(names)} of the service (`systemctl edit redstreamd.service`)"


def redis_option(*names: str) -> str:
    """Return options of a Redis or Valkey server, and where to set them."""
    quoted = " and ".join(f"`{name}`" for name in names)
    return f"{quoted} in the configuration of Redis (redis.conf, or CONFIG SET)"


def shortened(text: str, most: int = 80) -> str:
    """Return a text of a client for an error or a record, cut where it is longer than `most` characters.

    Hidden characters are made visible, so that it stays on its line.
    """
    return visible(text if len(text) <= most else f"{text[:most]}…")


def sentences(*parts: str) -> str:
    """Join texts to one line of sentences, with a full stop between two of them.

    Empty texts are left out. The last text gets no full stop.
    """
    given = [part.strip() for part in parts if part.strip()]
    line = " ".join(_ended(part) for part in given[:-1])
    return " ".join(part for part in (line, *given[-1:]) if part)


def _ended(text: str) -> str:
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."
