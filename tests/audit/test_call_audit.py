"""Which calls are audited, how often what is repeated is told, and that nothing is missing in the totals."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from redstreamd.admission.accounts import Accounts, Peer
from redstreamd.audit.audit_events import AuditEvent, CallAudited, CallRefused, RequestRefused
from redstreamd.audit.call_audit import LONGEST_SECONDS, QUIET_SECONDS, CallAudit
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
