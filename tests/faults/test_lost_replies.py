"""A fifth of all replies of Redis is lost, each with its connection: what callers are told is still true.

Rows 11 and 26 to 29 of the fault matrix; see docs/reliability.md.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Awaitable, Callable, Iterator

import pytest
import trio

from redstreamd.errors import BusError, Code
from redstreamd.streams.bus import Bus
from redstreamd.streams.entry_encoding import Stamp
from redstreamd.streams.leases import Action, Outcome
from redstreamd.streams.quarantine import QuarantineAction, QuarantineOutcome
from redstreamd.streams.take_values import Take
from tests.faults.calling import QUICK, bus_at, by_bus, by_tool, tool
from tests.redisio.running import calls, through
from tests.support.calls import ME
from tests.support.counts import counts, numbers_until
from tests.support.daemon import running_daemon
from tests.support.history import History, Told, entries_of
from tests.support.mcp_client import raw_client
from tests.support.proxy import Proxy, proxy_to
from tests.support.servers import Server

pytestmark = pytest.mark.limit(120)

LOST = 0.2
WRITERS = 8


def lose_replies(proxy: Proxy, rng: random.Random) -> list[int]:
    """From now on lose a fifth of what the server sends, a chunk at a time; return their count, as a cell.

    How many replies share a chunk, and so how many chunks there are, is the machine's own affair: with
    eight writers, an eighth of the replies at the least.
    """
    lost = [0]

    def decide() -> float:
        if rng.random() < LOST:
            lost[0] += 1
            proxy.to_client.cut_after(0)
        return 0.0

    proxy.to_client.delay = decide
    return lost


async def by_several(write: Callable[[int], Awaitable[object]], numbers: Iterator[int]) -> None:
    async def go_on() -> None:
        for number in numbers:
            await write(number)

    async with trio.open_nursery() as nursery:
        for _ in range(WRITERS):
            nursery.start_soon(go_on)


@pytest.mark.parametrize("count", counts(1_000, ci=10_000, full=10_000))
async def test_without_a_key_a_lost_reply_is_told_and_nothing_is_added_twice(
    server: Server, rng: random.Random, count: int
) -> None:
    history = History()
    async with proxy_to(server.path) as proxy, bus_at(through(proxy), **QUICK) as bus:
        await bus.redis.ping()
        server.command("CONFIG", "RESETSTAT")
        lost = lose_replies(proxy, rng)
        add = by_bus(bus, "s")

        def enough() -> bool:
            return lost[0] > count / 200 and history.count(Told.UNKNOWN) > count / 40

        await by_several(lambda number: history.add(add, number), numbers_until(count, enough))
    entries = entries_of(server, "s")
    history.judge(entries, acknowledged=count // 3)
    # What was lost had been executed, and was not executed again.
    assert calls(server, "xadd") == len(entries)
    unknown = history.count(Told.UNKNOWN)
    print(f"{lost[0]} replies lost, {unknown} of {len(history.lines)} unknown, {len(entries)} there")


@pytest.mark.parametrize("count", counts(1_000, ci=10_000, full=10_000))
async def test_with_a_key_every_add_is_acknowledged_and_there_once(
    server: Server, rng: random.Random, count: int
) -> None:
    history = History()
    async with proxy_to(server.path) as proxy, bus_at(through(proxy), **QUICK) as bus:
        await bus.redis.ping()
        server.command("CONFIG", "RESETSTAT")
        lost = lose_replies(proxy, rng)
        add = by_bus(bus, "s")

        def again() -> int:
            return calls(server, "evalsha") - len(history.lines)

        numbers = numbers_until(count, lambda: lost[0] > count / 200 and again() > count / 40)
        await by_several(lambda number: history.add_with_key(add, number), numbers)
    history.judge(entries_of(server, "s"), acknowledged=len(history.lines))
    # The answers that were lost said the same IDs the second time, and called none of it a duplicate: only
    # what the caller itself repeated may be one.
    assert again() > count / 40
    assert not [line for line in history.lines.values() if line.duplicate and line.attempts == 1]
    assert server.command("XLEN", "s") == len(history.lines)
    print(f"{lost[0]} replies lost, {again()} of {len(history.lines)} asked for again")


async def test_an_agent_that_repeats_with_its_key_adds_once(redis: Server) -> None:
    """The same over the daemon's tools; its pauses between connections are the real ones."""
    history = History()
    async with proxy_to(redis.path) as proxy:
        with running_daemon("absent", REDIS_URL=f"redis://127.0.0.1:{proxy.port}") as daemon:
            async with raw_client(daemon.path, era="modern") as client:
                add = by_tool(client, "orders:new:stream")
                await history.add_with_key(add, 0)
                numbers = numbers_until(25, lambda: history.count(Told.UNKNOWN) > 0)
                for number in itertools.islice(numbers, 1, None):
                    if number % 4 in (0, 1) and number % 3 == 0:
                        proxy.to_client.cut_after(0)
                    if number % 2:
                        await history.add_with_key(add, number)
                    else:
                        await history.add(add, number)
    history.judge(entries_of(redis, "orders:new:stream"), acknowledged=20)
    keyed = [line for line in history.lines.values() if line.keyed]
    assert len(keyed) == 1 + len(history.lines) // 2
    # Their replies were lost and asked for again by the daemon, to which the agent is no witness.
    assert not [line for line in keyed if line.duplicate and line.attempts == 1]


