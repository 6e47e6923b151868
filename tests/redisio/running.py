"""Runs connections, nodes and topologies for the length of a block."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import attrs
import trio

from redstreamd.redisio import Arg, Role
from redstreamd.redisio.client import Redis
from redstreamd.redisio.connection import Connection
from redstreamd.redisio.delivery import deliver
from redstreamd.redisio.node import Node, RedisEvent
from redstreamd.redisio.redis_errors import ConnectionEnded, Problem
from redstreamd.redisio.script import Script, ScriptCall
from redstreamd.redisio.target import Target
from redstreamd.redisio.topology import Topology
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
async def running_node(
    target: Target, *, connected: bool = True, events: list[RedisEvent] | None = None, **options: Any
) -> AsyncIterator[Node]:
    """Run a node for the block, which begins when it is connected, unless told otherwise."""
    node = Node(target, on_event=(events if events is not None else []).append, **options)
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        if connected:
            await node.wait_connected()
        yield node
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def running_topology(topology: Topology) -> AsyncIterator[Redis]:
    """Run a topology for the block, which begins when it is connected."""
    async with trio.open_nursery() as nursery:
        await nursery.start(topology.run)
        await topology.wait_connected()
        yield Redis(topology)
        nursery.cancel_scope.cancel()


async def run_script(
    node: Node, script: Script, keys: Sequence[str], args: Sequence[Arg], *, retry_safe: bool
) -> Any:
    """Run a script on a node, by its digest first."""
    deadline = trio.current_time() + node.command_timeout
    call = ScriptCall(script, keys, args)
    return await deliver(node, call, None, Role.COMMAND, retry_safe=retry_safe, deadline=deadline)


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
