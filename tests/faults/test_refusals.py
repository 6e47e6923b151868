"""A server that answers, and refuses: rows 12 to 15, 17 to 19 and 21 to 23, at the level of tools."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from typing import Any

import hiredis
import trio

from redstreamd.redisio.node import Role
from redstreamd.redisio.target import Target
from redstreamd.streams.bus import Bus
from tests.faults.calling import bus_at, by_bus
from tests.redisio.running import calls, slow_loading
from tests.support.buses import running_bus
from tests.support.calls import call, refusal
from tests.support.fair_clock import Clock
from tests.support.history import History, Told, entries_of
from tests.support.measured import measured
from tests.support.servers import Server, start_redis
from tests.support.waiting import until

STREAM, GROUP = "orders:new:stream", "g"
ADD = {"stream": STREAM, "entries": [{"n": 1}]}


def problem_of_commands(bus: Bus) -> object:
    """Why the connection for commands ended last; None as long as the first one lives."""
    return bus.redis.status().roles[Role.COMMAND].problem


async def test_a_full_server_is_named_called_upon_with_pauses_and_used_when_there_is_room(
    clock: Clock,
) -> None:
    with start_redis() as server, socket.socket(socket.AF_UNIX) as only:
        only.connect(server.path)

        def ask(*args: str | int) -> Any:
            only.sendall(hiredis.pack_command(args))
            reader = hiredis.Reader()
            while (reply := reader.gets()) is False:
                reader.feed(only.recv(1 << 16))
            return reply

        def turned_away() -> int:
            line = next(
                each for each in ask("INFO", "stats").decode().splitlines() if "rejected_conn" in each
            )
            return int(line.partition(":")[2])

        assert ask("CONFIG", "SET", "maxclients", 1) == b"OK"
        async with bus_at(Target(path=server.path)) as bus:
            error = await refusal(bus, "stream_add", **ADD)
            assert error["code"] == "CONNECTION_ERROR"
            assert "max number of clients" in error["cause"]
            before = turned_away()
            await trio.sleep(2)
            # Half the cap of 2 s is the shortest of the later pauses; two connections may be tried.
            with measured:
                assert turned_away() - before <= 8
            assert ask("CONFIG", "SET", "maxclients", 100) == b"OK"
            began = clock()
            await bus.redis.wait_connected()
            await call(bus, "stream_add", **ADD)
            with measured:
                assert clock() - began < 2.5


async def seen_while(run: Callable[[], object], is_seen: Callable[[], bool], nursery: trio.Nursery) -> None:
    """Run what blocks until its effect was seen: once more, if this process was held up meanwhile."""

    async def run_beside(over: trio.Event) -> None:
        await trio.to_thread.run_sync(run)
        over.set()

    while True:
        over = trio.Event()
        nursery.start_soon(run_beside, over)
        await until(lambda: is_seen() or over.is_set())  # noqa: B023
        if not over.is_set():
            return


async def test_the_first_call_after_loading_succeeds_within_a_second(server: Server, clock: Clock) -> None:
    with slow_loading(server, 1.0):
        async with running_bus(server) as bus, trio.open_nursery() as nursery:
            await bus.redis.ping()
            await seen_while(
                lambda: server.command("DEBUG", "RELOAD"),
                lambda: str(server.command("PING")).startswith("LOADING"),
                nursery,
            )
            served = trio.Event()

            async def add() -> None:
                await call(bus, "stream_add", **ADD)
                served.set()

            nursery.start_soon(add)
            await until(lambda: server.command("PING") == b"PONG")
            began = clock()
            await served.wait()
            with measured:
                assert clock() - began < 1


async def test_a_replica_is_told_apart_and_no_write_to_it_is_repeated(bus: Bus, server: Server) -> None:
    await call(bus, "stream_add", **ADD)
    try:
        server.commands(("REPLICAOF", "127.0.0.1", 1), ("CONFIG", "RESETSTAT"))
        assert (await refusal(bus, "stream_add", **ADD))["code"] == "BACKEND_READ_ONLY"
        keyed = await refusal(bus, "stream_add", idempotency_key="k", **ADD)
        assert keyed["code"] == "BACKEND_READ_ONLY"
        assert calls(server, "xadd") <= 2  # one call each, the second inside the script
        assert len((await call(bus, "stream_read", stream=STREAM))["entries"]) == 1
    finally:
        server.command("REPLICAOF", "NO", "ONE")
    assert not (await call(bus, "stream_add", idempotency_key="k", **ADD))["duplicate"]
    assert server.command("XLEN", STREAM) == 2
    assert problem_of_commands(bus) is None


async def test_those_who_wait_through_a_demotion_miss_nothing(bus: Bus, server: Server, clock: Clock) -> None:
    waiters = 20
    seen: list[list[str]] = []
    here = await call(bus, "stream_wait", streams=[STREAM], timeout_seconds=0)
    try:
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                answer = await call(
                    bus,
                    "stream_wait",
                    streams=[STREAM],
                    cursor=here["next_cursor"],
                    timeout_seconds=20,
                )
                seen.append([entry["id"] for entry in answer["entries"]])

            for _ in range(waiters):
                nursery.start_soon(wait)
            await until(lambda: bus.hub.statistics().watches == waiters)
            server.command("REPLICAOF", "127.0.0.1", 1)
            assert (await refusal(bus, "stream_add", **ADD))["code"] == "BACKEND_READ_ONLY"
            assert not seen
            server.command("REPLICAOF", "NO", "ONE")
            added = server.command("XADD", STREAM, "*", "n", "1").decode()
            began = clock()
    finally:
        server.command("REPLICAOF", "NO", "ONE")
    with measured:
        assert clock() - began < 1
    assert seen == [[added]] * waiters


async def test_a_server_without_memory_refuses_writes_and_serves_every_read(
    bus: Bus, server: Server, rng: random.Random
) -> None:
    history = History()
    add = by_bus(bus, STREAM)
    for number in range(50):
        await history.add(add, number)
    try:
        server.command("CONFIG", "SET", "maxmemory", 1)
        for number in range(50, 100):
            if number < 56 or rng.random() < 0.5:
                line = await history.add(add, number)
                assert line.code == "BACKEND_OUT_OF_MEMORY"
            else:
                page = await call(bus, "stream_read", stream=STREAM, count=50)
                assert len(page["entries"]) == 50
        error = await refusal(bus, "work_take", stream=STREAM, group=GROUP, consumer="c")
        assert error["code"] == "BACKEND_OUT_OF_MEMORY"
    finally:
        server.command("CONFIG", "SET", "maxmemory", 0)
    assert (await history.add(add, 100)).told is Told.ACKNOWLEDGED
    assert problem_of_commands(bus) is None
    history.judge(entries_of(server, STREAM), acknowledged=51)
    assert history.count(Told.REFUSED) > 5


async def test_a_full_server_refuses_and_serves_what_the_next_step_says(bus: Bus, server: Server) -> None:
    place = {"stream": STREAM, "group": GROUP}
    for _ in range(4):
        await call(bus, "stream_add", **ADD)
    lease = (await call(bus, "work_take", **place, consumer="c", count=1))["lease"]
    other = (await call(bus, "work_take", **place, consumer="c", count=1))["lease"]
    try:
        server.command("CONFIG", "SET", "maxmemory", 1)
        for tool, arguments in (
            ("stream_add", ADD),
            ("work_take", place | {"consumer": "c"}),
            ("work_extend", {"lease": lease}),
            ("work_fail", {"lease": lease, "reason": "no luck"}),
            ("group_create", place | {"group": "another"}),
        ):
            error = await refusal(bus, tool, **arguments)
            assert error["code"] == "BACKEND_OUT_OF_MEMORY", tool
            assert "adding, taking, extending and failing work and creating groups" in error["next_step"]
        await call(bus, "stream_read", stream=STREAM)
        await call(bus, "work_done", lease=other)
        await call(
            bus,
            "stream_manage",
            stream=STREAM,
            action="trim",
            max_length=3,
            force=True,
            dry_run=False,
        )
    finally:
        server.command("CONFIG", "SET", "maxmemory", 0)
    assert server.command("XLEN", STREAM) == 3


async def test_a_server_that_cannot_save_is_degraded_and_not_dead() -> None:
    history = History()
    with start_redis("--save", "3600 1000000", "--dbfilename", "d.rdb") as server:
        async with running_bus(server) as bus:
            add = by_bus(bus, STREAM)
            await history.add(add, 0)
            # A directory of that name: the dump cannot be written.
            (server.directory / "d.rdb").mkdir()
            server.command("BGSAVE")
            try:
                await until(lambda: str(server.command("PING")).startswith("MISCONF"))
                for number in range(1, 20):
                    assert (await history.add(add, number)).code == "BACKEND_READ_ONLY"
                    assert (await call(bus, "stream_read", stream=STREAM))["entries"]
            finally:
                # Else it also refuses to stop.
                server.command("CONFIG", "SET", "save", "")
            assert (await history.add(add, 20)).told is Told.ACKNOWLEDGED
            assert problem_of_commands(bus) is None
        history.judge(entries_of(server, STREAM), acknowledged=2)


async def test_a_long_script_is_waited_for_and_its_end_noticed_within_a_second(
    redis: Server, clock: Clock
) -> None:
    # On Redis 7.0 TIME moves on inside a script; later servers freeze it.
    loop = "local t = redis.call('TIME')[1] while redis.call('TIME')[1] - t < 2 do end return 'finished'"
    replies: list[object] = []
    redis.command("CONFIG", "SET", "busy-reply-threshold", 50)
    try:
        async with running_bus(redis) as bus, trio.open_nursery() as nursery:
            await bus.redis.ping()

            def run_loop() -> None:
                replies.clear()
                replies.append(redis.command("EVAL", loop, 0))

            await seen_while(run_loop, lambda: str(redis.command("PING")).startswith("BUSY"), nursery)
            served = trio.Event()

            async def add() -> None:
                await call(bus, "stream_add", **ADD)
                served.set()

            nursery.start_soon(add)
            await until(lambda: bool(replies))
            began = clock()
            await served.wait()
            with measured:
                assert clock() - began < 1
    finally:
        redis.command("CONFIG", "SET", "busy-reply-threshold", 5000)
    # It ended by itself: nobody killed it.
    assert replies == [b"finished"]


async def test_permanent_refusals_are_not_repeated(server: Server) -> None:
    server.command("SET", "orders:new:text", "x")
    server.command("ACL", "SETUSER", "reader", "on", ">secret", "~*", "+@all", "-xadd")
    try:
        target = Target(path=server.path, username="reader", password="secret")
        async with running_bus(server) as bus, bus_at(target) as limited:
            await limited.redis.ping()
            server.command("CONFIG", "RESETSTAT")
            refused = await refusal(limited, "stream_add", **ADD)
            assert refused["code"] == "PERMISSION_DENIED"
            assert calls(server, "xadd") == 1
            entries = [{"n": 1}]
            refused = await refusal(bus, "stream_add", stream="orders:new:text", entries=entries)
            assert refused["code"] == "WRONG_TYPE"
            assert calls(server, "xadd") == 2
    finally:
        server.command("ACL", "DELUSER", "reader")


async def test_a_deleted_group_is_made_again_at_start_and_that_is_reported(bus: Bus, server: Server) -> None:
    """work_take makes a group that does not exist; work_done and the rest never do."""
    place = {"stream": STREAM, "group": GROUP}
    await call(bus, "stream_add", **ADD)
    taken = await call(bus, "work_take", consumer="c", **place)
    assert taken["group_created"]
    server.command("DEL", STREAM)
    error = await refusal(bus, "work_done", lease=taken["lease"])
    assert error["code"] == "STREAM_NOT_FOUND"
    added = await call(bus, "stream_add", **ADD)
    error = await refusal(bus, "work_done", lease=taken["lease"])
    assert error["code"] == "GROUP_NOT_FOUND"
    again = await call(bus, "work_take", consumer="c", **place)
    assert again["group_created"]
    # Nothing that was added since is skipped.
    assert [entry["id"] for entry in again["entries"]] == added["ids"]


async def test_many_creators_of_one_group_all_succeed(bus: Bus, server: Server) -> None:
    made: list[bool] = []
    async with running_bus(server) as other, trio.open_nursery() as nursery:

        async def create(daemon: Bus) -> None:
            made.append((await daemon.work.create_group(STREAM, GROUP, "0")).created)

        for number in range(50):
            nursery.start_soon(create, (bus, other)[number % 2])
    assert sorted(made) == [False] * 49 + [True]
