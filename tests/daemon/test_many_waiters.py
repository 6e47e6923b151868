"""A thousand clients that wait: no Redis connection for any of them, and none is forgotten."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import trio

from tests.support.counts import counts
from tests.support.daemon import Daemon, running_daemon
from tests.support.mcp_client import RawClient, raw_client
from tests.support.servers import Server
from tests.support.waiting import until

CLIENTS, STREAMS = 1_000, 100


def connections(server: Server, name: str = "redstreamd") -> list[dict[str, str]]:
    """Return what CLIENT LIST says of the daemon's connections."""
    lines = server.command("CLIENT", "LIST").decode().splitlines()
    listed = [dict(word.partition("=")[::2] for word in line.split(" ")) for line in lines]
    return [client for client in listed if client["name"].startswith(name)]


def stream_of(number: int) -> str:
    return f"many:waiters:{number % STREAMS}"


class Waiter:
    """One client that waits on its stream, again and again."""

    def __init__(self, client: RawClient, number: int) -> None:
        self.client = client
        self.stream = stream_of(number)
        self.cursor = "0-0"
        self.ids: list[str] = []
        self.answers = 0

    async def wait(self, seconds: float = 60) -> bool:
        """Wait once and tell whether something came."""
        arguments = {
            "streams": [self.stream],
            "cursor": self.cursor,
            "timeout_seconds": seconds,
            "count": 100,
        }
        result = (await self.client.call_tool("stream_wait", arguments))["result"]
        assert result["isError"] is False, result["content"]
        answer = result["structuredContent"]
        self.ids += [entry["id"] for entry in answer["entries"]]
        self.cursor = answer["next_cursor"]
        self.answers += 1
        return bool(answer["entries"])


async def watched(server: Server, streams: int) -> None:
    """Return once the server tracks so many keys, which is when the daemon has armed them all."""
    wanted = f"tracking_total_keys:{streams}\r".encode()
    await until(lambda: wanted in server.command("INFO", "stats"))


async def open_waiters(nursery: trio.Nursery, daemon: Daemon, stop: trio.Event) -> list[Waiter]:
    async def hold(number: int, *, task_status: trio.TaskStatus[Waiter]) -> None:
        async with raw_client(daemon.path, era="modern") as client:
            task_status.started(Waiter(client, number))
            await stop.wait()

    return [await nursery.start(hold, number) for number in range(CLIENTS)]


@pytest.mark.limit(120)
async def test_a_thousand_waiting_clients_cost_no_redis_connection_and_only_the_right_ones_wake(
    redis: Server,
) -> None:
    with running_daemon(redis, "--set", "limits.max_connections=2000") as daemon:
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            waiters = await open_waiters(nursery, daemon, stop)
            woken: Counter[str] = Counter()

            async def wait(waiter: Waiter) -> None:
                assert await waiter.wait()
                woken[waiter.stream] += 1

            async with trio.open_nursery() as waiting:
                waiting.start_soon(wait, waiters[0])
                await watched(redis, 1)
                # One for commands, one that is told of changes, and one to read on, which may open last.
                await until(lambda: len(connections(redis)) == 3)
                for waiter in waiters[1:]:
                    waiting.start_soon(wait, waiter)
                await watched(redis, STREAMS)
                # Shown: as many Redis connections for a thousand as for one.
                assert len(connections(redis)) == 3

                # One entry wakes those of its stream. The next one's are woken after them, so whoever
                # was woken by mistake has been heard of by then.
                for rounds, stream in enumerate((stream_of(7), stream_of(8)), start=1):
                    redis.command("XADD", stream, "*", "f", "v")
                    await until(lambda rounds=rounds: woken.total() >= rounds * CLIENTS // STREAMS)
                assert woken == dict.fromkeys((stream_of(7), stream_of(8)), CLIENTS // STREAMS)
                waiting.cancel_scope.cancel()
            stop.set()


@pytest.mark.parametrize("kills", counts(3, ci=25, full=100))
@pytest.mark.limit(600)
async def test_no_client_misses_an_entry_while_the_watch_connection_is_killed_again_and_again(
    redis: Server, kills: int
) -> None:
    rng = random.Random(7)
    added: dict[str, list[str]] = {stream_of(number): [] for number in range(STREAMS)}
    killed = 0
    with running_daemon(redis) as daemon:
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            waiters = await open_waiters(nursery, daemon, stop)

            async def follow(waiter: Waiter) -> None:
                while "last" not in added or waiter.ids[-1:] != added[waiter.stream][-1:]:
                    await waiter.wait()

            async def kill() -> None:
                nonlocal killed
                while killed < kills:
                    for client in connections(redis, "redstreamd:watch"):
                        killed += redis.command("CLIENT", "KILL", "ID", client["id"]) == 1
                    await trio.sleep(rng.uniform(0.01, 0.1))

            async with trio.open_nursery() as following:
                for waiter in waiters:
                    following.start_soon(follow, waiter)
                following.start_soon(kill)
                count = 0
                while count < 300 or killed < kills:
                    stream = stream_of(rng.randrange(STREAMS))
                    added[stream].append(redis.command("XADD", stream, "*", "n", count).decode())
                    count += 1
                    await trio.sleep(rng.uniform(0, 0.02))
                # Everyone gets one more, and with it everything before it.
                for number in range(STREAMS):
                    stream = stream_of(number)
                    added[stream].append(redis.command("XADD", stream, "*", "n", "last").decode())
                added["last"] = []
                # A wait that ended between the last entry and the mark goes on; one more wakes it.
                for number in range(STREAMS):
                    stream = stream_of(number)
                    added[stream].append(redis.command("XADD", stream, "*", "n", "last").decode())
            stop.set()
    assert killed >= kills
    assert sum(waiter.answers for waiter in waiters) > CLIENTS
    for waiter in waiters:
        assert waiter.ids == added[waiter.stream]
