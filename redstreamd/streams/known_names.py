"""Names of streams that exist, for hints in errors.

Whoever asks for a stream that does not exist must not make the server look through all of its keys. So the
names are those of one step of SCAN, which all who ask share. Where there are several nodes, it is a step of
some of them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Final

import trio

from redstreamd.redisio import Role
from redstreamd.redisio.client import Redis
from redstreamd.redisio.node import Node
from redstreamd.redisio.redis_errors import ServerReplied
from redstreamd.streams.names import is_companion_key, is_stream_name
from redstreamd.streams.shared_requests import SharedRequest

#: Keys of one step, of all nodes together: about 0.1 ms of the server's time, and 0.4 of ours.
_SCANNED: Final = 200
#: Nodes that are asked in one step: those that were not for longest.
_MAX_NODES: Final = 8
#: Seconds for which the names of one step are used where there are more keys than that.
_FRESH_SECONDS: Final = 1.0


class KnownStreams:
    """The names that the last step of SCAN found; one for each `Redis`, by `Redis.shared`.

    Invariant: `_until` is in the past if that step saw all keys; the next who asks has them scanned again.
    """

    def __init__(self, redis: Redis) -> None:
        """Ask `redis`."""
        self._redis = redis
        self._names: list[str] = []
        # Of each node, where its next step begins in which incarnation of it, and when the last one was.
        self._positions: dict[Node, tuple[int, int]] = {}
        self._scanned_at: dict[Node, float] = {}
        self._until = 0.0
        self._step = SharedRequest(self._scan)

    async def names(self) -> Collection[str]:
        """Return the names of some streams: of all, if there are few keys.

        None for a user of Redis who may not run SCAN.

        Raises:
            BusError: CONNECTION_ERROR and the like.
        """
        if trio.current_time() >= self._until:
            await self._step.answer()
        return self._names

    async def _scan(self) -> None:
        if trio.current_time() < self._until:
            return
        nodes = self._redis.nodes()
        # Hints are worth no wait for a node that is away. The one node of most sites tells why it is.
        asked = [node for node in nodes if node.roles[Role.COMMAND].connection is not None] or nodes[:1]
        asked = sorted(asked, key=lambda node: self._scanned_at.get(node, -math.inf))[:_MAX_NODES]
        names: list[str] = []
        saw_all = len(asked) == len(nodes)
        for node in asked:
            incarnation = node.incarnation
            began, of = self._positions.get(node, (0, incarnation))
            if of != incarnation:
                began = 0
            position = 0
            try:
                position, page = await self._redis.scan_node(node, began, "*", _SCANNED // len(asked))
            except ServerReplied:
                page = []
            names += page
            saw_all = saw_all and began == position == 0
            self._positions[node] = position, incarnation
            self._scanned_at[node] = trio.current_time()
        self._forget_all_but(nodes)
        self._names = [name for name in names if is_stream_name(name) and not is_companion_key(name)]
        self._until = 0.0 if saw_all else trio.current_time() + _FRESH_SECONDS

    def _forget_all_but(self, nodes: Sequence[Node]) -> None:
        for node in [node for node in self._positions if node not in nodes]:
            del self._positions[node], self._scanned_at[node]
