"""Makes records of what libraries log through Python's `logging`; redstreamd itself uses it nowhere."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import msgspec

from redstreamd.event_log.declaration import declaration_of
from redstreamd.event_log.log_events import LibraryLogged
from redstreamd.service.log_record import Record, Severity

#: The SDK warns of each malformed notification. A client can send any number of them, and it helps nobody.
_OF_NO_USE: Final = ("mcp.server.runner", "dropped %r: malformed params")

_SEVERITIES: Final = (
    (logging.CRITICAL, Severity.CRITICAL),
    (logging.ERROR, Severity.ERROR),
    (logging.WARNING, Severity.WARNING),
    (logging.INFO, Severity.INFO),
)


class LibraryHandler(logging.Handler):
    """Writes the records of libraries, in any thread."""

    def __init__(self, write: Callable[[Record], None]) -> None:
        """Write with `write`, which must be thread-safe."""
        super().__init__()
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        if (record.name, record.msg) == _OF_NO_USE:
            return
        try:
            text = self.format(record)
        except Exception as exc:  # noqa: BLE001 - for instance, arguments do not fit the format
            # Not handleError(): it prints to standard error, which may block.
            text = f"unusable record at {record.pathname}:{record.lineno}: {type(exc).__name__}: {exc}"
        event = LibraryLogged(record.name, text)
        severity = next((ours for theirs, ours in _SEVERITIES if record.levelno >= theirs), Severity.DEBUG)
        self._write(msgspec.structs.replace(declaration_of(event).record(event), severity=severity))


def hear_libraries(write: Callable[[Record], None], *, least: Severity) -> None:
    """Write what libraries log; a second call replaces the first.

    They are heard from warnings up, or from ``info`` if `least` is debug: their debug records can contain
    what clients send.
    """
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler, LibraryHandler):
            root.removeHandler(handler)
    root.addHandler(LibraryHandler(write))
    root.setLevel(logging.INFO if least is Severity.DEBUG else logging.WARNING)
