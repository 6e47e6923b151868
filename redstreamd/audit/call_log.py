"""What is told of each call that ended: to the audit, and of others to the access log if there is one."""

from __future__ import annotations

from redstreamd.audit.access_log import AccessLog
from redstreamd.audit.call_audit import CallAudit
from redstreamd.tools.invocation import CallEnded


class CallLog:
    """The hook for calls that ended.

    Attributes:
        audit: Records what must be known afterwards.
        access: Records each other call.
        records_access: Whether it does; may be changed at any time.
    """

    def __init__(self, audit: CallAudit, access: AccessLog, *, records_access: bool) -> None:
        """Hand calls on to `audit` and `access`."""
        self.audit = audit
        self.access = access
        self.records_access = records_access

    def call_ended(self, ended: CallEnded) -> bool:
        """Take note of any call that ended, and return at once whether a task may have been woken by that."""
        return self.audit.call_ended(ended) or (self.records_access and self.access.calls_ended((ended,)))
