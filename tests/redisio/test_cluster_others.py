"""Nodes that are not connected are asked in turn, a few at a time, and ever more rarely."""

from __future__ import annotations

import itertools

import pytest
import trio
import trio.testing

from redstreamd.redisio.cluster_others import OtherNodes

PRIMARIES = [letter * 40 for letter in "abcd"]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


async def times(others: OtherNodes, connected: int, seconds: float) -> list[float]:
    """Return when others are asked, in seconds from now, if that is looked at ten times a second."""
    found, began = [], trio.current_time()
    while trio.current_time() < began + seconds:
        if others.are_due(connected, PRIMARIES):
            found.append(trio.current_time() - began)
        await trio.sleep(0.1)
    return found


def longest(asked: list[float]) -> float:
    return max(after - before for before, after in itertools.pairwise(asked))


async def test_a_primary_that_stays_away_has_others_asked_ever_more_rarely() -> None:
    others = OtherNodes()
    first = await times(others, 3, 3.0)
    assert first[0] == 0
    assert first[1] <= 0.7
    await times(others, 3, 100.0)
    assert len(await times(others, 3, 300.0)) <= 11
    # One more is lost: that is a change.
    assert (await times(others, 2, 1.0))[0] == 0


async def test_whoever_may_be_cut_off_asks_others_once_a_second() -> None:
    assert longest(await times(OtherNodes(), 2, 100.0)) <= 1.2


async def test_without_a_connection_others_are_asked_each_time() -> None:
    assert len(await times(OtherNodes(), 0, 10.0)) >= 99
    assert OtherNodes().are_due(0, ())


async def test_nobody_else_is_asked_while_all_primaries_are_connected() -> None:
    others = OtherNodes()
    assert not others.are_due(4, PRIMARIES)
    assert others.are_due(3, PRIMARIES)
    assert not others.are_due(4, PRIMARIES)
    assert others.are_due(3, PRIMARIES)


async def test_each_has_its_turn() -> None:
    others, places = OtherNodes(), [("10.0.0.1", port) for port in range(1, 10_001)]
    asked = [others.next_of(places, connected=7) for _ in range(2_500)]
    assert {len(each) for each in asked} == {4}
    assert {place for each in asked for place in each} == set(places)
    assert len(others.next_of(places, connected=0)) == 8
    assert others.next_of(places[:2], connected=1) in (places[:2], places[1::-1])
    assert not others.next_of([], connected=1)
