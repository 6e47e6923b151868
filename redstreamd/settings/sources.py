"""Where settings come from: the file, the environment and the command line, as flat dotted keys.

Owns reading and naming of the sources. Does not know what a value means beyond the text
of its type; merging and checking are `load`'s.
"""

from __future__ import annotations

import enum
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from redstreamd.errors import SettingsError
from redstreamd.nearest import nearest_names
from redstreamd.paths import SOCKET_VARIABLE
from redstreamd.settings.definitions import GROUPS, LEAVES, shown
from redstreamd.settings.leaves import NotAllowedError
from redstreamd.settings.masking import MASK

DEFAULT_FILE = Path("/etc/redstreamd/redstreamd.toml")

_PREFIX = "REDSTREAMD_"

ENVIRONMENT: Mapping[str, str] = {
    # The names that Redis clients and containers have in common; ours come after, so
    # the more particular of two wins.
    "REDIS_URL": "redis.url",
    "REDIS_HOST": "redis.host",
    "REDIS_PORT": "redis.port",
    "REDIS_USERNAME": "redis.username",
    "REDIS_PASSWORD": "redis.password",
    "REDIS_PASSWORD_FILE": "redis.password_file",
    "REDIS_DB": "redis.database",
    **{f"{_PREFIX}{key.replace('.', '_').upper()}": key for key in LEAVES},
}
"""Environment variable to dotted key."""


class Rank(enum.IntEnum):
    """The order of the sources; the greater wins."""

    DEFAULT = 0
    FILE = 1
    ENVIRONMENT = 2
    COMMAND_LINE = 3


@attrs.frozen
class Source:
    """Where one value came from; `label` names the file, the variable or the option."""

    rank: Rank
    label: str

    def __str__(self) -> str:
        """Return the label."""
        return self.label


@attrs.frozen
class Given:
    """A value as one source has it, not yet checked."""

    value: Any = attrs.field(repr=False)
    source: Source


Values = dict[str, Given]
"""Dotted key to value."""


def from_file(path: Path | None) -> Values:
    """Read a TOML file.

    Args:
        path: The file; without one, `DEFAULT_FILE`, which need not exist.

    Raises:
        SettingsError: It cannot be read, is no TOML, or has something outside of a table.
    """
    file = path or DEFAULT_FILE
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as missing:
        if path is None:
            return {}
        raise _unreadable(file, path, "no such file") from missing
    except OSError as refused:
        raise _unreadable(file, path, refused.strerror or type(refused).__name__) from refused
    except UnicodeDecodeError as not_text:
        raise _unreadable(file, path, "not UTF-8") from not_text
    except tomllib.TOMLDecodeError as not_toml:
        raise _unreadable(file, path, str(not_toml)) from not_toml
    source = Source(Rank.FILE, f"file {file}")
    values: Values = {}
    for group, table in content.items():
        if group not in GROUPS:
            # A line above the first [table] is most often a setting whose table was forgotten.
            meant = [key for key in LEAVES if key.partition(".")[2] == group]
            raise unknown(group, source, known=meant) if meant else unknown(group, source, "table", GROUPS)
        if not isinstance(table, dict):
            raise SettingsError(group, value=MASK, source=str(source), allowed=f"a table, [{group}]")
        values.update({f"{group}.{key}": Given(value, source) for key, value in table.items()})
    return values


def from_environment(environ: Mapping[str, str]) -> Values:
    """Pick the settings out of an environment.

    Raises:
        SettingsError: A variable's text does not fit its type, or its name begins with
            REDSTREAMD_ and is no setting.
    """
    for name in environ:
        if name.startswith(_PREFIX) and name not in ENVIRONMENT and name != SOCKET_VARIABLE:
            source = Source(Rank.ENVIRONMENT, "the environment")
            raise unknown(name, source, "variable", (*ENVIRONMENT, SOCKET_VARIABLE))
    return {
        key: _read(key, environ[name], Source(Rank.ENVIRONMENT, f"environment variable {name}"))
        for name, key in ENVIRONMENT.items()
        if name in environ
    }


def from_command_line(
    assignments: Sequence[str], *, listen: Sequence[str] = (), embedded: bool = False
) -> Values:
    """Read the options of the command line.

    Args:
        assignments: Texts of the form ``group.key=value``, from ``--set``.
        listen: Addresses from ``--listen``; they win over ``--set daemon.listen``.
        embedded: Whether ``--embedded`` was given.

    Raises:
        SettingsError: An assignment has no ``=``, names no setting or does not fit.
    """
    values: Values = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            # What stands there instead may be a secret.
            text = "command line: --set takes group.key=value, and what was given has no ="
            raise SettingsError(
                "--set", value=MASK, source="command line", allowed="group.key=value", text=text
            )
        source = Source(Rank.COMMAND_LINE, f"command line (--set {key})")
        if key not in LEAVES:
            raise unknown(key, source)
        values[key] = _read(key, text, source)
    if listen:
        values["daemon.listen"] = Given(list(listen), Source(Rank.COMMAND_LINE, "command line (--listen)"))
    if embedded:
        values["daemon.embedded"] = Given(True, Source(Rank.COMMAND_LINE, "command line (--embedded)"))
    return values


def unknown(
    key: str, source: Source, kind: str = "setting", known: Iterable[str] = tuple(LEAVES)
) -> SettingsError:
    """Return the error for a name that means nothing, with the nearest that does.

    The value is never shown: it may be a password whose key was mistyped.
    """
    near = nearest_names(key, tuple(known), 1)
    return SettingsError(
        key,
        value=MASK,
        source=str(source),
        allowed=f"a {kind} that exists, such as {near[0]}",
        text=f"{source}: there is no {kind} {key}; the nearest is {near[0]}",
    )


def misfit(key: str, given: Given, allowed: str) -> SettingsError:
    """Return the error for a value that a setting does not take."""
    value = given.value
    if key == "redis.port" and isinstance(value, str) and value.startswith("tcp://"):
        allowed += (
            "; Kubernetes sets REDIS_PORT to an address when a service is named redis: set it in the pod's "
            "env, or put enableServiceLinks: false into the pod"
        )
    return SettingsError(key, value=shown(key, value), source=str(given.source), allowed=allowed)


def _read(key: str, text: str, source: Source) -> Given:
    try:
        return Given(LEAVES[key].read(text), source)
    except NotAllowedError as wrong:
        raise misfit(key, Given(text, source), str(wrong)) from None


def _unreadable(file: Path, asked_for: Path | None, reason: str) -> SettingsError:
    source = "the default place" if asked_for is None else "command line (--config)"
    allowed = "a TOML file that this user can read"
    text = f"settings file {file} cannot be used: {reason}; allowed: {allowed} (from {source})"
    return SettingsError(str(file), value=reason, source=source, allowed=allowed, text=text)
