"""Encoding a JSON object as the fields of an entry, and back.

Owns the format in Redis; docs/design.md specifies it, and tests/streams/vectors.json has test vectors.

Each member of the object is one field of the same name. A string is stored as its own text, so that redis-cli
shows and writes it as expected. Any other value is stored as compact JSON text, and its name is listed in a
reserved field. Reserved fields begin with ``_rs.`` and come last:

- ``_rs.v``: ``1``, the version of the format. Only an entry with this field has reserved fields.
- ``_rs.json``: a JSON array of the names whose values are JSON text; absent if there are none.
- ``_rs.sender``: the principal that added the entry, stamped by the daemon.
- ``_rs.correlation_id``, ``_rs.reply_to``: given by the writer for a reply.
- ``_rs.in_reply_to``: the request that a reply belongs to, ``<entry ID> <stream>``, stamped by the daemon.
- ``_rs.released``: ``<ID while it waited> <principal>``, of an entry that waited in quarantine, and who
  released it.
- ``_rs.=<name>``: the member `<name>`, if that name itself begins with ``_rs.``; so no writer can forge a
  reserved field.
- ``_rs.enc``, ``_rs.clear``, ``_rs.sealed``: of an encrypted entry, see `encryption.sealed_format`. One that
  was not opened is decoded to its clear members only.
- ``_rs.dead``: the note of a dead letter: its reason and origin; always the last field.

Values of other writers need not be text: bytes that are not UTF-8 are shown in base64, and their names are
listed as `binary`. A field name that occurs more than once gives a list, and is listed as `repeated`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, TypeVar

import msgspec

from redstreamd import strict_json
from redstreamd.encryption.sealed_format import CLEAR, ENCRYPTED
from redstreamd.errors import BusError, Code
from redstreamd.redisio.reply_parsing import RawEntry
from redstreamd.streams import entry_ids

ValueT = TypeVar("ValueT")

PREFIX = b"_rs."
PREFIX_TEXT = "_rs."
VERSION = "_rs.v"
FORMAT = "1"
JSON_NAMES = "_rs.json"
SENDER = "_rs.sender"
ESCAPE, _ESCAPE_BYTES = "_rs.=", b"_rs.="
_DEAD = b"_rs.dead"
_ENCRYPTED, _CLEAR = ENCRYPTED.encode(), CLEAR.encode()
#: The fields of a stamp, by attribute, in their order.
_STAMPED = {
    "sender": SENDER,
    "correlation_id": "_rs.correlation_id",
    "reply_to": "_rs.reply_to",
    "in_reply_to": "_rs.in_reply_to",
    "released": "_rs.released",
}

_RESERVED = frozenset((VERSION, JSON_NAMES, *_STAMPED.values()))

#: Scripts copy entries with Lua's unpack, which takes less than 8,000 values.
MAX_MEMBERS = 1_000
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

_MIN, _MAX = -strict_json.MAX_INTEGER, strict_json.MAX_INTEGER

Fields = Sequence[tuple[bytes, bytes]]


class Stamp(msgspec.Struct, frozen=True, gc=False):
    """What the daemon adds to the members of an entry.

    Attributes:
        sender: Name of the principal that adds it.
        correlation_id: Connects a reply and its request.
        reply_to: The stream on which a reply is expected.
        in_reply_to: The request that this entry is a reply to, as `request_name` gives it.
        released: The ID that the entry had in quarantine, and the principal that released it; see `Release`.
    """

    sender: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    in_reply_to: str | None = None
    released: str | None = None

    @property
    def release(self) -> Release | None:
        """How the entry left the quarantine; None if it was in none."""
        waiting_id, _, by = (self.released or "").partition(" ")
        return Release(waiting_id, by) if by and entry_ids.parse(waiting_id) is not None else None


class Release(msgspec.Struct, frozen=True):
    """How an entry left the quarantine.

    Attributes:
        waiting_id: The ID that it had there, whose time is that of its publication.
        by: The principal that released it.
    """

    waiting_id: str
    by: str


_NO_STAMP = Stamp()


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
    stamp: Stamp = _NO_STAMP
    binary: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()
    dead_letter: dict[str, Any] | None = None
    encrypted: str | None = None


def request_name(stream: str, entry_id: str, stamp: Stamp = _NO_STAMP) -> str:
    """Return the `in_reply_to` of a reply to that entry; the ID that it had in quarantine, if it was there.

    Its requester knows no other.
    """
    release = stamp.release
    return f"{entry_id if release is None else release.waiting_id} {stream}"


def encode(members: Mapping[str, Any], stamp: Stamp) -> list[tuple[bytes, bytes]]:
    """Return the fields of the entry that holds the JSON object `members`.

    Raises:
        BusError: INVALID_ARGUMENT if a value is not I-JSON, TOO_LARGE beyond `MAX_MEMBERS`.
    """
    return [(name.encode(), value.encode()) for name, value in encode_fields(members, stamp).items()]


def encode_all(entries: Sequence[Mapping[str, Any]], stamp: Stamp) -> list[dict[str, str]]:
    """Return the fields of many entries as `encode` does, each as a name with its value, in order.

    Raises:
        BusError: As `encode`.
    """
    if hold_texts_only(entries):
        # Stored as they are.
        end = {VERSION: FORMAT, **stamped(stamp)}
        return [entry | end for entry in entries]  # type: ignore[operator]
    return [encode_fields(entry, stamp) for entry in entries]


def hold_texts_only(entries: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether all members are texts that need no closer look; all loops run in C."""
    if set(map(type, entries)) != {dict} or max(map(len, entries)) > MAX_MEMBERS:
        return False
    names = "".join(chain.from_iterable(entries))
    try:
        values = "".join(chain.from_iterable(map(dict.values, entries)))  # type: ignore[arg-type]
    except TypeError:
        # Not a text.
        return False
    return names.isascii() and PREFIX_TEXT not in names and strict_json.is_allowed(values)