async def finished(bus: Bus, history: History, lease: str) -> None:
    """Report work as done until the answer arrives; it is done for whoever hears so first."""
    while True:
        try:
            settled = await bus.work.settle(bus.work.read_lease(lease, ME), Action.DONE)
        except BusError:
            continue
        history.finished.update(settled.ids(Outcome.DONE, Outcome.ALREADY))
        return


async def work_off(
    bus: Bus, history: History, consumer: str, *, keyed: bool, lease_seconds: float, entries: int
) -> int:
    """Take and finish until everything is finished; return how many takes had an unknown outcome."""
    unknown = 0
    number = 0
    while len(history.finished) < entries:
        number += 1
        take = Take(
            "s", "g", consumer, 5, lease_seconds, 0, "0", idempotency_key=f"{number}" if keyed else None
        )
        while True:
            try:
                work = await bus.work.take(take, ME, timeout_seconds=0 if keyed else 0.2)
                break
            except BusError as error:
                unknown += error.code is Code.OUTCOME_UNKNOWN
                if not keyed:
                    work = None
                    break
        if work is not None and work.lease is not None:
            await finished(bus, history, work.lease)
    return unknown


@pytest.mark.parametrize("count", counts(1_000, ci=5_000, full=5_000))
async def test_with_a_key_a_take_whose_reply_is_lost_gives_the_same_lease(
    server: Server, rng: random.Random, count: int
) -> None:
    """No lease runs out here: whatever is finished was in an answer that arrived."""
    history = History()
    async with proxy_to(server.path) as proxy, bus_at(through(proxy), **QUICK) as bus:
        for number in range(count):
            await bus.publisher.add("s", [{"n": number}], Stamp())
        lost = lose_replies(proxy, rng)
        async with trio.open_nursery() as nursery:
            for consumer in ("a", "b", "c", "d"):

                async def work(consumer: str = consumer) -> None:
                    await work_off(bus, history, consumer, keyed=True, lease_seconds=600, entries=count)

                nursery.start_soon(work)
    ids = [entry_id for entry_id, _ in raw_ids(server)]
    history.judge_work(ids, pending=server.command("XPENDING", "s", "g")[0], finished=count, once=True)
    assert lost[0] > count / 200


@pytest.mark.parametrize("count", counts(200, ci=1_000, full=1_000))
async def test_without_a_key_what_was_taken_unseen_comes_back_when_the_lease_runs_out(
    server: Server, rng: random.Random, count: int
) -> None:
    history = History()
    unknown = 0
    async with proxy_to(server.path) as proxy, bus_at(through(proxy), **QUICK) as bus:
        for number in range(count):
            await bus.publisher.add("s", [{"n": number}], Stamp())
        # One for certain; chance decides how many more.
        while unknown == 0:
            proxy.to_client.cut_after(0)
            try:
                await bus.work.take(Take("s", "g", "a", 5, 0.5, 0, "0"), ME)
            except BusError as error:
                unknown += error.code is Code.OUTCOME_UNKNOWN
        lose_replies(proxy, rng)

        async def work(consumer: str) -> None:
            nonlocal unknown
            unknown += await work_off(bus, history, consumer, keyed=False, lease_seconds=0.5, entries=count)

        async with trio.open_nursery() as nursery:
            for consumer in ("a", "b", "c", "d"):
                nursery.start_soon(work, consumer)
    ids = [entry_id for entry_id, _ in raw_ids(server)]
    history.judge_work(ids, pending=server.command("XPENDING", "s", "g")[0], finished=count, once=False)
    print(f"{unknown} takes with an unknown outcome, {len(history.finished)} of {count} finished")


