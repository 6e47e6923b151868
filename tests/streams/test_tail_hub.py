"""The tail hub on real servers: everyone who should be woken is, nobody else, and no change is missed."""

from __future__ import annotations

import random
from functools import partial

import msgspec
import pytest
import trio
import trio.testing

from redstreamd.admission.claims import WAITS, Limit
from redstreamd.errors import BusError, Code
from redstreamd.errors.defects import Defect
from redstreamd.redisio import Role
from redstreamd.redisio.client import Redis
from redstreamd.redisio.standalone import Standalone
from redstreamd.redisio.target import Target
from redstreamd.settings import Settings
from redstreamd.streams.bus import Bus
from redstreamd.streams.entry_decoding import decode
from redstreamd.streams.entry_encoding import Stamp
from redstreamd.streams.next_entries import Waited
from redstreamd.streams.tail_hub import TailHub
from redstreamd.streams.waiting import TaskSleeper, Told
from redstreamd.streams.watches import Watch
from tests.support.buses import KEY, asleep, running_bus
from tests.support.counts import counts
from tests.support.proxy import proxy_to
from tests.support.servers import Server
from tests.support.waiting import until


async def armed(bus: Bus, keys: int) -> None:
    """Return once the server knows `keys` watched keys."""
    await until(lambda: bus.hub.statistics().armings >= keys)


def is_armed(bus: Bus, key: str) -> bool:
    return bus.hub.armed_by([key.encode()]) != (0,)


def clients(server: Server, name: str = "redstreamd") -> list[dict[str, str]]:
    """Return the server's connections whose name begins with `name`."""
    lines = server.command("CLIENT", "LIST").decode().splitlines()
    listed = [dict(word.partition("=")[::2] for word in line.split(" ")) for line in lines]
    return [client for client in listed if client["name"].startswith(name)]


@pytest.mark.parametrize(
    "change",
    [
        ["XADD", "s", "*", "f", "v"],
        ["XADD", "s", "MAXLEN", "0", "*", "f", "v"],
        ["EVAL", "return redis.call('XADD', KEYS[1], '*', 'f', 'v')", "1", "s"],
        ["DEL", "s"],
        ["RENAME", "s", "t"],
        ["COPY", "other", "s", "REPLACE"],
        ["PEXPIRE", "s", "0"],
        ["FLUSHALL"],
        ["XTRIM", "s", "MAXLEN", "0"],
    ],
    ids=lambda change: " ".join(change[:2]),
)
async def test_whatever_changes_a_stream_wakes_its_watchers(
    bus: Bus, server: Server, change: list[str]
) -> None:
    server.command("XADD", "s", "1-1", "f", "v")
    server.command("XADD", "other", "1-1", "f", "v")
    with bus.hub.watch(["s"]) as watch, bus.hub.watch(["unrelated"]) as unrelated:
        await armed(bus, 2)
        watch.reset()
        unrelated.reset()
        server.command(*change)
        await watch.changed()
        if change != ["FLUSHALL"]:
            with trio.move_on_after(0) as unchanged:
                await unrelated.changed()
            assert unchanged.cancelled_caught


async def test_a_hundred_unread_changes_are_one_push(bus: Bus, server: Server) -> None:
    with bus.hub.watch(["s"]) as watch:
        await armed(bus, 1)
        watch.reset()
        pushed = bus.hub.statistics().pushes
        server.commands(*[["XADD", "s", "*", "f", "v"]] * 100)
        await watch.changed()
        # The commands came as one batch, so at most two pushes fit around one arming.
        assert 1 <= bus.hub.statistics().pushes - pushed <= 2


async def test_a_key_of_another_type_harms_nobody(bus: Bus, server: Server) -> None:
    server.command("SET", "s", "not a stream")
    with bus.hub.watch(["s", "t"]) as watch:
        await armed(bus, 2)
        watch.reset()
        server.command("XADD", "t", "*", "f", "v")
        await watch.changed()


