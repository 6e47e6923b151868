"""Tells the audit and the metrics of the calls that ended, all of a pass of trio's scheduler together."""

from __future__ import annotations

from typing import Final

from redstreamd.audit.call_audit import DENIED
from redstreamd.audit.call_log import CallLog
from redstreamd.metrics.call_counts import CallCounts
from redstreamd.stream_io import end_of_pass
from redstreamd.tools.invocation import OK, CallEnded, Untold


class EndedCalls:
    """The calls that ended and are not told yet.

    Each is told once, before trio waits the next time, and so before a task is cancelled in a later pass.
    What the audit may record is told at once, before its answer is sent. What ends after the last pass is
    told by a `tell` of the caller.

    Attributes:
        untold: These calls, none of which the audit records. What ends well is put there in the place of an
            `add` while there is something to tell; see `Untold`. Without the access log it is only counted.
    """

    def __init__(self, log: CallLog, counts: CallCounts) -> None:
        """Tell `log` and `counts`; in the run of trio in which calls are made."""
        self._at_end_of_pass = end_of_pass()
        self._log = log
        self._counts = counts
        self.untold: Final = Untold()

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
        untold = self.untold
        if not untold.counted and not untold.calls:
            self._at_end_of_pass(self.tell)
        if ended.outcome == OK and not self._log.records_access and ended.tool not in untold.counted:
            untold.counted[ended.tool] = [ended.seconds], [ended.answer_bytes]
        else:
            untold.calls.append(ended)

    def tell(self) -> bool:
        """Tell what is not told; return whether a task was woken by that."""
        counted, calls = self.untold.counted.copy(), self.untold.calls.copy()
        self.untold.counted.clear()
        self.untold.calls.clear()
        try:
            log = self._log
            return log.records_access and log.access.calls_ended(calls)
        finally:
            for tool, (seconds, answer_bytes) in counted.items():
                self._counts.note_alike(tool, OK, seconds, answer_bytes)
            if calls:
                self._counts.note(calls)