def encode_fields(members: Mapping[str, Any], stamp: Stamp) -> dict[str, str]:
    """Return the fields of an entry as `encode` does, each as a name with its value, in order.

    Raises:
        BusError: As `encode`.
    """
    if len(members) > MAX_MEMBERS:
        raise BusError(
            Code.TOO_LARGE,
            f"An entry of {len(members)} members is too large.",
            cause=f"Each member becomes a field of the entry, and an entry has at most {MAX_MEMBERS}.",
            next_step="Nest the data: one member may hold a whole object or list.",
        )
    fields: dict[str, str] = {}
    as_json: list[str] = []
    is_checked = type(members) is not dict
    if is_checked:
        strict_json.check(members)
    for name, value in members.items():
        kind = type(value)
        # Most values need no closer look. The first that may be no I-JSON has all of them looked at.
        if not is_checked and not (
            name.isascii()
            and (value.isascii() if kind is str else kind is bool or (kind is int and _MIN <= value <= _MAX))
        ):
            strict_json.check(members)
            is_checked = True
        field = ESCAPE + name if name.startswith(PREFIX_TEXT) else name
        if kind is str:
            fields[field] = value
        else:
            as_json.append(name)
            fields[field] = str(value) if kind is int else msgspec.json.encode(value).decode()
    fields[VERSION] = FORMAT
    if as_json:
        fields[JSON_NAMES] = msgspec.json.encode(as_json).decode()
    fields.update(stamped(stamp))
    return fields


@lru_cache(maxsize=1)
def stamped(stamp: Stamp) -> dict[str, str]:
    """Return the reserved fields of a stamp, in order; not to be changed."""
    given = {field: getattr(stamp, name) for name, field in _STAMPED.items()}
    return {field: text for field, text in given.items() if text is not None}


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
    while (
        end and (name := fields[end - 1][0])[: len(PREFIX)] == PREFIX and not name.startswith(_ESCAPE_BYTES)
    ):
        end -= 1
    read = _read_reserved(tuple(fields[end:]))
    if read is None:
        members, binary, repeated = _plain(fields)
        return Decoded(members, _NO_STAMP, binary, repeated, dead_letter)
    as_json, stamp = read
    data = [pair for pair in fields[:end] if pair[0][: len(PREFIX)] != PREFIX]
    if len(data) < end:
        data = [
            (name.removeprefix(_ESCAPE_BYTES), value)
            for name, value in fields[:end]
            if name.startswith(_ESCAPE_BYTES) or not name.startswith(PREFIX)
        ]
    encrypted = None
    if (found := next((value for name, value in fields if name == _ENCRYPTED), None)) is not None:
        encrypted = found.decode("utf-8", "backslashreplace")
        clear = _names(next((value for name, value in fields if name == _CLEAR), None))
        data = [pair for pair in fields[:end] if pair[0].decode("utf-8", "replace") in clear]
        data = [(name.removeprefix(_ESCAPE_BYTES), value) for name, value in data]
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
        **{name: _text(reserved.get(field), _MAX_STAMP_BYTES[name]) for name, field in _STAMPED.items()}
    )
    return _names(reserved.get(JSON_NAMES)), stamp


def _read_words(words: tuple[Any, ...]) -> tuple[frozenset[str], Stamp] | None:
    """Return what `_read_reserved` does for names with their values in turn; nothing for no words."""
    as_bytes = [word if type(word) is bytes else word.encode() for word in words]
    pairs = tuple(zip(as_bytes[::2], as_bytes[1::2], strict=True))
    return _read_reserved(pairs) if pairs else (frozenset(), _NO_STAMP)


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
