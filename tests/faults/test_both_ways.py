"""The same faults on both ways of a call: with the direct path and without it.

Each test says what clients are told, what is in Redis, and that each call ended once.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
import trio.lowlevel

from redstreamd.errors import BusError, Code
from redstreamd.mcpio.connection_events import ConnectionClosed, Ending
from redstreamd.settings import Settings, ToolsSettings
from redstreamd.tools.invocation import CANCELLED, OK, Admit, Deferral, Invocation
from tests.faults.calling import QUICK, bus_at, by_tool
from tests.redisio.running import slow_loading, through
from tests.support.counts import numbers_until
from tests.support.history import History, Told, entries_of
from tests.support.mcp_client import enveloped
from tests.support.measured import measured
from tests.support.proxy import Proxy, proxy_to
from tests.support.servers import Server, start_redis
from tests.support.two_ways import (
    MODERN,
    PeerGoneError,
    Surface,
    Way,
    call_line,
    request,
    running_way,
    surface_over,
)
from tests.support.waiting import until

STREAM = "a:b:s"
ADD = {"stream": STREAM, "entries": [{"n": 1}]}
#: The code of a request whose outcome is unknown because the connection is closing.
CUT_OFF = -32000


@pytest.fixture(params=[True, False], ids=["direct", "kernel"])
def direct(request: pytest.FixtureRequest) -> bool:
    """Which way."""
    return bool(request.param)


@attrs.define
class Client:
    """A client whose Redis may fail.

    Attributes:
        way: Its connection.
        surface: What it is served.
        proxy: In front of Redis.
        calls: How many it made.
    """

    way: Way
    surface: Surface
    proxy: Proxy
    calls: int = 0
    _sending: trio.Lock = attrs.field(factory=trio.Lock)
    _answers: dict[int, Any] = attrs.field(factory=dict)
    _arrived: dict[int, trio.Event] = attrs.field(factory=dict)

    async def send(self, name: str = "stream_add", **arguments: Any) -> int:
        """Send a call, and return its id."""
        self.calls += 1
        self._arrived[self.calls] = trio.Event()
        number = self.calls
        async with self._sending:
            await self.way.call(number, name, **(arguments or ADD))
        return number

    async def send_and_cancel(self) -> None:
        """Send a call and its cancellation in one piece, so that both are read before anything is sent."""
        self.calls += 1
        line = call_line(self.way.revision, self.calls, "stream_add", ADD)
        await self.way.peer.send_all(line + cancellation(self.calls))

    async def receive(self) -> None:
        """Take what arrives, until the connection is closed."""
        while True:
            try:
                message = await self.way.answer()
            except (PeerGoneError, trio.BrokenResourceError, trio.ClosedResourceError):
                return
            assert message["id"] not in self._answers
            self._answers[message["id"]] = message
            self._arrived[message["id"]].set()

    async def answer(self, number: int) -> Any:
        await self._arrived[number].wait()
        return self._answers[number]

    async def call_tool(self, name: str, arguments: Any = None) -> dict[str, Any]:
        """Call a tool and return its answer."""
        message: dict[str, Any] = await self.answer(await self.send(name, **(arguments or {})))
        return message

    async def outcome(self, name: str = "stream_add", **arguments: Any) -> str:
        """Call a tool and return what became of it."""
        return outcome(await self.answer(await self.send(name, **arguments)))

    async def cancel(self, number: int) -> None:
        await self.way.peer.send_all(cancellation(number))

    def answered(self) -> set[int]:
        return set(self._answers)

    async def all_ended(self) -> list[str]:
        """Wait until nothing is in flight, and return the outcome of each call; each ended once."""
        await until(lambda: self.way.connection.statistics().requests_in_flight == 0)
        await until(lambda: len(self.surface.ended) >= self.calls)
        await trio.sleep(0.01)
        assert len(self.surface.ended) == self.calls
        return [each.outcome for each in self.surface.ended]


def cancellation(number: int) -> bytes:
    return request(0, "notifications/cancelled", {"requestId": number}).replace(b'"id":0,', b"")


def outcome(message: Any) -> str:
    if "error" in message:
        return str(message["error"]["code"])
    result = message["result"]
    return str(result["structuredContent"]["code"]) if result["isError"] else OK


@asynccontextmanager
async def client_of(
    server: Server,
    direct: bool,
    *,
    admit: Admit | None = None,
    settings: Settings | None = None,
    **options: Any,
) -> AsyncIterator[Client]:
    async with (
        proxy_to(server.path) as proxy,
        bus_at(through(proxy), settings, **{**QUICK, **options}) as bus,
    ):
        await bus.redis.ping()
        surface = surface_over(bus, admit=admit)
        async with (
            running_way(surface, direct=direct, revision=MODERN) as way,
            trio.open_nursery() as nursery,
        ):
            client = Client(way, surface, proxy)
            nursery.start_soon(client.receive)
            yield client
            nursery.cancel_scope.cancel()
            statistics = way.connection.statistics()
            assert statistics.direct == (client.calls if direct else 0)


def length(server: Server) -> int:
    found: int = server.command("XLEN", STREAM)
    return found


async def in_redis(server: Server, count: int) -> None:
    """Wait until so many entries are in the stream."""
    await until(lambda: length(server) == count)


# --- Replies that do not arrive ----------------------------------------------------------------


@pytest.mark.parametrize("keyed", [False, True], ids=["without a key", "with a key"])
@pytest.mark.limit(60)
async def test_what_callers_are_told_is_true_when_replies_are_lost(
    redis: Server, direct: bool, keyed: bool, rng: random.Random
) -> None:
    history = History()
    lost = 0

    def enough() -> bool:
        return lost > 5 and (keyed or history.count(Told.UNKNOWN) > 0)

    numbers = numbers_until(200, enough)
    async with client_of(redis, direct) as client:

        def decide() -> float:
            nonlocal lost
            if rng.random() < 0.2:
                lost += 1
                client.proxy.to_client.cut_after(0)
            return 0.0

        client.proxy.to_client.delay = decide
        add = by_tool(client, STREAM)

        async def write() -> None:
            for number in numbers:
                await (history.add_with_key if keyed else history.add)(add, number)

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(write)
        await client.all_ended()
    history.judge(entries_of(redis, STREAM), acknowledged=len(history.lines) if keyed else 50)


@pytest.mark.parametrize(
    ("arguments", "told", "entries"),
    [(ADD, Code.OUTCOME_UNKNOWN, 1), ({**ADD, "idempotency_key": "k"}, OK, 1)],
    ids=["without a key", "with a key"],
)
async def test_a_reply_that_is_lost_once(
    redis: Server, direct: bool, arguments: dict[str, Any], told: str, entries: int
) -> None:
    async with client_of(redis, direct) as client:
        client.proxy.to_client.cut_after(0)
        assert await client.outcome(**arguments) == told
        assert await client.all_ended() == [told]
    assert length(redis) == entries


async def test_a_reply_that_is_overdue(redis: Server, direct: bool) -> None:
    async with client_of(redis, direct, command_timeout=0.3) as client:
        client.proxy.to_client.hold()
        assert await client.outcome() == Code.OUTCOME_UNKNOWN
        client.proxy.to_client.release()
        assert await client.all_ended() == [Code.OUTCOME_UNKNOWN]
        assert await until(lambda: length(redis)) == 1


async def test_the_time_limit_of_a_call_ends_it_before_its_command_is_overdue(
    redis: Server, direct: bool
) -> None:
    settings = Settings(tools=ToolsSettings(call_timeout_seconds=1))
    async with client_of(redis, direct, settings=settings, command_timeout=20.0) as client:
        client.proxy.to_client.hold()
        began = trio.current_time()
        assert await client.outcome() == Code.OUTCOME_UNKNOWN
        with measured:
            assert trio.current_time() - began < 10
        client.proxy.to_client.release()
        assert await client.all_ended() == [Code.OUTCOME_UNKNOWN]
    assert length(redis) == 1


# --- A Redis that refuses, or is not there -----------------------------------------------------


async def test_redis_is_killed_and_comes_back(direct: bool) -> None:
    with start_redis() as server:
        async with client_of(server, direct, connect_grace=0.1) as client:
            assert await client.outcome() == OK
            server.kill()
            assert await client.outcome() in {Code.CONNECTION_ERROR, Code.OUTCOME_UNKNOWN}
            assert await client.outcome() == Code.CONNECTION_ERROR
            await trio.to_thread.run_sync(server.start)

            async def again() -> bool:
                return await client.outcome() == OK

            await until(again)
            assert (await client.all_ended())[-1] == OK
        assert length(server) == 1


@pytest.mark.parametrize(
    ("broken", "healed", "told"),
    [
        (("CONFIG", "SET", "maxmemory", 1), ("CONFIG", "SET", "maxmemory", 0), Code.BACKEND_OUT_OF_MEMORY),
        (("REPLICAOF", "127.0.0.1", 1), ("REPLICAOF", "NO", "ONE"), Code.BACKEND_READ_ONLY),
        (
            ("CONFIG", "SET", "min-replicas-to-write", 1),
            ("CONFIG", "SET", "min-replicas-to-write", 0),
            Code.CONNECTION_ERROR,
        ),
    ],
    ids=["OOM", "READONLY", "NOREPLICAS"],
)
@pytest.mark.parametrize("key", [{}, {"idempotency_key": "k"}], ids=["command", "script"])
async def test_a_redis_that_refuses_to_write(
    redis: Server, direct: bool, broken: Any, healed: Any, told: Code, key: dict[str, str]
) -> None:
    async with client_of(redis, direct, command_timeout=0.5) as client:
        try:
            redis.command(*broken)
            assert await client.outcome(**ADD, **key) == told
        finally:
            redis.command(*healed)
        assert length(redis) == 0
        assert await client.outcome(**ADD, **key) == OK
        assert await client.all_ended() == [told, OK]
    assert length(redis) == 1


async def test_a_redis_that_loads_its_data_is_waited_for(redis: Server, direct: bool) -> None:
    async with client_of(redis, direct) as client:
        with slow_loading(redis, 0.5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, redis.command, "DEBUG", "RELOAD")
                await until(lambda: str(redis.command("PING")).startswith("LOADING"))
                assert await client.outcome() == OK
            assert length(redis) == 1
        assert await client.all_ended() == [OK]


async def test_a_redis_that_runs_a_long_script_is_waited_for(redis: Server, direct: bool) -> None:
    loop = "local t = redis.call('TIME')[1] while redis.call('TIME')[1] - t < 2 do end return 1"
    redis.command("CONFIG", "SET", "busy-reply-threshold", 50)
    try:
        async with client_of(redis, direct) as client, trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, redis.command, "EVAL", loop, 0)
            await until(lambda: str(redis.command("PING")).startswith("BUSY"))
            assert await client.outcome() == OK
            assert await client.all_ended() == [OK]
    finally:
        redis.command("CONFIG", "SET", "busy-reply-threshold", 5000)
    assert length(redis) == 1


async def test_scripts_that_redis_has_forgotten_are_sent_again(redis: Server, direct: bool) -> None:
    async with client_of(redis, direct) as client:
        for number in range(3):
            redis.command("SCRIPT", "FLUSH")
            assert await client.outcome(**ADD, idempotency_key=str(number)) == OK
        assert await client.all_ended() == [OK, OK, OK]
    assert length(redis) == 3


# --- Clients that lose interest ----------------------------------------------------------------


async def test_a_call_that_is_cancelled_before_it_was_sent_has_no_effect(redis: Server, direct: bool) -> None:
    async with client_of(redis, direct) as client:
        client.proxy.to_server.hold()
        await client.send_and_cancel()
        assert await client.all_ended() == [CANCELLED]
        client.proxy.to_server.release()
        assert await client.outcome("stream_read", stream=STREAM) == Code.STREAM_NOT_FOUND
        assert client.answered() == {2}
    assert length(redis) == 0


async def test_a_call_that_is_cancelled_after_it_was_sent_takes_effect_once_and_is_not_answered(
    redis: Server, direct: bool
) -> None:
    async with client_of(redis, direct) as client:
        client.proxy.to_client.hold()
        number = await client.send()
        await in_redis(redis, 1)
        await client.cancel(number)
        await trio.sleep(0.01)
        client.proxy.to_client.release()
        assert await client.all_ended() == [CANCELLED]
        assert await client.outcome() == OK
        assert client.answered() == {2}
    assert length(redis) == 2


async def test_a_call_that_was_cancelled_ends_as_that_if_redis_refuses_it_later(
    redis: Server, direct: bool
) -> None:
    async with client_of(redis, direct) as client:
        assert await client.outcome(**ADD, idempotency_key="k") == OK
        redis.command("CONFIG", "RESETSTAT")
        client.proxy.to_client.hold()
        number = await client.send(stream=STREAM, entries=[{"n": 2}], idempotency_key="k")
        await until(lambda: "cmdstat_evalsha:" in str(redis.command("INFO", "commandstats")))
        await client.cancel(number)
        await trio.sleep(0.01)
        client.proxy.to_client.release()
        assert await client.all_ended() == [OK, CANCELLED]
        assert client.answered() == {1}
    assert length(redis) == 1


async def test_a_client_that_goes_with_calls_in_flight(redis: Server, direct: bool) -> None:
    async with client_of(redis, direct) as client:
        client.proxy.to_client.hold()
        for _ in range(5):
            await client.send()
        await in_redis(redis, 5)
        await client.way.peer.send_eof()
        await until(lambda: any(isinstance(each, ConnectionClosed) for each in client.way.events))
        client.proxy.to_client.release()
        assert set(await client.all_ended()) == {CANCELLED}
        # Each was told so, because a client that sends no more may still read.
        assert client.answered() == {1, 2, 3, 4, 5}
    assert length(redis) == 5


async def test_a_client_that_breaks_off_has_its_waiting_calls_cancelled_at_once(
    redis: Server, direct: bool
) -> None:
    queue = Queue()
    async with client_of(redis, direct, admit=queue) as client:
        await client.send()
        await until(lambda: len(queue.waiting) == 1)
        # Its answer cannot be written.
        await client.way.peer.send_all(request("p", "ping", enveloped()))
        await client.way.peer.aclose()
        await until(lambda: any(isinstance(each, ConnectionClosed) for each in client.way.events))
        assert [each.ending for each in client.way.events if isinstance(each, ConnectionClosed)] == [
            Ending.BROKEN
        ]
        assert not queue.waiting[0].waiting
        queue.admit_all()
        assert await client.all_ended() == [CANCELLED]
    assert length(redis) == 0


# --- The end of the daemon ---------------------------------------------------------------------


async def test_a_connection_that_drains_answers_what_is_in_flight(redis: Server, direct: bool) -> None:
    async with client_of(redis, direct) as client, trio.open_nursery() as nursery:
        client.proxy.to_client.hold()
        numbers = [await client.send() for _ in range(5)]
        await in_redis(redis, 5)
        drained: list[bool] = []

        async def drain() -> None:
            drained.append(await client.way.connection.drain(10))

        nursery.start_soon(drain)
        await trio.sleep(0.01)
        client.proxy.to_client.release()
        assert [outcome(await client.answer(number)) for number in numbers] == [OK] * 5
        await until(lambda: drained)
        assert drained == [True]
        assert await client.all_ended() == [OK] * 5
    assert length(redis) == 5


async def test_a_cancelled_call_does_not_hold_up_the_end_of_its_connection(
    redis: Server, direct: bool
) -> None:
    async with client_of(redis, direct, command_timeout=60.0) as client:
        client.proxy.to_client.hold()
        number = await client.send()
        await in_redis(redis, 1)
        # A second time has no further effect.
        for _ in range(2):
            await client.cancel(number)
        await trio.sleep(0.05)
        with trio.fail_after(60):
            # Nobody waited for it, so nothing was cut off.
            assert await client.way.connection.drain(0.1)
        client.proxy.to_client.release()
        assert await client.all_ended() == [CANCELLED]


async def test_a_wait_whose_first_read_gets_no_reply_waits_on(redis: Server, direct: bool) -> None:
    # After the first second the read has failed; in the next one a second may still connect.
    async with client_of(redis, direct, command_timeout=1.0, connect_grace=5.0) as client:
        assert await client.outcome() == OK
        # Opens the connection for large reads.
        assert await client.outcome("stream_read", stream=STREAM) == OK
        client.proxy.to_client.hold()
        number = await client.send("stream_wait", streams=[STREAM], cursor="0-0", timeout_seconds=20)
        await trio.sleep(1.5)
        client.proxy.to_client.release()
        message = await client.answer(number)
        assert outcome(message) == OK
        assert len(message["result"]["structuredContent"]["entries"]) == 1
        assert await client.all_ended() == [OK, OK, OK]


async def test_calls_that_are_cut_off_are_answered_with_what_is_known(redis: Server, direct: bool) -> None:
    async with client_of(redis, direct) as client:
        client.proxy.to_client.hold()
        numbers = [await client.send() for _ in range(5)]
        await in_redis(redis, 5)
        assert not await client.way.connection.drain(0.1)
        assert [outcome(await client.answer(number)) for number in numbers] == [str(CUT_OFF)] * 5
        client.proxy.to_client.release()
        assert await client.all_ended() == [CANCELLED] * 5
    assert length(redis) == 5


# --- Calls that are deferred -------------------------------------------------------------------


@attrs.define
class Queue:
    """Admits calls when it is told to.

    Attributes:
        waiting: A place for each call that came.
    """

    waiting: list[Deferral] = attrs.field(factory=list)

    def __call__(self, _: Invocation[Any]) -> Deferral:
        self.waiting.append(Deferral())
        return self.waiting[-1]

    def admit_all(self) -> None:
        waiting, self.waiting = self.waiting, []
        for each in waiting:
            each.admit()


async def test_calls_that_are_deferred_for_some_passes_are_answered(redis: Server, direct: bool) -> None:
    queue = Queue()

    async def admit_later() -> None:
        while True:
            for _ in range(3):
                await trio.lowlevel.checkpoint()
            queue.admit_all()
            await trio.sleep(0.001)

    async with client_of(redis, direct, admit=queue) as client, trio.open_nursery() as nursery:
        nursery.start_soon(admit_later)
        numbers = [await client.send() for _ in range(20)]
        assert [outcome(await client.answer(number)) for number in numbers] == [OK] * 20
        assert await client.all_ended() == [OK] * 20
        nursery.cancel_scope.cancel()
    assert length(redis) == 20


async def test_a_call_that_is_cancelled_while_it_is_deferred_has_no_effect(
    redis: Server, direct: bool
) -> None:
    queue = Queue()
    async with client_of(redis, direct, admit=queue) as client:
        number = await client.send()
        await until(lambda: len(queue.waiting) == 1)
        await client.cancel(number)
        assert await client.all_ended() == [CANCELLED]
        assert not queue.waiting[0].waiting
        queue.admit_all()
        number = await client.send()
        await until(lambda: len(queue.waiting) == 1)
        queue.admit_all()
        assert outcome(await client.answer(number)) == OK
        assert client.answered() == {2}
    assert length(redis) == 1


async def test_deferred_calls_are_cut_off_with_the_connection(redis: Server, direct: bool) -> None:
    queue = Queue()
    async with client_of(redis, direct, admit=queue) as client:
        number = await client.send()
        await until(lambda: len(queue.waiting) == 1)
        assert not await client.way.connection.drain(0.05)
        assert outcome(await client.answer(number)) == str(CUT_OFF)
        queue.admit_all()
        assert await client.all_ended() == [CANCELLED]
    assert length(redis) == 0


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (BusError(Code.RATE_LIMITED, "no", cause="no", next_step="no"), Code.RATE_LIMITED),
        (RuntimeError("a defect"), Code.INTERNAL),
    ],
    ids=["refusal", "defect"],
)
async def test_an_error_of_what_admits_calls_is_the_answer(
    redis: Server, direct: bool, error: Exception, told: Code
) -> None:
    def admit(_: Invocation[Any]) -> Deferral | None:
        raise error

    async with client_of(redis, direct, admit=admit) as client:
        assert await client.outcome() == told
        assert await client.all_ended() == [told]
    assert length(redis) == 0