# As many as may wait in a stream's quarantine.
@pytest.mark.parametrize("count", counts(300, ci=1_000, full=1_000))
async def test_what_waits_is_released_once_and_each_release_knows_what_it_did(
    server: Server, rng: random.Random, count: int
) -> None:
    """Four operators release and discard the same entries in an order of their own."""
    released: list[tuple[str, str]] = []
    discarded: list[str] = []
    async with proxy_to(server.path) as proxy, bus_at(through(proxy), **QUICK) as bus:
        waiting: list[str] = []
        for number in range(0, count, 50):
            entries = [{"n": n} for n in range(number, number + 50)]
            waiting += (await bus.publisher.add("s", entries, Stamp(), waits=True)).ids
        lost = lose_replies(proxy, rng)

        async def operate(seed: int) -> None:
            mine = random.Random(seed)
            for entry_id in mine.sample(waiting, count):
                action = mine.choice(list(QuarantineAction))
                while True:
                    try:
                        (one,) = await bus.quarantine.settle("s", action, [entry_id], by="op", dry_run=False)
                        break
                    except BusError as error:
                        # A command that may be sent again leaves no unknown outcome.
                        if error.code is not Code.CONNECTION_ERROR:
                            raise
                if one.outcome is QuarantineOutcome.RELEASED:
                    released.append((entry_id, str(one.entry_id)))
                elif one.outcome is QuarantineOutcome.DISCARDED:
                    discarded.append(entry_id)
                else:
                    assert one.outcome is QuarantineOutcome.GONE

        async with trio.open_nursery() as nursery:
            for seed in rng.sample(range(1 << 32), 4):
                nursery.start_soon(operate, seed)
    there = {
        entry_id.decode(): dict(zip(fields[::2], fields[1::2], strict=True))[b"_rs.released"].decode()
        for entry_id, fields in server.command("XRANGE", "s", "-", "+")
    }
    # Each was told to one of them, and to no other.
    assert there == {new_id: f"{entry_id} op" for entry_id, new_id in released}
    assert sorted([entry_id for entry_id, _ in released] + discarded) == sorted(waiting)
    assert min(len(released), len(discarded)) > count / 10
    assert lost[0] > count / 20


def raw_ids(server: Server) -> list[tuple[str, object]]:
    return [(entry_id.decode(), flat) for entry_id, flat in server.command("XRANGE", "s", "-", "+")]


async def test_a_lost_acknowledgement_is_repeated_and_answers_already_done(redis: Server) -> None:
    async with proxy_to(redis.path) as proxy:
        with running_daemon("absent", REDIS_URL=f"redis://127.0.0.1:{proxy.port}") as daemon:
            async with raw_client(daemon.path, era="modern") as client:
                place = {"stream": "orders:new:stream", "group": "g"}
                repeated = 0
                while repeated < 3:
                    added = await tool(
                        client, "stream_add", stream=place["stream"], entries=[{"n": repeated}, {"n": -1}]
                    )
                    taken = await tool(client, "work_take", consumer="c", count=2, **place)
                    assert [entry["id"] for entry in taken["entries"]] == added["ids"]
                    proxy.to_client.cut_after(0)
                    done = await tool(client, "work_done", lease=taken["lease"])
                    assert not proxy.to_client.cut_pending
                    # Now and then what was cut is a reply to the daemon itself, on another connection.
                    assert [*done.get("already_done", []), *done.get("done", [])] == added["ids"]
                    assert not done.get("lost")
                    repeated += bool(done.get("already_done"))
        assert redis.command("XPENDING", "orders:new:stream", "g")[0] == 0
        assert proxy.accepted >= 4


@pytest.mark.parametrize("count", counts(5_000, ci=100_000, full=100_000))
@pytest.mark.limit(240)
async def test_no_reader_gets_the_entries_of_another_however_many_are_cancelled(
    redis: Server, rng: random.Random, count: int
) -> None:
    """The transport's own test sends ECHO; this one reads streams, as tools do."""
    streams = 50
    batch = [("XADD", f"s{number}", "*", "stream", f"s{number}") for number in range(streams)]
    redis.commands(*batch)
    outcomes = {"answered": 0, "cancelled": 0, "wrong": 0}
    numbers = numbers_until(count, lambda: min(outcomes["answered"], outcomes["cancelled"]) > count / 4)
    async with proxy_to(redis.path) as proxy, bus_at(through(proxy)) as bus:
        await bus.redis.ping()
        proxy.to_client.slice_bytes = lambda: rng.randint(1, 200)
        proxy.to_client.delay = lambda: rng.uniform(0.0, 0.02)

        async def read_again_and_again() -> None:
            for number in numbers:
                stream = f"s{number % streams}"
                with trio.move_on_after(rng.choice([0.0, rng.uniform(0.0, 0.03), 60])) as scope:
                    (entry,) = await bus.redis.xrange(stream, "-", "+", 1)
                    outcomes["answered"] += 1
                    outcomes["wrong"] += entry.fields != ((b"stream", stream.encode()),)
                outcomes["cancelled"] += scope.cancelled_caught

        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(read_again_and_again)
        assert proxy.accepted <= 2  # that for commands, and the hub's
    assert outcomes["wrong"] == 0
