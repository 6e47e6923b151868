"""Each call is a record or counted in one, and what a record says of several calls is true of them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from redstreamd.admission.accounts import Accounts, Peer
from redstreamd.audit import call_summaries
from redstreamd.audit.access_log import BURST, CALLS_A_SECOND, SUMMARIES_A_SECOND, AccessLog
from redstreamd.audit.audit_events import AccessRecordsDropped, CallServed, CallsServed
from redstreamd.audit.call_audit import CallAudit
from redstreamd.audit.call_log import CallLog
from redstreamd.audit.call_summaries import DUE_SECONDS, MAX_APART, MAX_NAMED, CallSummaries
from redstreamd.policy import Principal
from redstreamd.tools.invocation import CallEnded

ANN, BOB = Principal("ann", "unix"), Principal("bob", "unix")
PEER = Peer(uid=1000, pid=4711)
ACCOUNTS = Accounts()
ACCOUNT = ACCOUNTS.open(ANN, PEER, "c-1")
READ = CallEnded(ANN, "stream_read", ("s",), 0.25, "ok", 100, account=ACCOUNT)
DENIED = msgspec.structs.replace(READ, outcome="PERMISSION_DENIED")
DELETED = msgspec.structs.replace(READ, tool="stream_manage", action="delete force", manages=True, group="g")
TRIMMED = msgspec.structs.replace(READ, tool="stream_add", action="max_length=5")


class Log:
    """An access log, and what it wrote."""

    def __init__(self) -> None:
        self.has_room = True
        self.events: list[Any] = []
        self.log = AccessLog(self.events.append, has_room=lambda: self.has_room)

    def new(self) -> list[Any]:
        """What was written since this was last called."""
        found = self.events[:]
        self.events.clear()
        return found


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


@pytest.fixture
def during() -> Log:
    return Log()


def counted(events: list[Any]) -> int:
    """How many calls are told."""
    return sum(1 if isinstance(event, CallServed) else event.count for event in events)


async def running(log: Log, use: Callable[[], Any]) -> list[Any]:
    """Do something while the log runs, and return all that it wrote, its end included."""
    async with trio.open_nursery() as nursery:
        await nursery.start(log.log.run)
        await use()
        nursery.cancel_scope.cancel()
    return log.events


async def test_each_call_that_is_no_audit_record_is_a_record(during: Log) -> None:
    calls = CallLog(CallAudit(lambda event: None), during.log, records_access=True)

    async def use() -> None:
        woke = [calls.call_ended(each) for each in (READ, DENIED, DENIED, DELETED, TRIMMED, TRIMMED)]
        assert woke == [True, True, False, True, True, False]
        calls.records_access = False
        assert not calls.call_ended(READ)
        await trio.sleep(1)
        # Not only at the end.
        assert len(during.events) == 3

    served = await running(during, use)
    assert [(event.tool, event.outcome) for event in served] == [
        ("stream_read", "ok"),
        # What the audit sums up.
        ("stream_read", "PERMISSION_DENIED"),
        ("stream_add", "ok"),
    ]
    assert served[0] == CallServed(ANN, PEER, "c-1", "stream_read", ("s",), None, 0.25, "ok", "", 100)
    assert served[1].error_code == "PERMISSION_DENIED"


async def test_calls_at_a_moderate_rate_are_recorded_one_by_one(during: Log) -> None:
    async def use() -> None:
        for _ in range(CALLS_A_SECOND * 9):
            during.log.calls_ended([READ])
            await trio.sleep(1 / (CALLS_A_SECOND - 10))

    events = await running(during, use)
    assert {type(event) for event in events} == {CallServed}
    assert len(events) == CALLS_A_SECOND * 9


async def test_many_equal_calls_are_one_record_a_second_with_their_totals(during: Log) -> None:
    longer = msgspec.structs.replace(READ, seconds=0.5, answer_bytes=7)

    async def use() -> None:
        for _ in range(BURST):
            during.log.calls_ended([READ])
        for _ in range(100):
            for _ in range(99):
                during.log.calls_ended([READ])
            during.log.calls_ended([longer])
            await trio.sleep(0.05)
        assert len(during.new()) <= BURST + 6
        await trio.sleep(DUE_SECONDS)
        during.new()
        for _ in range(10_000):
            during.log.calls_ended([READ])
        during.log.calls_ended([longer])
        await trio.sleep(0.2)
        # It takes a while until calls are recorded one by one.
        other = msgspec.structs.replace(READ, streams=())
        during.log.calls_ended([other])
        during.log.calls_ended([other])
        await trio.sleep(DUE_SECONDS + 0.2)
        summary, two = during.new()[-2:]
        assert summary == CallsServed(
            ANN,
            PEER,
            "c-1",
            "stream_read",
            ("s",),
            (),
            pytest.approx(0.25 * 10_000 + 0.5),
            0.5,
            pytest.approx(DUE_SECONDS, abs=0.2),
            "ok",
            "",
            100 * 10_000 + 7,
            10_001,
        )
        assert (two.streams, two.count) == ((), 2)
        await trio.sleep(2 * BURST / CALLS_A_SECOND)
        during.log.calls_ended([READ])
        during.log.calls_ended([READ])
        await trio.sleep(0.2)
        assert [type(event) for event in during.new()] == [CallServed, CallServed]

    assert await running(during, use) == []


async def test_a_call_that_ends_while_others_are_recorded_is_recorded_soon() -> None:
    events: list[Any] = []

    def write(event: Any) -> None:
        events.append(event)
        if len(events) == 15:
            log.calls_ended([READ])

    log = AccessLog(write)
    async with trio.open_nursery() as nursery:
        await nursery.start(log.run)
        for _ in range(20):
            log.calls_ended([READ])
        await trio.sleep(1)
        assert len(events) == 21
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("seed", range(3))
async def test_each_call_is_in_one_record_however_many_there_are_and_of_whatever_kind(
    during: Log, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Bounds are small, so that all of them are reached."""
    monkeypatch.setattr(call_summaries, "MAX_OPEN", 60)
    monkeypatch.setattr(call_summaries, "MAX_APART", 8)
    monkeypatch.setattr(call_summaries, "MAX_NAMED", 5)
    monkeypatch.setattr(call_summaries, "MAX_FULL", 3)
    monkeypatch.setattr(call_summaries, "MAX_STREAMS_APART", 2)
    monkeypatch.setattr(call_summaries, "MAX_NAMES", 130)
    dice = random.Random(seed)
    accounts = [ACCOUNTS.open(dice.choice((ANN, BOB)), PEER, f"c{number}") for number in range(20)]
    by_tool: Counter[tuple[str, str]] = Counter()
    named: set[tuple[str, str]] = set()
    seconds = answers = 0.0

    async def use() -> None:
        nonlocal seconds, answers
        for _ in range(40):
            for _ in range(dice.choice((0, 1, 10, 300))):
                account = dice.choice(accounts)
                streams = tuple(f"s{dice.randrange(100)}" for _ in range(dice.randrange(4)))
                call = CallEnded(
                    dice.choice((ANN, BOB)),
                    dice.choice(("stream_add", "stream_read")),
                    streams,
                    dice.choice((0.25, 0.5)),
                    dice.choice(("ok", "STREAM_NOT_FOUND")),
                    10,
                    dice.choice((None, "g1", "g2")),
                    None,
                    dice.choice((account, account, None)),
                )
                by_tool[call.tool, call.outcome] += 1
                named.update((call.tool, name) for name in streams)
                seconds += call.seconds
                answers += call.answer_bytes
                during.log.calls_ended([call])
            during.has_room = dice.random() < 0.8
            await trio.sleep(dice.choice((0, 0.05, 0.3)))
        during.has_room = True

    events = await running(during, use)
    told: Counter[tuple[str, str]] = Counter()
    for event in events:
        told[event.tool, event.outcome] += 1 if isinstance(event, CallServed) else event.count
        named.difference_update((event.tool, name) for name in event.streams)
    assert told == by_tool
    assert sum(event.seconds for event in events) == pytest.approx(seconds)
    assert sum(event.bytes for event in events) == answers
    summaries = [event for event in events if isinstance(event, CallsServed)]
    # Each of the bounds was reached, or this shows little.
    assert any(event.connection_id is None and event.peer is None for event in summaries)
    assert any(len(event.streams) > 3 for event in summaries)
    assert any(event.unnamed_count for event in summaries)
    assert all(event.count > 1 or event.unnamed_count for event in summaries)
    # Only where a record says so, a stream may be missing.
    assert not named or any(event.unnamed_count for event in summaries)


