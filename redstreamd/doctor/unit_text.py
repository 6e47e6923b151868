"""Parses systemd's texts about units; pure functions.

These are the output of ``systemctl show`` and ``systemctl cat``, environment files (systemd.exec(5)) and
command lines (systemd.service(5)).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import attrs

# An assignment in an environment file: quoted parts, then text up to the end of the line. A quote within that
# text is an ordinary character. A backslash continues the line.
_ASSIGNMENT: Final = re.compile(
    r"""
    ^[ \t]*(?P<name>[A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t]*
    (?P<quoted>(?:(?:'[^']*'|"(?:\\.|[^"\\])*")[ \t]*)*)
    (?P<rest>(?:\\.|[^\n\\])*)
    """,
    re.MULTILINE | re.DOTALL | re.VERBOSE,
)
_QUOTED: Final = re.compile(r"""'(?P<plain>[^']*)'|"(?P<escaped>(?:\\.|[^"\\])*)\"""", re.DOTALL)

# A word of a property: in double quotes if it has characters that are special to a shell.
_WORD: Final = re.compile(r'"((?:\\.|[^"\\])*)"|\S+')


def environment_file(text: str) -> dict[str, str]:
    """Return the assignments of an environment file; other lines are ignored, as systemd does."""
    # Comments first: a backslash does not continue them.
    kept = "\n".join(line for line in text.split("\n") if not line.lstrip().startswith(("#", ";")))
    return {found["name"]: _value(found["quoted"], found["rest"]) for found in _ASSIGNMENT.finditer(kept)}


def _value(quoted: str, rest: str) -> str:
    parts = [
        part["plain"]
        if part["plain"] is not None
        else re.sub(r'\\(["\\`$])', r"\1", part["escaped"].replace("\\\n", ""))
        for part in _QUOTED.finditer(quoted)
    ]
    # Blanks at the end are removed, unless they are escaped.
    trimmed = re.sub(r"(?<!\\)[ \t\r]+\Z", "", rest)
    return "".join(parts) + re.sub(r"\\(.)", r"\1", trimmed.replace("\\\n", ""), flags=re.DOTALL)


def properties(shown: str) -> dict[str, list[str]]:
    """Parse the output of ``systemctl show``: property -> values, one for each line."""
    values: dict[str, list[str]] = {}
    for line in shown.splitlines():
        name, equals, value = line.partition("=")
        if equals:
            values.setdefault(name, []).append(value)
    return values


def environment_of(shown: str) -> dict[str, str]:
    """Parse the property ``Environment``."""
    words = (re.sub(r"\\(.)", r"\1", found[1] or "") or found[0] for found in _WORD.finditer(shown))
    pairs = (word.partition("=") for word in words)
    return {name: value for name, equals, value in pairs if equals}


def command_words(shown: str, environ: Mapping[str, str]) -> list[str]:
    """Return the words of the property ``ExecStart``, with variables expanded as systemd does.

    systemctl joins the words with blanks, so a word with a blank becomes several.
    """
    found = re.search(r"argv\[\]=(.*?) ; ignore_errors=", shown, re.DOTALL)
    words: list[str] = []
    for word in found[1].split() if found else ():
        if alone := re.fullmatch(r"\$([A-Za-z_]\w*)", word):
            words += environ.get(alone[1], "").split()
        else:
            text = re.sub(r"\$\{([A-Za-z_]\w*)\}", lambda name: environ.get(name[1], ""), word)
            words.append(text.replace("$$", "$"))
    return words


@attrs.frozen
class Credential:
    """A credential of a unit.

    Attributes:
        name: Its file name in the directory of credentials.
        source: The file that it is read from; None if the unit has the content.
        content: The content in the unit; None if it names a file.
        encrypted: Whether only systemd can read it.
        origin: The unit file or drop-in that declares it.
    """

    name: str
    source: Path | None
    content: str | None = attrs.field(repr=False)
    encrypted: bool
    origin: str


def credentials(text: str) -> list[Credential]:
    """Return the credentials in the output of ``systemctl cat``; an empty value resets the list."""
    kept: dict[str, list[Credential]] = {"Load": [], "Set": []}
    for origin, key, value in _assignments(text):
        found = re.fullmatch(r"(Load|Set)Credential(Encrypted)?", key)
        if found is None:
            continue
        if not value:
            kept[found[1]].clear()
            continue
        name, colon, given = value.partition(":")
        load = found[1] == "Load"
        kept[found[1]].append(
            Credential(
                name,
                # Without a path the name is that of a credential in systemd's stores.
                source=Path(given if colon else name) if load else None,
                content=None if load else given,
                encrypted=found[2] is not None,
                origin=origin,
            )
        )
    return kept["Load"] + kept["Set"]


def _assignments(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield file, key and value of the assignments in section [Service]."""
    origin, section = "", ""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        line = line.strip()
        if comment := re.fullmatch(r"# (/.*)", line):
            origin = comment[1]
        elif line.startswith("["):
            section = line
        elif section == "[Service]" and not line.startswith(("#", ";")):
            key, equals, value = line.partition("=")
            if equals:
                yield origin, key.strip(), value.strip()
