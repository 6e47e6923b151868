"""Reads the sources of settings: file, environment and command line, as flat dotted keys.

Merging and checking are `loading`'s.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from redstreamd.addresses.address_syntax import MASK, unquoted, without_login
from redstreamd.addresses.default_paths import SOCKET_VARIABLE
from redstreamd.errors import SettingsError
from redstreamd.errors.nearest_names import nearest_names
from redstreamd.settings.definitions import DEFINITIONS, GROUPS, shown_if_invalid
from redstreamd.settings.value_types import NotAllowedError
from redstreamd.startup.unexpanded_variables import placeholder_as_secret, placeholder_in, placeholder_in_url

DEFAULT_FILE = Path("/etc/redstreamd/redstreamd.toml")

_PREFIX = "REDSTREAMD_"

ENVIRONMENT: Mapping[str, str] = {
    # Names that Redis clients and containers have in common. Ours come after them and take precedence.
    "REDIS_URL": "redis.url",
    "REDIS_HOST": "redis.host",
    "REDIS_PORT": "redis.port",
    "REDIS_USERNAME": "redis.username",
    "REDIS_PASSWORD": "redis.password",
    "REDIS_PASSWORD_FILE": "redis.password_file",
    "REDIS_DB": "redis.database",
    "REDIS_TOPOLOGY": "redis.topology",
    "REDIS_NODES": "redis.nodes",
    "REDIS_SENTINEL_PRIMARY": "redis.sentinel_primary",
    "REDIS_SENTINEL_USERNAME": "redis.sentinel_username",
    "REDIS_SENTINEL_PASSWORD": "redis.sentinel_password",
    "REDIS_SENTINEL_PASSWORD_FILE": "redis.sentinel_password_file",
    **{f"{_PREFIX}{key.replace('.', '_').upper()}": key for key in DEFINITIONS},
}
"""Environment variable to dotted key."""

#: A text that can be the name of a setting. Others before an = may contain a secret.
_KEY = re.compile(r"[a-z_]{1,40}(\.[a-z_]{1,40})?")

#: The variables that Kubernetes sets in every pod for a service whose name begins with redstreamd
#: (https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables).
_SERVICE_LINK = re.compile(
    r"REDSTREAMD(_[A-Z0-9]+)*?_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_SERVICE_PORT = re.compile(r"REDSTREAMD(_[A-Z0-9]+)*?_PORT")
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://", re.IGNORECASE)


class Precedence(enum.IntEnum):
    """The precedence of the sources; the greater overrides."""

    DEFAULT = 0
    FILE = 1
    ENVIRONMENT = 2
    COMMAND_LINE = 3


@attrs.frozen
class Source:
    """The source of a value; `label` names the file, the variable or the option."""

    precedence: Precedence
    label: str

    def __str__(self) -> str:
        """Return the label."""
        return self.label

    @property
    def given_by(self) -> str:
        """The variable or the option, for use after "given by"; empty for the file and for a default."""
        if self.precedence is Precedence.COMMAND_LINE:
            return self.label.removeprefix("command line (").removesuffix(")")
        return self.label if self.precedence is Precedence.ENVIRONMENT else ""


@attrs.frozen
class RawValue:
    """A value from one source, not checked yet."""

    value: Any = attrs.field(repr=False)
    source: Source


Values = dict[str, RawValue]
"""Dotted key to value."""

UNSET: Any = object()
"""Resets a setting to its default."""


def from_file(path: Path | None, default: Path = DEFAULT_FILE) -> Values:
    """Read a TOML file.

    Args:
        path: The file; if None, `default`.
        default: The default file, which need not exist.

    Raises:
        SettingsError: It cannot be read, is not TOML, or has a key outside of a table or a placeholder.
    """
    file = path or default
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as missing:
        if path is None:
            return {}
        raise _unreadable(file, path, "no such file") from missing
    except OSError as refused:
        raise _unreadable(file, path, refused.strerror or type(refused).__name__) from refused
    except UnicodeDecodeError as not_text:
        raise _unreadable(file, path, "not UTF-8") from not_text
    # Only where there is a file.
    import tomllib

    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as not_toml:
        raise _unreadable(file, path, str(not_toml)) from not_toml
    except RecursionError:
        raise _unreadable(file, path, "nested too deeply") from None
    source = Source(Precedence.FILE, f"file {file}")
    values: Values = {}
    for group, table in content.items():
        if group not in GROUPS:
            # A key before the first [table] is usually a setting without its table.
            meant = [key for key in DEFINITIONS if key.partition(".")[2] == group]
            raise unknown(group, source, known=meant) if meant else unknown(group, source, "table", GROUPS)
        if not isinstance(table, dict):
            raise SettingsError(group, value=MASK, source=str(source), allowed=f"a table, [{group}]")
        values.update({f"{group}.{key}": RawValue(value, source) for key, value in table.items()})
    for key, given in values.items():
        for text in given.value if isinstance(given.value, list) else [given.value]:
            if key in DEFINITIONS and isinstance(text, str):
                refuse_placeholder(key, text, source)
    return values


def from_environment(environ: Mapping[str, str]) -> Values:
    """Return the settings in an environment. An empty variable counts as not set.

    `redis.port` may be the text of a Kubernetes service link; see `is_service_link`.

    Raises:
        SettingsError: A variable has an invalid value or a placeholder, or its name begins with REDSTREAMD_
            and is not known.
    """
    given = {name: text for name, text in environ.items() if unquoted(text)}
    for name, text in given.items():
        if name.startswith(_PREFIX) and name not in ENVIRONMENT and name != SOCKET_VARIABLE:
            if _SERVICE_LINK.fullmatch(name) or (
                _SERVICE_PORT.fullmatch(name) and _SERVICE_ADDRESS.match(text)
            ):
                continue
            source = Source(Precedence.ENVIRONMENT, "the environment")
            raise unknown(name, source, "variable", (*ENVIRONMENT, SOCKET_VARIABLE))
    values: Values = {}
    for name, key in ENVIRONMENT.items():
        if name not in given:
            continue
        source = Source(Precedence.ENVIRONMENT, f"environment variable {name}")
        link = RawValue(unquoted(given[name]), source)
        if key != "redis.port" or not is_service_link(link):
            values[key] = _read(key, given[name], source, name)
        elif key not in values:
            values[key] = link
    return values


def is_service_link(given: RawValue | None) -> bool:
    """Whether this is an address that Kubernetes sets as REDIS_PORT for a service named redis.

    (REDSTREAMD_REDIS_PORT for one named redstreamd-redis.)
    """
    return (
        given is not None
        and given.source.precedence is Precedence.ENVIRONMENT
        and isinstance(given.value, str)
        and bool(_SERVICE_ADDRESS.match(given.value))
    )


def from_command_line(
    assignments: Sequence[str], *, listen: Sequence[str] = (), embedded: bool = False
) -> Values:
    """Read the options of the command line.

    Args:
        assignments: Texts of the form ``group.key=value``, from ``--set``.
        listen: Addresses from ``--listen``; they win over ``--set daemon.listen``.
        embedded: Whether ``--embedded`` was given.

    Raises:
        SettingsError: An assignment has no ``=``, an unknown setting, an invalid value or a placeholder.
    """
    values: Values = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            # The text may be a secret.
            text = "command line: --set takes group.key=value, and the given text has no ="
            raise SettingsError(
                "--set", value=MASK, source="command line", allowed="group.key=value", text=text
            )
        source = Source(Precedence.COMMAND_LINE, f"command line (--set {key})")
        if key not in DEFINITIONS:
            shown_key = key if _KEY.fullmatch(key) else MASK
            raise unknown(shown_key, Source(Precedence.COMMAND_LINE, f"command line (--set {shown_key})"))
        # Unlike an empty variable, an empty assignment resets the setting.
        if unquoted(text):
            values[key] = _read(key, text, source)
        else:
            values[key] = RawValue(None if DEFINITIONS[key].optional else UNSET, source)
    if listen:
        source = Source(Precedence.COMMAND_LINE, "command line (--listen)")
        addresses = [address for each in listen if (address := unquoted(each))]
        for address in addresses:
            refuse_placeholder("daemon.listen", address, source)
        if addresses:
            values["daemon.listen"] = RawValue(addresses, source)
    if embedded:
        values["daemon.embedded"] = RawValue(
            True, Source(Precedence.COMMAND_LINE, "command line (--embedded)")
        )
    return values


def unknown(
    key: str, source: Source, kind: str = "setting", known: Iterable[str] = tuple(DEFINITIONS)
) -> SettingsError:
    """Return the error for an unknown name, with the nearest known one.

    The value is not shown: it may be a password with a mistyped key.
    """
    near = nearest_names(key, tuple(known), 1)
    return SettingsError(
        key,
        value=MASK,
        source=str(source),
        allowed=f"a {kind} that exists, such as {near[0]}",
        text=f"{source}: there is no {kind} {key}; the nearest is {near[0]}",
    )


def invalid_value(key: str, given: RawValue, allowed: str) -> SettingsError:
    """Return the error for an invalid value."""
    value = given.value
    if key == "redis.port" and is_service_link(given):
        allowed += (
            "; Kubernetes sets this variable to an address for a service of that name: set it to the port in "
            "the pod's env, give the whole address as REDIS_URL, or set enableServiceLinks: false in the pod"
        )
    return SettingsError(key, value=shown_if_invalid(key, value), source=str(given.source), allowed=allowed)


def refuse_placeholder(key: str, text: str, source: Source, variable: str = "") -> None:
    """Check a text for a placeholder that a launcher did not expand.

    Raises:
        SettingsError: It has one; the error shows nothing else of the text.
    """
    if DEFINITIONS[key].secret:
        found = placeholder_as_secret(text)
    else:
        found = placeholder_in_url(text) if "://" in text or "@" in text else placeholder_in(text)
    if found is None:
        return
    if source.precedence is Precedence.FILE:
        own = next(name for name, meant in ENVIRONMENT.items() if meant == key)
        why = "nothing is expanded in the settings file"
        allowed = f"the value itself; or leave {key} out and set the environment variable {own}"
    else:
        why = "it was not expanded"
        allowed = (
            f"the value itself; set {found} for the program that starts redstreamd, or leave "
            f"{variable or 'this option'} out"
        )
    if DEFINITIONS[key].secret:
        allowed += f"; if the password really looks like this, put it into a file ({key}_file)"
    text = f"setting {key}={found!r} from {source} is a placeholder, and {why}; allowed: {allowed}"
    raise SettingsError(key, value=found, source=str(source), allowed=allowed, text=text)


def _read(key: str, text: str, source: Source, variable: str = "") -> RawValue:
    definition = DEFINITIONS[key]
    # A password may begin and end with any character but a line break.
    text = text.removesuffix("\n").removesuffix("\r") if definition.secret else unquoted(text)
    refuse_placeholder(key, text, source, variable)
    try:
        return RawValue(definition.read(text), source)
    except NotAllowedError as wrong:
        raise invalid_value(key, RawValue(text, source), str(wrong)) from None


def _unreadable(file: Path, asked_for: Path | None, reason: str) -> SettingsError:
    source = "the default place" if asked_for is None else "command line (--config)"
    name = without_login(str(file))
    allowed = "a TOML file that this user can read"
    text = f"settings file {name} cannot be used: {reason}; allowed: {allowed} (from {source})"
    return SettingsError(name, value=reason, source=source, allowed=allowed, text=text)
