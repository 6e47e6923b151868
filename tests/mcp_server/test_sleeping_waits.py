"""A plain wait sleeps as a record of the hub, without a task, and is answered a round trip after the push."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
import trio.lowlevel

from redstreamd.redisio import Role
from redstreamd.settings import LimitsSettings, Settings
from redstreamd.streams.bus import Bus
from redstreamd.tools.invocation import CANCELLED, OK
from tests.support.buses import asleep, running_bus
from tests.support.mcp_client import enveloped
from tests.support.servers import Server
from tests.support.two_ways import MODERN, Surface, Way, request, running_way, surface_over
from tests.support.waiting import until

WAIT = {"streams": ["s"], "cursor": "0-0", "timeout_seconds": 600}


@attrs.define
class Client:
    """A client of the direct path.

    Attributes:
        bus: The domain.
        surface: What it is served.
        way: Its connection.
        redis: The server.
    """

    bus: Bus
    surface: Surface
    way: Way
    redis: Server

    async def sleep(self, count: int, **arguments: Any) -> None:
        """Let so many calls wait, and return once they sleep."""
        for number in range(count):
            await self.way.call(number, "stream_wait", **(WAIT | arguments))
        await asleep(self.bus, count)

    async def entries(self, count: int = 1) -> list[list[str]]:
        """Take so many answers and return the IDs of the entries in each."""
        found = []
        for _ in range(count):
            result = (await self.way.answer())["result"]
            assert not result["isError"], result
            found.append([entry["id"] for entry in result["structuredContent"]["entries"]])
        return found

    def ended(self) -> list[str]:
        return [call.outcome for call in self.surface.ended]


@pytest.fixture(params=[MODERN, "2025-11-25"])
def revision(request: pytest.FixtureRequest) -> str:
    """What the client speaks."""
    return str(request.param)


@asynccontextmanager
async def client_of(redis: Server, revision: str, **limits: int) -> AsyncIterator[Client]:
    """Serve a client for the block; afterwards nothing is left in the hub."""
    settings = Settings(limits=LimitsSettings(**limits))
    async with running_bus(redis, settings) as bus:
        surface = surface_over(bus)
        async with running_way(surface, direct=True, revision=revision) as way:
            # Opens the connections and makes the script known.
            await way.call("first", "stream_wait", **(WAIT | {"timeout_seconds": 0}))
            await way.answer()
            with bus.hub.watch(["another"]) as watch:
                await watch.changed()
            surface.ended.clear()
            yield Client(bus, surface, way, redis)
        await until(lambda: bus.hub.statistics().watches == 0)


class Scheduled(trio.abc.Instrument):
    """Notes which tasks of the daemon run."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task.name.startswith("redstreamd."):
            self.names.append(task.name.removeprefix("redstreamd."))


async def test_a_push_is_answered_by_the_reader_of_its_connection_and_no_other_task(
    redis: Server, revision: str
) -> None:
    reader = "redisio.reply_reader.ReplyReader.run"
    rounds: list[list[str]] = []
    async with client_of(redis, revision) as client:
        cursor = "0-0"
        # The daemon's own tasks run now and then, but not in every round.
        for _ in range(5):
            await client.sleep(1, cursor=cursor)
            scheduled = Scheduled()
            trio.lowlevel.add_instrument(scheduled)
            entry_id = redis.command("XADD", "s", "*", "f", "v").decode()
            assert await client.entries() == [[entry_id]]
            trio.lowlevel.remove_instrument(scheduled)
            rounds.append(scheduled.names)
            cursor = entry_id
    fewest = min(rounds, key=lambda names: (set(names) != {reader}, len(names)))
    # A pass for the push, and one for the reply, which arms the key as well, unless that came within it.
    assert fewest in ([reader], [reader, reader])


async def test_each_wake_costs_redis_one_read_and_to_wait_again_none(redis: Server, revision: str) -> None:
    def calls() -> dict[str, int]:
        lines = redis.command("INFO", "commandstats").decode().split("\r\n")
        found = (line.partition(":") for line in lines if line.startswith("cmdstat_"))
        return {name[8:]: int(rest.split(",")[0].removeprefix("calls=")) for name, _, rest in found}

    async with client_of(redis, revision) as client:
        await client.sleep(1)
        redis.command("CONFIG", "RESETSTAT")
        for _ in range(10):
            redis.command("XADD", "s", "*", "f", "v")
            ((last,),) = await client.entries()
            await client.bus.redis.ping(role=Role.WATCH)
            await client.sleep(1, cursor=last)
        seen = calls()
    assert seen["xadd"] == seen["evalsha"] == 10
    assert "exists" not in seen


