"""Decoding the fields of an entry as a JSON object; `entry_encoding` has their format, and encodes them.

Values of other writers need not be text: bytes that are not UTF-8 are shown in base64, and their names are
listed as `binary`. A field name that occurs more than once gives a list, and is listed as `repeated`. An
encrypted entry that was not opened is decoded to its clear members only.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import msgspec

from redstreamd import strict_json
from redstreamd.encryption.sealed_format import CLEAR, ENCRYPTED
from redstreamd.errors import BusError
from redstreamd.redisio.reply_parsing import RawEntry
from redstreamd.streams.entry_encoding import (
    ESCAPE,
    FORMAT,
    JSON_NAMES,
    NO_STAMP,
    PREFIX_TEXT,
    STAMPED,
    VERSION,
    Stamp,
)

ValueT = TypeVar("ValueT")

PREFIX = PREFIX_TEXT.encode()
_ESCAPE = ESCAPE.encode()
_DEAD = b"_rs.dead"
_ENCRYPTED, _CLEAR = ENCRYPTED.encode(), CLEAR.encode()
_RESERVED = frozenset((VERSION, JSON_NAMES, *STAMPED.values()))

#: As deep as a message may be (limits.max_nesting). No result could carry deeper JSON of another program: the
#: SDK's serializer fails at 255, and readers could not get past the entry.
MAX_NESTING = 200

#: Limits in bytes of stamps and of the note of a dead letter: more than redstreamd writes with any setting
#: (the name of a reply stream has a stream's twice). Unlike fields, they cannot be truncated in a result.
#: Longer values, of other programs, are not treated as stamps.
_MAX_STAMP_BYTES = {
    "sender": 1_024,
    "correlation_id": 1_024,
    "reply_to": 135_168,
    "in_reply_to": 135_168,
    "released": 1_024,
}
_MAX_NOTE_BYTES, _NOTE_SHOWN = 4 << 20, 1_000

#: Bytes of the names of an entry, or of its reserved fields, whose meaning is remembered, and of how many.
_MAX_REMEMBERED, _MAX_MEANINGS = 256, 1_024

Fields = Sequence[tuple[bytes, bytes]]


class Decoded(msgspec.Struct, frozen=True):
    """An entry's fields as JSON, and what JSON cannot express.

    Attributes:
        members: The object; equal to the one that was encoded.
        stamp: Added by the daemon that wrote it; empty for entries of other programs.
        binary: Names whose values are base64 because they are not UTF-8.
        repeated: Names that occur more than once; their values are lists, in order.
        dead_letter: The note of a dead letter.
        encrypted: How it is encrypted, if it is, and was not opened: `members` are those that are clear.
    """

    members: dict[str, Any]
    stamp: Stamp = NO_STAMP
    binary: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()
    dead_letter: dict[str, Any] | None = None
    encrypted: str | None = None


def decode_all(entries: Iterable[RawEntry]) -> list[Decoded]:
    """Return of each entry what `decode` makes of its fields.

    Most entries of a stream have the same names, and the same reserved fields: what these mean is found out
    once for all that follow each other, and what small ones mean is remembered.
    """
    decoded = []
    # As they came, bytes or text.
    names: list[Any] = []
    members: tuple[str, ...] | None = ()
    ends_with: list[Any] = []
    read: tuple[frozenset[str], Stamp] | None = None
    for entry in entries:
        words = entry.words
        if words[::2] != names:
            names = words[::2]
            members = MEMBERS[tuple(names)]
            read = None
        if members is None:
            decoded.append(decode(entry.fields))
            continue
        values = words[1::2]
        end = values[len(members) :]
        if read is None or end != ends_with:
            ends_with = end
            read = RESERVED_PART[tuple(words[2 * len(members) :])]
            if read is None:
                decoded.append(decode(entry.fields))
                continue
        if members and type(values[0]) is bytes:
            try:
                values = [value.decode() for value in values[: len(members)]]
            except UnicodeDecodeError:
                decoded.append(decode(entry.fields))
                continue
        object_ = dict(zip(members, values))  # noqa: B905 - the reserved values are left over
        for name in read[0].intersection(members) if read[0] else ():
            object_[name] = stored_value(object_[name])
        decoded.append(Decoded(object_, read[1]))
    return decoded


def _member_names(written: Sequence[Any]) -> tuple[str, ...] | None:
    """Return the names of an entry's members, if these are its first fields and need no closer look."""
    try:
        names: Sequence[str] = [name.decode() if type(name) is bytes else name for name in written]
    except UnicodeDecodeError:
        return None
    end = len(names)
    while end and names[end - 1] in _RESERVED:
        end -= 1
    if len(set(names)) < len(names) or any(name.startswith(PREFIX_TEXT) for name in names[:end]):
        return None
    return tuple(names[:end])


class _Meanings(dict[tuple[Any, ...], ValueT]):
    """What words mean that came as bytes or as text: found out when it is asked for; that of few is kept."""

    def __init__(self, find: Callable[[tuple[Any, ...]], ValueT]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, words: tuple[Any, ...]) -> ValueT:
        meaning = self._find(words)
        if len(words) + sum(map(len, words)) <= _MAX_REMEMBERED:
            if len(self) >= _MAX_MEANINGS:
                self.clear()
            self[words] = meaning
        return meaning


#: By an entry's names: which of them are its members', if they come first and need no closer look.
MEMBERS = _Meanings(_member_names)


