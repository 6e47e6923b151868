"""Finds placeholders for variables that a launcher did not expand.

Standard library only, for `redstreamd connect`. Only the name in a placeholder is returned: a default in it
may be a secret.
"""

from __future__ import annotations

import re

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"

#: ``${NAME}`` and its forms with a default (shells, Docker Compose), ``${env:NAME}`` and ``${input:id}``
#: (VS Code), ``$(NAME)`` (what Kubernetes leaves if NAME is not defined), ``{{ name }}`` (templates).
_BRACED = re.compile(
    rf"\$\{{\s*(?P<kind>[a-z]+:)?(?P<braced>{_NAME})[^{{}}]*\}}"
    rf"|\$\((?P<kubernetes>{_NAME})\)"
    rf"|\{{\{{-?\s*\.?(?P<template>[A-Za-z_][\w.]*)[^{{}}]*\}}\}}"
)

#: ``$NAME`` and ``$env:NAME`` (PowerShell) where a word begins, ``%NAME%`` (cmd.exe).
_BARE = re.compile(rf"(?<![\w$])\$(?P<env>env:)?(?P<dollar>{_NAME})|%(?P<percent>{_NAME})%")

#: Usual names of variables that hold a secret. Other texts of the form ``$abc`` can be real passwords.
_CONVENTIONAL = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+|PASSWORD|PASSWD|PASS|PWD|SECRET|TOKEN")

#: A percent-encoded character.
_ENCODED = re.compile(r"%[0-9A-Fa-f]{2}")


def placeholder_in(text: str) -> str | None:
    """Return the first placeholder in `text`, such as "${REDIS_HOST}", or None."""
    found = _BRACED.search(text) or _BARE.search(text)
    return None if found is None else _shown(found)


def placeholder_as_secret(text: str) -> str | None:
    """Return `text` if the whole of it is a placeholder, or None if it may be a real secret.

    ``${NAME}`` is a placeholder; ``$NAME`` and ``%NAME%`` are if NAME looks like a variable, such as
    REDIS_PASSWORD.
    """
    if (braced := _BRACED.fullmatch(text)) is not None:
        return _shown(braced)
    bare = _BARE.fullmatch(text)
    if bare is not None and (bare["env"] or _CONVENTIONAL.fullmatch(bare["dollar"] or bare["percent"])):
        return _shown(bare)
    return None


def placeholder_in_url(text: str) -> str | None:
    """Return the first placeholder in a URL, or None.

    In the password only a placeholder as a whole counts. ``%NAME%`` counts only where it cannot be read as a
    percent-encoded character.
    """
    scheme, separator, rest = text.rpartition("://")
    login, at, place = rest.rpartition("@")
    user, colon, password = login.partition(":")
    if colon and (found := placeholder_as_secret(password)) is not None:
        return found
    for part in (f"{scheme}{separator}{user}", place if at else rest):
        braced = _BRACED.search(part)
        bare = next((each for each in _BARE.finditer(part) if not _ENCODED.match(each[0])), None)
        if (match := braced or bare) is not None:
            return _shown(match)
    # The host of a URL has no percent signs.
    host = re.split(r"[/?#]", place if at else rest, maxsplit=1)[0]
    return placeholder_in(host) if "[" not in host else None


def _shown(found: re.Match[str]) -> str:
    """Return the placeholder in its usual form, without a default."""
    named = found.groupdict()
    if name := named.get("braced"):
        return f"${{{named['kind'] or ''}{name}}}"
    if name := named.get("kubernetes"):
        return f"$({name})"
    if name := named.get("template"):
        return f"{{{{ {name} }}}}"
    if name := named.get("dollar"):
        return f"${named['env'] or ''}{name}"
    return f"%{named['percent']}%"