async def test_what_is_added_between_an_answer_and_the_next_wait_is_found(
    redis: Server, revision: str
) -> None:
    async with client_of(redis, revision) as client:
        await client.sleep(1)
        for number in range(1, 6):
            redis.command("XADD", "s", f"{number}-1", "f", "v")
            assert await client.entries() == [[f"{number}-1"]]
            redis.command("XADD", "s", f"{number}-2", "f", "v")
            await client.way.call(1, "stream_wait", **(WAIT | {"cursor": f"{number}-1"}))
            assert await client.entries() == [[f"{number}-2"]]
            await client.sleep(1, cursor=f"{number}-2")


async def test_all_who_sleep_at_a_stream_are_woken_and_nobody_else(redis: Server, revision: str) -> None:
    async with client_of(redis, revision) as client:
        before = trio.lowlevel.current_statistics().tasks_living
        for number in range(200):
            await client.way.call(number, "stream_wait", **(WAIT | {"streams": [f"s{number % 2}"]}))
        await asleep(client.bus, 200)
        # The daemon may have begun tasks of its own.
        assert trio.lowlevel.current_statistics().tasks_living < before + 10
        redis.command("XADD", "s0", "7-7", "f", "v")
        assert await client.entries(100) == [["7-7"]] * 100
        await asleep(client.bus, 100)
        redis.command("XADD", "s1", "8-8", "f", "v")
        assert await client.entries(100) == [["8-8"]] * 100
        assert client.ended() == [OK] * 200


async def test_what_changes_without_new_entries_wakes_and_is_slept_through(
    redis: Server, revision: str
) -> None:
    redis.command("XADD", "s", "1-1", "f", "v")
    async with client_of(redis, revision) as client:
        await client.sleep(1, cursor="1-1")
        for change in (("XTRIM", "s", "MAXLEN", 0), ("DEL", "s"), ("XADD", "s", "0-1", "f", "v")):
            pushes = client.bus.hub.statistics().pushes
            redis.command(*change)
            await until(lambda pushes=pushes: client.bus.hub.statistics().pushes > pushes)
            await asleep(client.bus, 1)
        redis.command("XADD", "s", "2-2", "f", "v")
        assert await client.entries() == [["2-2"]]


async def test_a_change_between_the_first_read_and_the_sleep_is_not_missed(
    redis: Server, revision: str
) -> None:
    """Whether or not the key is armed when the read is sent: a push may arrive before the reply."""
    async with client_of(redis, revision) as client:
        cursor = "0-0"
        for number in range(40):
            if number % 2:
                # Forgets that the key is armed.
                redis.command("FLUSHALL")
                await client.bus.redis.ping(role=Role.WATCH)
            await client.way.call(number, "stream_wait", **(WAIT | {"cursor": cursor}))
            for _ in range(number % 8):
                await trio.lowlevel.checkpoint()
            # Not by the clock, which may step back while the stream forgets its last ID.
            entry_id = f"{number + 1}-0"
            redis.command("XADD", "s", entry_id, "f", "v")
            assert await client.entries() == [[entry_id]]
            cursor = entry_id


async def test_a_wait_ends_at_its_time_with_its_cursor(redis: Server, revision: str) -> None:
    redis.command("XADD", "s", "5-5", "f", "v")
    async with client_of(redis, revision) as client:
        began = trio.current_time()
        # One that lasts longer and began earlier delays none.
        lasting = (600, 0.3, 0.1)
        for number, seconds in enumerate(lasting):
            await client.way.call(
                number, "stream_wait", **(WAIT | {"cursor": "5-5", "timeout_seconds": seconds})
            )
        ended = set()
        for _ in range(2):
            message = await client.way.answer()
            answer = message["result"]["structuredContent"]
            assert answer["timed_out"]
            assert answer["next_cursor"] == "5-5"
            assert trio.current_time() - began >= lasting[message["id"]]
            ended.add(message["id"])
        assert ended == {1, 2}
        assert client.bus.hub.statistics().watches == 1
        redis.command("XADD", "s", "6-6", "f", "v")
        assert await client.entries() == [["6-6"]]


