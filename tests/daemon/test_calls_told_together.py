"""Audit and metrics are told of each call that ended once, at the end of the pass or before."""

from __future__ import annotations

import trio

from redstreamd.audit.access_log import AccessLog
from redstreamd.audit.audit_events import AuditEvent, CallAudited, CallServed
from redstreamd.audit.call_audit import CallAudit
from redstreamd.audit.call_log import CallLog
from redstreamd.daemon.ended_calls import EndedCalls
from redstreamd.metrics.call_counts import CallCounts
from redstreamd.policy import Principal
from redstreamd.tools.invocation import CallEnded

ANN = Principal("ann", "unix")
READ = CallEnded(ANN, "stream_read", ("s",), 0.002, "ok", 100)
DELETED = CallEnded(ANN, "stream_manage", ("s",), 0.01, "ok", 50, action="delete force", manages=True)


def counted(counts: CallCounts) -> dict[tuple[str, str], int]:
    return {pair: calls.count for pair, calls in counts.pairs.items()}


async def test_calls_are_told_at_the_end_of_a_pass_and_wake_the_access_log() -> None:
    audited: list[AuditEvent] = []
    served: list[object] = []
    counts, access = CallCounts(), AccessLog(served.append)
    ended = EndedCalls(CallLog(CallAudit(audited.append), access, records_access=True), counts)
    async with trio.open_nursery() as nursery:
        await nursery.start(access.run)
        ended.add(READ)
        assert counted(counts) == {}
        await trio.lowlevel.checkpoint()
        assert counted(counts) == {("stream_read", "ok"): 1}
        # What the audit must record, at once and in its order.
        ended.add(READ)
        # As `Invocation.end` does while there is something to tell.
        ended.untold.append(READ)
        ended.add(DELETED)
        assert counted(counts) == {("stream_read", "ok"): 3, ("stream_manage", "ok"): 1}
        assert [type(each) for each in audited] == [CallAudited]
        # Nothing else wakes the task that records.
        while len(served) < 3:  # noqa: ASYNC110 - nobody announces it
            await trio.sleep(0.01)
        # After the last pass.
        ended.add(READ)
        ended.tell()
        nursery.cancel_scope.cancel()
    assert [type(each) for each in served] == [CallServed] * 4
    assert counted(counts) == {("stream_read", "ok"): 4, ("stream_manage", "ok"): 1}
    assert len(audited) == 1
