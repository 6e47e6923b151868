"""Failovers by real sentinels, under load: rows 14, 15, 25 and 30.

Killed, cut and demoted primaries; what sentinels say wrongly is in redisio/test_sentinel.py.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

import hiredis
import pytest
import trio

from redstreamd.errors import BusError, Code
from redstreamd.redisio.client import Redis
from redstreamd.redisio.standalone import Standalone
from redstreamd.redisio.target import Target
from redstreamd.streams.bus import Bus
from redstreamd.streams.durability import Durability
from redstreamd.streams.entry_encoding import Stamp
from tests.faults.calling import by_bus
from tests.redisio.running import calls
from tests.support.buses import running_bus
from tests.support.calls import call
from tests.support.fair_clock import Clock
from tests.support.history import Add, History, Told, entries_of
from tests.support.measured import measured
from tests.support.proxy import proxy_to
from tests.support.sentinels import NAME, Sentinels, running_sentinels
from tests.support.servers import Server, start_redis
from tests.support.waiting import until

STREAM = "orders:new:stream"
ADD = {"stream": STREAM, "entries": [{"n": 1}]}

#: What a caller may see of a failover: each says that the call may be repeated, or that it is not known.
RETRYABLE = {Code.CONNECTION_ERROR, Code.OUTCOME_UNKNOWN, Code.TIMEOUT}

#: How often, and on what: `make soak` has each kind of server.
KINDS = [
    pytest.param("redis", 1, marks=pytest.mark.quick),
    pytest.param("redis", 5, marks=[pytest.mark.soak_ci]),
    *(pytest.param(kind, 20, marks=pytest.mark.soak) for kind in ("redis", "valkey", "redis8")),
]
on_kinds = pytest.mark.parametrize(("kind", "times"), KINDS)


def replicated(bus: Bus) -> Add:
    """Add; what no replica has confirmed counts as unknown, since a failover may lose it."""

    async def add(entry: dict[str, Any], key: str | None) -> tuple[str, bool]:
        added = await bus.publisher.add(
            STREAM, [entry], Stamp(), idempotency_key=key, durability=Durability.REPLICATED
        )
        if added.confirmation is None or not added.confirmation.confirmed:
            raise BusError(Code.OUTCOME_UNKNOWN, "not replicated", cause="not replicated", next_step="none")
        return added.ids[0], added.duplicate

    return add


@contextlib.asynccontextmanager
async def switches(sentinels: Sentinels, clock: Clock) -> AsyncIterator[list[float]]:
    """For the block, note when sentinels tell of another primary."""
    heard: list[float] = []

    async def listen(port: int, task_status: trio.TaskStatus[None]) -> None:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await stream.send_all(hiredis.pack_command(("SUBSCRIBE", "+switch-master")))  # type: ignore[arg-type]
            reader = hiredis.Reader()
            async for data in stream:
                reader.feed(bytes(data))
                while (message := reader.gets()) is not False:
                    if message[0] == b"subscribe":
                        task_status.started()
                    else:
                        heard.append(clock())

    async with trio.open_nursery() as nursery:
        for one in sentinels.sentinels:
            await nursery.start(listen, one.port)
        yield heard
        nursery.cancel_scope.cancel()


def is_primary(server: Server) -> bool:
    """Return whether a server is one; sentinels end the connections of those that they promote."""
    with contextlib.suppress(OSError):
        return bool(server.command("ROLE")[0] == b"master")
    return False


async def relieve(sentinels: Sentinels) -> None:
    """Have another primary elected; sentinels refuse that for as long as they know of no good replica."""
    await until(lambda: sentinels.sentinels[0].command("SENTINEL", "FAILOVER", NAME) == b"OK", every=0.1)


@contextlib.asynccontextmanager
async def broken(sentinels: Sentinels, how: str) -> AsyncIterator[None]:
    """For the block, the primary is as `how` says, and the sentinels elect another; it comes back after."""
    primary = sentinels.primary()
    match how:
        case "killed":
            primary.kill()
            yield
            sentinels.restart(primary)
        case "hung":
            with sentinels.cut(primary):
                yield
        case "relieved":
            await relieve(sentinels)
            yield


@pytest.mark.limit(600)
@on_kinds
async def test_writes_go_on_after_an_election_and_nothing_that_was_replicated_is_lost(
    kind: str, times: int, clock: Clock, record_property: Callable[[str, object], None]
) -> None:
    history, numbers, seconds = History(), itertools.count(), []
    with running_sentinels(kind=kind, replicas=1) as sentinels:
        async with running_bus(sentinels) as bus:
            add, plain = replicated(bus), by_bus(bus, "plain")
            served: list[float] = []
            codes: set[Code] = set()
            ended = False

            async def write() -> None:
                while not ended:
                    await history.add(add, next(numbers))
                    await trio.sleep(0.01)

            async def write_with_key() -> None:
                while not ended:
                    await history.add_with_key(add, next(numbers))
                    await trio.sleep(0.01)

            async def look() -> None:
                while not ended:
                    try:
                        await plain({"n": 1}, None)
                    except BusError as error:
                        codes.add(error.code)
                    else:
                        served.append(clock())
                    await trio.sleep(0.01)

            async with trio.open_nursery() as nursery:
                for task in (write, write, write, write_with_key, look):
                    nursery.start_soon(task)
                for how in itertools.islice(itertools.cycle(("killed", "hung", "relieved")), 3 * times):
                    before = history.count(Told.ACKNOWLEDGED)
                    # Confirmed again, so there is a replica to promote.
                    await until(lambda: history.count(Told.ACKNOWLEDGED) > before + 20)  # noqa: B023
                    async with switches(sentinels, clock) as switched, broken(sentinels, how):
                        await until(lambda: switched)
                        mark = switched[0]
                        await until(lambda: served[-1] > mark)  # noqa: B023
                        seconds.append(next(each for each in served if each > mark) - mark)
                    # The former one may be elected again by now: sentinels may have no core for a while.
                    await trio.to_thread.run_sync(sentinels.wait_ok)
                before = history.count(Told.ACKNOWLEDGED)
                await until(lambda: history.count(Told.ACKNOWLEDGED) > before + 20)
                ended = True
            history.judge(entries_of(sentinels.primary(), STREAM), acknowledged=40)
            codes |= {Code(line.code) for line in history.lines.values() if line.code}
            assert codes <= RETRYABLE
            record_property(
                "figure",
                f"{kind}: {history.count(Told.ACKNOWLEDGED)} replicated, 0 lost; writes go on "
                f"{max(seconds):.2f} s after the first +switch-master, {3 * times} failovers",
            )
    with measured:
        assert max(seconds) <= 2


@pytest.mark.limit(600)
@on_kinds
async def test_those_who_wait_through_a_failover_miss_nothing(kind: str, times: int, clock: Clock) -> None:
    waiters = 20
    with running_sentinels(kind=kind, replicas=1) as sentinels:
        async with running_bus(sentinels) as bus:
            late: list[float] = []
            # What another election has lost could not be told: then once more.
            for number in range(times + 3):
                if len(late) == times:
                    break
                stream = f"waited for {number}"
                here = await call(bus, "stream_wait", streams=[stream], timeout_seconds=0)
                seen: list[list[str]] = []

                async def wait() -> None:
                    answer = await call(
                        bus,
                        "stream_wait",
                        streams=[stream],  # noqa: B023
                        cursor=here["next_cursor"],  # noqa: B023
                        timeout_seconds=60,
                    )
                    seen.append([entry["id"] for entry in answer["entries"]])  # noqa: B023

                async with (
                    trio.open_nursery() as nursery,
                    switches(sentinels, clock) as switched,
                ):
                    for _ in range(waiters):
                        nursery.start_soon(wait)
                    await until(lambda: bus.hub.statistics().watches == waiters)
                    (replica,) = sentinels.replicas()
                    await relieve(sentinels)
                    # By another client, as soon as it can: the daemon does not know yet, or has just moved.
                    await until(lambda: is_primary(replica))  # noqa: B023
                    added = replica.command("XADD", stream, "*", "n", "1").decode()
                    await until(lambda: switched and len(seen) == waiters)  # noqa: B023
                    seconds = clock() - switched[0]
                await trio.to_thread.run_sync(sentinels.wait_ok)
                if seen == [[added]] * waiters or sentinels.command("XRANGE", stream, added, added):
                    assert seen == [[added]] * waiters
                    late.append(seconds)
            assert len(late) == times
    with measured:
        assert max(late) <= 1


@pytest.mark.limit(300)
@on_kinds
async def test_what_a_failover_loses_was_never_reported_as_replicated(
    kind: str, times: int, record_property: Callable[[str, object], None]
) -> None:
    plain = replicated_and_lost = lost = 0
    for _ in range(min(times, 5)):
        with running_sentinels(kind=kind, replicas=1) as sentinels:
            async with running_bus(sentinels) as bus:
                reports: dict[str, bool] = {}

                async def add(count: int) -> None:
                    async with trio.open_nursery() as nursery:

                        async def one() -> None:
                            added = await bus.publisher.add(
                                STREAM, [{"n": 1}], Stamp(), durability=Durability.REPLICATED
                            )
                            assert added.confirmation is not None
                            reports[added.ids[0]] = added.confirmation.confirmed  # noqa: B023

                        for _ in range(count):
                            nursery.start_soon(one)

                await add(50)
                assert all(reports.values())
                (replica,), primary = sentinels.replicas(), sentinels.primary()
                # The replica cannot make another link. Who is logged in stays so.
                primary.commands(("CONFIG", "SET", "requirepass", "p"), ("CLIENT", "KILL", "TYPE", "replica"))
                await add(50)
                plain += list(reports.values()).count(False)
                primary.kill()
                await until(lambda: sentinels.primary() is replica and is_primary(replica))  # noqa: B023
                await until(lambda: bus.redis.nodes()[0].target.port == replica.port)  # noqa: B023
                kept = {entry_id for entry_id, _ in entries_of(replica, STREAM)}
                lost += len(reports.keys() - kept)
                replicated_and_lost += sum(reports[each] for each in reports.keys() - kept)
                assert (await call(bus, "stream_add", **ADD))["ids"]
    assert replicated_and_lost == 0
    assert lost == plain == 50 * min(times, 5)
    record_property("figure", f"{kind}: {lost} acknowledged and lost by a failover, 0 of them as replicated")


async def test_a_login_and_tls_are_used_at_sentinels_and_servers() -> None:
    with running_sentinels(replicas=1, password="p", sentinel_password="q", tls=True) as sentinels:
        async with running_bus(sentinels) as bus:
            await call(bus, "stream_add", **ADD)
            await trio.to_thread.run_sync(sentinels.failover)
            await call(bus, "stream_add", **ADD)
            entries = (await call(bus, "stream_read", stream=STREAM))["entries"]
            assert len(entries) >= 1
            assert bus.redis.status().problems == ()
            (node,) = bus.redis.nodes()
            assert node.target.port == sentinels.primary().tls_port


async def test_a_name_that_moved_to_another_server_is_resolved_anew_once_a_write_is_refused() -> None:
    with start_redis() as old, start_redis() as new:
        async with proxy_to(old.port) as proxy:
            topology = Standalone.of(Target(host="localhost", port=proxy.port))
            redis = Redis(topology)
            async with trio.open_nursery() as nursery:
                await nursery.start(topology.run)
                await redis.execute("INCR", "n", key="n")
                old.commands(("REPLICAOF", "127.0.0.1", new.port), ("CONFIG", "RESETSTAT"))
                proxy.upstream = new.port
                with pytest.raises(BusError) as refused:
                    await redis.execute("INCR", "n", key="n")
                assert refused.value.code == Code.BACKEND_READ_ONLY
                # What is advised is what is done next.
                assert "Repeat the call in a moment if Redis is set by a name" in refused.value.next_step
                assert await redis.execute("INCR", "m", key="m") == 1
                assert calls(old, "incr") == 1
                assert new.command("GET", "m") == b"1"
                old.command("REPLICAOF", "NO", "ONE")  # a server that stops waits for its replicas
                nursery.cancel_scope.cancel()
