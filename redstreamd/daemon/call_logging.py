"""Builds the audit and the access log from the settings."""

from __future__ import annotations

from contextlib import AsyncExitStack, ExitStack

from redstreamd.audit.access_log import AccessLog
from redstreamd.audit.audit_events import AuditChainNotKept
from redstreamd.audit.call_audit import CallAudit
from redstreamd.audit.call_log import CallLog
from redstreamd.audit.chain import Chain
from redstreamd.event_log.audit_records import AuditRecords
from redstreamd.event_log.process_log import ProcessLog
from redstreamd.settings import Settings
from redstreamd.startup.state_directory import own_state, state_in


def call_log_of(settings: Settings, resources: ExitStack | AsyncExitStack, log: ProcessLog) -> CallLog:
    """Return what records calls.

    Args:
        settings: Whether there is an access log, and a chain.
        resources: Gets what is to be released at the end.
        log: Gets the records, whatever its level.

    Raises:
        SettingsError: The state directory cannot be used.
        NotNowError: Another daemon chains its records in the state directory.
    """
    chain: Chain | None = None
    if settings.daemon.audit_chain:
        directory = own_state(settings.daemon.state_directory, settings.daemon.instance)
        with state_in(directory):
            chain = Chain(
                directory,
                clean=log.output.clean,
                on_failure=lambda cause: log.events(AuditChainNotKept(cause)),
            )
        resources.callback(chain.close)
    records = AuditRecords(log.output.write, chain, named=log.output.named)
    return CallLog(
        CallAudit(records.write_audit),
        AccessLog(records.write_access, has_room=lambda: log.output.has_room),
        records_access=settings.daemon.access_log,
    )
