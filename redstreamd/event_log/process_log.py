"""The log of this process: where events, the records of libraries and defects come together."""

from __future__ import annotations

import atexit
from collections.abc import Iterable
from typing import Final

from redstreamd.errors.defects import on_defect
from redstreamd.event_log import daemon_events  # noqa: F401 - declares what is reported before the parts are there
from redstreamd.event_log.declaration import declaration_of
from redstreamd.event_log.event_log import EventLog
from redstreamd.event_log.library_records import hear_libraries
from redstreamd.event_log.log_events import RecordsDropped
from redstreamd.service.log_output import Form, LogOutput
from redstreamd.service.log_record import Record, Severity


class ProcessLog:
    """The log of this process.

    Attributes:
        events: The hook for events of all parts; its `run` is to be supervised.
        output: Writes the records; its `run` is to be supervised.
    """

    def __init__(self, events: EventLog, output: LogOutput) -> None:
        """Hold both; `set_up_log` makes them."""
        self.events: Final = events
        self.output: Final = output

    def set_level(self, level: str) -> None:
        """Write records of this level and more severe ones: ``debug``, ``info``, ``warning`` or ``error``."""
        self.events.least = Severity[level.upper()]
        hear_libraries(self.output.write, least=self.events.least)


def set_up_log(
    level: str = "info",
    form: Form = "auto",
    *,
    secrets: Iterable[str] = (),
    instance: str | None = None,
    descriptor: int = 2,
) -> ProcessLog:
    """Send all records of this process to journald or standard error; a second call replaces the first.

    Args:
        level: The least severe records that are written: ``debug``, ``info``, ``warning`` or ``error``.
        form: How they are written.
        secrets: Texts to mask in all records; those under six characters are ignored.
        instance: The name of this process, for each record, where several processes are one daemon.
        descriptor: Where to write, for tests.
    """
    output = LogOutput(descriptor, form=form, secrets=secrets, instance=instance, dropped=_record_of_dropped)
    events = EventLog(output.write)
    log = ProcessLog(events, output)
    log.set_level(level)
    on_defect(events)
    atexit.register(output.close)
    return log


def _record_of_dropped(count: int) -> Record:
    event = RecordsDropped(count)
    return declaration_of(event).record(event)
