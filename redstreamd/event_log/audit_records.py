"""Writes the records of calls: whatever the level of the log, and sealed if they are chained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from redstreamd.audit import audit_events
from redstreamd.audit.chain import Chain
from redstreamd.event_log import call_events  # noqa: F401 - declares what is recorded here
from redstreamd.event_log.declaration import declaration_of
from redstreamd.service.log_record import Record


class AuditRecords:
    """The hook for events of the audit and of the access log.

    Attributes:
        chain: Seals audit records; None if they are not chained.
    """

    def __init__(
        self,
        write: Callable[[Record], None],
        chain: Chain | None = None,
        *,
        named: Callable[[Record], Record] = lambda record: record,
    ) -> None:
        """Write with `write`, which must neither block nor raise; begin with a record of the chain.

        Args:
            write: Writes a record.
            chain: Seals audit records; None if they are not chained.
            named: Adds what `write` adds to each record, before that is sealed.
        """
        self._write: Final = write
        self._named: Final = named
        self.chain = chain
        if chain is not None:
            self.write_audit(audit_events.AuditChained(chain.name, chain.end.number))

    def write_audit(self, event: audit_events.AuditEvent | audit_events.AuditChained) -> None:
        """Write an audit record; returns at once."""
        record = declaration_of(event).record(event)
        self._write(record if self.chain is None else self.chain.seal(self._named(record)))

    def write_access(
        self, event: audit_events.CallServed | audit_events.CallsServed | audit_events.AccessRecordsDropped
    ) -> None:
        """Write a record of the access log; returns at once."""
        self._write(declaration_of(event).record(event))
