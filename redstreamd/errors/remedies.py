"""How errors and records say where something is changed, and how their parts are joined.

Owns the form, so that "set this" always says where: a setting in the settings file or the
environment, a line of the unit in a drop-in, an option of Redis in its own configuration.
"""

from __future__ import annotations

from typing import Final

SETTINGS_FILE: Final = "/etc/redstreamd/redstreamd.toml"

#: For secrets, because every user of the host may read the settings file.
ENVIRONMENT_FILE: Final = "/etc/redstreamd/environment"

#: Settings that have a shorter variable than REDSTREAMD_REDIS_...; it is the one that people know.
VARIABLES: Final = {
    "redis.url": "REDIS_URL",
    "redis.host": "REDIS_HOST",
    "redis.port": "REDIS_PORT",
    "redis.username": "REDIS_USERNAME",
    "redis.database": "REDIS_DB",
    "redis.password_file": "REDIS_PASSWORD_FILE",
}

#: The password of Redis, which does not belong into the settings file.
PASSWORD: Final = f"REDIS_PASSWORD in {ENVIRONMENT_FILE}"


def setting(*keys: str) -> str:
    """Name settings by their dotted keys, and say where they are set; for use after a verb.

    Args:
        keys: One, or several that are set together, such as ``redis.host``.
    """
    known = [VARIABLES[key] for key in keys if key in VARIABLES]
    variables = f" ({' and '.join(known)} in the environment)" if known else ""
    return f"{' and '.join(keys)} in {SETTINGS_FILE}{variables}"


def unit_setting(*names: str) -> str:
    """Name directives of the service, such as ``MemoryMax=``, and say where they are set."""
    return f"{' and '.join(names)} of the service (`systemctl edit redstreamd.service`)"


def redis_option(*names: str) -> str:
    """Name options of a Redis or Valkey server, and say where they are set."""
    quoted = " and ".join(f"`{name}`" for name in names)
    return f"{quoted} in the configuration of Redis (redis.conf, or CONFIG SET)"


def sentences(*parts: str) -> str:
    """Join texts to a line of sentences, each with one full stop at its end, however it is given.

    A text that is empty is left out. The line has no full stop at its very end if its last text has none.
    """
    given = [part.strip() for part in parts if part.strip()]
    line = " ".join(_ended(part) for part in given[:-1])
    return " ".join(part for part in (line, *given[-1:]) if part)


def _ended(text: str) -> str:
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."
