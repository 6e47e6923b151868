"""The topology of one server, which serves every key."""

from __future__ import annotations

import ipaddress
from typing import Any, Final

import trio
from redis.exceptions import RedisError

from redstreamd.redisio.connect_errors import ANOTHER_PRIMARY
from redstreamd.redisio.error_replies import row_of
from redstreamd.redisio.lost_replies import Redirection
from redstreamd.redisio.node import Node
from redstreamd.redisio.target import Deployment, Target, TopologyKind
from redstreamd.redisio.topology import Topology

#: Seconds between two times that the server's name is resolved anew because it is a replica.
_RESOLVE_SECONDS: Final = 10.0


class Standalone(Topology):
    """One server.

    Its name may lead to another one some day, as that of a managed Redis does after a failover. A server that
    refuses a write as a replica does is connected to anew; the write is not sent again.
    """

    kind = TopologyKind.STANDALONE

    def __init__(self, deployment: Deployment, **options: Any) -> None:
        """As `Topology`."""
        super().__init__(deployment, **options)
        self.node = self._new_node(deployment.target)
        self.queues = self.node.queues
        self._resolved_at = -float("inf")

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

    def follow(self, node: Node, _key: str | bytes | None, error: RedisError) -> Redirection | None:
        """Return None: there is no other server; a replica that has a name is connected to anew."""
        now = trio.current_time()
        if (
            row_of(error).kind == "READONLY"
            and _has_name(node.target)
            and now - self._resolved_at >= _RESOLVE_SECONDS
        ):
            self._resolved_at = now
            node.retarget(node.target, command_timeout=self.command_timeout, because=ANOTHER_PRIMARY)
        return None

    def nodes(self) -> tuple[Node, ...]:
        """Return the one node."""
        return (self.node,)

    def retarget(self, deployment: Deployment, *, command_timeout: float) -> None:
        """Use another server or login from now on; see `Node.retarget`."""
        self._deployment = deployment
        self.command_timeout = command_timeout
        self.node.retarget(deployment.target, command_timeout=command_timeout)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the server connected until cancelled."""
        await self.node.run(task_status=task_status)

    @property
    def label(self) -> str:
        """The server's address."""
        return self.node.label


def _has_name(target: Target) -> bool:
    """Return whether a server is found by a name, not by an address."""
    try:
        ipaddress.ip_address(target.host)
    except ValueError:
        return target.path is None
    return False
