"""The documentation of the settings, and values in TOML."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs

from redstreamd.encryption.encryption_rules import EncryptionRule
from redstreamd.policy.quotas import Quota
from redstreamd.policy.rate import Rate
from redstreamd.policy.rules import Rule
from redstreamd.settings.definitions import DEFINITIONS, GROUPS
from redstreamd.settings.listen_address import ListenAddress
from redstreamd.settings.node_address import AddressMapping, NodeAddress
from redstreamd.settings.reloading import RESTART_ONLY
from redstreamd.settings.sections import Settings
from redstreamd.settings.sources import DEFAULT_FILE, ENVIRONMENT

_HEAD = f"""\
# Settings

Generated from the definitions in `redstreamd/settings/`. A setting can be given in three places; a later one
overrides an earlier one:

- the file `{DEFAULT_FILE}`, or that of `--config`: `key = value` below `[group]` (TOML)
- the environment, under the names given below; of several for one setting the last wins
- the command line: `--set group.key=value`; `--listen ADDRESS` and `--embedded` are short forms

In the environment and with `--set`, lists are separated by commas, addresses of nodes also by spaces. An
unknown setting is an error, as is any other variable that begins with `REDSTREAMD_`, except those that
Kubernetes sets for services. `redstreamd check-config` prints each value with its source.

Values are read like this:

- An empty variable counts as not set. On the command line an empty text (`--set redis.password=`) resets the
  setting to its default.
- White space around a value and one pair of quotes (`docker run --env-file` keeps them) are removed. From a
  password, only a line break at its end is removed.
- A placeholder that was not expanded is an error: `${{NAME}}` with or without a default, `${{env:NAME}}`,
  `${{input:NAME}}`, `$(NAME)`, `$NAME`, `%NAME%`, `{{{{ name }}}}`. A password is refused only if the
  whole of it is a placeholder, and in the forms `$NAME` and `%NAME%` only if NAME is like `REDIS_PASSWORD`;
  put such a password into a file (`redis.password_file`).
- `REDIS_PORT=tcp://...`, which Kubernetes sets for a service named redis, is an error only if the port is
  used and not given otherwise: by a URL, a Unix socket or another source.
- Errors show an invalid value only if it cannot be a secret, and never the password in an address.

`systemctl reload redstreamd`, `redstreamd reload` and SIGHUP have a running daemon read all three again (the
command line and the environment as they were when it was started). If a setting is not valid, nothing
changes. The last line of each setting says whether a reload applies it.

`connect`, `call` and `status` read no settings. `REDSTREAMD_SOCKET` or `--socket` names the daemon's socket
if it is not in a usual place: a path, `unix:PATH`, `tcp:HOST:PORT` or `tls:HOST:PORT`, also with `//`. No
other place is tried then.
"""


@attrs.frozen
class Description:
    """The documentation of one setting.

    Attributes:
        key: Its dotted key: table and key in the file, name for ``--set``.
        allowed: Type and range, in words.
        default: In TOML, or in words if it depends on the environment.
        meaning: Unit, effect and reason.
        environment: The variables that set it; of several, the last wins.
        secret: Whether it is masked wherever it is shown.
    """

    key: str
    allowed: str
    default: str
    meaning: str
    environment: tuple[str, ...]
    secret: bool


def describe() -> tuple[Description, ...]:
    """Return every setting, in the order of definition."""
    defaults = {
        f"{group.name}.{definition.name}": definition.default
        for group in attrs.fields(attrs.resolve_types(Settings))
        if group.type is not None
        for definition in attrs.fields(group.type)
    }
    return tuple(
        Description(
            key=key,
            allowed=definition.allowed,
            default=str((definition.meta.extra or {}).get("default") or as_toml(defaults[key])),
            meaning=definition.meta.description or "",
            environment=tuple(name for name, meant in ENVIRONMENT.items() if meant == key),
            secret=definition.secret,
        )
        for key, definition in DEFINITIONS.items()
    )


def as_markdown() -> str:
    """Return the reference of all settings in Markdown, with a section for each table."""
    kinds = {field.name: field.type for field in attrs.fields(attrs.resolve_types(Settings))}
    lines: list[str] = [_HEAD]
    for group in GROUPS:
        lines += [f"## [{group}]", "", str(kinds[group].__doc__), ""]
        for setting in describe():
            table, _, key = setting.key.partition(".")
            if table == group:
                lines += [
                    f"### {key}",
                    "",
                    f"{setting.meaning}",
                    "",
                    f"- Allowed: {setting.allowed}",
                    f"- Default: {setting.default}",
                    f"- Environment: {', '.join(f'`{name}`' for name in setting.environment)}",
                    f"- Reload: {_at_reload(setting.key)}",
                    "",
                ]
    return "\n".join(lines)


def _at_reload(key: str) -> str:
    reason = RESTART_ONLY.get(key)
    return "applies at once" if reason is None else f"needs a restart, because {reason}"


def as_toml(value: Any) -> str:
    """Return a value in TOML, or "(not set)" for None."""
    if value is None:
        return "(not set)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(int(value)) if value == int(value) else str(value)
    if isinstance(value, tuple):
        if value and isinstance(value[0], AddressMapping):
            pairs = (f"{as_toml(each.announced)} = {as_toml(each.address)}" for each in value)
            return f"{{{', '.join(pairs)}}}"
        return f"[{', '.join(as_toml(item) for item in value)}]"
    if isinstance(value, (str, Path, EncryptionRule, ListenAddress, NodeAddress, Quota, Rate, Rule)):
        # A JSON string is a TOML basic string, except that TOML requires DEL to be escaped.
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    raise TypeError(f"a setting of type {type(value).__name__}")
