"""The settings as documentation, and values as the TOML a person would write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs

from redstreamd.settings.definitions import GROUPS, LEAVES
from redstreamd.settings.listen_address import ListenAddress
from redstreamd.settings.sections import Settings
from redstreamd.settings.sources import DEFAULT_FILE, ENVIRONMENT

_HEAD = f"""\
# Settings

Generated from the definitions in `redstreamd/settings/`. A setting can be given in three places, of which the
later wins:

- in the file `{DEFAULT_FILE}`, or the one that `--config` names, as `key = value` below `[group]` (TOML)
- in the environment, under the names given below; of several for one setting the last wins
- on the command line, as `--set group.key=value`; `--listen ADDRESS` and `--embedded` are short forms of two

In the environment and with `--set` a list is written with commas. A setting that does not exist is an error,
and so is any other variable that begins with `REDSTREAMD_` and is not one that Kubernetes sets for a service.
`redstreamd check-config` prints each value in force and where it came from.

What launchers hand over is read like this:

- An empty variable counts as not set. On the command line an empty text (`--set redis.password=`) puts a
  setting back to its default, whatever earlier sources say.
- Spaces and line breaks around a value, and one pair of quotes (`docker run --env-file` keeps them), are not
  part of it. Of a password only a line break at its end is left out; its quotes are kept.
- A placeholder that nobody expanded is an error: `${{NAME}}` with or without a default, `${{env:NAME}}`,
  `${{input:NAME}}`, `$(NAME)`, `$NAME`, `%NAME%`, `{{{{ name }}}}`. Of a password, only one that it is as a
  whole, and `$NAME` and `%NAME%` only where NAME is written like `REDIS_PASSWORD`; a password that looks like
  this goes into a file (`redis.password_file`).
- `REDIS_PORT=tcp://...`, which Kubernetes sets for a service named redis, is an error only where the port is
  used and nothing else names it: not with a URL, a Unix socket, another source's port, or `daemon.embedded`.
- A value that is refused is shown only if it cannot be a secret; of an address, never the password.

The programs that look for the daemon (`connect`, `call`, `status`) read no settings; `REDSTREAMD_SOCKET`, or
`--socket`, names the daemon's socket where it is not in a usual place: a path, `unix:PATH` or
`tcp:HOST:PORT`, also with `//`.
"""


@attrs.frozen
class Description:
    """What there is to know about one setting.

    Attributes:
        key: Its dotted key: table and key in the file, name for ``--set``.
        allowed: Type and range, in words.
        default: As TOML, or in words where it depends on the environment.
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
        f"{group.name}.{leaf.name}": leaf.default
        for group in attrs.fields(attrs.resolve_types(Settings))
        if group.type is not None
        for leaf in attrs.fields(group.type)
    }
    return tuple(
        Description(
            key=key,
            allowed=leaf.allowed,
            default=str((leaf.meta.extra or {}).get("default") or as_toml(defaults[key])),
            meaning=leaf.meta.description or "",
            environment=tuple(name for name, meant in ENVIRONMENT.items() if meant == key),
            secret=leaf.secret,
        )
        for key, leaf in LEAVES.items()
    )


def as_markdown() -> str:
    """Return the reference of all settings as Markdown, one section a table."""
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
                    "",
                ]
    return "\n".join(lines)


def as_toml(value: Any) -> str:
    """Return a value in TOML's notation, or "(not set)" for what TOML cannot say."""
    if value is None:
        return "(not set)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(int(value)) if value == int(value) else str(value)
    if isinstance(value, tuple):
        return f"[{', '.join(as_toml(item) for item in value)}]"
    if isinstance(value, (str, Path, ListenAddress)):
        # Every JSON string is a TOML basic string, but for DEL, which TOML wants escaped.
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    raise TypeError(f"a setting of type {type(value).__name__}")
