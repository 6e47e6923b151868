"""Takes that wait: records, in the order in which they came, each ended once."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from operator import itemgetter

import pytest
import trio
import trio.testing

from redstreamd.errors import BusError, Code
from redstreamd.errors.defects import Defect
from redstreamd.redisio import Role
from redstreamd.streams.bounds import Bounds
from redstreamd.streams.bus import Bus
from redstreamd.streams.entry_encoding import Stamp
from redstreamd.streams.take_values import Take
from redstreamd.streams.waiting import TaskSleeper, Told
from redstreamd.streams.work import Work
from tests.support.buses import asleep, running_bus
from tests.support.calls import ME
from tests.support.measured import measured
from tests.support.servers import Server, start_redis
from tests.support.two_ways import MODERN, request, running_way, surface_over
from tests.support.waiting import until

#: They are woken, and do not try again by themselves.
pytestmark = pytest.mark.bounds(Bounds(work_recheck_seconds=1_000.0))


def take(consumer: str) -> Take:
    return Take("s", "g", consumer, 1, 60.0, 10, "0")


def behind(bus: Bus, consumer: str, seconds: float = 600.0) -> TaskSleeper:
    """Let one wait behind another."""
    wait = bus.work.wait_to_take(take(consumer), ME, timeout_seconds=seconds)
    assert wait is not None
    sleeper = TaskSleeper(wait.ends(trio.current_time()))
    wait.join(sleeper)
    return sleeper


async def add(bus: Bus, count: int = 1) -> list[str]:
    return (await bus.publisher.add("s", [{"n": n} for n in range(count)], Stamp())).ids


async def test_a_take_that_waits_has_no_task_and_each_is_answered_in_turn(redis: Server) -> None:
    async with running_bus(redis) as bus:
        surface = surface_over(bus)
        async with running_way(surface, direct=True, revision=MODERN) as way:
            await way.greet()
            arguments = {"stream": "s", "group": "g", "timeout_seconds": 60}
            # One after the other: those that find nothing in the same pass queue in any order.
            for number in range(20):
                await way.call(number, "work_take", consumer=f"c{number}", **arguments)
                await until(lambda number=number: bus.hub.statistics().watches > number)
                if not number:
                    # It opens connections to Redis, which have tasks.
                    await asleep(bus)
                    before = trio.lowlevel.current_statistics().tasks_living
            await asleep(bus)
            # Those of the daemon itself may begin meanwhile.
            assert trio.lowlevel.current_statistics().tasks_living < before + 10
            # The first and one in the middle give up.
            for number in (0, 7):
                line = request(None, "notifications/cancelled", {"requestId": number})
                await way.peer.send_all(line.replace(b'"id":null,', b""))
            await until(lambda: bus.hub.statistics().watches == 18)
            await asleep(bus)
            added = await add(bus, 18)
            # The first of them may wait in a task, whose answer comes a little later.
            answers = sorted([await way.answer() for _ in range(18)], key=itemgetter("id"))
            assert [answer["id"] for answer in answers] == [n for n in range(20) if n not in (0, 7)]
            taken = [answer["result"]["structuredContent"] for answer in answers]
            assert [each["entries"][0]["id"] for each in taken] == added
            assert all(each["lease"] for each in taken)
        assert bus.work.queues == bus.hub.statistics().watches == 0
        outcomes = [ended.outcome for ended in surface.ended if ended.tool == "work_take"]
        assert sorted(outcomes) == ["cancelled"] * 2 + ["ok"] * 18


async def test_whose_time_is_over_ends_alone_and_the_others_keep_their_places(bus: Bus) -> None:
    got: list[Work] = []

    async def first() -> None:
        got.append(await bus.work.take(take("first"), ME, timeout_seconds=600))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        await until(lambda: bus.work.queues == 1)
        await asleep(bus)
        soon, early, last = behind(bus, "soon", 0.1), behind(bus, "early"), behind(bus, "last")
        await soon.woken.wait()
        assert soon.outcome.found.entries == []
        # Its place among the waits is another's.
        early.end_early()
        await early.woken.wait()
        assert early.outcome.found.entries == []
        assert not got
        assert not last.woken.is_set()
        added = await add(bus, 2)
        await last.woken.wait()
        await until(lambda: got)
        assert [entry.id for entry in [*got[0].taken.entries, *last.outcome.found.entries]] == added
    assert bus.work.queues == bus.hub.statistics().watches == 0


async def test_an_error_goes_to_each_and_a_stop_ends_all(bus: Bus, server: Server) -> None:
    async def first(outcomes: list[object]) -> None:
        try:
            outcomes.append(await bus.work.take(take("first"), ME, timeout_seconds=600))
        except BusError as error:
            outcomes.append(error.code)

    for stops in (False, True):
        outcomes: list[object] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first, outcomes)
            await until(lambda: bus.work.queues == 1)
            await asleep(bus)
            others = [behind(bus, "second"), behind(bus, "third")]
            if stops:
                bus.hub.drain()
            else:
                server.commands(("MULTI",), ("DEL", "s"), ("SET", "s", "no stream"), ("EXEC",))
            for each in others:
                await each.woken.wait()
        told = [each.outcome for each in others]
        if stops:
            assert isinstance(outcomes[0], Work)
            assert [each.found.entries for each in told] == [[], []]
        else:
            assert outcomes == [Code.WRONG_TYPE]
            assert [error.code for error in told] == [Code.WRONG_TYPE] * 2
            server.command("DEL", "s")
        assert bus.work.queues == bus.hub.statistics().watches == 0


class Unable(TaskSleeper, eq=False):
    """One that cannot be told anything."""

    noted: int = 0

    def told(self, told: Told) -> None:
        raise RuntimeError("told")

    def failed(self, error: Exception) -> None:
        raise RuntimeError("failed")

    def after_told(self) -> None:
        self.noted += 1
        raise RuntimeError("after_told")


@pytest.mark.parametrize("fails", [False, True])
async def test_those_behind_one_who_cannot_be_told_are(
    bus: Bus, server: Server, defects: list[Defect], fails: bool
) -> None:
    async def first() -> None:
        with suppress(BusError):
            await bus.work.take(take("first"), ME, timeout_seconds=600)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        await until(lambda: bus.work.queues == 1)
        await asleep(bus)
        wait = bus.work.wait_to_take(take("unable"), ME, timeout_seconds=600)
        assert wait is not None
        unable = Unable(wait.ends(trio.current_time()))
        wait.join(unable)
        others = [behind(bus, "second"), behind(bus, "third")]
        if fails:
            server.commands(("MULTI",), ("DEL", "s"), ("SET", "s", "no stream"), ("EXEC",))
        else:
            await add(bus, 4)
        for each in others:
            await each.woken.wait()
    assert [isinstance(each.outcome, BusError) for each in others] == [fails, fails]
    # Its call has ended nevertheless.
    assert unable.noted == (not fails)
    assert [str(each.error) for each in defects] == (["failed"] if fails else ["told", "after_told"])
    defects.clear()
    assert bus.work.queues == bus.hub.statistics().watches == 0


async def test_a_wait_ends_in_time_though_it_looks_again_now_and_then(redis: Server) -> None:
    async with running_bus(redis, bounds=Bounds(work_recheck_seconds=3.0)) as bus:
        ended: list[float] = []
        began = trio.current_time()

        async def first() -> None:
            await bus.work.take(take("first"), ME, timeout_seconds=3.4)
            ended.append(trio.current_time() - began)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(first)
            await until(lambda: bus.work.queues == 1)
            second = behind(bus, "second", 3.3)
            await second.woken.wait()
            ended.append(trio.current_time() - began)
        # Not when it is looked again.
        with measured:
            assert max(ended) < 5.5


async def test_who_leaves_in_an_outage_takes_nothing_when_it_is_over() -> None:
    with start_redis() as server:
        async with running_bus(server) as bus, trio.open_nursery() as nursery:
            nursery.start_soon(partial(bus.work.take, take("first"), ME, timeout_seconds=600))
            await until(lambda: bus.work.queues == 1)
            await asleep(bus)
            second = behind(bus, "second")
            server.kill()
            await until(lambda: not bus.redis.is_connected(Role.COMMAND, key="s"))
            # It is the second's turn, whose take cannot be sent.
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await trio.testing.wait_all_tasks_blocked()
                second.leave()
                server.start()
                await until(lambda: bus.redis.is_connected(Role.COMMAND, key="s"))
                await trio.sleep(0.5)
            # A take would have made it, with the group.
            assert server.command("EXISTS", "s") == 0
            assert bus.work.queues == 0
