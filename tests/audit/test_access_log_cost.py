"""What the access log costs in CPU time of the thread: the least of several, so others add little."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable

import msgspec

from redstreamd.admission.accounts import Accounts, Peer
from redstreamd.audit.access_log import BURST, CALLS_A_SECOND, SUMMARIES_A_SECOND, AccessLog
from redstreamd.audit.call_summaries import served
from redstreamd.event_log.audit_records import AuditRecords
from redstreamd.policy import Principal
from redstreamd.service.log_output import LogOutput
from redstreamd.service.log_record import Record
from redstreamd.streams.bus import Bus
from redstreamd.tools.invocation import CallEnded
from tests.support.calls import call
from tests.support.measured import measured

#: The way of a call here takes the daemon's five times as long, so of that it is 4 %.
MOST_OF_A_CALL = 0.008
#: Of a processor, for as many records as there may be.
MOST_OF_THE_TIME = 0.05
ANN = Principal("ann", "unix")
ACCOUNT = Accounts().open(ANN, Peer(uid=1000, pid=4711), "c")
ENDED = CallEnded(ANN, "stream_add", ("a:b:c",), 0.001, "ok", 50, account=ACCOUNT)


async def least_seconds(act: Callable[[], Awaitable[object]], count: int) -> float:
    """Return how long the thread worked on one of so many, in the quickest of several repetitions."""
    taken = []
    for _ in range(20):
        began = time.thread_time()
        await act()
        taken.append((time.thread_time() - began) / count)
    return min(taken)


async def test_to_note_a_call_is_a_small_part_of_it_and_all_records_are_little(bus: Bus) -> None:
    def dropped(count: int) -> Record:
        raise AssertionError(f"{count} records were dropped")

    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        output = LogOutput(nowhere, form="json", dropped=dropped)
        records = AuditRecords(output.write)
        access = AccessLog(records.write_access)
        ends = [msgspec.structs.replace(ENDED, streams=(f"a:b:{number % 4}",)) for number in range(512)]

        async def end_all() -> None:
            access.calls_ended(ends)

        async def record_all() -> None:
            for ended in ends[:64]:
                records.write_access(served(ended))

        async def call_some() -> None:
            for _ in range(20):
                await call(bus, "stream_add", stream="a:b:c", entries=[{"n": 1}])

        # First, because the others let nothing else run.
        calling = await least_seconds(call_some, 20)
        # From here on calls are summed up.
        for _ in range(BURST // len(ends) + 1):
            await end_all()
        noting = await least_seconds(end_all, len(ends))
        recording = await least_seconds(record_all, 64)
        output.close()
    finally:
        os.close(nowhere)
    print(f"noting {noting * 1e6:.2f} µs, recording {recording * 1e6:.1f} µs, calling {calling * 1e6:.0f} µs")
    with measured:
        assert 0 < noting < MOST_OF_A_CALL * calling
        assert recording * (CALLS_A_SECOND + SUMMARIES_A_SECOND) < MOST_OF_THE_TIME
