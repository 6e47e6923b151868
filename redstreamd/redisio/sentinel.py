"""The topology of a primary that sentinels name: one node, which moves to another server at a failover.

Owns which server is used. What sentinels say is asked in ``sentinel_watch``; which of the servers that they
name is likely the primary is computed in ``sentinel_answers``.

Behaviour:
- Every connection to the server asks for its ROLE before use, and a replica is not used (`Target`).
- A server that more than half of all sentinels name is used. One that fewer name, as right after an election
  or if a sentinel is wrong, is used once it has said itself that it is a primary.
- The node's connections move all at once. Commands of that time wait for the new ones until their deadline;
  while an election can be expected, they wait for it as well.
- A command that a replica refused (READONLY) is sent to the primary; it had no effect.
- While no sentinel answers, the primary known last is used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Final

import attrs
import trio
from redis.exceptions import RedisError

from redstreamd.errors import BusError
from redstreamd.redisio import connect_errors
from redstreamd.redisio.announced_address import Address
from redstreamd.redisio.connection import Connection
from redstreamd.redisio.error_replies import row_of
from redstreamd.redisio.login import not_the_primary
from redstreamd.redisio.lost_replies import Redirection
from redstreamd.redisio.node import Node, RedisEvent, report
from redstreamd.redisio.redis_errors import ConnectionEnded, Problem, RedisUnavailable
from redstreamd.redisio.sentinel_answers import Candidate, Choice, candidates
from redstreamd.redisio.sentinel_events import PrimaryNamed
from redstreamd.redisio.sentinel_problems import PrimaryOperator, none_answers, not_known
from redstreamd.redisio.sentinel_watch import ASK_SECONDS, OnceUsable, SentinelWatches
from redstreamd.redisio.server_health import ConnectFailed, ConnectionLost
from redstreamd.redisio.setting_names import WATCHED
from redstreamd.redisio.target import Deployment, Target, TopologyKind
from redstreamd.redisio.topology import Topology

#: Seconds after the primary was lost in which commands wait for another one. Sentinels notice the loss after
#: `down-after-milliseconds`, and need about a second for the election.
ELECTION_SECONDS: Final = 10.0
#: Seconds that commands wait for a first answer, once no sentinel could be reached.
_GRACE_SECONDS: Final = 1.0
#: Seconds between two times that all connections are made again because the server may be a replica: so long
#: replies to what was sent before may still say that.
_DOUBT_SECONDS: Final = 0.1
#: Seconds for a former primary to answer what it was sent. One that lives does so at once.
_HANDOVER_SECONDS: Final = 0.2
#: Seconds for a server to say whether it is the primary.
_TRIAL_SECONDS: Final = 1.0
#: Seconds for which a server that did not say so is not asked again.
_REFUSED_SECONDS: Final = 5.0

#: Replies of a replica to what only a primary does.
_OF_A_REPLICA: Final = frozenset({"READONLY", "MASTERDOWN"})


def _no_event(_event: RedisEvent) -> None: ...


class Sentinel(Topology):
    """The primary that sentinels name."""

    kind = TopologyKind.SENTINEL

    def __init__(
        self,
        deployment: Deployment,
        *,
        connect_grace: float = _GRACE_SECONDS,
        on_event: Callable[[RedisEvent], None] = _no_event,
        **options: Any,
    ) -> None:
        """As `Topology`."""
        super().__init__(
            deployment, connect_grace=max(connect_grace, ELECTION_SECONDS), on_event=self._notice, **options
        )
        self._listener = on_event
        self._watches = SentinelWatches(on_news=self._on_news, on_event=self._forward)
        self._watches.use(deployment)
        # Once there is a node a server is chosen, but for the time until other sentinels have named one.
        self._node: Node | None = None
        self._choice = Choice()
        self._nursery: trio.Nursery | None = None
        self._news = trio.Event()
        # Wait for the first primary, since when.
        self._waiters = trio.lowlevel.ParkingLot()
        self._since = 0.0
        self._doubted_at = -float("inf")
        # Until when a server is not tried again that did not say that it is the primary.
        self._refused: dict[tuple[Address, int], float] = {}

    # As Routes

    def node_for(self, _key: str | bytes | None) -> Node | None:
        """Return the one node, once a primary is known."""
        return self._node

    async def wait_node(self, _key: str | bytes | None, deadline: float) -> Node:
        """Return the one node; wait for the first primary while a sentinel may still name it."""
        while self._node is None:
            until = deadline
            is_hopeless = self._watches.are_all_tried and not self._watches.answers
            if is_hopeless and deadline != float("inf"):
                until = min(deadline, self._since + _GRACE_SECONDS)
            if trio.current_time() >= until:
                problem = not_known(self._deployment.primary_name, self._watches.problems())
                raise RedisUnavailable(
                    "The primary of Redis is not known", cause=problem.cause, next_step=problem.next_step
                )
            with trio.CancelScope(deadline=until):
                await self._waiters.park()
        return self._node

    def follow(self, _node: Node, _key: str | bytes | None, error: RedisError) -> Redirection | None:
        """Have a command that a replica refused sent again, once the primary is known."""
        if row_of(error).kind not in _OF_A_REPLICA:
            return None
        self._doubt()
        return Redirection(None)

    def connection_lost(self, _node: Node) -> None:
        """Ask the sentinels at once."""
        self._watches.ask()

    # All nodes

    def nodes(self) -> tuple[Node, ...]:
        """Return the one node, once a primary is known."""
        return () if self._node is None else (self._node,)

    def retarget(self, deployment: Deployment, *, command_timeout: float) -> None:
        """Use other sentinels or logins from now on.

        The primary in use stays until other sentinels name one. It may be none of their servers, so it is not
        sent the login that belongs to these.
        """
        former, self._deployment = self._deployment, deployment
        self.command_timeout = command_timeout
        if (former.nodes, former.primary_name) == (deployment.nodes, deployment.primary_name):
            self._choice.forget()
        else:
            self._choice = Choice()
        self._refused.clear()
        self._watches.use(deployment)
        if self._node is not None and self._choice.current is not None:
            self._node.retarget(self._target_at(self._choice.current), command_timeout=command_timeout)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the sentinels and the primary connected until cancelled."""
        self._since = trio.current_time()
        try:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._watches.run)
                self._nursery.start_soon(self._watch_role)
                if self._node is not None:
                    await self._nursery.start(self._node.run)
                task_status.started()
                while True:
                    await self._news.wait()
                    self._news = trio.Event()
                    await self._decide()
        finally:
            self._nursery = None
            self._waiters.unpark_all()

    def problems(self) -> tuple[Problem, ...]:
        """Return what is the matter with the sentinels."""
        found = self._watches.problems()
        if self._node is not None and found and not self._watches.answers:
            return (none_answers(len(self._watches.all)), *found)
        return found

    @property
    def label(self) -> str:
        """The primary's address, or who is asked for it."""
        name = self._deployment.primary_name
        if self._node is not None:
            return f"{self._node.label} (primary {name!r})"
        sentinels = ", ".join(Target(host=host, port=port).label for host, port in self._deployment.nodes)
        return f"the primary {name!r} of the sentinels {sentinels}"

    # Which server

    def _target_at(self, address: Address) -> Target:
        target = self._deployment.target_at(*address)
        operator = PrimaryOperator(self._deployment.primary_name, target.label)
        return attrs.evolve(target, must_be_primary=True, operator=operator, settings=WATCHED)

    def _on_news(self) -> None:
        self._news.set()
        if self._node is None:
            # What they wait for may be hopeless now.
            self._waiters.unpark_all()

    async def _decide(self) -> None:
        """Use the server that is named as the primary."""
        watches, choice, deployment = self._watches, self._choice, self._deployment
        found = candidates(watches.answers, total=len(watches.all), current=choice.current)
        allowed = choice.among(found, trio.current_time())
        for candidate in allowed:
            is_usable = candidate.address == choice.current or candidate.is_by_most
            if not is_usable:
                is_usable = await self._is_primary(candidate)
                if deployment is not self._deployment:
                    return  # other sentinels are asked now: what these have said is no news any more
            if is_usable:
                self._use(candidate)
                break
        else:
            if self._node is None and allowed and watches.are_all_tried:
                # Its connections say what is the matter, and go on trying.
                self._use(allowed[0])
        watches.compare(choice.current, choice.epoch)

    def _use(self, candidate: Candidate) -> None:
        current = self._choice.current
        is_used = candidate.address == current
        self._choice.use(candidate)
        if is_used:
            return
        former, node = "", self._node
        target = self._target_at(candidate.address)
        if node is not None:
            former = node.label
            because = connect_errors.TARGET_CHANGED if current is None else connect_errors.ANOTHER_PRIMARY
            self._move(node, target, because)
        elif self._nursery is not None:
            self._node = self._new_node(target)
            self._nursery.start_soon(self._node.run)
            self._waiters.unpark_all()
            self.on_moved()
        self._refused.clear()
        name = self._deployment.primary_name
        if former == target.label:
            return
        self._forward(PrimaryNamed(name, target.label, former, candidate.epoch, candidate.votes))

    def _move(self, node: Node, target: Target, because: Problem = connect_errors.ANOTHER_PRIMARY) -> None:
        node.retarget(
            target,
            command_timeout=self.command_timeout,
            because=because,
            answers_within=_HANDOVER_SECONDS,
        )

    async def _is_primary(self, candidate: Candidate) -> bool:
        """Find out whether a server says itself that it is a primary."""
        tried, now, deployment = (candidate.address, candidate.epoch), trio.current_time(), self._deployment
        if self._refused.get(tried, now) > now:
            return False
        connection = Connection(self._target_at(candidate.address), role="trial")
        scope = trio.CancelScope(deadline=now + _TRIAL_SECONDS)
        said: list[bool] = []

        def usable() -> None:
            said.append(True)
            scope.cancel()

        with scope, contextlib.suppress(ConnectionEnded):
            await connection.run(task_status=OnceUsable(usable))
        if not said and deployment is self._deployment:
            self._refused[tried] = trio.current_time() + _REFUSED_SECONDS
        return bool(said)

    def _doubt(self) -> None:
        """Make all connections again, and ask the sentinels: the server may be a replica now."""
        now = trio.current_time()
        if self._node is None or now - self._doubted_at < _DOUBT_SECONDS:
            return
        self._doubted_at = now
        self._move(self._node, self._node.target)
        self._watches.ask()

    async def _watch_role(self) -> None:
        """Notice that the server was demoted while nobody writes, and while its connections stay."""
        while True:
            await trio.sleep(ASK_SECONDS)
            # Any that there is: the other roles may have found a replica already.
            roles = () if self._node is None else self._node.roles.values()
            connection = next((found for role in roles if (found := role.connection) is not None), None)
            if connection is None:
                continue
            try:
                role = await connection.execute("ROLE")
            except (RedisError, ConnectionEnded, BusError):
                continue
            if not_the_primary(role) is not None and connection.is_open:
                self._doubt()

    # Events

    def _notice(self, event: RedisEvent) -> None:
        """Take note of what happened to a connection of the node: the sentinels may know why."""
        if isinstance(event, ConnectFailed | ConnectionLost):
            self._watches.ask()
        self._listener(event)

    def _forward(self, event: RedisEvent) -> None:
        report(self._listener, event)