@pytest.mark.parametrize("is_eager", [False, True])
async def test_a_change_between_mark_and_wait_is_not_missed(bus: Bus, server: Server, is_eager: bool) -> None:
    """The waiter's protocol, with the change placed at every step of it."""
    for place in ("before watching", "before mark", "after mark", "after the look", "while waiting"):
        server.flush()

        def change(here: str, place: str = place) -> None:
            if here == place:
                server.command("XADD", "s", "*", "f", "v")

        change("before watching")
        with bus.hub.watch(["s"], is_eager=is_eager) as watch:
            change("before mark")
            async with trio.open_nursery() as nursery:
                if place == "while waiting":
                    nursery.start_soon(add_once_waiting, watch, server)
                while True:
                    watch.reset()
                    change("after mark")
                    found = await bus.redis.xlen("s")
                    change("after the look")
                    if found:
                        break
                    await watch.changed()


async def add_once_waiting(watch: Watch, server: Server) -> None:
    while not watch.waiting:
        await trio.testing.wait_all_tasks_blocked()
    server.command("XADD", "s", "*", "f", "v")


async def answered(bus: Bus) -> None:
    """Return once what was sent on the watch connection is answered, and the answer is handled."""
    await bus.redis.execute("PING", key=None, role=Role.WATCH, retry_safe=True)
    await trio.testing.wait_all_tasks_blocked()


async def test_an_eager_watcher_is_woken_by_the_push_and_the_key_armed_when_it_waits_again(
    bus: Bus, server: Server
) -> None:
    with bus.hub.watch(["s"], is_eager=True) as eager:
        await eager.changed()
        for changes in range(1, 4):
            eager.reset()
            server.command("XADD", "s", "*", "f", "v")
            await eager.changed()
            await answered(bus)
            assert bus.hub.statistics().armings == changes
            # It has read and found nothing: it is woken once more, when the key is armed.
            eager.reset()
            await eager.changed()
            assert bus.hub.statistics().armings == changes + 1


async def test_a_key_is_armed_at_once_for_those_who_are_not_eager(bus: Bus, server: Server) -> None:
    with bus.hub.watch(["s"], is_eager=True) as eager, bus.hub.watch(["s"]) as watch:
        await armed(bus, 1)
        eager.reset()
        watch.reset()
        server.command("XADD", "s", "*", "f", "v")
        await watch.changed()
        assert bus.hub.statistics().armings == 2
        await eager.changed()


async def test_a_key_stays_armed_when_its_last_watcher_goes(bus: Bus, server: Server) -> None:
    for is_eager in (False, True):
        with bus.hub.watch(["s"], is_eager=is_eager) as watch:
            if not is_eager:
                await watch.changed()
    assert bus.hub.statistics() == msgspec.structs.replace(bus.hub.statistics(), keys=0, watches=0, armings=1)
    assert is_armed(bus, "s")
    # It is still pushed: nobody watches it, so it is forgotten, and armed for the next who does.
    server.command("XADD", "s", "*", "f", "v")
    await until(lambda: not is_armed(bus, "s"))
    with bus.hub.watch(["s"]) as watch:
        await watch.changed()
    assert bus.hub.statistics().armings == 2


async def test_keys_that_stay_armed_without_a_watcher_are_bounded(bus: Bus) -> None:
    with bus.hub.watch(map(str, range(2_000))):
        await armed(bus, 2_000)
    assert bus.hub.statistics().keys == 0
    assert sum(is_armed(bus, str(number)) for number in range(2_000)) == 1_024


async def test_one_who_waits_again_and_again_costs_redis_one_read_a_time(bus: Bus, server: Server) -> None:
    def calls() -> dict[str, int]:
        lines = server.command("INFO", "commandstats").decode().split("\r\n")
        found = (line.partition(":") for line in lines if line.startswith("cmdstat_"))
        return {name[8:]: int(rest.split(",")[0].removeprefix("calls=")) for name, _, rest in found}

    cursor = "0-0"
    async with trio.open_nursery() as nursery:
        send, receive = trio.open_memory_channel[Waited](0)

        async def wait() -> None:
            await send.send(await bus.next_entries.wait(["s"], cursor=cursor, timeout_seconds=100))

        async def once() -> str:
            # What follows an answer takes its course while the client works with it.
            await answered(bus)
            nursery.start_soon(wait)
            await asleep(bus)
            server.command("XADD", "s", "*", "f", "v")
            return (await receive.receive()).cursor_after(1)

        # For the first, neither the key is armed nor the script known.
        cursor = await once()
        await answered(bus)
        server.command("CONFIG", "RESETSTAT")
        reads = bus.redis.traffic()[Role.BULK].commands
        for _ in range(10):
            cursor = await once()
        await answered(bus)
        seen = calls()
        reads = bus.redis.traffic()[Role.BULK].commands - reads
    # Each is read on the watch connection, which arms the key; the next wait begins without a read.
    assert seen["xadd"] == seen["evalsha"] == 10
    assert "exists" not in seen
    assert reads == 0


