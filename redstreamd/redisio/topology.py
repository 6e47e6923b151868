"""A topology: which nodes hold the streams, and which of them serves a key.

Owns what all topologies have in common: how a node is made, the hooks and counters that nodes share, the
status of all together. Each kind is a module of its own: ``standalone``, ``sentinel``, ``cluster``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import msgspec
import trio
from redis.backoff import AbstractBackoff
from redis.exceptions import RedisError

from redstreamd.redisio import Role
from redstreamd.redisio.connect_errors import STILL_CONNECTING
from redstreamd.redisio.connection import ConnectionStatistics
from redstreamd.redisio.lost_replies import Redirection
from redstreamd.redisio.node import Node, NodeHooks, RedisEvent
from redstreamd.redisio.redis_errors import NotSent, Problem, ProblemKind
from redstreamd.redisio.redis_request import Request
from redstreamd.redisio.script import Write
from redstreamd.redisio.server_health import RedisStatus, RoleStatus, State
from redstreamd.redisio.target import Deployment, Target, TopologyKind
from redstreamd.redisio.traffic import Traffic


def _no_event(_event: RedisEvent) -> None: ...


class TopologyStatus(msgspec.Struct, frozen=True):
    """A snapshot of all nodes.

    Attributes:
        kind: Which kind of topology it is.
        label: How messages call it: a server's address, or the nodes with what they are.
        nodes: Of each node that holds streams, in a stable order; none while they are not known.
        problems: Why it does not serve all that is wanted of it, worst first; empty if it does, as far as is
            known. Those of nodes among them.
    """

    kind: TopologyKind
    label: str
    nodes: tuple[RedisStatus, ...]
    problems: tuple[Problem, ...]

    @property
    def state(self) -> State:
        """The state in one word."""
        if self.problems:
            loading = any(problem.kind is ProblemKind.LOADING for problem in self.problems)
            return State.LOADING if loading else State.DEGRADED
        used = any(node.state is not State.UNUSED for node in self.nodes)
        return State.USABLE if used else State.UNUSED

    @property
    def name(self) -> str:
        """All of it in a few words, such as ``Redis cluster of 3 nodes``."""
        if self.kind is not TopologyKind.CLUSTER:
            return f"Redis at {self.label}"
        return f"Redis cluster of {len(self.nodes)} node{'' if len(self.nodes) == 1 else 's'}"

    @property
    def located_problems(self) -> tuple[tuple[str, Problem], ...]:
        """The problems, each with the node that has it: its address; empty where no other can have any."""
        if self.kind is TopologyKind.STANDALONE:
            return tuple(("", problem) for problem in self.problems)
        labels = {id(problem): node.label for node in self.nodes for problem in node.problems}
        return tuple((labels.get(id(problem), ""), problem) for problem in self.problems)

    @property
    def roles(self) -> Mapping[Role, RoleStatus]:
        """The state of each role's connections, the worst of all nodes; empty while no node is known."""
        return (
            {role: _worst([node.roles[role] for node in self.nodes]) for role in Role} if self.nodes else {}
        )

    def statistics(self, role: Role) -> ConnectionStatistics | None:
        """Return those of the connection of `role` that is farthest away; None if there is none."""
        found = [statistics for node in self.nodes if (statistics := node.roles[role].statistics) is not None]
        return max(found, key=lambda each: each.round_trip_seconds or 0.0, default=None)


def _worst(states: list[RoleStatus]) -> RoleStatus:
    """Return the state of a node whose connection is wanted and missing, or else of one that is wanted."""
    return min(states, key=lambda state: (not state.wanted, state.connected))


class CommandQueue(Protocol):
    """Takes what is sent over the connections of one role."""

    def submit(self, write: Write, then: Callable[[Any], None] | None, key: str | bytes) -> Request:
        """Send a command or a script if there is a connection, and return at once.

        Args:
            write: What to send. A `JoinableCall` is sent together with others, at the end of the pass at the
                latest, and before what follows it on behalf of the same account, but for packed commands.
            then: See `Pipeline.enqueue`. Whoever wants more than an exception goes on with `Redis.complete`.
            key: Decides which node gets it, see `Redis.execute`.

        Raises:
            NotSent: There is no connection now.
            QueueFull: Too much is queued for it already.
        """
        ...


