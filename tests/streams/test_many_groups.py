"""What Redis does for one call does not grow with the groups of a stream, its consumers, or the streams.

Redis's own time is compared, as it counts it itself, between a few and very many in the same run.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from redstreamd.errors import BusError, Code
from redstreamd.settings import LimitsSettings, Settings
from redstreamd.streams.bus import Bus
from redstreamd.streams.entry_encoding import Stamp
from redstreamd.streams.lease_tokens import Lease
from redstreamd.streams.leases import Action, Outcome
from redstreamd.streams.plans import run_plan
from redstreamd.streams.take_values import Take
from tests.support.buses import ON_REDIS
from tests.support.calls import ME
from tests.support.measured import measured
from tests.support.servers import Server

_FEW, _MANY, _ROUNDS = 10, 10_000, 15
#: How often a call that seems slower is looked at: other programs leave less of the processor for a while.
_TRIES = 5


def _microseconds(server: Server) -> int:
    """Redis's own time for scripts and commands since it began."""
    counted = 0
    for line in server.command("INFO", "commandstats").decode().splitlines():
        name, _, figures = line.partition(":")
        # What a script calls is counted as the script's, too.
        if name in ("cmdstat_evalsha", "cmdstat_xadd", "cmdstat_xpending", "cmdstat_scan"):
            counted += int(figures.partition("usec=")[2].partition(",")[0])
    return counted


async def _cost(server: Server, call: Callable[[], Awaitable[object]]) -> float:
    """Return Redis's time for one call in microseconds: the least of many.

    Redis counts the time in which others had its processor, too, in most of them where many want it.
    """
    took = []
    for number in range(_ROUNDS + 3):
        before = _microseconds(server)
        await call()
        # The first ones load the script and learn the number of groups.
        if number >= 3:
            took.append(_microseconds(server) - before)
    return min(took)


async def _slower(bus: Bus, server: Server, few: dict[str, float]) -> dict[str, tuple[float, float]]:
    """Return the costs, with few and now, of the calls that now take more than twice as long."""
    slower = {}
    for name, call in _CALLS.items():
        # 2, and what a timer of microseconds cannot tell.
        bound = 2 * few[name] + 10
        costs = [math.inf]
        while min(costs) > bound and len(costs) <= _TRIES:
            costs.append(await _cost(server, lambda call=call: call(bus)))  # type: ignore[misc]
        if min(costs) > bound:
            slower[name] = few[name], min(costs)
    return slower


def _take(group: str = "g1") -> Take:
    return Take("s", group, "c", 1, 60.0, None, None)


async def _take_and_delete(bus: Bus) -> None:
    work = await bus.work.take(_take(), ME)
    assert work.lease is not None
    lease = bus.work.read_lease(work.lease, ME)
    await run_plan(bus.redis, bus.work.plan_settle(lease, Action.DONE, delete=True))


async def _settle_what_another_acknowledged(bus: Bus) -> None:
    """Settle entries whose due times are left, so that Redis is asked what became of them."""
    for action in (Action.DONE, Action.EXTEND):
        work = await bus.work.take(_take(), ME)
        assert work.lease is not None
        lease = bus.work.read_lease(work.lease, ME)
        assert await bus.redis.execute("XACK", "s", "g1", *lease.attempts, key="s", retry_safe=False) == 1
        settled = await run_plan(bus.redis, bus.work.plan_settle(lease, action))
        assert settled.all_are(Outcome.ALREADY)