async def test_a_cancelled_wait_is_not_answered_and_leaves_nothing(redis: Server, revision: str) -> None:
    async with client_of(redis, revision) as client:
        await client.sleep(3)
        params: dict[str, Any] = {"requestId": 1}
        if revision == MODERN:
            params = enveloped(params)
        line = request(None, "notifications/cancelled", params).replace(b'"id":null,', b"")
        await client.way.peer.send_all(line)
        await asleep(client.bus, 2)
        assert client.bus.hub.statistics().watches == 2
        redis.command("XADD", "s", "7-7", "f", "v")
        assert await client.entries(2) == [["7-7"]] * 2
        assert sorted(client.ended()) == sorted([CANCELLED, OK, OK])


async def test_a_connection_that_ends_ends_its_waits(redis: Server, revision: str) -> None:
    async with client_of(redis, revision) as client:
        await client.sleep(3)
        await client.way.peer.aclose()
        await until(lambda: client.ended() == [CANCELLED] * 3)
        assert client.bus.hub.statistics().watches == 0


async def test_waits_are_bounded(redis: Server, revision: str) -> None:
    async with client_of(redis, revision, max_waits=2) as client:
        await client.sleep(2)
        await client.way.call("third", "stream_wait", **WAIT)
        result = (await client.way.answer())["result"]
        assert result["isError"]
        assert "RATE_LIMITED" in str(result)
        redis.command("XADD", "s", "7-7", "f", "v")
        assert await client.entries(2) == [["7-7"]] * 2


async def test_a_draining_hub_ends_sleeping_waits_with_their_cursors(redis: Server, revision: str) -> None:
    async with client_of(redis, revision) as client:
        await client.sleep(5)
        client.bus.hub.drain()
        for _ in range(5):
            answer = (await client.way.answer())["result"]["structuredContent"]
            assert answer["timed_out"]
            assert answer["next_cursor"] == "0-0"


@pytest.mark.parametrize("roles", [("watch",), ("bulk",), ("watch", "bulk", "command")])
async def test_a_sleeping_wait_survives_the_loss_of_connections_to_redis(
    redis: Server, revision: str, roles: tuple[str, ...]
) -> None:
    async with client_of(redis, revision) as client:
        await client.sleep(20)
        for round_ in range(1, 6):
            for line in redis.command("CLIENT", "LIST").decode().splitlines():
                words = dict(word.partition("=")[::2] for word in line.split(" "))
                if words["name"].removeprefix("redstreamd:") in roles:
                    redis.command("CLIENT", "KILL", "ID", words["id"])
            redis.command("XADD", "s", f"{round_}-0", "f", "v")
            assert await client.entries(20) == [[f"{round_}-0"]] * 20
            await client.sleep(20, cursor=f"{round_}-0")
        assert client.ended() == [OK] * 100


async def test_waits_leave_no_garbage_to_collect(redis: Server, revision: str) -> None:
    async with client_of(redis, revision) as client:
        cursor = "0-0"

        async def wake(times: int) -> None:
            nonlocal cursor
            for _ in range(times):
                await client.sleep(1, cursor=cursor)
                redis.command("XADD", "s", "*", "f", "v")
                ((cursor,),) = await client.entries()

        await wake(2)
        gc.collect()
        gc.disable()
        try:
            await wake(50)
            # Less than one object each.
            assert gc.collect() < 50
        finally:
            gc.enable()


async def test_a_wait_that_reports_progress_has_a_task(redis: Server, revision: str) -> None:
    async with client_of(redis, revision) as client:
        before = trio.lowlevel.current_statistics().tasks_living
        params: dict[str, Any] = {"name": "stream_wait", "arguments": WAIT}
        if revision == MODERN:
            params = enveloped(params)
        params["_meta"] = params.get("_meta", {}) | {"progressToken": 5}
        await client.way.peer.send_all(request(1, "tools/call", params))
        await asleep(client.bus, 1)
        assert trio.lowlevel.current_statistics().tasks_living > before
        redis.command("XADD", "s", "7-7", "f", "v")
        assert await client.entries() == [["7-7"]]
        await until(lambda: trio.lowlevel.current_statistics().tasks_living == before)