async def test_a_wait_that_ends_while_it_is_read_for_leaves_its_stream_watched(server: Server) -> None:
    async with proxy_to(server.path, unix=True) as proxy, trio.open_nursery() as nursery:
        topology = Standalone.of(Target(path=proxy.path))
        bus = Bus.over(Redis(topology), Settings(), KEY)
        await nursery.start(topology.run)
        await nursery.start(bus.hub.run)
        told: list[Waited] = []

        async def wait(cursor: str, scope: trio.CancelScope) -> None:
            with scope:
                told.append(await bus.next_entries.wait(["s"], cursor=cursor, timeout_seconds=100))

        scope = trio.CancelScope()
        nursery.start_soon(wait, "0-0", scope)
        await asleep(bus)
        proxy.to_server.hold()
        server.command("XADD", "s", "1-1", "f", "v")
        await until(lambda: bus.hub.waiting == 0)
        scope.cancel()
        await until(lambda: bus.hub.statistics().watches == 0)
        # The read is answered nevertheless, and has armed the key.
        assert not is_armed(bus, "s")
        proxy.to_server.release()
        await until(lambda: is_armed(bus, "s"))
        assert not told
        assert len(bus.places) == 0
        nursery.start_soon(wait, "1-1", trio.CancelScope())
        await asleep(bus)
        server.command("XADD", "s", "1-2", "f", "v")
        await until(lambda: told)
        assert [entry.id for _, entry in told[0].entries] == ["1-2"]
        nursery.cancel_scope.cancel()


async def known_ends(bus: Bus, server: Server, streams: list[str]) -> None:
    """Have the hub know that nothing follows 1-1 in the streams."""
    for stream in streams:
        server.command("XADD", stream, "1-1", "f", "v")
    with bus.hub.watch(streams) as watch:
        await watch.changed()
        for stream in streams:
            await bus.next_entries.wait([stream], cursor="1-1", timeout_seconds=0)


async def test_many_who_begin_without_a_read_cost_redis_one_question_and_end_empty(
    bus: Bus, server: Server
) -> None:
    streams = [f"s{number}" for number in range(50)]
    await known_ends(bus, server, streams)
    traffic = bus.redis.traffic()
    reads, asked = traffic[Role.BULK].commands, traffic[Role.WATCH].commands
    told: list[Waited] = []

    async def wait(stream: str) -> None:
        told.append(await bus.next_entries.wait([stream], cursor="1-1", timeout_seconds=1))

    async with trio.open_nursery() as nursery:
        for stream in streams:
            nursery.start_soon(wait, stream)
        await until(lambda: bus.hub.waiting == 50)
        assert traffic[Role.BULK].commands == reads
    assert len(told) == 50
    assert not any(waited.entries for waited in told)
    # The connection may have asked by itself, too.
    assert 1 <= traffic[Role.WATCH].commands - asked <= 2
    # Each has looked at its end.
    assert traffic[Role.BULK].commands == reads + 50


