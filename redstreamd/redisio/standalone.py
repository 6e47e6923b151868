"""The topology of one server, which serves every key."""

from __future__ import annotations

from typing import Any

import trio

from redstreamd.redisio.node import Node
from redstreamd.redisio.target import Deployment, Target, TopologyKind
from redstreamd.redisio.topology import Topology


class Standalone(Topology):
    """One server."""

    kind = TopologyKind.STANDALONE

    def __init__(self, deployment: Deployment, **options: Any) -> None:
        """As `Topology`."""
        super().__init__(deployment, **options)
        self.node = self._new_node(deployment.target)

    @classmethod
    def of(cls, target: Target, **options: Any) -> Standalone:
        """Return the topology of the server at `target`."""
        return cls(Deployment(target), **options)

    def node_for(self, _key: str | bytes | None) -> Node:
        """Return the one node."""
        return self.node

    async def wait_node(self, _key: str | bytes | None, _deadline: float) -> Node:
        """Return the one node."""
        return self.node

    def nodes(self) -> tuple[Node, ...]:
        """Return the one node."""
        return (self.node,)

    def retarget(self, deployment: Deployment, *, command_timeout: float) -> None:
        """Use another server or login from now on; see `Node.retarget`."""
        self._deployment = deployment
        self._command_timeout = command_timeout
        self.node.retarget(deployment.target, command_timeout=command_timeout)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the server connected until cancelled."""
        await self.node.run(task_status=task_status)

    @property
    def label(self) -> str:
        """The server's address."""
        return self.node.label