class QueueByKey:
    """The queues of all nodes, for one role."""

    def __init__(self, topology: Topology, role: Role) -> None:
        """Submit to the nodes of `topology`."""
        self._topology = topology
        self._role = role

    def submit(self, write: Write, then: Callable[[Any], None] | None, key: str | bytes) -> Request:
        """Submit to the node of the key; see `CommandQueue`."""
        node = self._topology.node_for(key)
        if node is None:
            raise NotSent(STILL_CONNECTING)
        return node.queues[self._role].submit(write, then, key)


class Topology(ABC):
    """The nodes behind one `Redis`; as `Routes` it knows which of them serves a key.

    Attributes:
        kind: Which one it is.
        command_timeout: Seconds for one command, everything included.
        hooks: What the owner of the watch connections is told.
        traffic: What went over the connections of each role so far, of all nodes together.
        queues: What takes commands without waiting, by role; where one node has every key for good, its own.
        on_moved: Called when keys may have other nodes than before, or one is retired; must neither block nor
            raise.
    """

    kind: TopologyKind

    def __init__(
        self,
        deployment: Deployment,
        *,
        command_timeout: float = 5.0,
        connect_grace: float = 1.0,
        ping_interval: float = 10.0,
        ping_timeout: float = 2.0,
        backoff: AbstractBackoff | None = None,
        on_event: Callable[[RedisEvent], None] = _no_event,
    ) -> None:
        """Prepare; nothing is connected before `run`. The arguments are those of `Node`."""
        self._deployment = deployment
        self.command_timeout = command_timeout
        self._connect_grace = connect_grace
        self._ping_interval = ping_interval
        self._ping_timeout = ping_timeout
        self._backoff = backoff
        self._on_event = on_event
        self.hooks: Final = NodeHooks()
        self.traffic: Final[Mapping[Role, Traffic]] = {role: Traffic() for role in Role}
        self.queues: Mapping[Role, CommandQueue] = {role: QueueByKey(self, role) for role in Role}
        self.on_moved: Callable[[], None] = lambda: None

    def _new_node(self, target: Target) -> Node:
        """Return a node that shares hooks and counters with the others; somebody has to run it."""
        return Node(
            target,
            command_timeout=self.command_timeout,
            connect_grace=self._connect_grace,
            ping_interval=self._ping_interval,
            ping_timeout=self._ping_timeout,
            backoff=self._backoff,
            on_event=self._on_event,
            hooks=self.hooks,
            traffic=self.traffic,
        )

    @property
    def has_slots(self) -> bool:
        """Whether keys are in slots: a command names keys of one slot only, and slots move to other nodes."""
        return self.kind is TopologyKind.CLUSTER

    # As Routes

    @abstractmethod
    def node_for(self, key: str | bytes | None) -> Node | None:
        """As `Routes.node_for`."""

    @abstractmethod
    async def wait_node(self, key: str | bytes | None, deadline: float) -> Node:
        """As `Routes.wait_node`."""

    def follow(self, _node: Node, _key: str | bytes | None, _error: RedisError) -> Redirection | None:
        """As `Routes.follow`."""
        return None

    def connection_lost(self, _node: Node) -> None:  # noqa: B027 - most have nothing to do then
        """As `Routes.connection_lost`."""

    # All nodes

    @abstractmethod
    def nodes(self) -> tuple[Node, ...]:
        """Return every node that holds streams now, in a stable order."""

    @abstractmethod
    def retarget(self, deployment: Deployment, *, command_timeout: float) -> None:
        """Use other servers or logins of the same kind of topology from now on; see `Node.retarget`."""

    @abstractmethod
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the nodes connected until cancelled; may be run again after that.

        ``task_status.started()`` is called at once: that Redis is down is a state, not a failure.
        """

    def problems(self) -> tuple[Problem, ...]:
        """Return what is wrong beside the nodes themselves, such as sentinels that do not answer."""
        return ()

    @property
    @abstractmethod
    def label(self) -> str:
        """How messages call it."""

    def status(self) -> TopologyStatus:
        """Return a snapshot."""
        nodes = tuple(node.status() for node in self.nodes())
        problems = (*self.problems(), *(problem for node in nodes for problem in node.problems))
        return TopologyStatus(self.kind, self.label, nodes, problems)

    async def wait_connected(self, role: Role = Role.COMMAND) -> None:
        """Return once `role` is connected on every node, opening it if need be, however long that takes."""
        await self.wait_node(None, float("inf"))
        for node in self.nodes():
            await node.wait_connected(role)
