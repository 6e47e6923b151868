"""durability of stream_add: what is confirmed is so, and what is not confirmed is there and says so."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
import trio
import trio.testing

from redstreamd.redisio.connection import Connection
from redstreamd.redisio.standalone import Standalone
from redstreamd.redisio.write_confirmation import WaitBatch
from redstreamd.settings import Settings
from redstreamd.streams.bounds import DEFAULT_BOUNDS, Bounds
from redstreamd.streams.bus import Bus
from redstreamd.streams.durability import Confirmation, Durability
from redstreamd.streams.entry_encoding import Stamp
from redstreamd.streams.names import quarantine_of
from redstreamd.streams.publishing import Added
from tests.redisio.running import calls, running_connection, running_topology, through
from tests.support.buses import KEY, running_bus
from tests.support.calls import call
from tests.support.fair_clock import Clock
from tests.support.measured import measured
from tests.support.proxy import proxy_to
from tests.support.servers import Server, start_redis, start_redis8, start_redis62, start_valkey
from tests.support.waiting import until

STREAM = "orders:new:stream"

Start = Callable[..., AbstractContextManager[Server]]


def follows(primary: Server) -> bool:
    """Whether the replica acknowledges what is written; it counts as online a moment before it does."""
    _, replicas = primary.commands(("SET", "probe", "1"), ("WAIT", 1, 100))
    return bool(replicas == 1)


def awaits_its_replica(primary: Server) -> bool:
    """Whether somebody waits for a confirmation now."""
    return b"blocked_clients:1\r" in primary.command("INFO", "clients")


def durable(primary: Server) -> str:
    """The ID of the connection on which writes are confirmed."""
    (line,) = (
        line
        for line in primary.command("CLIENT", "LIST").decode().splitlines()
        if "name=redstreamd:durable" in line
    )
    return str(line.split()[0].partition("=")[2])


#: Writers wait for as long as they may; the tests end their waiting.
PATIENT = Bounds(replica_seconds=math.inf)

#: What cannot be confirmed is soon said not to be.
IMPATIENT = Bounds(replica_seconds=0.2, disk_seconds=0.2)

#: Where what writes nothing leaves the position of its connection alone, and, in the soak, also the others.
KINDS = [
    start_redis8,
    *(pytest.param(kind, marks=pytest.mark.soak) for kind in (start_redis, start_valkey, start_redis62)),
]


@pytest.fixture(params=[start_redis, start_valkey, start_redis62, start_redis8])
def start(request: pytest.FixtureRequest) -> Start:
    """Every kind of server there is."""
    chosen: Start = request.param
    return chosen


@pytest.fixture
def pair(start: Start) -> Iterator[tuple[Server, Server]]:
    """A primary and its replica."""
    with start("--repl-diskless-sync-delay", "0") as primary, start() as replica:
        replica.command("REPLICAOF", "127.0.0.1", primary.port)
        yield primary, replica


async def test_what_a_replica_has_is_confirmed_and_what_it_has_not_is_there_and_says_so(
    pair: tuple[Server, Server], clock: Clock
) -> None:
    primary, replica = pair
    asked = {"stream": STREAM, "durability": "replicated"}
    await until(lambda: follows(primary))
    async with running_bus(primary, bounds=PATIENT) as bus, running_bus(primary) as impatient:
        added = await call(bus, "stream_add", entries=[{"n": 1}], **asked)
        assert added["durability"] == {"asked": "replicated", "confirmed": True, "replicas": 1}
        assert replica.command("XLEN", STREAM) == 1
        replica.signal(signal.SIGSTOP)
        began, counted = trio.current_time(), clock()
        added = await call(impatient, "stream_add", entries=[{"n": 2}], idempotency_key="k", **asked)
        assert trio.current_time() - began > 0.9
        with measured:
            assert clock() - counted < 1.5
        assert added["durability"]["confirmed"] is False
        assert added["durability"]["replicas"] == 0
        assert "within 1000 ms" in added["durability"]["reason"]
        assert primary.command("XRANGE", STREAM, *added["ids"] * 2)
        replica.signal(signal.SIGCONT)
        # A repetition with its key asks again, for an entry that another call has added.
        again = await call(bus, "stream_add", entries=[{"n": 2}], idempotency_key="k", **asked)
        assert again["duplicate"]
        assert again["ids"] == added["ids"]
        assert again["durability"]["confirmed"]
        assert primary.command("XLEN", STREAM) == replica.command("XLEN", STREAM) == 2


async def test_many_writers_share_a_confirmation_and_nobody_else_waits_for_it(
    pair: tuple[Server, Server],
) -> None:
    primary, replica = pair
    writers = 200
    confirmed: list[bool] = []
    await until(lambda: follows(primary))
    async with running_bus(primary, bounds=PATIENT) as bus:

        async def add(number: int) -> None:
            added = await call(
                bus, "stream_add", stream=STREAM, entries=[{"n": number}], durability="replicated"
            )
            confirmed.append(added["durability"]["confirmed"])

        await add(0)
        primary.command("CONFIG", "RESETSTAT")
        async with trio.open_nursery() as nursery:
            for number in range(1, writers):
                nursery.start_soon(add, number)
        assert confirmed == [True] * writers
        assert 1 <= calls(primary, "wait") <= writers // 10
        assert replica.command("XLEN", STREAM) == writers
        replica.signal(signal.SIGSTOP)
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(add, number)
            await until(lambda: awaits_its_replica(primary))
            await bus.redis.ping()
            await call(bus, "stream_add", stream=STREAM, entries=[{"n": 0}])
            assert len(confirmed) == writers
            assert primary.command("CLIENT", "UNBLOCK", durable(primary)) == 1
        assert confirmed[writers:] == [False] * 5
        replica.signal(signal.SIGCONT)


async def test_a_connection_lost_before_the_confirmation_confirms_nothing(
    pair: tuple[Server, Server],
) -> None:
    primary, replica = pair
    answers: list[dict[str, object]] = []
    await until(lambda: follows(primary))
    async with running_bus(primary, bounds=PATIENT) as bus:

        async def add() -> None:
            added = await call(bus, "stream_add", stream=STREAM, entries=[{"n": 1}], durability="replicated")
            answers.append(added["durability"])

        replica.signal(signal.SIGSTOP)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(add)
            await until(lambda: awaits_its_replica(primary))
            assert primary.command("CLIENT", "KILL", "ID", durable(primary)) == 1
        replica.signal(signal.SIGCONT)
        assert answers[0]["confirmed"] is False
        assert "closed the connection" in str(answers[0]["reason"])
        assert primary.command("XLEN", STREAM) == 1


@pytest.mark.parametrize("start", KINDS, indirect=True)
@pytest.mark.parametrize("waits", [False, True])
async def test_what_an_earlier_call_added_is_confirmed_only_once_a_replica_has_it(
    pair: tuple[Server, Server], waits: bool
) -> None:
    primary, replica = pair
    await until(lambda: follows(primary))
    async with (
        running_bus(primary, bounds=PATIENT) as bus,
        running_bus(primary, bounds=IMPATIENT) as impatient,
    ):

        async def add(by: Bus, durability: Durability) -> Added:
            return await by.publisher.add(
                STREAM, [{"n": 1}], Stamp(), idempotency_key="k", durability=durability, waits=waits
            )

        replica.signal(signal.SIGSTOP)
        first = await add(impatient, Durability.MEMORY)
        again = await add(impatient, Durability.REPLICATED)
        assert (again.ids, again.duplicate, again.waits) == (first.ids, True, waits)
        assert again.confirmation is not None
        assert not again.confirmation.confirmed
        assert "by any replica" in str(again.confirmation.reason)
        replica.signal(signal.SIGCONT)
        again = await add(bus, Durability.REPLICATED)
        assert (again.ids, again.duplicate, again.waits) == (first.ids, True, waits)
        assert again.confirmation == Confirmation(Durability.REPLICATED, confirmed=True, replicas=1)
        assert replica.command("XLEN", quarantine_of(STREAM) if waits else STREAM) == 1


@pytest.mark.parametrize("start", KINDS, indirect=True)
async def test_a_sending_whose_reply_was_lost_is_confirmed_only_once_a_replica_has_it(
    pair: tuple[Server, Server],
) -> None:
    """The second sending finds the entry, by a connection that has written nothing yet."""
    primary, replica = pair
    answers: list[Added] = []
    await until(lambda: follows(primary))
    async with (
        proxy_to(primary.port) as proxy,
        running_topology(Standalone.of(through(proxy))) as redis,
        trio.open_nursery() as nursery,
    ):
        bus = Bus.over(redis, Settings(), KEY, IMPATIENT)

        async def add(key: str) -> None:
            answers.append(
                await bus.publisher.add(
                    STREAM, [{"n": 1}], Stamp(), idempotency_key=key, durability=Durability.REPLICATED
                )
            )

        await add("known to the server from now on, as the script is")
        replica.signal(signal.SIGSTOP)
        proxy.to_client.hold()
        nursery.start_soon(add, "k")
        await until(lambda: primary.command("XLEN", STREAM) == 2)
        proxy.cut()
        proxy.to_client.release()
    after = answers[-1]
    assert not after.duplicate
    assert after.confirmation is not None
    assert not after.confirmation.confirmed
    assert "by any replica" in str(after.confirmation.reason)
    assert primary.command("XLEN", STREAM) == 2


@pytest.mark.parametrize("start_one", [start_redis8, pytest.param(start_valkey, marks=pytest.mark.soak)])
async def test_what_an_earlier_call_added_is_confirmed_only_once_it_is_on_disk(start_one: Start) -> None:
    with start_one("--appendonly", "yes", "--appendfsync", "no") as server:
        async with running_bus(server, bounds=IMPATIENT) as bus:
            entries, asked = [{"n": 1}], {"stream": STREAM, "idempotency_key": "k"}
            await call(bus, "stream_add", entries=entries, **asked)
            again = await call(bus, "stream_add", entries=entries, durability="fsynced", **asked)
            assert again["duplicate"]
            assert again["durability"]["confirmed"] is False
            server.command("CONFIG", "SET", "appendfsync", "everysec")
        async with running_bus(server, bounds=PATIENT) as bus:
            again = await call(bus, "stream_add", entries=entries, durability="fsynced", **asked)
            assert again["duplicate"]
            assert again["durability"] == {"asked": "fsynced", "confirmed": True}


async def test_what_an_earlier_call_added_is_not_confirmed_by_a_server_that_takes_no_write() -> None:
    """That is not an error: the entry is there."""
    with start_redis8() as server:
        async with running_bus(server, bounds=IMPATIENT) as bus:
            entries, asked = [{"n": 1}], {"stream": STREAM, "idempotency_key": "k"}
            first = await call(bus, "stream_add", entries=entries, **asked)
            server.command("CONFIG", "SET", "min-replicas-to-write", "1")
            again = await call(bus, "stream_add", entries=entries, durability="replicated", **asked)
            assert again["ids"] == first["ids"]
            assert again["durability"]["confirmed"] is False
            assert "NOREPLICAS" in again["durability"]["reason"]


@pytest.mark.parametrize(
    ("start_one", "options", "confirmed", "reason"),
    [
        (start_valkey, ("--appendonly", "yes", "--appendfsync", "everysec"), True, ""),
        (start_redis8, ("--appendonly", "yes", "--appendfsync", "everysec"), True, ""),
        (start_valkey, (), False, "appendonly is disabled"),
        (start_redis, ("--appendonly", "yes", "--appendfsync", "always"), True, ""),
        (start_redis, ("--appendonly", "yes", "--appendfsync", "everysec"), False, "appendfsync everysec"),
        (start_redis62, (), False, "has no WAITAOF"),
    ],
)
async def test_what_is_on_disk_is_confirmed_by_the_server_or_by_its_settings(
    start_one: Start, options: tuple[str, ...], confirmed: bool, reason: str
) -> None:
    with start_one(*options) as server:
        async with running_bus(server, bounds=PATIENT) as bus:
            added = await call(bus, "stream_add", stream=STREAM, entries=[{"n": 1}], durability="fsynced")
            assert added["durability"]["confirmed"] is confirmed
            assert reason in added["durability"].get("reason", "")
            if confirmed:
                server.kill()
                server.start()
            assert [entry[0].decode() for entry in server.command("XRANGE", STREAM, "-", "+")] == added["ids"]


async def test_the_settings_of_another_server_than_the_one_that_wrote_confirm_nothing() -> None:
    """Its name leads to another one before it was asked for its settings."""
    always = ("--appendonly", "yes", "--appendfsync", "always")
    with start_redis() as wrote, start_redis(*always) as successor:
        async with proxy_to(wrote.port) as proxy:

            def move(piece: bytes) -> None:
                if b"nknown command" in piece and b"WAITAOF" in piece:
                    proxy.upstream = successor.port
                    proxy.to_client.cut_after(0)

            async with running_topology(Standalone.of(through(proxy))) as redis:
                bus = Bus.over(redis, Settings(), KEY, DEFAULT_BOUNDS)
                proxy.to_client.tap = move
                added = await call(bus, "stream_add", stream=STREAM, entries=[{"n": 1}], durability="fsynced")
            assert proxy.upstream == successor.port
            assert added["durability"]["confirmed"] is False
            assert wrote.command("XLEN", STREAM) == 1
            assert successor.command("XLEN", STREAM) == 0


@pytest.mark.parametrize("start_one", [start_valkey, start_redis8])
async def test_each_of_several_writes_is_on_disk_in_time_though_that_is_synced_once_a_second(
    start_one: Start,
) -> None:
    """The one after the first comes right after a sync, and waits for the next one."""
    with start_one("--appendonly", "yes", "--appendfsync", "everysec") as server:
        async with running_bus(server) as bus:
            for number in range(3):
                entries = [{"n": number}]
                added = await call(bus, "stream_add", stream=STREAM, entries=entries, durability="fsynced")
                assert added["durability"] == {"asked": "fsynced", "confirmed": True}


async def test_when_the_one_who_asks_is_cancelled_the_others_ask_again(redis: Server) -> None:
    answers: list[object] = []
    confirmer = WaitBatch()
    async with (
        proxy_to(redis.path) as proxy,
        running_connection(connection := Connection(through(proxy), role="durable")),
        trio.open_nursery() as nursery,
    ):
        command = ("WAIT", 1, 1)
        proxy.to_client.hold()

        async def confirm() -> None:
            answers.append(await confirmer.confirm(connection, command))

        async with trio.open_nursery() as first:
            # Holds the connection, so that the next two gather behind it.
            nursery.start_soon(confirm)
            await until(lambda: connection.statistics().in_flight == 1)
            first.start_soon(confirm)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(confirm)
            await trio.testing.wait_all_tasks_blocked()
            first.cancel_scope.cancel()
        proxy.to_client.release()
    assert answers == [0, 0]
    assert confirmer.asked == 2
