"""Texts for errors and log records that name what to change, and where.

Owns where the settings in force are set: the settings file, the file of the variables, and what gives each
that is set elsewhere. Until that is noted, the places are those of the installed service.
So no text that names a setting is made while modules are imported (`tests/errors/test_remedies.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from redstreamd.visible_text import visible

SETTINGS_FILE: Final = "/etc/redstreamd/redstreamd.toml"

#: For secrets; all users of the host may read the settings file.
ENVIRONMENT_FILE: Final = "/etc/redstreamd/environment"

#: Where variables are set if nothing reads a file of them.
THE_ENVIRONMENT: Final = "the environment"

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

#: The variables of the passwords, of Redis and of the sentinels.
PASSWORDS: Final = {
    "redis.password": "REDIS_PASSWORD",
    "redis.sentinel_password": "REDIS_SENTINEL_PASSWORD",
}


class _Places:
    """Where the settings in force are set; see `note_files` and `note_sources`."""

    def __init__(self) -> None:
        self.file = SETTINGS_FILE
        self.environment = ENVIRONMENT_FILE
        self.variables: Mapping[str, str] = {}
        self.given_by: Mapping[str, str] = {}
        self.with_value: frozenset[str] = frozenset()


_places = _Places()


def note_files(file: str, environment: str, variables: Mapping[str, str] | None = None) -> None:
    """Note which files are edited to change settings; they stay the same while a process runs.

    Args:
        file: The settings file.
        environment: Where variables are set that nothing sets yet: a file, or `THE_ENVIRONMENT`.
        variables: Variable to where it is set, for those that are set elsewhere.
    """
    _places.file = file
    _places.environment = environment
    _places.variables = variables or {}


def note_sources(
    given_by: Mapping[str, str], with_value: frozenset[str], kept: frozenset[str] = frozenset()
) -> None:
    """Note what gives the settings that are put into force.

    Args:
        given_by: Dotted key to the variable or the option that gives it, such as ``--embedded``.
        with_value: The dotted keys that a source gives a value.
        kept: The dotted keys that stay as they were in force: what gave them before is what is named.
    """
    before = {key: by for key, by in _places.given_by.items() if key in kept}
    _places.given_by = {key: by for key, by in given_by.items() if key not in kept} | before
    _places.with_value = (with_value - kept) | (_places.with_value & kept)


def settings_file() -> str:
    """Return the settings file."""
    return _places.file


def setting(*keys: str) -> str:
    """Return the names of settings and where they are set, for use after a verb.

    Args:
        keys: Dotted keys, such as ``redis.host``; several if they are set together.
    """
    by_place: dict[str, list[str]] = {}
    for key in keys:
        by_place.setdefault(_places.given_by.get(key, ""), []).append(key)
    return " and ".join(_set_in(place, those) for place, those in by_place.items())


def _set_in(given_by: str, keys: list[str]) -> str:
    names = " and ".join(keys)
    if given_by:
        return f"{names} (given by {given_by})"
    known = [VARIABLES[key] for key in keys if key in VARIABLES]
    variables = f" ({' and '.join(known)} in the environment)" if known else ""
    return f"{names} in {_places.file}{variables}"


def password(key: str = "redis.password") -> str:
    """Return a password of the settings and where it is set, for use after a verb.

    Args:
        key: Its dotted key.
    """
    by = _places.given_by.get(key)
    file = f"{key}_file"
    if file in _places.with_value:
        return f"the password in the file of {setting(file)}"
    if by is None and key in _places.with_value:
        return setting(key)
    # Ours, which begins with REDSTREAMD_, takes precedence over the usual one.
    variable = PASSWORDS[key] if by is None else by.rpartition(" ")[2]
    if not variable.endswith(PASSWORDS[key]):
        return f"the password (given by {by})"
    return f"{variable} in {_places.variables.get(variable, _places.environment)}"


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
