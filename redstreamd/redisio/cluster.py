"""The topology of a Redis Cluster: keys have slots, and each slot has a primary.

Owns which nodes there are, and which of them a command goes to. What nodes tell is read in ``slot_map`` and
asked for in ``cluster_views``, where they are reached is found out in ``cluster_addresses``, and what is the
matter with all together is judged in ``cluster_health``; sending again is done in ``lost_replies``.

Behaviour:
- The map of slots is asked of the nodes themselves: when it is not known, when a node redirects (MOVED), when
  a connection is lost, when the nodes do not agree, and when one of them, which is asked twice a second,
  tells something else. So it changes also when nobody sends commands and some wait. Any number of reasons
  share one asking.
- What MOVED says holds at once, until the map is asked again.
- A node gets its connections when it is known to serve slots, and loses them when it does not any more; what
  it still owes an answer to it may answer. One that ASK names keeps them for some seconds.

Prior art: lettuce's adaptive refresh, redis-rs's and rueidis's cluster clients. Theirs notice a change when a
command meets it.
"""

from __future__ import annotations

import math
import operator
from typing import Any, Final

import trio
from redis.exceptions import AskError, ClusterDownError, MovedError, RedisError

from redstreamd.redisio import Role, connect_errors
from redstreamd.redisio.announced_address import Address
from redstreamd.redisio.cluster_addresses import ClusterAddresses
from redstreamd.redisio.cluster_events import ClusterEvent
from redstreamd.redisio.cluster_health import ClusterHealth, unserved
from redstreamd.redisio.cluster_others import ASKED, OtherNodes
from redstreamd.redisio.cluster_views import Source, ask_all, ask_one
from redstreamd.redisio.lost_replies import Redirection
from redstreamd.redisio.node import Node, report
from redstreamd.redisio.reconnecting import reconnect_backoff, reconnect_pause
from redstreamd.redisio.redis_errors import Problem, ProblemKind, RedisUnavailable
from redstreamd.redisio.slot_map import SLOTS, SlotMap, View, address_of, agreed, slot_of
from redstreamd.redisio.target import Deployment, TopologyKind
from redstreamd.redisio.topology import Topology

#: Seconds between two questions whether the cluster has changed. One costs a node and this process some
#: 100 and 500 µs. The epoch alone would not tell: it does not rise with each slot that moves.
_LOOK_SECONDS: Final = 0.5
#: Seconds from one asking for the map to the next, however many nodes redirect: while slots move, each does.
_PAUSE_SECONDS: Final = 0.1
#: Nodes that only redirections name.
_MAX_STRANGERS: Final = 16
#: Seconds for which one of them is kept after it was named by ASK last: while a slot moves, it is named again
#: and again, and the map says nothing of it.
_ASKED_SECONDS: Final = 10.0


