"""Takes and settlements that come together are served by one script, each as if it came alone."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from itertools import chain
from typing import Any

import msgspec
import pytest
import trio

from redstreamd.errors import BusError, Code
from redstreamd.policy import Principal
from redstreamd.redisio.script import JoinableCall
from redstreamd.settings import LeasesSettings, Settings
from redstreamd.streams import entry_ids
from redstreamd.streams.bus import Bus
from redstreamd.streams.leases import Action, Outcome, Settled
from redstreamd.streams.plans import Plan
from redstreamd.streams.take_values import Take
from redstreamd.streams.work import Work
from tests.support.buses import ON_REDIS
from tests.support.servers import Server
from tests.support.waiting import until

ME = Principal("me", "unix")
TAKE = Take("s", "g", "c", count=2, lease_seconds=60, max_deliveries=None, create_at="0")


def _add(server: Server, *sizes: int) -> list[str]:
    return [
        server.command("XADD", "s", "*", "t", "x" * (size - 1), "_rs.v", "1", "_rs.sender", "me").decode()
        for size in sizes
    ]


def _scripts(server: Server) -> int:
    stats = server.command("INFO", "commandstats").decode()
    lines = [line for line in stats.splitlines() if line.startswith("cmdstat_evalsha:")]
    return sum(int(line.partition("calls=")[2].partition(",")[0]) for line in lines)


async def _together(*calls: Callable[[], Awaitable[Any]]) -> list[Any]:
    """Make calls in one pass, in this order; return their results, or errors."""
    results: list[Any] = [None] * len(calls)

    async def make(number: int) -> None:
        try:
            results[number] = await calls[number]()
        except BusError as error:
            results[number] = error

    async with trio.open_nursery() as nursery:
        # Trio begins tasks of one pass in any order.
        for number in range(len(calls)):
            nursery.start_soon(make, number)
    return results


def _ids(work: Work) -> list[str]:
    return [entry.id for entry in work.taken.entries]


def _in_order(works: Iterable[Work]) -> list[list[str]]:
    """Return the entries of each, in the order of the stream; as text 2-10 is before 2-9."""
    return sorted(map(_ids, works), key=lambda ids: [entry_ids.parse(each) for each in ids])


def _all(parts: Iterable[list[str]]) -> list[str]:
    return list(chain.from_iterable(parts))


def _took(bus: Bus, take: Take = TAKE) -> Callable[[], Awaitable[Work]]:
    return lambda: bus.work.take(take, ME)


def _settles(bus: Bus, work: Work, action: Action, **options: Any) -> Callable[[], Awaitable[Settled]]:
    lease = bus.work.read_lease(str(work.lease), ME)
    return lambda: bus.work.settle(lease, action, **options)


@ON_REDIS
async def test_takes_of_a_pass_are_one_script_and_share_what_there_is(bus: Bus, server: Server) -> None:
    added = _add(server, *[30] * 23)
    # One looks for everything, and the next one's script is not known by its digest.
    first = [_ids(await bus.work.take(TAKE, ME)) for _ in range(2)]
    assert _all(first) == added[:4]
    before = _scripts(server)
    works: list[Work] = await _together(*[_took(bus) for _ in range(8)])
    assert _in_order(works) == [added[place : place + 2] for place in range(4, 20, 2)]
    assert all(work.taken.attempts == [1, 1] for work in works)
    # A second may be over since the first one looked.
    assert before + 1 <= _scripts(server) <= before + 2
    works = await _together(*[_took(bus) for _ in range(4)])
    assert _in_order(works) == [[], [], added[20:22], added[22:]]
    nothing = next(work for work in works if not work.taken.entries)
    assert nothing.lease is None
    # Each has a lease of its own.
    one, other = (work for work in works if work.lease is not None)
    assert (await bus.work.settle(bus.work.read_lease(str(one.lease), ME), Action.DONE)).ids(
        Outcome.DONE
    ) == _ids(one)
    held = server.command("XPENDING", "s", "g", "-", "+", "100")
    assert {each[0].decode() for each in held} == set(added) - set(_ids(one))
    assert set(_ids(other)) <= set(added)


@ON_REDIS
@pytest.mark.parametrize("seed", range(4))
async def test_takes_that_are_joined_end_where_each_would_end_alone(
    bus: Bus, server: Server, seed: int
) -> None:
    chance = random.Random(seed)
    sizes = [chance.choice((10, 10, 30, 400, 900, 2_500)) for _ in range(120)]
    added = dict(zip(_add(server, *sizes), sizes, strict=True))
    order, parts = list(added), dict[str, list[list[str]]]()
    for group, together in (("alone", 1), ("joined", 8)):
        take = msgspec.structs.replace(TAKE, group=group, count=3, max_bytes=1_000)
        found = parts[group] = []
        while not found or found[-1]:
            works = await _together(*[_took(bus, take) for _ in range(together)])
            found += sorted(
                map(_ids, works), key=lambda ids: (not ids, list(added).index(ids[0]) if ids else 0)
            )
    assert [part for part in parts["joined"] if part] == [part for part in parts["alone"] if part]
    assert _all(parts["joined"]) == order
    assert any(len(part) == 1 for part in parts["joined"])
    assert any(len(part) == 3 for part in parts["joined"])


@ON_REDIS
@pytest.mark.parametrize(("size", "most"), [(300_000, 4), (2_000_000, 1)])
async def test_takes_of_large_entries_that_are_joined_do_not_hold_redis_for_all_of_them(
    bus: Bus, server: Server, size: int, most: int
) -> None:
    added = _add(server, *[size] * 14)
    take = msgspec.structs.replace(TAKE, count=1, max_bytes=32_768)
    # One makes the group, one looks for everything, and the next one's script is not known by its digest.
    for _ in range(3):
        await bus.work.take(take, ME)
    # One of them looks for everything if a second is over since the last one did.
    planned = [bus.work.plan_take(take, ME) for _ in range(7)]
    plans = [plan for plan in planned if plan is not None and isinstance(plan.write, JoinableCall)][:6]
    replies = list[Any]()
    server.command("CONFIG", "RESETSTAT")
    for plan in plans:
        bus.redis.queues[plan.role].submit(plan.write, replies.append, "s")
    await until(lambda: len(replies) == len(plans), every=0.001)
    # Those that got nothing look for themselves. Nothing was read that is then given back.
    assert [reply is not None for reply in replies] == [True] * most + [False] * (6 - most)
    assert server.command("XPENDING", "s", "g")[0] == 3 + most
    assert "cmdstat_xgroup" not in server.command("INFO", "commandstats").decode()
    works = await _together(*[_took(bus, take) for _ in range(6)])
    assert _in_order(works) == [[each] for each in added[3 + most : 9 + most]]


@ON_REDIS
async def test_settlements_of_a_pass_are_fenced_each_by_its_own_attempt(bus: Bus, server: Server) -> None:
    _add(server, *[30] * 12)
    works = [await bus.work.take(TAKE, ME) for _ in range(6)]
    # The attempt of the first is over, and another one has its entries.
    lost, repeated, partly, *rest = works
    await _settles(bus, lost, Action.RETRY, delay_seconds=0)()
    again = await bus.work.take(TAKE, ME)
    assert _ids(again) == _ids(lost)
    await _settles(bus, rest[-1], Action.DONE)()
    before = _scripts(server)
    done = await _together(
        _settles(bus, lost, Action.DONE),
        _settles(bus, repeated, Action.DONE),
        _settles(bus, repeated, Action.DONE),
        _settles(bus, partly, Action.DONE, entry_ids=_ids(partly)[1:]),
        *[_settles(bus, work, Action.DONE) for work in rest],
    )
    outcomes = [set(settled.outcomes.values()) for settled in done]
    assert outcomes[0] == {Outcome.LOST}
    assert sorted(outcomes[1:3], key=str) == [{Outcome.ALREADY}, {Outcome.DONE}]
    assert (
        outcomes[3:] == [{Outcome.DONE}, {Outcome.DONE}, {Outcome.DONE}, {Outcome.ALREADY}][: len(rest) + 1]
    )
    assert [list(settled.outcomes) for settled in done] == [
        _ids(lost), _ids(repeated), _ids(repeated), _ids(partly)[1:], *map(_ids, rest)
    ]  # fmt: skip
    assert _scripts(server) == before + 1
    held = server.command("XPENDING", "s", "g", "-", "+", "100")
    assert {each[0].decode() for each in held} == {*_ids(again), _ids(partly)[0]}


@ON_REDIS
async def test_entries_that_follow_each_other_are_found_by_one_question(bus: Bus, server: Server) -> None:
    # As text, 5-100 comes before 5-96.
    for number in range(94, 106):
        server.command("XADD", "s", f"5-{number}", "t", "x")
    works = [await bus.work.take(TAKE, ME) for _ in range(6)]
    # The script is known by its digest from here on.
    await _settles(bus, works.pop(0), Action.DONE)()
    server.command("CONFIG", "RESETSTAT")
    settled = await _together(*[_settles(bus, work, Action.DONE) for work in works])
    assert all(each.all_are(Outcome.DONE) for each in settled)
    assert "cmdstat_xpending:calls=1," in server.command("INFO", "commandstats").decode()


@ON_REDIS
async def test_calls_that_are_joined_fail_each_with_its_own_error(bus: Bus, server: Server) -> None:
    _add(server, *[30] * 8)
    works = [await bus.work.take(TAKE, ME) for _ in range(4)]
    server.command("XGROUP", "DESTROY", "s", "g")
    errors = await _together(*[_settles(bus, work, Action.DONE) for work in works])
    assert [error.code for error in errors] == [Code.GROUP_NOT_FOUND] * 4
    # Takes create it anew, whichever of them is first.
    works = await _together(*[_took(bus) for _ in range(4)])
    assert sum(work.taken.group_created for work in works) == 1
    assert len(_all(map(_ids, works))) == 8


def _looking(bus: Bus) -> Plan[Work] | None:
    """Return the plan of a take if it looks for everything."""
    plan = bus.work.plan_take(TAKE, ME)
    return None if plan is None or isinstance(plan.write, JoinableCall) else plan


@ON_REDIS
@pytest.mark.settings(Settings(leases=LeasesSettings(foreign_idle_seconds=300)))
async def test_a_take_that_does_not_come_to_look_lets_the_next_one_look(bus: Bus, server: Server) -> None:
    _add(server, *[30] * 20)
    # The first makes the group.
    for _ in range(2):
        await bus.work.take(TAKE, ME)
    looks = await until(partial(_looking, bus), every=0.05)
    others = [_looking(bus) for _ in range(3)]
    assert others == [None] * 3
    # It is taken back, or its reply is lost.
    del looks
    assert _looking(bus) is not None
