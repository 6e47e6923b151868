"""Warnings about groups: once for each reason, and once more when it is over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from redstreamd.metrics.call_counts import CallCounts
from redstreamd.metrics.figures_events import (
    FiguresEvent,
    FiguresTaken,
    GroupInTrouble,
    GroupOutOfTrouble,
    MoreGroupsInTrouble,
)
from redstreamd.metrics.group_attention import Trouble, attention, troubles_of
from redstreamd.metrics.group_watch import GroupWatch
from redstreamd.metrics.journal_figures import DaemonFigures, JournalFigures
from redstreamd.metrics.recent_calls import RecentCalls
from redstreamd.streams.diagnosis.survey_figures import GroupFigures, SurveyFigures
from tests.metrics.test_history import ended

WELL = GroupFigures("s", "g", 1, 1, 0, None, 0, 0.0, None, 0)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return ("trio", {"clock": MockClock(autojump_threshold=0)})


def survey(*groups: GroupFigures) -> SurveyFigures:
    return SurveyFigures((), groups, 7, 2, 0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("figures", "troubles"),
    [
        ({}, ()),
        ({"pending": 100, "lag": 100, "oldest_pending_seconds": 3600.0}, ()),
        ({"pending": 101}, (Trouble.MANY_PENDING,)),
        # Just created.
        ({"consumers": 0}, ()),
        ({"consumers": 0, "lag": 1}, (Trouble.NO_CONSUMER,)),
        ({"consumers": 0, "pending": 1}, (Trouble.NO_CONSUMER,)),
        ({"dead_letters": 1, "oldest_pending_seconds": 3601.0}, (Trouble.DEAD_LETTERS, Trouble.OLD_PENDING)),
        ({"lag": 101}, (Trouble.LAGGING,)),
    ],
)
def test_what_makes_a_group_need_attention(figures, troubles):
    assert troubles_of(msgspec.structs.replace(WELL, **figures), many_pending=100) == troubles


def test_no_number_is_too_many_where_the_limit_is_0():
    assert troubles_of(msgspec.structs.replace(WELL, pending=10**6), many_pending=0) == ()


def test_the_worst_group_is_the_first():
    groups = [
        WELL,
        msgspec.structs.replace(WELL, group="letters", dead_letters=9),
        msgspec.structs.replace(WELL, group="busy", pending=300),
        msgspec.structs.replace(WELL, group="busier", pending=301),
        msgspec.structs.replace(WELL, group="deserted", consumers=0, lag=1),
    ]
    found = attention(survey(*groups), many_pending=100)
    assert [each.group for each in found.groups] == ["deserted", "busier", "busy", "letters"]
    assert found.groups[0].why == ["no_consumer"]
    assert found.streams_left_out == 2


class Looks:
    """A watch that sees what it is shown."""

    def __init__(self) -> None:
        self.events: list[FiguresEvent] = []

        async def nothing() -> None:
            return None

        self.watch = GroupWatch(nothing, self.events.append, seconds=60.0, many_pending=100)

    def see(self, *groups: GroupFigures) -> list[FiguresEvent]:
        self.events.clear()
        self.watch.look(survey(*groups))
        return list(self.events)


async def test_a_reason_is_reported_at_the_second_look_once_and_so_is_its_end():
    looks, many = Looks(), msgspec.structs.replace(WELL, pending=101)
    assert looks.see(many) == []
    begun = GroupInTrouble("s", "g", Trouble.MANY_PENDING, 101, 0, 0, 100)
    assert looks.see(many) == [begun]
    assert looks.see(many) == looks.see(many) == []
    await trio.sleep(300.0)
    assert looks.see(WELL) == []
    assert looks.see(WELL) == [GroupOutOfTrouble("s", "g", Trouble.MANY_PENDING, 300.0)]
    assert looks.see(WELL) == []
    # The next time is another.
    assert looks.see(many) == []
    assert looks.see(many) == [begun]


async def test_what_is_so_at_one_look_only_is_not_reported_in_either_direction():
    looks, many = Looks(), msgspec.structs.replace(WELL, pending=101)
    for _ in range(3):
        assert looks.see(many) == looks.see(WELL) == []
    looks.see(many)
    assert len(looks.see(many)) == 1
    for _ in range(3):
        assert looks.see(WELL) == looks.see(many) == []


async def test_a_group_that_is_gone_is_over():
    looks = Looks()
    looks.see(msgspec.structs.replace(WELL, dead_letters=1))
    looks.see(msgspec.structs.replace(WELL, dead_letters=1))
    assert looks.see() == []
    assert [type(event) for event in looks.see()] == [GroupOutOfTrouble]


async def test_of_many_that_begin_at_once_some_are_told_and_the_others_counted():
    looks = Looks()
    many = [msgspec.structs.replace(WELL, group=f"g{number}", dead_letters=1) for number in range(25)]
    looks.see(*many)
    events = looks.see(*many)
    assert [type(event) for event in events] == [GroupInTrouble] * 10 + [MoreGroupsInTrouble]
    assert events[-1] == MoreGroupsInTrouble(15)


async def test_it_looks_as_often_as_it_is_told_and_an_outage_ends_nothing():
    asked: list[float] = []
    events: list[FiguresEvent] = []
    answers: Iterator[SurveyFigures | None] = iter(
        [survey(msgspec.structs.replace(WELL, pending=11))] * 2 + [None] * 5 + [survey(WELL)] * 90
    )

    async def figures() -> SurveyFigures | None:
        asked.append(trio.current_time())
        return next(answers)

    watch = GroupWatch(figures, events.append, seconds=0, many_pending=100)
    async with trio.open_nursery() as nursery:
        await nursery.start(watch.run)
        await trio.sleep(1_000.0)
        assert asked == []
        began = trio.current_time()
        watch.reconfigure(seconds=60.0, many_pending=10)
        await trio.sleep(430.0)
        assert [round(at - began) for at in asked] == [60, 120, 180, 240, 300, 360, 420]
        assert [type(event) for event in events] == [GroupInTrouble]
        await trio.sleep(120.0)
        assert [type(event) for event in events] == [GroupInTrouble, GroupOutOfTrouble]
        watch.reconfigure(seconds=0, many_pending=10)
        await trio.sleep(1_000.0)
        assert len(asked) == 9
        nursery.cancel_scope.cancel()


async def test_figures_say_what_happened_since_the_last_and_whether_anything_did():
    counts, events = CallCounts(), []
    daemon = DaemonFigures(2, 5, 90 << 20, 0.01)
    streams: list[SurveyFigures | None] = [
        survey(msgspec.structs.replace(WELL, pending=3, lag=4, dead_letters=1))
    ]

    async def surveyed() -> SurveyFigures | None:
        return streams[-1]

    journal = JournalFigures(RecentCalls(counts, ()), lambda: daemon, surveyed, events.append, seconds=900.0)
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        counts.note([ended("stream_add", 0.002)])
        counts.note([ended("stream_add", 0.002, "TIMEOUT")])
        await trio.sleep(901.0)
        assert events.pop() == FiguresTaken(
            900.0, False, 2, 1, 2, 1, pytest.approx(0.002485), 2, 90 << 20, 0.01, 7, 3, 4, 1
        )
        await trio.sleep(900.0)
        assert events.pop().is_quiet
        # What another daemon, or another program, does counts, too.
        streams.append(survey(msgspec.structs.replace(WELL, pending=4, lag=4, dead_letters=1)))
        await trio.sleep(900.0)
        assert not events.pop().is_quiet
        streams.append(None)
        await trio.sleep(900.0)
        last = events.pop()
        assert (last.pending, last.lag, last.dead_letters, last.stream_count) == (None,) * 4
        journal.reconfigure(seconds=0)
        await trio.sleep(10_000.0)
        assert events == []
        journal.reconfigure(seconds=60.0)
        await trio.sleep(1.0)
        assert len(events) == 1
        nursery.cancel_scope.cancel()