def test_a_client_of_many_streams_is_told_with_their_names() -> None:
    now = 0.0
    summaries = CallSummaries(lambda: now)
    names = [f"s{number}" for number in range(MAX_APART + 3 * MAX_NAMED + 5)]
    for name in names:
        for _ in range(2):
            summaries.add([msgspec.structs.replace(READ, streams=(name,))])
    other = msgspec.structs.replace(READ, account=ACCOUNTS.open(BOB, PEER, "c-2"))
    summaries.add([other])
    assert summaries.count == 2 * len(names) + 1
    now = DUE_SECONDS
    events = []
    while (event := summaries.pop(now)) is not None:
        events.append(event)
    assert not summaries
    assert sorted(name for event in events[:-1] for name in event.streams) == sorted(names)
    assert {len(event.streams) for event in events} == {1, MAX_NAMED, 5}
    assert [event for event in events if isinstance(event, CallsServed) and event.unnamed_count] == []
    # Who has few is told apart from who has many.
    assert isinstance(events[-1], CallServed)
    assert events[-1].connection_id == "c-2"


async def test_records_are_as_few_as_journald_keeps_and_others_have_their_turn(during: Log) -> None:
    calls = 0

    async def use() -> None:
        nonlocal calls
        for number in range(100):
            for each in range(50):
                calls += 1
                account = ACCOUNTS.open(ANN, PEER, f"c{number}-{each}")
                during.log.calls_ended([msgspec.structs.replace(READ, account=account)])
            await trio.sleep(0.1)
        assert len(during.events) <= BURST + SUMMARIES_A_SECOND * 11 + CALLS_A_SECOND
        assert len(during.events) >= SUMMARIES_A_SECOND * 8

    events = await running(during, use)
    assert counted(events) == calls


async def test_a_log_without_room_is_left_to_others(during: Log) -> None:
    during.has_room = False

    async def use() -> None:
        for _ in range(BURST + 50):
            during.log.calls_ended([READ])
        await trio.sleep(5)
        assert during.events == []
        during.has_room = True
        await trio.sleep(0.2)
        assert counted(during.new()) == BURST + 50
        during.has_room = False
        await trio.sleep(5)
        for _ in range(BURST + 50):
            during.log.calls_ended([READ])

    assert await running(during, use) == [AccessRecordsDropped(BURST + 50)]
    assert during.log.dropped == BURST + 50