def decode(fields: Fields) -> Decoded:
    """Return the JSON object in an entry's fields. Never fails, whatever they contain."""
    dead_letter = None
    if fields and fields[-1][0] == _DEAD:
        dead_letter = _object(fields[-1][1])
        fields = fields[:-1]
    # Reserved fields come last, so an entry of another program costs one comparison.
    end = len(fields)
    while end and (name := fields[end - 1][0])[: len(PREFIX)] == PREFIX and not name.startswith(_ESCAPE):
        end -= 1
    read = _read_reserved(tuple(fields[end:]))
    if read is None:
        members, binary, repeated = _plain(fields)
        return Decoded(members, NO_STAMP, binary, repeated, dead_letter)
    as_json, stamp = read
    data = [pair for pair in fields[:end] if pair[0][: len(PREFIX)] != PREFIX]
    if len(data) < end:
        data = [
            (name.removeprefix(_ESCAPE), value)
            for name, value in fields[:end]
            if name.startswith(_ESCAPE) or not name.startswith(PREFIX)
        ]
    encrypted = None
    if (found := next((value for name, value in fields if name == _ENCRYPTED), None)) is not None:
        encrypted = found.decode("utf-8", "backslashreplace")
        clear = _names(next((value for name, value in fields if name == _CLEAR), None))
        data = [pair for pair in fields[:end] if pair[0].decode("utf-8", "replace") in clear]
        data = [(name.removeprefix(_ESCAPE), value) for name, value in data]
    members, binary, repeated = _plain(data)
    if as_json:
        for member in as_json.difference(binary, repeated).intersection(members):
            members[member] = stored_value(members[member])
    return Decoded(members, stamp, binary, repeated, dead_letter, encrypted)


def _read_reserved(fields: Fields) -> tuple[frozenset[str], Stamp] | None:
    """Return the names whose values are JSON, and the stamp; None if the fields are not of this format.

    The same fields recur in most entries of a stream, so what small ones mean is remembered.
    """
    if not fields:
        return None
    size = sum(len(name) + len(value) for name, value in fields)
    return _remembered(fields) if size <= _MAX_REMEMBERED else _read(fields)


def _read(fields: Fields) -> tuple[frozenset[str], Stamp] | None:
    # Of a field that occurs twice the first counts.
    reserved = {name.decode("utf-8", "replace"): value for name, value in reversed(fields)}
    if reserved.get(VERSION) != FORMAT.encode():
        return None
    stamp = Stamp(
        **{name: _text(reserved.get(field), _MAX_STAMP_BYTES[name]) for name, field in STAMPED.items()}
    )
    return _names(reserved.get(JSON_NAMES)), stamp


def _read_words(words: tuple[Any, ...]) -> tuple[frozenset[str], Stamp] | None:
    """Return what `_read_reserved` does for names with their values in turn; nothing for no words."""
    as_bytes = [word if type(word) is bytes else word.encode() for word in words]
    pairs = tuple(zip(as_bytes[::2], as_bytes[1::2], strict=True))
    return _read_reserved(pairs) if pairs else (frozenset(), NO_STAMP)


_remembered = lru_cache(maxsize=1_024)(_read)
#: By reserved fields and values in turn: which members are JSON, and the stamp; None if not of this format.
RESERVED_PART = _Meanings(_read_words)


def _plain(fields: Fields) -> tuple[dict[str, Any], tuple[str, ...], tuple[str, ...]]:
    try:
        members: dict[str, Any] = {name.decode(): value.decode() for name, value in fields}
    except UnicodeDecodeError:
        pass
    else:
        if len(members) == len(fields):
            return members, (), ()
    members = {}
    binary: dict[str, None] = {}
    repeated: dict[str, None] = {}
    for field, value in fields:
        name = field.decode("utf-8", "backslashreplace")
        try:
            text = value.decode()
        except UnicodeDecodeError:
            text = base64.b64encode(value).decode("ascii")
            binary[name] = None
        if name not in members:
            members[name] = text
        elif name in repeated:
            members[name].append(text)
        else:
            members[name] = [members[name], text]
            repeated[name] = None
    return members, tuple(binary), tuple(repeated)


def stored_value(text: str) -> Any:
    """Return the JSON value in a field, or its text itself: a forged marker must not fail a reader."""
    try:
        value = msgspec.json.decode(text)
        strict_json.check(value)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, BusError):
        return text
    # Counting brackets, also those in strings, is a hundred times faster and is enough for most values.
    if text.count("[") + text.count("{") > MAX_NESTING and _is_nested_deeper(value, MAX_NESTING):
        return text
    return value


def _is_nested_deeper(value: Any, levels: int) -> bool:
    """Return whether arrays and objects in `value` are nested more than `levels` deep."""
    layer = [value]
    for _ in range(levels + 1):
        containers = [each for each in layer if isinstance(each, list | dict)]
        if not containers:
            return False
        layer = [
            member for each in containers for member in (each.values() if isinstance(each, dict) else each)
        ]
    return True


def _names(listed: bytes | None) -> frozenset[str]:
    if listed is None:
        return frozenset()
    try:
        return frozenset(msgspec.json.decode(listed, type=list[str]))
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return frozenset()


def _object(text: bytes) -> dict[str, Any]:
    if len(text) > _MAX_NOTE_BYTES:
        return {"raw": text[:_NOTE_SHOWN].decode("utf-8", "backslashreplace") + "…"}
    value = stored_value(text.decode("utf-8", "backslashreplace"))
    return value if isinstance(value, dict) else {"raw": value}


def _text(value: bytes | None, most: int) -> str | None:
    return None if value is None or len(value) > most else value.decode("utf-8", "backslashreplace")
