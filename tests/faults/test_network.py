"""What networks and hung servers do, seen by those who call tools: rows 3, 4, 6, 7 and 10."""

from __future__ import annotations

import os
import random
import signal
import subprocess

import pytest
import trio

from redstreamd.errors import BusError, Code
from redstreamd.redisio.node import Role
from redstreamd.redisio.target import Target
from tests.faults.calling import QUICK, bus_at, by_bus
from tests.redisio.running import over_tcp, through
from tests.support.calls import call, refusal
from tests.support.counts import counts, numbers_until
from tests.support.fair_clock import Clock
from tests.support.history import History, Told, entries_of
from tests.support.measured import measured
from tests.support.proxy import proxy_to
from tests.support.servers import Server, missing, start_redis
from tests.support.waiting import until

STREAM, GROUP = "orders:new:stream", "g"


@pytest.mark.limit(60)
async def test_the_main_job_works_byte_by_byte(server: Server) -> None:
    # The longest reply takes its time in slices of a byte.
    async with proxy_to(server.path) as proxy, bus_at(through(proxy), command_timeout=30) as bus:
        proxy.to_client.slice_bytes = lambda: 1
        entries = [{"n": number, "text": "ä€𝄞" * number, "deep": [{"": None}]} for number in range(20)]
        added = await call(bus, "stream_add", stream=STREAM, entries=entries)
        read = await call(bus, "stream_read", stream=STREAM, count=20)
        assert [entry["fields"] for entry in read["entries"]] == entries
        waited: list[str] = []
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                here = {"streams": [STREAM], "cursor": added["ids"][-1]}
                answer = await call(bus, "stream_wait", timeout_seconds=20, **here)
                waited.extend(entry["id"] for entry in answer["entries"])

            nursery.start_soon(wait)
            await until(lambda: bus.hub.statistics().watches != 0)
            last = await call(bus, "stream_add", stream=STREAM, entries=[{"n": "last"}])
        assert waited == last["ids"]
        taken = await call(bus, "work_take", stream=STREAM, group=GROUP, consumer="c", count=20)
        assert [entry["id"] for entry in taken["entries"]] == added["ids"]
        assert (await call(bus, "work_done", lease=taken["lease"]))["done"] == added["ids"]


