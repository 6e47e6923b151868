"""Events of the log itself, and of exceptions that nobody foresaw."""

from __future__ import annotations

import msgspec

from redstreamd.errors.defects import Defect
from redstreamd.event_log.declaration import declared
from redstreamd.service.log_record import Severity


class LibraryLogged(msgspec.Struct, frozen=True):
    """A library that redstreamd uses has logged something.

    Attributes:
        library: The name of its logger.
        text: What it says, with its traceback.
    """

    library: str
    text: str


class RecordsDropped(msgspec.Struct, frozen=True):
    """Records were dropped, because their reader did not read.

    Attributes:
        count: How many.
    """

    count: int


Event = Defect | LibraryLogged | RecordsDropped


@declared(
    Defect,
    "cd997e498ec34fbd9a473092dc58d3af",
    Severity.ERROR,
    # Clients may cause any number.
    summed_by=lambda event: (event.what, type(event.error), _place(event.error)),
    cause="A defect of redstreamd was caught where the rest goes on. What was affected is one call or one "
    "piece of work; the caller was told of an internal error if there is one.",
    remedy="Report the traceback of the record. Nothing needs to be restarted.",
)
def unexpected_error(event: Defect) -> str:
    return event.what


def _place(error: BaseException) -> tuple[str, int] | None:
    """Return the file and the line where an exception was raised."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return None if traceback is None else (traceback.tb_frame.f_code.co_filename, traceback.tb_lineno)


@declared(
    LibraryLogged,
    "6a6622ec41444c739ae1ce63151ac001",
    Severity.WARNING,
    cause="A library that redstreamd uses has logged something; REDSTREAMD_LIBRARY names it. The severity is "
    "the library's own.",
    remedy="None, unless calls fail at the same time; then report both.",
)
def library_logged(event: LibraryLogged) -> str:
    return f"{event.library}: {event.text}"


@declared(
    RecordsDropped,
    "6ead3dd9273b48e48b1a01752d56e423",
    Severity.WARNING,
    cause="The reader of the log did not read for so long that the records in between did not fit into the "
    "daemon's backlog: journald was stopped or its disk hung, or the program that started redstreamd does "
    "not read its standard error.",
    remedy="`systemctl status systemd-journald` and `journalctl -u systemd-journald` say how journald is.",
)
def records_dropped(event: RecordsDropped) -> str:
    return f"{event.count} log records were dropped, because nobody read them in time"