async def test_who_began_behind_the_first_look_at_a_stream_reads_again_in_one_round_trip(
    bus: Bus, server: Server
) -> None:
    server.command("XADD", "s", "1-1", "f", "v")
    async with trio.open_nursery() as nursery:
        for count in (1, 2):
            nursery.start_soon(
                partial(bus.next_entries.wait, ["s"], cursor="1-1", count=count, timeout_seconds=60)
            )
        await asleep(bus, 2)
        traffic = bus.redis.traffic()[Role.BULK]
        commands = traffic.commands
        bus.hub.notify("s")
        await asleep(bus, 2)
        assert traffic.commands == commands + 2
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("wanted", [None, {"k": "b"}])
async def test_one_who_cannot_be_told_harms_nobody_else(
    bus: Bus, server: Server, defects: list[Defect], wanted: dict[str, str] | None
) -> None:
    class Broken(TaskSleeper, eq=False):
        def told(self, told: Told) -> None:
            raise RuntimeError("a defect")

    wait = bus.next_entries.wait_after(["s"], "0-0", 10, 20.0, wanted)
    sleepers = [Broken(wait.ends(trio.current_time())), TaskSleeper(wait.ends(trio.current_time()))]
    for sleeper in sleepers:
        wait.join(sleeper)
    await asleep(bus, 2)
    server.command("XADD", "s", "1-1", "k", "b")
    await sleepers[1].woken.wait()
    assert [entry.id for _, entry in sleepers[1].outcome.found.entries] == ["1-1"]
    assert [str(defect.error) for defect in defects] == ["a defect"]
    # The hub goes on, and nobody is left.
    assert bus.hub.statistics().watches == len(bus.places) == 0


async def test_what_is_read_for_those_who_are_woken_does_not_hold_up_pushes(bus: Bus, server: Server) -> None:
    told: list[Waited] = []

    async def wait(stream: str, cursor: str) -> None:
        told.append(await bus.next_entries.wait([stream], cursor=cursor, timeout_seconds=100))

    async with trio.open_nursery() as nursery:
        # A small entry first: then the next one wakes by a read on the watch connection.
        for cursor, entry_id in (("0-0", "1-1"), ("1-1", "1-2")):
            nursery.start_soon(wait, "s", cursor)
            await asleep(bus)
            server.command("XADD", "s", entry_id, "f", "v")
            await until(lambda: told)
            told.clear()
        nursery.start_soon(wait, "s", "1-2")
        await asleep(bus)
        before = bus.redis.traffic()[Role.WATCH].received_bytes
        value = "x" * (1 << 20)
        large = "for i = 1, 20 do redis.call('XADD', KEYS[1], '*', 'f', ARGV[1]) end"
        server.command("EVAL", large, "1", "s", value)
        await until(lambda: told)
    assert sum(len(entry.words[1]) for _, entry in told[0].entries) >= 1 << 20
    assert bus.redis.traffic()[Role.WATCH].received_bytes - before < 512 * 1024


@pytest.mark.parametrize("wanted", counts(5, ci=25, full=100))
@pytest.mark.limit(120, wanted=3)
async def test_nothing_is_missed_while_the_watch_connection_is_killed_again_and_again(
    bus: Bus, server: Server, wanted: int
) -> None:
    """Readers that only ever wait collect every entry, in order, across many reconnects."""
    streams, readers, entries = 20, 200, 400
    rng = random.Random(20_260_728)
    got: list[list[str]] = [[] for _ in range(readers)]
    added: dict[str, list[str]] = {f"s{n}": [] for n in range(streams)}
    kills = 0
    finished = trio.Event()

    async def read(number: int, bus: Bus) -> None:
        stream = f"s{number % streams}"
        cursor = "0-0"
        while True:
            waited = await bus.next_entries.wait([stream], cursor=cursor, count=100, timeout_seconds=60)
            got[number] += [entry.id for _, entry in waited.entries]
            cursor = waited.cursor_after(len(waited.entries))
            if waited.entries and decode(waited.entries[-1][1].fields).members == {"n": "last"}:
                return

    async def kill() -> None:
        nonlocal kills
        while not finished.is_set():
            for client in clients(server, "redstreamd:watch"):
                kills += server.command("CLIENT", "KILL", "ID", client["id"]) == 1
            await trio.sleep(rng.uniform(0, 0.02))

    async with trio.open_nursery() as nursery:
        for number in range(readers):
            nursery.start_soon(read, number, bus)
        nursery.start_soon(kill)
        number = 0
        while number < entries or kills < wanted:
            number += 1
            stream = f"s{rng.randrange(streams)}"
            result = await bus.publisher.add(stream, [{"n": number}], Stamp())
            added[stream] += result.ids
            if rng.random() < 0.3:
                await trio.sleep(0.01)
        finished.set()
        # The last one tells its readers that they have everything.
        for stream in added:
            added[stream] += (await bus.publisher.add(stream, [{"n": "last"}], Stamp())).ids
    # The server may learn a moment later that a connection is gone.
    await until(lambda: len(clients(server, "redstreamd:watch")) <= 1)
    assert kills >= wanted
    for number in range(readers):
        assert got[number] == added[f"s{number % streams}"]