@pytest.mark.parametrize("count", counts(2_000, ci=40_000, full=40_000))
@pytest.mark.limit(240)
async def test_resets_in_the_middle_of_replies_hang_nobody_and_falsify_nothing(
    server: Server, rng: random.Random, count: int
) -> None:
    """Reads are repeated and succeed; writes are acknowledged, unknown or refused, and it is so."""
    history = History()
    slowest, reads, cuts = 0.0, 0, 0

    def enough() -> bool:
        return cuts > count / 200 and history.count(Told.UNKNOWN) > 10

    numbers = numbers_until(count, enough)

    def decide() -> float:
        nonlocal cuts
        if rng.random() < 0.2:
            cuts += 1
            proxy.to_client.cut_after(rng.randint(0, 500))
        return 0.0

    async with proxy_to(server.path) as proxy, bus_at(through(proxy), **QUICK) as bus:
        server.command("XADD", "read", "1-1", "text", "x" * 2_000)
        await bus.redis.ping()
        proxy.to_client.delay = decide

        async def go_on() -> None:
            nonlocal slowest, reads
            for number in numbers:
                began = trio.current_time()
                if number % 2:
                    await history.add(by_bus(bus, "s"), number)
                else:
                    try:
                        (entry,) = await bus.redis.xrange("read", "-", "+", 1)
                        assert entry.fields == ((b"text", b"x" * 2_000),)
                        reads += 1
                    except BusError:
                        pass  # five seconds of bad luck in a row
                slowest = max(slowest, trio.current_time() - began)

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(go_on)
    history.judge(entries_of(server, "s"), acknowledged=count // 8)
    with measured:
        assert slowest < 5.5
    assert reads > count * 0.49


@pytest.mark.parametrize("times", counts(2, ci=25, full=100))
@pytest.mark.limit(30, times=10)
async def test_a_hung_server_costs_one_deadline_and_is_used_again_when_it_goes_on(
    rng: random.Random, times: int, clock: Clock
) -> None:
    history = History()
    numbers = iter(range(10**6))
    with start_redis() as server:
        target = Target(path=server.path, connect_timeout=0.5)
        async with bus_at(target, command_timeout=0.5, connect_grace=0.2) as bus:
            add = by_bus(bus, STREAM)
            for _ in range(times):
                for number in (next(numbers) for _ in range(10)):
                    told = (await history.add(add, number)).told
                    # Within half a second, that is.
                    with measured:
                        assert told is Told.ACKNOWLEDGED
                await trio.sleep(rng.uniform(0, 0.2))
                server.signal(signal.SIGSTOP)
                began = clock()
                async with trio.open_nursery() as nursery:
                    for number in (next(numbers) for _ in range(10)):
                        nursery.start_soon(history.add, add, number)
                with measured:
                    assert clock() - began < 0.8
                # After the grace time everybody is told at once.
                await history.add(add, next(numbers))
                began = clock()
                assert (await history.add(add, next(numbers))).code == "CONNECTION_ERROR"
                with measured:
                    assert clock() - began < 0.15
                server.signal(signal.SIGCONT)
                began = clock()
                while (await history.add(add, next(numbers))).told is not Told.ACKNOWLEDGED:
                    with measured:
                        assert clock() - began < 2.5
                    await trio.sleep(0.01)
        history.judge(entries_of(server, STREAM), acknowledged=11 * times)
    # Nothing else took half a second.
    with measured:
        assert history.count(Told.UNKNOWN) == 10 * times


async def test_a_wait_outlives_a_server_that_is_slow_and_fails_with_one_that_hangs(clock: Clock) -> None:
    with start_redis() as server:
        server.command("XADD", STREAM, "1-1", "n", "1")
        target = Target(path=server.path, connect_timeout=0.5)
        # As long as a new connection may take to be made while a look waits for it.
        async with bus_at(target, command_timeout=0.5, connect_grace=5.0) as bus:
            # Both connections are there.
            await bus.next_entries.wait([STREAM], timeout_seconds=0)
            await bus.reader.read(STREAM)
            found = []
            status = bus.redis.status

            async def wait() -> None:
                waited = await bus.next_entries.wait([STREAM], cursor="0-0", timeout_seconds=20)
                found.extend(entry.id for _, entry in waited.entries)

            server.signal(signal.SIGSTOP)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                # The first look takes too long.
                await until(lambda: not status().roles[Role.BULK].connected)
                assert not found
                server.signal(signal.SIGCONT)
            assert found == ["1-1"]

            server.signal(signal.SIGSTOP)
            # Without time to wait, what was never looked at is no empty answer.
            with pytest.raises(BusError) as hung:
                await bus.next_entries.wait([STREAM], cursor="1-1", timeout_seconds=0)
            assert hung.value.code is Code.TIMEOUT
            server.signal(signal.SIGCONT)
            await bus.next_entries.wait([STREAM], cursor="0-0", timeout_seconds=20)
            server.signal(signal.SIGSTOP)
            began = clock()
            with pytest.raises(BusError) as hung:
                await bus.next_entries.wait([STREAM], cursor="1-1", timeout_seconds=20)
            assert hung.value.code in (Code.CONNECTION_ERROR, Code.TIMEOUT)
            # Two looks, and the pause between them.
            with measured:
                assert clock() - began < 0.5 + 0.5 + 0.5 + 0.4
            server.signal(signal.SIGCONT)


async def test_a_short_wait_that_began_without_a_read_is_not_empty_if_the_server_hangs() -> None:
    with start_redis() as server:
        server.command("XADD", STREAM, "1-1", "n", "1")
        async with bus_at(Target(path=server.path), command_timeout=0.3) as bus:
            with bus.hub.watch([STREAM]) as watch:
                await watch.changed()
                await bus.next_entries.wait([STREAM], cursor="1-1", timeout_seconds=0)
            reads = bus.redis.traffic()[Role.BULK].commands
            server.signal(signal.SIGSTOP)
            with pytest.raises(BusError) as hung:
                # It ends before the server is asked whether it is there.
                await bus.next_entries.wait([STREAM], cursor="1-1", timeout_seconds=0.1)
            assert hung.value.code in (Code.CONNECTION_ERROR, Code.TIMEOUT)
            # The look at its end.
            assert bus.redis.traffic()[Role.BULK].commands == reads + 1
            server.signal(signal.SIGCONT)


async def test_a_wait_that_began_without_a_read_outlives_a_hang_whoever_comes_meanwhile() -> None:
    with start_redis() as server:
        server.command("XADD", STREAM, "1-1", "n", "1")
        async with bus_at(Target(path=server.path), command_timeout=0.3) as bus:
            with bus.hub.watch([STREAM]) as watch:
                await watch.changed()
                await bus.next_entries.wait([STREAM], cursor="1-1", timeout_seconds=0)
            found = []

            async def wait() -> None:
                waited = await bus.next_entries.wait([STREAM], cursor="1-1", timeout_seconds=60)
                found.extend(entry.id for _, entry in waited.entries)

            before = bus.redis.traffic()[Role.WATCH].commands
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                # The server was asked whether it is there.
                await until(lambda: bus.redis.traffic()[Role.WATCH].commands > before)
                await trio.sleep(0.2)
                server.signal(signal.SIGSTOP)
                with pytest.raises(BusError):
                    await bus.next_entries.wait([STREAM], cursor="1-1", timeout_seconds=60)
                server.signal(signal.SIGCONT)
                await until(lambda: bus.redis.status().roles[Role.WATCH].connected)
                server.command("XADD", STREAM, "2-1", "n", "2")
            assert found == ["2-1"]


async def test_a_deadline_holds_for_tools_when_the_network_is_slow(redis: Server, clock: Clock) -> None:
    async with proxy_to(redis.path) as proxy, bus_at(through(proxy), command_timeout=0.3) as bus:
        # The tools are compiled with the first call, which is not what is timed.
        await call(bus, "stream_list")
        proxy.to_client.delay = lambda: 5.0
        for name, arguments, code in (
            ("stream_read", {"stream": STREAM}, "TIMEOUT"),
            ("stream_add", {"stream": STREAM, "entries": [{"n": 1}]}, "OUTCOME_UNKNOWN"),
        ):
            began = clock()
            error = await refusal(bus, name, **arguments)
            with measured:
                assert clock() - began < 0.5
            # The first lost the connection, so the second has none, and nobody knows less.
            assert error["code"] in (code, "CONNECTION_ERROR")


@pytest.mark.parametrize("way", ["CLIENT KILL", "ss -K"])
@pytest.mark.parametrize("times", counts(3, ci=25, full=100))
@pytest.mark.limit(20, times=3)
async def test_a_destroyed_connection_is_replaced_within_half_a_second(
    redis: Server, way: str, times: int, clock: Clock
) -> None:
    async with bus_at(over_tcp(redis)) as bus:
        for number in range(times):
            await call(bus, "stream_add", stream=STREAM, entries=[{"n": number}])
            await trio.sleep(1.1)  # long enough to count as a connection that worked
            before = await bus.redis.execute("CLIENT", "ID", key=None)
            if way == "CLIENT KILL":
                assert redis.command("CLIENT", "KILL", "ID", before) == 1
            else:
                destroy(redis.port)
            began = clock()
            # Asked on the old connection until that is gone; a repeat of the question is harmless.
            while await bus.redis.execute("CLIENT", "ID", key=None, retry_safe=True) == before:
                with measured:
                    assert clock() - began < 0.5
            assert (await call(bus, "stream_read", stream=STREAM, count=100))["entries"]
            with measured:
                assert clock() - began < 0.5
        assert redis.command("XLEN", STREAM) == times


def destroy(port: int) -> None:
    """Destroy every TCP connection to the server, from outside both processes."""
    if os.geteuid() != 0:
        missing("the right to destroy sockets", "run as root, with iproute2")
    done = subprocess.run(
        ["ss", "-K", "dst", "127.0.0.1", f"dport = {port}"], capture_output=True, check=True
    )
    assert str(port).encode() in done.stdout
