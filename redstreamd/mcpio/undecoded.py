"""Finds the id of a message that is not decoded, because it is too long or holds too much.

An error that answers such a message should name its id, but a wrong id would be worse than none: another
request may have it. So the members are read as JSON, as far as they go.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

#: One token, whitespace before it included; a string is whole, another scalar may be cut at the end.
_TOKEN: Final = re.compile(rb'[ \t\r\n]*([{}\[\],:]|"(?:[^"\\]|\\.)*"|[^][{},:" \t\r\n]+)', re.DOTALL)
#: What leads up to the next bracket that is not inside a string, and that bracket.
_BRACKET: Final = re.compile(rb'(?:[^][{}"]|"(?:[^"\\]|\\.)*")*([][{}])', re.DOTALL)
_CLOSING: Final = {b"{": b"}", b"[": b"]"}

# The id at the end of a line, beside the member that clients write after it.
_ID_LAST: Final = re.compile(
    rb',\s*"id"\s*:\s*(-?(?:0|[1-9][0-9]{0,18})|"[\x20\x21\x23-\x5b\x5d-\x7e]{0,100}")'
    rb'\s*(?:,\s*"jsonrpc"\s*:\s*"2\.0"\s*)?\}\s*\Z'
)
#: How much is read at the beginning and at the end of a line.
_FIRST_BYTES: Final = 4_096
_LAST_BYTES: Final = 256
#: Tokens that are read, of nested values only the brackets: 0.5 ms.
_TOKENS: Final = 250


def id_in_beginning(beginning: bytes) -> Any:
    """Return the value of the member ``id`` of the message that begins so; None if there is no telling.

    None, too, if the member is there twice, or what is before it is not JSON.
    """
    return _id_among(_members(beginning))


def id_in_line(line: bytes) -> Any:
    """Return the same for a whole line, in which the id may also be at the end."""
    members = _members(line[:_FIRST_BYTES])
    if members is None or any(name == "id" for name, _ in members):
        return _id_among(members)
    match = _ID_LAST.search(line[-_LAST_BYTES:])
    return None if match is None else json.loads(match[1])


def is_response(beginning: bytes) -> bool:
    """Return whether a message that begins so is an answer, which is never answered itself."""
    names = {name for name, _ in _members(beginning) or ()}
    return "method" not in names and not names.isdisjoint({"result", "error"})


def _id_among(members: list[tuple[str, Any]] | None) -> Any:
    values = [value for name, value in members or () if name == "id"]
    return values[0] if len(values) == 1 else None


def _members(beginning: bytes) -> list[tuple[str, Any]] | None:
    """Return the members of the object that begins so, with None for arrays and objects.

    A member that may have been cut off is left out. None if it is no object, or no JSON.
    """
    try:
        return list(_read_members(beginning))
    except ValueError:
        return None


def _read_members(beginning: bytes) -> Iterator[tuple[str, Any]]:
    """Iterate over the members, as `_members` returns them.

    Raises:
        ValueError: It is no object, or no JSON.
    """
    closing: list[bytes] = []
    # Of the object itself: what may come next, and the name of the member that is read.
    expected, name = b"{", ""
    position = 0
    for _ in range(_TOKENS):
        match = (_BRACKET if closing[1:] else _TOKEN).match(beginning, position)
        if match is None:
            return
        token, position = match[1], match.end()
        if closing[1:]:
            # Inside of a member's value only brackets matter.
            if token in _CLOSING:
                closing.append(_CLOSING[token])
            elif token in b"}]" and token != closing.pop():
                raise ValueError("a bracket is closed by another kind")
            continue
        if expected == b"value":
            expected = b","
            if token in _CLOSING:
                closing.append(_CLOSING[token])
                yield name, None
            elif token[:1] == b'"' or position < len(beginning):
                yield name, json.loads(token.decode())
        elif token[:1] == b'"' and expected == b"name":
            name, expected = json.loads(token.decode()), b":"
        elif token == b"}" and expected in (b",", b"name"):
            return
        elif token != expected:
            raise ValueError("a token is not where JSON allows it")
        elif token == b"{":
            closing.append(b"}")
            expected = b"name"
        else:
            expected = b"value" if token == b":" else b"name"
