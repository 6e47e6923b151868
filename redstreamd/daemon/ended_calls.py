"""Tells the audit and the metrics of the calls that ended, all of a pass of trio's scheduler together."""

from __future__ import annotations

from typing import Final

from redstreamd.audit.call_audit import DENIED
from redstreamd.audit.call_log import CallLog
from redstreamd.metrics.call_counts import CallCounts
from redstreamd.stream_io import end_of_pass
from redstreamd.tools.invocation import CallEnded


class EndedCalls:
    """The calls that ended and are not told yet.

    Each is told once, before trio waits the next time, and so before a task is cancelled in a later pass.
    What the audit may record is told at once, before its answer is sent. What ends after the last pass is
    told by a `tell` of the caller.

    Attributes:
        untold: These calls, none of which the audit records. While there are some, calls that end well may be
            appended in the place of an `add`; see `Rules`.
    """

    def __init__(self, log: CallLog, counts: CallCounts) -> None:
        """Tell `log` and `counts`; in the run of trio in which calls are made."""
        self._at_end_of_pass = end_of_pass()
        self._log = log
        self._counts = counts
        self.untold: Final[list[CallEnded]] = []

    def add(self, ended: CallEnded) -> None:
        """Take note of a call that ended; the hook for that. To be called within a run of trio."""
        if ended.action is not None or ended.outcome == DENIED:
            # In their order.
            self.tell()
            try:
                self._log.call_ended(ended)
            finally:
                self._counts.note((ended,))
            return
        if not self.untold:
            self._at_end_of_pass(self.tell)
        self.untold.append(ended)

    def tell(self) -> bool:
        """Tell what is not told; return whether a task was woken by that."""
        calls = self.untold.copy()
        self.untold.clear()
        try:
            log = self._log
            return log.records_access and log.access.calls_ended(calls)
        finally:
            self._counts.note(calls)
