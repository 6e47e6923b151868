"""Which calls are audited, how often what is repeated is told, and that nothing is missing in the totals."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from redstreamd.admission.accounts import Accounts, Peer
from redstreamd.audit.access_log import AccessLog
from redstreamd.audit.audit_events import (
    AccessRecordsDropped,
    AuditEvent,
    CallAudited,
    CallRefused,
    CallServed,
    RequestRefused,
)
from redstreamd.audit.call_audit import LONGEST_SECONDS, QUIET_SECONDS, CallAudit
from redstreamd.audit.call_log import CallLog
from redstreamd.policy import Principal
from redstreamd.tools.invocation import CallEnded

ANN, BOB = Principal("ann", "unix"), Principal("bob", "unix")
PEER = Peer(uid=1000, pid=4711)
ACCOUNT = Accounts().open(ANN, PEER, "c-1")
READ = CallEnded(ANN, "stream_read", ("s",), 0.25, "ok", 100, account=ACCOUNT)
DENIED = msgspec.structs.replace(READ, outcome="PERMISSION_DENIED")
TRIMMED = msgspec.structs.replace(READ, tool="stream_add", action="max_length=5")
DELETED = msgspec.structs.replace(READ, tool="stream_manage", action="delete force", manages=True, group="g")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Told:
    """An audit, and what it told."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.events: list[AuditEvent] = []
        self.audit = CallAudit(self.events.append, clock=self.clock)

    def after(self, seconds: float) -> list[int | None]:
        """The repeats that are told once so many seconds have passed."""
        self.clock.now += seconds
        before = len(self.events)
        self.audit.end_episodes(self.clock.now)
        return [event.repeats for event in self.events[before:]]


@pytest.fixture
def told() -> Told:
    return Told()


def test_each_call_that_manages_is_a_record_with_all_that_is_known(told: Told) -> None:
    for _ in range(3):
        assert told.audit.call_ended(DELETED)
    event = CallAudited(ANN, PEER, "c-1", "stream_manage", "delete force", ("s",), "g", 0.25, "ok", "", 100)
    assert told.events == [event, event, event]
    failed = msgspec.structs.replace(DELETED, outcome="STREAM_NOT_FOUND", account=None)
    told.audit.call_ended(failed)
    last = told.events[-1]
    assert isinstance(last, CallAudited)
    assert (last.outcome, last.error_code, last.peer, last.connection_id) == (
        "STREAM_NOT_FOUND",
        "STREAM_NOT_FOUND",
        None,
        None,
    )
    assert told.after(math.inf) == []


def test_a_call_that_changes_nothing_is_none(told: Told) -> None:
    assert not told.audit.call_ended(READ)
    assert not told.audit.call_ended(msgspec.structs.replace(READ, outcome="STREAM_NOT_FOUND"))
    assert told.events == []


def test_refusals_are_one_record_and_a_total(told: Told) -> None:
    made = [told.audit.call_ended(DENIED) for _ in range(1_000)]
    assert made == [True, *[False] * 999]
    (first,) = told.events
    assert first == CallRefused(ANN, PEER, "c-1", "stream_read", ("s",), "PERMISSION_DENIED")
    assert told.after(QUIET_SECONDS - 1) == []
    assert told.after(1) == [999]
    # After that it is new.
    assert told.audit.call_ended(DENIED)
    assert told.after(QUIET_SECONDS) == []


def test_what_goes_on_is_told_from_time_to_time(told: Told) -> None:
    told.audit.call_ended(TRIMMED)
    totals: list[int | None] = []
    for _ in range(int(LONGEST_SECONDS)):
        told.audit.call_ended(TRIMMED)
        totals += told.after(1)
    assert totals == [600]
    assert sum(event.repeats or 1 for event in told.events) == 601


def test_another_principal_stream_figure_or_outcome_is_a_record_of_its_own(told: Told) -> None:
    others: list[dict[str, Any]] = [
        {"principal": BOB},
        {"streams": ("t",)},
        {"action": "max_length=6"},
        {"outcome": "TIMEOUT"},
    ]
    for change in [{}, *others]:
        assert told.audit.call_ended(msgspec.structs.replace(TRIMMED, **change))
        assert not told.audit.call_ended(msgspec.structs.replace(TRIMMED, **change))


def test_a_client_cannot_make_any_number_of_records(told: Told) -> None:
    for number in range(10_000):
        told.audit.call_ended(msgspec.structs.replace(TRIMMED, streams=(f"s{number}",)))
    assert len(told.events) == 65
    assert told.audit.call_ended(msgspec.structs.replace(TRIMMED, principal=BOB))
    told.after(QUIET_SECONDS)
    assert sum(event.repeats or 1 for event in told.events) == 10_001
    assert told.audit._episodes == {}
    assert not told.audit._by_principal


