"""What is told of each call that ended: to the audit, and of others to the access log if there is one."""

from __future__ import annotations

from collections.abc import Iterable

from redstreamd.audit.access_log import AccessLog
from redstreamd.audit.call_audit import DENIED, CallAudit
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

    def calls_ended(self, calls: Iterable[CallEnded]) -> bool:
        """Take note of calls that ended, and return at once whether a task was woken by that."""
        records_access = self.records_access
        woke = records_access and self.access.is_asleep
        for ended in calls:
            # Nearly all calls are neither, and need no look at the audit.
            if (ended.action is not None or ended.outcome == DENIED) and self.audit.call_ended(ended):
                woke = True
            elif records_access:
                self.access.call_ended(ended)
        return woke
