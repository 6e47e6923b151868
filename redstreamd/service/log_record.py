"""What is written to the log: one record, whatever the form in which its reader gets it."""

from __future__ import annotations

import enum

import msgspec


class Severity(enum.IntEnum):
    """How severe a record is: the priorities of syslog(3), of which the lowest is the most severe."""

    CRITICAL = 2
    ERROR = 3
    WARNING = 4
    NOTICE = 5
    INFO = 6
    DEBUG = 7


class Record(msgspec.Struct, frozen=True):
    """A record of the log.

    Attributes:
        severity: How severe it is.
        message_id: 32 hexadecimal digits that belong to the kind of event; see systemd.journal-fields(7).
        event: The name of that kind.
        text: The sentence for people, without a full stop; with further lines only where it shows stacks.
        fields: Names, without the prefix REDSTREAMD_, and values. A name may occur several times.
        traceback: Of an exception that nobody foresaw; else empty.
    """

    severity: Severity
    message_id: str
    event: str
    text: str
    fields: tuple[tuple[str, str], ...] = ()
    traceback: str = ""
