"""Runs connections and managers for the length of a block."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import attrs
import trio

from redstreamd.redisio.connection import Connection
from redstreamd.redisio.connection_manager import Manager, RedisEvent
from redstreamd.redisio.redis_errors import ConnectionEnded, Problem
from redstreamd.redisio.target import Target
from tests.support.proxy import Proxy
from tests.support.servers import Server


def through(proxy: Proxy, **options: Any) -> Target:
    """The target that leads through a proxy."""
    if proxy.path is not None:
        return Target(path=proxy.path, **options)
    return Target(host="127.0.0.1", port=proxy.port, **options)


def over_tcp(server: Server, **options: Any) -> Target:
    """The target of a server, by TCP."""
    return Target(host="127.0.0.1", port=server.port, **options)


@attrs.define
class Ran:
    """How a connection in a block ended.

    Attributes:
        ended: Set when its run() is over.
        failure: Why, once it is.
    """

    ended: trio.Event = attrs.field(factory=trio.Event)
    failure: Problem | None = None


@contextlib.asynccontextmanager
async def running_connection(connection: Connection) -> AsyncIterator[Ran]:
    """Run a connection for the block, which begins when it takes requests."""
    ran = Ran()

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        try:
            await connection.run(task_status=task_status)
        except ConnectionEnded as ended:
            ran.failure = ended.problem
            ran.ended.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        yield ran
        nursery.cancel_scope.cancel()


async def failure_of(target: Target) -> Problem:
    """Why a connection to `target` cannot be made."""
    try:
        await Connection(target, role="test").run()
    except ConnectionEnded as ended:
        return ended.problem


@contextlib.asynccontextmanager
async def running_manager(
    target: Target, *, connected: bool = True, events: list[RedisEvent] | None = None, **options: Any
) -> AsyncIterator[Manager]:
    """Run a manager for the block, which begins when it is connected, unless told otherwise."""
    manager = Manager(target, on_event=(events if events is not None else []).append, **options)
    async with trio.open_nursery() as nursery:
        await nursery.start(manager.run)
        if connected:
            await manager.wait_connected()
        yield manager
        nursery.cancel_scope.cancel()


@contextlib.contextmanager
def slow_loading(server: Server, seconds: float) -> Iterator[None]:
    """For the block, have DEBUG RELOAD take so long, with the server answering LOADING meanwhile."""
    # Few keys with long pauses, because each pause lasts longer on a busy machine. After each key the server
    # looks at its clients, since each is larger than the interval.
    keys, size = 50, 3_000
    server.commands(
        ("CONFIG", "SET", "key-load-delay", int(1e6 * seconds / keys)),
        ("CONFIG", "SET", "loading-process-events-interval-bytes", 1024, "rdbcompression", "no"),
        ("DEBUG", "POPULATE", keys, "key", size),
    )
    try:
        yield
    finally:
        server.commands(("CONFIG", "SET", "key-load-delay", 0, "rdbcompression", "yes"), ("FLUSHALL",))


def calls(server: Server, command: str) -> int:
    """How often the server has run or refused `command` since CONFIG RESETSTAT."""
    for line in server.command("INFO", "commandstats").decode().splitlines():
        if line.startswith(f"cmdstat_{command}:"):
            fields = dict(pair.split("=") for pair in line.partition(":")[2].split(","))
            return int(fields["calls"]) + int(fields["rejected_calls"])
    return 0