_CALLS: dict[str, Callable[[Bus], Awaitable[object]]] = {
    "add": lambda bus: bus.publisher.add("s", [{"a": 1}, {"a": 2}], Stamp(), idempotency_key=None),
    "add and trim by length": lambda bus: bus.publisher.add("s", [{"a": 1}], Stamp(), max_length=3),
    "add and trim by age": lambda bus: bus.publisher.add("s", [{"a": 1}], Stamp(), max_age_seconds=0.001),
    "take": lambda bus: bus.work.take(_take(), ME),
    "take and delete": _take_and_delete,
    "settle what another acknowledged": _settle_what_another_acknowledged,
    "pending": lambda bus: run_plan(bus.redis, bus.pending.plan_page("s", "g1", ME)),
    "describe": lambda bus: bus.streams.info("s"),
    "position": lambda bus: bus.lister.position("s"),
    "create a group that exists": lambda bus: run_plan(bus.redis, bus.work.plan_create_group("s", "g1", "0")),
}


async def _costs(bus: Bus, server: Server) -> dict[str, float]:
    return {name: await _cost(server, lambda call=call: call(bus)) for name, call in _CALLS.items()}  # type: ignore[misc]


@ON_REDIS
@pytest.mark.limit(60)
async def test_no_call_takes_redis_longer_because_a_stream_has_many_groups(bus: Bus, server: Server) -> None:
    server.commands(*[("XADD", "s", f"{number}-1", "a", "b") for number in range(1, 2_001)])
    server.commands(*[("XGROUP", "CREATE", "s", f"g{number}", "0") for number in range(_FEW)])
    few = await _costs(bus, server)
    server.commands(*[("XGROUP", "CREATE", "s", f"g{number}", "0") for number in range(_FEW, _MANY)])
    slower = await _slower(bus, server, few)
    with measured:
        assert not slower


@ON_REDIS
@pytest.mark.limit(60)
async def test_no_call_takes_redis_longer_because_a_group_has_many_consumers(
    bus: Bus, server: Server
) -> None:
    server.commands(*[("XADD", "s", f"{number}-1", "a", "b") for number in range(1, 2_001)])
    server.command("XGROUP", "CREATE", "s", "g1", "0")
    server.commands(*[("XGROUP", "CREATECONSUMER", "s", "g1", f"c{number}") for number in range(_FEW)])
    few = await _costs(bus, server)
    server.commands(*[("XGROUP", "CREATECONSUMER", "s", "g1", f"c{number}") for number in range(_FEW, _MANY)])
    slower = await _slower(bus, server, few)
    with measured:
        assert not slower


async def _settle_times(bus: Bus, server: Server, stream: str, size: int) -> tuple[float, float]:
    """Return Redis's least times, in microseconds: to settle what another acknowledged, between huge entries.

    And to settle an entry of that size which is to be deleted, but is kept for another group.
    """
    content = "x" * size
    first = server.command("XADD", stream, "1-1", "a", content)
    server.command("XGROUP", "CREATE", stream, "g1", first)
    server.command("XGROUP", "CREATE", stream, "waits", "0")
    server.commands(*[("XADD", stream, f"{number}-1", "a", "b") for number in range(2, 40)])
    server.command("XADD", stream, "100-1", "a", content)
    took: list[tuple[int, int]] = []
    for number in range(8):
        lease = await _taken(bus, stream, "g1")
        server.command("XACK", stream, "g1", *lease.attempts)
        asked = -_microseconds(server)
        settled = await run_plan(
            bus.redis, bus.work.plan_settle(lease, (Action.DONE, Action.EXTEND)[number % 2])
        )
        asked += _microseconds(server)
        assert settled.all_are(Outcome.ALREADY)
        server.command("XGROUP", "CREATE", stream, f"kept{number}", "0")
        lease = await _taken(bus, stream, f"kept{number}")
        kept = -_microseconds(server)
        settled = await run_plan(bus.redis, bus.work.plan_settle(lease, Action.DONE, delete=True))
        kept += _microseconds(server)
        assert settled.kept_for == "waits"
        took.append((asked, kept))
    return min(asked for asked, _ in took[2:]), min(kept for _, kept in took[2:])


async def _taken(bus: Bus, stream: str, group: str) -> Lease:
    work = await bus.work.take(Take(stream, group, "c", 1, 60.0, None, None), ME)
    assert work.lease is not None
    return bus.work.read_lease(work.lease, ME)


