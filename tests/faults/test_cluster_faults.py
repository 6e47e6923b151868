"""A cluster is resharded, and loses primaries, under load: nothing acknowledged is lost, and others go on.

Rows 16, 24 and 25 of the fault matrix.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import attrs
import pytest
import trio

from redstreamd.errors import BusError, Code
from redstreamd.redisio.client import Redis
from redstreamd.redisio.slot_map import slot_of
from redstreamd.redisio.topologies import topology_for
from redstreamd.settings import Settings
from redstreamd.streams.bus import Bus
from tests.faults.calling import by_bus
from tests.support.buses import KEY
from tests.support.counts import numbers_until
from tests.support.fair_clock import Clock
from tests.support.history import History, InvalidRun, Told, entries_of
from tests.support.measured import measured
from tests.support.redis_cluster import Cluster, running_cluster
from tests.support.servers import Server
from tests.support.waiting import until

#: Streams on each primary, and writers of each: with a key and without.
STREAMS = 2
#: What a caller may meet while the cluster changes; both say to call again.
RETRYABLE = {Code.CONNECTION_ERROR.value, Code.OUTCOME_UNKNOWN.value}


def on_kinds(quick: int, *, ci: int, full: int) -> list[Any]:
    """Return values of the parameters for a server and a count: Valkey and Redis 8 in `make soak` only."""
    return [
        pytest.param("redis", quick),
        pytest.param("redis", ci, marks=pytest.mark.soak_ci),
        *(pytest.param(kind, full, marks=pytest.mark.soak) for kind in ("redis", "valkey", "redis8")),
    ]


@attrs.define
class Load:
    """Writers on many streams.

    Attributes:
        histories: Of each stream.
        codes: How often each error was met, by stream.
        seconds: How long each call took that was acknowledged, by stream, with the time of its answer.
    """

    clock: Clock
    histories: dict[str, History]
    codes: dict[str, Counter[str]]
    seconds: dict[str, list[tuple[float, float]]]
    is_over: bool = False

    def acknowledged(self, stream: str) -> int:
        return self.histories[stream].count(Told.ACKNOWLEDGED)

    async def write(self, bus: Bus, stream: str, keyed: bool, numbers: Iterator[int]) -> None:
        history, add = self.histories[stream], by_bus(bus, stream)

        async def counted(entry: dict[str, object], key: str | None) -> tuple[str, bool]:
            began = self.clock()
            try:
                added = await add(entry, key)
            except BusError as error:
                self.codes[stream][error.code.value] += 1
                raise
            now = self.clock()
            self.seconds[stream].append((now, now - began))
            return added

        for number in numbers:
            if self.is_over:
                return
            line = await (history.add_with_key if keyed else history.add)(counted, number)
            if line.told is not Told.ACKNOWLEDGED:
                await trio.sleep(0.02)
            await trio.sleep(0.001)

    def judge(self, cluster: Cluster, acknowledged: int) -> None:
        """Compare with what is in the streams."""
        for stream, history in self.histories.items():
            server: Server = cluster  # type: ignore[assignment]
            history.judge(entries_of(server, stream), acknowledged=acknowledged)

    def met(self) -> Counter[str]:
        return sum(self.codes.values(), Counter())


@contextlib.asynccontextmanager
async def loaded(cluster: Cluster, clock: Clock) -> AsyncIterator[tuple[Redis, Load]]:
    """Write to streams on every primary for the block."""
    tags = [cluster.keys_on_each(f"load{number}") for number in range(STREAMS)]
    streams = [stream for of_each in tags for stream in of_each]
    load = Load(
        clock,
        {stream: History() for stream in streams},
        {stream: Counter() for stream in streams},
        {stream: [] for stream in streams},
    )
    topology = topology_for(cluster.deployment())
    redis = Redis(topology)
    bus = Bus.over(redis, Settings(), KEY)
    async with trio.open_nursery() as nursery:
        await nursery.start(topology.run)
        await nursery.start(bus.hub.run)
        await topology.wait_connected()
        async with trio.open_nursery() as writing:
            for stream in streams:
                numbers = iter(range(10**9))
                for keyed in (True, False):
                    writing.start_soon(load.write, bus, stream, keyed, numbers)
            await more(load, 5)
            yield redis, load
            load.is_over = True
        nursery.cancel_scope.cancel()


async def more(load: Load, count: int, streams: list[str] | None = None) -> None:
    """Return once so many more were acknowledged on each of the streams."""
    chosen = streams or list(load.histories)
    before = {stream: load.acknowledged(stream) for stream in chosen}
    with trio.move_on_after(60) as patience:
        await until(
            lambda: all(load.acknowledged(each) >= before[each] + count for each in chosen), every=0.02
        )
    if patience.cancelled_caught:
        raise InvalidRun(f"less than {count} acknowledged on each stream in a minute: {load.met()}")


@pytest.mark.parametrize(("server", "moves"), on_kinds(12, ci=40, full=400))
@pytest.mark.limit(60, moves=12)
async def test_nothing_is_lost_while_slots_move_under_load(
    server: str, moves: int, rng: random.Random, clock: Clock
) -> None:
    """Some are held half-way, so that keys are asked for on both sides; others move as fast as they can."""
    with running_cluster(replicas=0, kind=server, node_timeout_ms=60_000) as cluster:
        async with loaded(cluster, clock) as (redis, load):
            for number in numbers_until(moves, lambda: refusals(cluster, "MOVED")):
                stream = rng.choice(list(load.histories))
                slot, owner = slot_of(stream), await trio.to_thread.run_sync(cluster.node_of, stream)
                there = rng.choice([node for node in cluster.nodes if node is not owner])
                await trio.to_thread.run_sync(cluster.begin_move, slot, there)
                if number % 4 == 1:
                    await more(load, 2, [stream])
                await trio.to_thread.run_sync(cluster.move_keys, slot, there)
                if number % 2:
                    await more(load, 2, [stream])
                await trio.to_thread.run_sync(cluster.end_move, slot, there)
                await more(load, 2, [stream])
            assert len(redis.nodes()) == 3
        load.judge(cluster, acknowledged=10)
        redirected = {code: refusals(cluster, code) for code in ("MOVED", "ASK", "TRYAGAIN")}
    # No caller saw any of it.
    assert not load.met()
    assert redirected["ASK"]
    print(f"{number + 1} moves, {sum(map(load.acknowledged, load.histories))} acknowledged, {redirected}")


def refusals(cluster: Cluster, code: str) -> int:
    found = 0
    for node in cluster.live():
        for line in node.command("INFO", "errorstats").decode().splitlines():
            if line.startswith(f"errorstat_{code}:"):
                found += int(line.partition("count=")[2])
    return found


@pytest.mark.parametrize(("server", "kills"), on_kinds(1, ci=3, full=25))
@pytest.mark.limit(60, kills=1)
async def test_a_lost_primary_costs_only_its_own_slots_anything(
    server: str, kills: int, clock: Clock
) -> None:
    found_after: list[float] = []
    ratios: list[float] = []
    not_replicated = 0
    for _ in range(kills):
        options = ("--cluster-require-full-coverage", "no")
        with running_cluster(3, 1, *options, kind=server, node_timeout_ms=3_000) as cluster:
            async with loaded(cluster, clock) as (redis, load):
                stream = next(iter(load.histories))
                victim = await trio.to_thread.run_sync(cluster.node_of, stream)
                replica = await trio.to_thread.run_sync(cluster.replica_of, victim)
                lost = [each for each in load.histories if redis.node_for(each) is redis.node_for(stream)]
                others = [each for each in load.histories if each not in lost]
                await until(lambda victim=victim: not _behind(victim), every=0.02)
                calm_from = clock()
                await more(load, 100, others)
                killed_at = clock()
                await trio.to_thread.run_sync(cluster.kill, victim)
                await until(lambda replica=replica: trio.to_thread.run_sync(_is_primary, replica), every=0.02)
                promoted_at = clock()
                served, known = load.histories[stream], load.acknowledged(stream)
                await until(
                    lambda served=served, known=known: served.count(Told.ACKNOWLEDGED) > known, every=0.001
                )
                found_after.append(clock() - promoted_at)
                await more(load, 5)
                over = clock()
            for each in others:
                load.histories[each].judge(entries_of(cluster, each), acknowledged=100)  # type: ignore[arg-type]
                assert not load.codes[each], each
            # What the lost primary had acknowledged and not replicated is the server's to lose.
            for each in lost:
                kept = {entry_id for entry_id, _ in entries_of(cluster, each)}  # type: ignore[arg-type]
                told = {line.entry_id for line in load.histories[each].lines.values() if line.entry_id}
                not_replicated += len(told - kept)
                assert load.codes[each].keys() <= RETRYABLE, load.codes[each]
            calm, during = (
                _p99(load, others, begin, end) for begin, end in ((calm_from, killed_at), (killed_at, over))
            )
            ratios.append(during / calm)
    with measured:
        assert max(found_after) <= 2.0, found_after
        # They wait for nothing of it; an election has six processes talk, though.
        assert min(ratios) <= 5.0, ratios
    print(
        f"{kills} kills: found {max(found_after):.2f} s after the promotion at most; p99 of other slots "
        f"{max(ratios):.1f} times as before at most, {not_replicated} acknowledged and not replicated"
    )


def _is_primary(node: Server) -> bool:
    reply = node.command("ROLE")
    return bool(reply[0] == b"master")


def _behind(primary: Server) -> bool:
    return b"state=online" not in primary.command("INFO", "replication")


def _p99(load: Load, streams: list[str], begin: float, end: float) -> float:
    found = sorted(took for stream in streams for at, took in load.seconds[stream] if begin <= at < end)
    if len(found) < 100:
        raise InvalidRun(f"only {len(found)} calls")
    return found[len(found) * 99 // 100]