def test_other_requests_are_refused_by_method(told: Told) -> None:
    for _ in range(2):
        told.audit.refused(ANN, "resources/read", ("s",), ACCOUNT)
    told.audit.refused(ANN, "prompts/get", (), None)
    assert told.events == [
        RequestRefused(ANN, PEER, "c-1", "resources/read", ("s",), "PERMISSION_DENIED"),
        RequestRefused(ANN, None, None, "prompts/get", (), "PERMISSION_DENIED"),
    ]
    assert told.after(QUIET_SECONDS) == [1]


def test_totals_are_told_in_time_and_at_the_end() -> None:
    events: list[AuditEvent] = []
    audit = CallAudit(events.append)

    async def telling() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(audit.run)
            for _ in range(3):
                audit.call_ended(DENIED)
            await trio.sleep(QUIET_SECONDS + 1)
            assert [event.repeats for event in events] == [None, 2]
            audit.call_ended(DENIED)
            audit.call_ended(DENIED)
            nursery.cancel_scope.cancel()

    trio.run(telling, clock=trio.testing.MockClock(autojump_threshold=0))
    assert [event.repeats for event in events] == [None, 2, None, 1]


# --- The access log ---------------------------------------------------------------------------


async def run(log: AccessLog, events: list[Any], count: int) -> None:
    """Run the log until it has told so many events."""
    async with trio.open_nursery() as nursery:
        await nursery.start(log.run)
        while len(events) < count:  # noqa: ASYNC110 - nobody announces it
            await trio.sleep(0.001)
        nursery.cancel_scope.cancel()


async def test_each_other_call_is_a_record_of_the_access_log() -> None:
    events: list[CallServed | AccessRecordsDropped] = []
    log = AccessLog(events.append)
    calls = CallLog(CallAudit(lambda event: None), log, records_access=True)
    for ended in (READ, DENIED, DENIED, DELETED, TRIMMED, TRIMMED):
        calls.call_ended(ended)
    calls.records_access = False
    calls.call_ended(READ)
    await run(log, events, 3)
    served = [event for event in events if isinstance(event, CallServed)]
    assert [(event.tool, event.outcome) for event in served] == [
        ("stream_read", "ok"),
        # What the audit sums up.
        ("stream_read", "PERMISSION_DENIED"),
        ("stream_add", "ok"),
    ]
    assert served[0] == CallServed(ANN, PEER, "c-1", "stream_read", ("s",), None, 0.25, "ok", "", 100)
    assert served[1].error_code == "PERMISSION_DENIED"


async def test_calls_beyond_the_queue_are_counted() -> None:
    events: list[Any] = []
    log = AccessLog(events.append, max_queued=10)
    for _ in range(25):
        log.call_ended(READ)
    await run(log, events, 11)
    assert len([event for event in events if isinstance(event, CallServed)]) == 10
    assert [event.count for event in events if isinstance(event, AccessRecordsDropped)] == [15]


async def test_recording_takes_a_share_of_the_time_and_others_have_their_turn() -> None:
    spent = 0.0
    events: list[Any] = []

    def slowly(event: Any) -> None:
        nonlocal spent
        began = trio.current_time()
        while trio.current_time() < began + 0.0005:
            pass
        spent += trio.current_time() - began
        events.append(event)

    log = AccessLog(slowly, share=0.0, floor=0.05)
    for _ in range(2_000):
        log.call_ended(READ)
    turns = 0
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        await nursery.start(log.run)
        while trio.current_time() < began + 2.0:
            turns += 1
            await trio.sleep(0.001)
        so_far = len(events)
        took = trio.current_time() - began
        log._queue.clear()
        nursery.cancel_scope.cancel()
    # The share, and what was saved up before.
    assert so_far * 0.0005 < 0.05 * took + 0.03
    assert so_far > 50
    assert turns > 200


async def test_a_log_without_room_is_left_to_others() -> None:
    events: list[Any] = []
    room = False
    log = AccessLog(events.append, has_room=lambda: room)
    log.call_ended(READ)
    async with trio.open_nursery() as nursery:
        await nursery.start(log.run)
        await trio.sleep(0.1)
        assert events == []
        room = True
        while not events:  # noqa: ASYNC110 - nobody announces it
            await trio.sleep(0.001)
        room = False
        log.call_ended(READ)
        nursery.cancel_scope.cancel()
    assert [type(event) for event in events] == [CallServed, AccessRecordsDropped]