async def test_where_tracking_is_refused_the_hub_polls_and_says_so(server: Server) -> None:
    server.command("ACL", "SETUSER", "limited", "on", ">pw", "~*", "+@all", "-client|tracking")
    topology = Standalone.of(Target(path=server.path, username="limited", password="pw"))
    hub = TailHub(Redis(topology), poll_seconds=0.05)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(topology.run)
            await nursery.start(hub.run)
            with hub.watch(["s"]) as watch:
                for _ in range(3):
                    watch.reset()
                    await watch.changed()
                assert not hub.statistics().tracking
                assert hub.statistics().pushes == 0
            nursery.cancel_scope.cancel()
    finally:
        server.command("ACL", "DELUSER", "limited")


async def test_the_sweep_finds_what_no_push_announced(server: Server) -> None:
    topology = Standalone.of(Target(path=server.path))
    hub = TailHub(Redis(topology), sweep_seconds=0.05)
    async with trio.open_nursery() as nursery:
        await nursery.start(topology.run)
        await nursery.start(hub.run)
        with hub.watch(["s"]) as watch:
            for _ in range(3):
                watch.reset()
                await watch.changed()
        assert hub.statistics().tracking
        nursery.cancel_scope.cancel()


async def test_draining_ends_every_wait_at_once(bus: Bus, server: Server) -> None:
    async with trio.open_nursery() as nursery:
        ended = []

        async def wait() -> None:
            ended.append(await bus.next_entries.wait(["s"], cursor="5-5", timeout_seconds=1_000))

        for _ in range(10):
            nursery.start_soon(wait)
        await armed(bus, 1)
        bus.hub.drain()
        bus.hub.drain()
        await until(lambda: len(ended) == 10)
        assert {waited.cursor_after(0) for waited in ended} == {"5-5"}
        # From now on a wait looks once and ends.
        server.command("XADD", "s", "6-0", "f", "v")
        waited = await bus.next_entries.wait(["s"], cursor="5-5", timeout_seconds=1_000)
        assert [entry.id for _, entry in waited.entries] == ["6-0"]


async def test_the_number_of_waits_is_bounded(server: Server) -> None:
    hub = TailHub(Redis(Standalone.of(Target(path=server.path))), waits=Limit(WAITS, 2))
    with hub.watch(["a"]), hub.watch(["a", "b"]):
        with pytest.raises(BusError) as refused, hub.watch(["c"]):
            pass
        assert refused.value.code is Code.RATE_LIMITED
        assert "limits.max_waits" in refused.value.next_step
    assert hub.statistics().watches == hub.statistics().keys == 0


async def test_a_wait_survives_a_restart_of_redis_and_misses_nothing(tmp_path: object) -> None:
    from tests.support.servers import start_redis

    with start_redis("--appendonly", "yes", "--appendfsync", "always") as server:
        async with running_bus(server) as bus, trio.open_nursery() as nursery:
            waited = []

            async def wait() -> None:
                waited.append(await bus.next_entries.wait(["s"], timeout_seconds=20))

            nursery.start_soon(wait)
            # One that has only begun when Redis goes away would be told that.
            await asleep(bus)
            await trio.to_thread.run_sync(server.kill)
            await trio.to_thread.run_sync(server.start)
            # Added before the daemon is back, so only the reading after the reconnect can find it.
            entry_id = server.command("XADD", "s", "*", "f", "v").decode()
        assert [entry.id for _, entry in waited[0].entries] == [entry_id]
