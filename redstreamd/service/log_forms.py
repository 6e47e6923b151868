"""The forms in which a record is written: for journald, as lines for people, as JSON for programs.

Owns the names of the fields. The form for journald and JSON have the same ones; JSON is what
``journalctl --output=json`` prints, so that a program that reads the one reads the other.
"""

from __future__ import annotations

import datetime as dt
import json
import struct
from collections.abc import Callable, Iterator
from typing import Final

from redstreamd.service.log_record import Record

IDENTIFIER: Final = "redstreamd"

#: The field that names the process, without the prefix.
INSTANCE: Final = "INSTANCE"

#: Before the names of structured fields, so that they are nobody else's.
PREFIX: Final = "REDSTREAMD_"

# journald splits lines of standard error at 48 KiB (LineMax= in journald.conf(5)), and the rest would lose
# its priority. The same limit serves all readers.
LINE_CHARACTERS: Final = 8_192

Clean = Callable[[str], str]
"""Masks secrets in one line, and makes hidden characters visible."""


def members(record: Record, clean: Clean) -> Iterator[tuple[str, str]]:
    """Yield the names and values of a record's fields."""
    yield "MESSAGE", "\n".join(_lines(record, clean))
    yield "PRIORITY", str(int(record.severity))
    yield "MESSAGE_ID", record.message_id
    yield "SYSLOG_IDENTIFIER", IDENTIFIER
    yield f"{PREFIX}EVENT", record.event
    for name, value in record.fields:
        yield f"{PREFIX}{name}", clean(value)
    if record.traceback:
        yield f"{PREFIX}TRACEBACK", "\n".join(clean(line) for line in record.traceback.split("\n"))


def for_journald(record: Record, clean: Clean) -> bytes:
    """Return a record in journald's native protocol."""
    parts = []
    for name, value in members(record, clean):
        data = value.encode("utf-8", "backslashreplace")
        if b"\n" in data:
            parts.append(b"%b\n%b%b\n" % (name.encode(), struct.pack("<Q", len(data)), data))
        else:
            parts.append(b"%b=%b\n" % (name.encode(), data))
    return b"".join(parts)


def as_json(record: Record, clean: Clean, *, at: float) -> bytes:
    """Return a record as a line of JSON: a value is a text, or a list where a field occurs several times."""
    values: dict[str, str | list[str]] = {"__REALTIME_TIMESTAMP": str(int(at * 1_000_000))}
    for name, value in members(record, clean):
        former = values.get(name)
        if former is None:
            values[name] = value
        elif isinstance(former, list):
            former.append(value)
        else:
            values[name] = [former, value]
    return json.dumps(values).encode() + b"\n"


def as_lines(record: Record, clean: Clean, *, at: float) -> bytes:
    """Return a record for people: time, severity and text, further lines below it."""
    time = dt.datetime.fromtimestamp(at, dt.UTC)
    prefix = f"{time:%Y-%m-%dT%H:%M:%S}.{time.microsecond // 1000:03}Z {record.severity.name:<8} "
    return _joined(_lines(record, clean), prefix, "\n  ")


def as_priority_lines(record: Record, clean: Clean) -> bytes:
    """Return a record for standard error where journald reads it: a priority on each line (sd-daemon(3))."""
    prefix = f"<{int(record.severity)}>"
    return _joined(_lines(record, clean), prefix, f"\n{prefix}  ")


def _joined(lines: Iterator[str], prefix: str, separator: str) -> bytes:
    return f"{prefix}{separator.join(lines)}\n".encode("utf-8", "backslashreplace")


def _lines(record: Record, clean: Clean) -> Iterator[str]:
    """Yield the lines of the text and of the traceback."""
    text = f"{record.text}\n{record.traceback}" if record.traceback else record.text
    # Text from a client must not look like another record, nor make one "blob data" in the journal.
    return (clean(line) for line in text.split("\n"))


def cut(line: str) -> str:
    """Return a line, shortened if it is too long."""
    if len(line) <= LINE_CHARACTERS:
        return line
    return f"{line[:LINE_CHARACTERS]}... ({len(line)} characters)"