@ON_REDIS
@pytest.mark.limit(60)
async def test_nothing_is_settled_slower_because_entries_are_large(bus: Bus, server: Server) -> None:
    small = await _settle_times(bus, server, "small", 16)
    large = await _settle_times(bus, server, "large", 16 << 20)
    with measured:
        for less, more in zip(small, large, strict=True):
            assert more <= max(2 * less, less + 2_000), (small, large)


@pytest.mark.settings(Settings(limits=LimitsSettings(max_groups_per_stream=3)))
async def test_a_stream_gets_as_many_groups_as_it_may_have_and_no_more(bus: Bus, server: Server) -> None:
    for number in range(3):
        await run_plan(bus.redis, bus.work.plan_create_group("s", f"g{number}", "0"))
    for create in (
        run_plan(bus.redis, bus.work.plan_create_group("s", "more", "0")),
        bus.work.take(msgspec.structs.replace(_take("more"), create_at="0"), ME),
    ):
        with pytest.raises(BusError) as refused:
            await create
        assert refused.value.code is Code.TOO_LARGE
        assert "limits.max_groups_per_stream" in refused.value.cause
    assert len(server.command("XINFO", "GROUPS", "s")) == 3
    # One that exists is no new one.
    assert not (await run_plan(bus.redis, bus.work.plan_create_group("s", "g1", "0"))).created
    assert not (await bus.work.take(msgspec.structs.replace(_take(), create_at="0"), ME)).taken.group_created
    # Other streams have their own.
    assert (await run_plan(bus.redis, bus.work.plan_create_group("t", "more", "0"))).created


@pytest.mark.settings(Settings(limits=LimitsSettings(max_groups_per_stream=3)))
async def test_where_other_programs_made_too_many_groups_everything_is_kept_and_said_to_be(
    bus: Bus, server: Server
) -> None:
    server.commands(*[("XGROUP", "CREATE", "s", f"g{number}", "0", "MKSTREAM") for number in range(9)])
    await bus.publisher.add("s", [{"n": n} for n in range(5)], Stamp())
    added = await bus.publisher.add("s", [{"n": 5}], Stamp(), max_length=2)
    assert server.command("XLEN", "s") == 6
    assert added.kept_for == "one of 9 groups, which are too many to be asked"
    work = await bus.work.take(_take(), ME)
    lease = bus.work.read_lease(str(work.lease), ME)
    settled = await run_plan(bus.redis, bus.work.plan_settle(lease, Action.DONE, delete=True))
    assert settled.kept_for == added.kept_for
    assert server.command("XLEN", "s") == 6


async def test_of_many_groups_each_keeps_its_work_however_often_they_are_asked(
    bus: Bus, server: Server
) -> None:
    """With more than 16 groups the adds that come soon after another do not ask them, and trim nothing."""
    groups = 40
    server.commands(*[("XGROUP", "CREATE", "s", f"g{number}", "0", "MKSTREAM") for number in range(groups)])
    first = (await bus.publisher.add("s", [{"n": n} for n in range(10)], Stamp())).ids
    for number in range(groups):
        server.command("XREADGROUP", "GROUP", f"g{number}", "c", "COUNT", 10, "STREAMS", "s", ">")
        # One group has one entry left.
        done = first if number != 20 else first[:3] + first[4:]
        server.command("XACK", "s", f"g{number}", *done)
    kept: set[str | None] = set()
    for _ in range(100):
        kept.add((await bus.publisher.add("s", [{"n": 1}], Stamp(), max_length=5)).kept_for)
    # What nobody needs any more is gone, what one group has pending is not.
    (oldest,) = server.command("XRANGE", "s", "-", "+", "COUNT", 1)
    assert oldest[0].decode() == first[3]
    assert kept == {"g20"}