class Cluster(Topology):
    """A Redis Cluster; databases other than 0 do not exist there."""

    kind = TopologyKind.CLUSTER

    def __init__(self, deployment: Deployment, **options: Any) -> None:
        """As `Topology`; nothing is known before `run`."""
        super().__init__(deployment, **options)
        self._map: SlotMap | None = None
        # Invariant: as long as _map is known, who serves each slot, by that map and by redirections since.
        self._table: list[Node | None] = [None] * SLOTS
        # All that run, by the address that they announce.
        self._nodes: dict[Address, Node] = {}
        # When ASK named one of them last.
        self._asked_at: dict[Node, float] = {}
        # Those that serve slots by the map, in a stable order.
        self._primaries: tuple[Node, ...] = ()
        self._addresses = ClusterAddresses(deployment, seconds=self._connect_grace)
        self._nursery: trio.Nursery | None = None
        self._was_run = False
        self._stale = trio.Event()
        self._pause = trio.CancelScope()
        self._waiters = trio.lowlevel.ParkingLot()
        self._looked_at = 0
        self._others = OtherNodes()
        self._health = ClusterHealth(self._tell)

    # As Routes

    def node_for(self, key: str | bytes | None) -> Node | None:
        """Return the primary of the key's slot; for None, any that is connected."""
        if key is not None:
            return self._table[slot_of(key)]
        for node in self._primaries:
            if node.roles[Role.COMMAND].connection is not None:
                return node
        return self._primaries[0] if self._primaries else None

    async def wait_node(self, key: str | bytes | None, deadline: float) -> Node:
        """As `node_for`; waits while no asking has failed, and for the grace time after one has.

        Raises:
            RedisUnavailable: No node tells, or nobody serves the slot.
        """
        while (node := self.node_for(key)) is None:
            problem, wait_until = self._missing(key), deadline
            if self._nursery is None and self._was_run:
                problem, wait_until = connect_errors.SHUTTING_DOWN, -math.inf
            elif problem is not None:
                is_final = problem.kind is ProblemKind.SETTINGS
                wait_until = (
                    -math.inf if is_final else min(deadline, self._health.since + self._connect_grace)
                )
            if trio.current_time() >= wait_until:
                known = problem or connect_errors.STILL_CONNECTING
                raise RedisUnavailable(
                    "The Redis cluster is not available", cause=known.cause, next_step=known.next_step
                )
            with trio.CancelScope(deadline=wait_until):
                await self._waiters.park()
        return node

    def _missing(self, key: str | bytes | None) -> Problem | None:
        """Return why there is no node for a key; None if that is not known yet."""
        if self._map is None or key is None:
            return self._health.problem
        return unserved(f"slot {slot_of(key)}")

    def follow(self, node: Node, _key: str | bytes | None, error: RedisError) -> Redirection | None:
        """Follow MOVED and ASK, and take note of what they say about the map."""
        if isinstance(error, ClusterDownError):
            self._ask_soon()
            return None
        if not isinstance(error, AskError) or self._nursery is None:
            return None
        slot = error.slot_id
        try:
            address = address_of(error.host, error.port, host=node.target.host)
        except ValueError:
            return None
        if not 0 <= slot < SLOTS:
            return None
        moved = isinstance(error, MovedError)
        if moved:
            self._ask_soon()
        if address not in self._nodes and len(self._nodes) >= len(self._primaries) + _MAX_STRANGERS:
            return None
        there = self._node_at(address)
        if moved and self._map is not None and self._table[slot] is not there:
            self._table[slot] = there
            self._health.moved(1)
            self.on_moved()
        if not moved:
            self._asked_at[there] = trio.current_time()
        return Redirection(there, asking=not moved)

    def connection_lost(self, _node: Node) -> None:
        """Ask for the map: a replica may serve the node's slots by now."""
        self._ask_soon()

    # All nodes

    def nodes(self) -> tuple[Node, ...]:
        """Return the primaries that serve slots."""
        return self._primaries

    async def wait_connected(self, role: Role = Role.COMMAND) -> None:
        """Return once `role` is connected on every primary, however long that takes."""
        while not self._primaries:
            await self._waiters.park()
        await super().wait_connected(role)

    def retarget(self, deployment: Deployment, *, command_timeout: float) -> None:
        """Use another cluster or login from now on; see `Node.retarget`.

        Commands wait until the nodes that the settings name have told who serves what.
        """
        is_same_cluster = not set(self._deployment.nodes).isdisjoint(deployment.nodes)
        self._deployment = deployment
        self.command_timeout = command_timeout
        self._forget()
        for address, node in list(self._nodes.items()):
            if is_same_cluster:
                node.retarget(self._addresses.target_of(address), command_timeout=command_timeout)
            else:
                # The login is not for these.
                del self._nodes[address]
                node.retire(connect_errors.TARGET_CHANGED)
        self._ask_soon()
        self._pause.cancel()
        self._waiters.unpark_all()

    def _forget(self) -> None:
        self._map = None
        self._table = [None] * SLOTS
        self._primaries = ()
        self._addresses = ClusterAddresses(self._deployment, seconds=self._connect_grace)
        self._health.forget()

    @property
    def label(self) -> str:
        """The addresses of the primaries, or of the nodes that the settings name."""
        known = [node.label for node in self._primaries]
        return ", ".join(known or [self._addresses.target_of(node).label for node in self._deployment.nodes])

    def problems(self) -> tuple[Problem, ...]:
        """Return why the cluster as a whole does not serve every key."""
        return self._health.problems()

    # Nodes

    def _node_at(self, address: Address) -> Node:
        """Return the node that announces an address, connecting to it if it is new."""
        node = self._nodes.get(address)
        if node is None:
            node = self._nodes[address] = self._new_node(self._addresses.target_of(address))
            if self._nursery is not None:
                self._nursery.start_soon(node.run)
        return node

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the map and the nodes' connections until cancelled; may be run again after that.

        ``task_status.started()`` is called at once.
        """
        self._was_run = True
        self._forget()
        try:
            async with trio.open_nursery() as self._nursery:
                task_status.started()
                await self._keep_map()
        finally:
            self._nursery = None
            self._nodes.clear()
            self._asked_at.clear()
            self._waiters.unpark_all()

    # The map

    def _ask_soon(self) -> None:
        self._stale.set()

    async def _keep_map(self) -> None:
        failures = 0
        backoff = self._backoff or reconnect_backoff()
        while True:
            self._stale = trio.Event()
            problem = await self._ask()
            with trio.CancelScope() as self._pause:
                if problem is None:
                    failures = 0
                    await trio.sleep(_PAUSE_SECONDS)
                    await self._wait_stale()
                else:
                    await trio.sleep(reconnect_pause(backoff, problem, failures))
                    failures += 1

    async def _wait_stale(self) -> None:
        """Return once the map is to be asked for again."""
        while not self._stale.is_set():
            with trio.move_on_after(_LOOK_SECONDS):
                await self._stale.wait()
                return
            self._health.report_settled()
            if not await self._is_current():
                return

    async def _is_current(self) -> bool:
        """Return whether nothing speaks against the map, asking one of the primaries, each in turn."""
        known = self._map
        if known is None or known.is_disputed or not known.is_ok or None in known.owners:
            return False
        connections = [node.roles[Role.COMMAND].connection for node in self._primaries]
        self._looked_at = (self._looked_at + 1) % max(1, len(connections))
        if not connections or None in connections or (asked := connections[self._looked_at]) is None:
            return False
        told = await ask_one(Source(self._primaries[self._looked_at].target, asked))
        return (
            isinstance(told, View)
            and told.is_ok
            and told.epoch <= known.epoch
            and told.owners() == known.owners
        )

    async def _ask(self) -> Problem | None:
        """Ask nodes for the map, and use what they tell; return why that is not possible."""
        known = self._map
        connected = [
            Source(node.target, connection)
            for node in self._nodes.values()
            if known is not None and (connection := node.roles[Role.COMMAND].connection) is not None
        ]
        others = self._others_to_ask(known, {source.reached for source in connected})
        sources = [*connected[len(others) - ASKED :], *others]
        deployment = self._deployment
        answers = await ask_all(sources)
        found = agreed(answers.views) if answers.views else None
        if found is not None:
            await self._addresses.check(found, answers.views)
        if deployment is not self._deployment:
            return None  # the settings name another cluster meanwhile
        if found is None:
            problem = self._health.unknown(answers.problems)
            self._waiters.unpark_all()
            return problem
        self._use(found)
        return None

    def _others_to_ask(self, known: SlotMap | None, connected: set[Address]) -> list[Source]:
        """Return nodes without a connection that are to be asked, because one may serve what others did."""
        missing = [
            id_
            for id_, address in (known.primaries.items() if known is not None else ())
            if (node := self._nodes.get(address)) is None or node.roles[Role.COMMAND].connection is None
        ]
        primaries = () if known is None else tuple(known.primaries)
        if not self._others.are_due(len(primaries) - len(missing), primaries):
            return []
        # Where nodes answer that are not connected is found out again.
        self._addresses.keep(
            address
            for address, node in self._nodes.items()
            if node.roles[Role.COMMAND].connection is not None
        )
        shards = [place for id_ in missing if known is not None for place in known.shards.get(id_, ())]
        targets = map(self._addresses.target_of, (*shards, *self._deployment.nodes))
        found = {(each.host, each.port): each for each in targets}
        places = [place for place in found if place not in connected]
        return [Source(found[place]) for place in self._others.next_of(places, connected=len(connected))]

    def _use(self, found: SlotMap) -> None:
        """Send commands by this map from now on."""
        first = self._map is None
        before, known = self._table, set(self._primaries)
        nodes = {id_: self._node_at(address) for id_, address in found.primaries.items()}
        for address in found.primaries.values():
            node, target = self._nodes[address], self._addresses.target_of(address)
            if node.target != target:
                node.retarget(target, command_timeout=self.command_timeout)
        table: list[Node | None] = []
        for start, end, owner in found.runs:
            table += [None if owner is None else nodes[owner]] * (end - start + 1)
        self._map, self._table = found, table
        self._primaries = tuple(dict.fromkeys(nodes.values()))
        serving = set(self._primaries)
        are_retired = self._retire_all_but(serving)
        moved = sum(map(operator.is_not, before, table))
        labels = {node.label for node in serving}
        if not first:
            self._health.moved(moved)
            self._health.report_nodes({node.label for node in known}, labels)
        self._health.known(found, tuple(node.label for node in self._primaries))
        self._waiters.unpark_all()
        if moved or are_retired:
            self.on_moved()

    def _retire_all_but(self, serving: set[Node]) -> bool:
        """Retire the nodes that serve nothing, and are not about to; return whether there were any."""
        now = trio.current_time()
        self._asked_at = {
            node: at
            for node, at in self._asked_at.items()
            if not node.is_retired and now - at < _ASKED_SECONDS
        }
        gone = {
            address: node
            for address, node in self._nodes.items()
            if node not in serving and node not in self._asked_at
        }
        for address, node in gone.items():
            del self._nodes[address]
            node.retire(connect_errors.SERVES_NOTHING)
        return bool(gone)

    def _tell(self, event: ClusterEvent) -> None:
        report(self._on_event, event)
