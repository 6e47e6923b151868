"""What is asked of every node: whether it answers, and which keys it holds.

Knows commands without a key only. Which nodes there are is known to the topology.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import trio

from redstreamd.errors import BusError
from redstreamd.redisio.node import Node
from redstreamd.redisio.topology import Topology


class ScanCursor(msgspec.Struct, frozen=True):
    """Where a scan of all nodes goes on.

    Attributes:
        node: The node that is being scanned.
        position: The cursor there; 0 to begin.
        done: Nodes that were scanned before, whether they are still there or not.
        incarnation: That of the node to which the position belongs.
    """

    node: Node
    position: int
    done: tuple[Node, ...] = ()
    incarnation: int = 0


async def known_nodes(topology: Topology) -> tuple[Node, ...]:
    """Return the nodes; waits for them while they can be expected to be known soon.

    Raises:
        RedisUnavailable: They are not known; says why.
    """
    if not topology.nodes():
        await topology.wait_node(None, trio.current_time() + topology.command_timeout)
    return topology.nodes()


async def scan_step(
    topology: Topology, cursor: ScanCursor | None, ask: Callable[[Node, int], Awaitable[tuple[int, Any]]]
) -> tuple[ScanCursor | None, Any]:
    """Take one step of a scan of all nodes, one after the other.

    A node that is gone is left out from then on, and one that has come is scanned after the others. The scan
    of a node whose server may be another than before begins again: each has an order of its own.

    Args:
        topology: Where.
        cursor: None to begin, else that of the step before.
        ask: Takes one step of the scan of a node, from a position; returns the next, 0 at the end, and what
            it found.

    Returns:
        The next cursor, None at the end, and what was found.

    Raises: what `ask` raises; `RedisUnavailable` if no node is known.
    """
    nodes = await known_nodes(topology)
    if cursor is not None and cursor.node not in nodes:
        cursor = _next(nodes, (*cursor.done, cursor.node))
        if cursor is None:
            return None, []
    if cursor is None:
        cursor = ScanCursor(nodes[0], 0)
    node = cursor.node
    incarnation = node.incarnation
    began = cursor.position if cursor.incarnation == incarnation else 0
    position, found = await ask(node, began)
    # A server that was asked to go on where another one had been says "the end" of its own order.
    if position or (began and node.incarnation != incarnation):
        return ScanCursor(node, position, cursor.done, incarnation), found
    return _next(topology.nodes(), (*cursor.done, node)), found


def _next(nodes: tuple[Node, ...], done: tuple[Node, ...]) -> ScanCursor | None:
    left = [node for node in nodes if node not in done]
    return ScanCursor(left[0], 0, done) if left else None


async def ask_every(topology: Topology, ask: Callable[[Node], Awaitable[object]]) -> None:
    """Ask every node at the same time, and return once all have answered.

    Raises:
        BusError: Of the first node, in their order, that has failed; `RedisUnavailable` if none is known.
    """
    nodes = await known_nodes(topology)
    if len(nodes) == 1:
        await ask(nodes[0])
        return
    errors: dict[Node, BusError] = {}
    async with trio.open_nursery() as nursery:
        for node in nodes:
            nursery.start_soon(_ask, node, ask, errors)
    for node in nodes:
        if node in errors:
            raise errors[node]


async def ask_any(topology: Topology, ask: Callable[[Node], Awaitable[object]]) -> None:
    """Ask every node at the same time, and return once one has answered.

    Raises: as `ask_every`, if none has.
    """
    nodes = await known_nodes(topology)
    if len(nodes) == 1:
        await ask(nodes[0])
        return
    errors: dict[Node, BusError] = {}
    async with trio.open_nursery() as nursery:

        async def one(node: Node) -> None:
            await _ask(node, ask, errors)
            if node not in errors:
                nursery.cancel_scope.cancel()

        for node in nodes:
            nursery.start_soon(one, node)
    if len(errors) == len(nodes):
        raise errors[nodes[0]]


async def _ask(node: Node, ask: Callable[[Node], Awaitable[object]], errors: dict[Node, BusError]) -> None:
    try:
        await ask(node)
    except BusError as error:
        errors[node] = error
