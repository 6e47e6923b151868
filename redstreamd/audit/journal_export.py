"""Reads what journalctl prints with ``--output=export`` or ``--output=json``, and the JSON lines of the log.

https://systemd.io/JOURNAL_EXPORT_FORMATS specifies both. Records are read one after the other, whatever the
size of the journal.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

Fields = list[tuple[str, str | bytes]]
"""The fields of one record, in their order; a name may occur several times. Bytes are no UTF-8."""

_LENGTH: Final = struct.Struct("<Q")
#: A longer field is none of ours.
_LONGEST: Final = 64 * 1024 * 1024


class UnreadableExportError(ValueError):
    """This is not what journalctl prints."""


def records(stream: BinaryIO) -> Iterator[Fields]:
    """Yield the records of an export.

    Raises:
        UnreadableExportError: It is in neither of the formats, or ends within a record.
        OSError: It cannot be read.
    """
    first = stream.readline()
    while first == b"\n":
        first = stream.readline()
    return _of_json(first, stream) if first[:1] == b"{" else _of_export(first, stream)


def _of_json(line: bytes, stream: BinaryIO) -> Iterator[Fields]:
    number = 1
    while line:
        if line.strip():
            try:
                members = json.loads(line)
            except ValueError:
                raise UnreadableExportError(f"line {number} is not JSON") from None
            if not isinstance(members, dict):
                raise UnreadableExportError(f"line {number} is not an object")
            yield [(name, each) for name, value in members.items() for each in _values(name, value)]
        line = stream.readline()
        number += 1


def _values(name: str, value: Any) -> list[str | bytes]:
    """Return the values of a field: text, a list of bytes, or a list of these if it occurs several times."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        if value and all(isinstance(each, int) for each in value):
            try:
                data = bytes(value)
            except ValueError:
                raise UnreadableExportError(f"the value of {name} is neither text nor bytes") from None
            return [_text(data)]
        return [inner for each in value for inner in _values(name, each)]
    if value is None:
        raise UnreadableExportError(f"{name} was left out because it is long; use --output=export, or --all")
    return [str(value)]


def _of_export(line: bytes, stream: BinaryIO) -> Iterator[Fields]:
    fields: Fields = []
    while line:
        if line == b"\n":
            if fields:
                yield fields
            fields = []
        else:
            fields.append(_field(line, stream))
        line = stream.readline()
    if fields:
        yield fields


def _field(line: bytes, stream: BinaryIO) -> tuple[str, str | bytes]:
    name, equals, value = line.rstrip(b"\n").partition(b"=")
    if not name.replace(b"_", b"").isalnum() or not line.endswith(b"\n"):
        raise UnreadableExportError("it holds something that is no field, or ends within one")
    if equals:
        return name.decode("ascii", "replace"), _text(value)
    header = stream.read(_LENGTH.size)
    length = _LENGTH.unpack(header)[0] if len(header) == _LENGTH.size else _LONGEST + 1
    if length > _LONGEST:
        raise UnreadableExportError(f"the length of {name.decode('ascii', 'replace')} makes no sense")
    data = stream.read(length)
    if len(data) < length or stream.read(1) != b"\n":
        raise UnreadableExportError(f"it ends within {name.decode('ascii', 'replace')}")
    return name.decode("ascii", "replace"), _text(data)


def _text(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data
