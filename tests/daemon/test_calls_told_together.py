"""Audit and metrics are told of each call that ended once, at the end of the pass or before."""

from __future__ import annotations

import msgspec
import trio

from redstreamd.audit.access_log import AccessLog
from redstreamd.audit.audit_events import AuditEvent, CallAudited, CallServed
from redstreamd.audit.call_audit import CallAudit
from redstreamd.audit.call_log import CallLog
from redstreamd.daemon.ended_calls import EndedCalls
from redstreamd.metrics.call_counts import CallCounts
from redstreamd.policy import Principal
from redstreamd.tools.invocation import CallEnded, Untold

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
        ended.untold.calls.append(READ)
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


async def test_without_the_access_log_calls_that_end_well_are_only_counted() -> None:
    audited: list[AuditEvent] = []
    served: list[object] = []
    counts = CallCounts()
    log = CallLog(CallAudit(audited.append), AccessLog(served.append), records_access=False)
    ended = EndedCalls(log, counts)
    ended.add(READ)
    assert ended.untold == Untold({"stream_read": ([0.002], [100])})
    # As `Invocation.end` does meanwhile.
    seconds, sizes = ended.untold.counted["stream_read"]
    seconds.append(0.5)
    sizes.append(11)
    # Another tool, and calls that end otherwise.
    ended.add(msgspec.structs.replace(READ, tool="work_take"))
    ended.add(msgspec.structs.replace(READ, outcome="cancelled"))
    assert counted(counts) == {}
    await trio.lowlevel.checkpoint()
    assert ended.untold == Untold()
    assert counted(counts) == {
        ("stream_read", "ok"): 2,
        ("stream_read", "cancelled"): 1,
        ("work_take", "ok"): 1,
    }
    together = counts.pairs["stream_read", "ok"]
    assert (together.total, together.answer_bytes) == (0.502, 111)
    ended.add(READ)
    # What the audit records is told after what was before it.
    ended.add(DELETED)
    assert counted(counts)["stream_read", "ok"] == 3
    # From the next pass on it has what it is to have.
    log.records_access = True
    ended.add(READ)
    assert ended.untold == Untold({}, [READ])
    ended.tell()
    assert counted(counts)["stream_read", "ok"] == 4
    assert len(audited) == 1
