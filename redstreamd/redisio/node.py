"""A node: one Redis server, its connections by role, its state.

Owns which connections there are, and the hooks for their events. Keeping one connected is done in
``reconnecting``, retrying a command in ``lost_replies``, judging the server in ``server_health``; which nodes
there are is known to the ``topology``, what commands mean in ``client``.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

import msgspec
import trio
from redis.backoff import AbstractBackoff
from redis.exceptions import RedisError

from redstreamd.errors.defects import report_defect
from redstreamd.redisio import Arg, Role, connect_errors
from redstreamd.redisio.cluster_events import ClusterEvent
from redstreamd.redisio.connection import Connection
from redstreamd.redisio.error_replies import bus_error
from redstreamd.redisio.lost_replies import Redirection, send_with_retries
from redstreamd.redisio.missing_permissions import named
from redstreamd.redisio.pipeline import Pipeline
from redstreamd.redisio.reauth import LoginEvent, Reauthentication
from redstreamd.redisio.reconnecting import RETIRE_SECONDS, ReconnectingConnection, reconnect_backoff
from redstreamd.redisio.redis_errors import ConnectionEnded, Problem, ServerReplied
from redstreamd.redisio.script import Script
from redstreamd.redisio.sentinel_events import SentinelEvent
from redstreamd.redisio.server_health import HealthEvent, RedisStatus, ServerHealth
from redstreamd.redisio.target import Target
from redstreamd.redisio.traffic import Traffic
from redstreamd.redisio.write_confirmation import WaitBatch

__all__ = ["Node", "NodeHooks", "RedisEvent", "RedisStatus", "Role", "report"]

RedisEvent = HealthEvent | LoginEvent | ClusterEvent | SentinelEvent


def _no_push(_node: Node, _message: list[Any]) -> None: ...


def _no_call(_node: Node) -> None: ...


def _no_event(_event: RedisEvent) -> None: ...


def report(on_event: Callable[[RedisEvent], None], event: RedisEvent) -> None:
    """Tell of an event; never raises."""
    try:
        on_event(event)
    except Exception as exc:  # noqa: BLE001 - a record that cannot be written must not cost the connection
        report_defect("the hook for Redis events failed", exc)


class NodeHooks(msgspec.Struct):
    """What the owner of the watch connections is told, by all nodes that have these hooks.

    Called synchronously; if one raises, that is logged.

    Attributes:
        on_push: Each push notification of a watch connection, in order with its replies.
        on_connected: There is a new watch connection; before anything is sent on it.
    """

    on_push: Callable[[Node, list[Any]], None] = _no_push
    on_connected: Callable[[Node], None] = _no_call


class Node:
    """The connections to one Redis server, at most one per role.

    As `Routes` it sends every command to this server.

    Attributes:
        roles: The connection of each role.
        queues: Its pipeline, which takes commands without waiting; a closed one while it is not connected.
        hooks: Of the watch connection.
        traffic: What went over the connections of each role so far.
        incarnation: Another number as soon as another process may be the server: with each connection for
            commands, and each target. What a process says of itself alone, as a position of SCAN, holds while
            the number stays the same.
        is_retired: Whether it takes no more commands, for good.
    """

    def __init__(
        self,
        target: Target,
        *,
        command_timeout: float = 5.0,
        connect_grace: float = 1.0,
        ping_interval: float = 10.0,
        ping_timeout: float = 2.0,
        backoff: AbstractBackoff | None = None,
        on_event: Callable[[RedisEvent], None] = _no_event,
        hooks: NodeHooks | None = None,
        traffic: Mapping[Role, Traffic] | None = None,
    ) -> None:
        """Prepare a node; it connects while `run` is running.

        Args:
            target: The server and the login.
            command_timeout: Seconds for one command, everything included.
            connect_grace: Seconds that a command waits for a connection that was just lost.
            ping_interval: Seconds between PINGs on each open connection.
            ping_timeout: Seconds for the PING on an idle connection.
            backoff: Pauses between attempts to connect, as redis-py computes them.
            on_event: Told of each change, synchronously. If it raises, that is logged.
            hooks: Of the watch connection; None for some of its own, which do nothing.
            traffic: Where what goes over the connections of each role is counted; None for new counters.
        """
        self.incarnation = 0
        self.is_retired = False
        self._target = target
        self._command_timeout = command_timeout
        self._ping_interval = ping_interval
        self._ping_timeout = ping_timeout
        self._on_event = on_event
        self._confirmer = WaitBatch()
        self.hooks = hooks or NodeHooks()
        self._health = ServerHealth(target.label, self._ask, on_event=self._tell)
        self.traffic: Final = traffic or {role: Traffic() for role in Role}
        self.queues: Final[dict[Role, Pipeline]] = {}
        connected = {Role.WATCH: self._watch_connected, Role.COMMAND: self._begin_incarnation}
        self.roles: Final = {
            role: ReconnectingConnection(
                role,
                target,
                connect=self._connector(role),
                queues=self.queues,
                connect_grace=connect_grace,
                backoff=backoff or reconnect_backoff(),
                on_event=self._health,
                on_connected=connected.get(role, lambda: None),
            )
            for role in Role
        }
        self._reauthentication = Reauthentication(
            target, connections=self._open_connections, on_event=self._tell
        )

    def retarget(
        self,
        target: Target,
        *,
        command_timeout: float,
        because: Problem = connect_errors.TARGET_CHANGED,
        answers_within: float = RETIRE_SECONDS,
    ) -> None:
        """Use another server or login from now on, or another time for a command.

        Every connection is replaced. It takes no more commands, and has a little time to answer those that
        were sent; then they end as with a lost connection (`OutcomeUnknown` for a write that is not safe to
        repeat). Commands of that time wait for the new connection, at most until their deadline.

        Args:
            target: The server and the login, without a provider that announces renewed credentials.
            command_timeout: As for a new node.
            because: What those are told whose commands are not answered in time.
            answers_within: Seconds for what was sent before.
        """
        self._begin_incarnation()
        self._target = target
        self._command_timeout = command_timeout
        self._health.retarget(target.label)
        for each in self.roles.values():
            each.retarget(target, because, answers_within)

    @property
    def command_timeout(self) -> float:
        """Seconds for one command, everything included."""
        return self._command_timeout

    @property
    def label(self) -> str:
        """How messages and records call the server: its address."""
        return self._target.label

    @property
    def target(self) -> Target:
        """The server and the login."""
        return self._target

    def status(self) -> RedisStatus:
        """Return a snapshot."""
        return self._health.status({role: each.status() for role, each in self.roles.items()})

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the roles that are wanted connected until cancelled, or until it is retired.

        ``task_status.started()`` is called at once: that Redis is down is a state, not a failure.
        """
        async with trio.open_nursery() as nursery:
            await nursery.start(self._reauthentication.run)
            await nursery.start(self._health.run)
            async with trio.open_nursery() as connections:
                for each in self.roles.values():
                    await connections.start(each.run)
                # From the start, so that status and records tell about Redis before the first command.
                self.roles[Role.COMMAND].want()
                task_status.started()
            nursery.cancel_scope.cancel()

    def retire(self, problem: Problem) -> None:
        """Have `run` return, because of `problem`, once what is in flight is answered, or after a second.

        It takes no more commands; those that wait for a connection fail at once.
        """
        self.is_retired = True
        for each in self.roles.values():
            each.retire(problem)

    async def wait_connected(self, role: Role = Role.COMMAND) -> None:
        """Return once `role` is connected, opening it if need be; waits as long as that takes."""
        await self.roles[role].wait_connected()

    def execute(
        self, *args: Arg, role: Role = Role.COMMAND, retry_safe: bool = False
    ) -> Coroutine[Any, Any, Any]:
        """Send one command to this server and return its reply as RESP3 has it; to be awaited at once.

        Args:
            args: The command and its arguments. Not for commands that block or subscribe.
            role: Which connection.
            retry_safe: Whether it may be sent again if its reply is lost.

        Returns:
            Strings as bytes.

        Raises:
            RedisUnavailable: It was not executed, because Redis could not be used in time. (If it is
                retry_safe, an earlier sending of it, whose reply was lost, may have been.)
            OutcomeUnknown: It was sent, and whether it was executed is not known; not if it is retry_safe.
            CommandTimedOut: It got no reply within the deadline; only if it is retry_safe.
            ServerReplied: The server answered with an error.
            QueueFull: Too much is queued for this connection already.
            ReplyTooLarge: The reply was too large to hold.

        If cancelled, the command is taken back if it was not sent yet; else it may be executed.
        """
        # Not async itself: that would be one coroutine more in the way of every call.
        deadline = trio.current_time() + self._command_timeout
        return send_with_retries(self, None, role, args, retry_safe=retry_safe, deadline=deadline)

    # As Routes

    def node_for(self, _key: str | bytes | None) -> Node:
        """Return this node."""
        return self

    async def wait_node(self, _key: str | bytes | None, _deadline: float) -> Node:
        """Return this node."""
        return self

    def follow(self, _node: Node, _key: str | bytes | None, _error: RedisError) -> Redirection | None:
        """Return None: a redirection is for the topology."""
        return None

    def connection_lost(self, node: Node) -> None:
        """Do nothing: the connection is made again by itself."""

    # Confirmation

    async def confirm(self, command: tuple[Arg, ...], connection: Connection) -> Any:
        """Send WAIT, WAITAOF or a question on a durable connection; those who ask at the same time share one.

        Args:
            command: What is sent.
            connection: Where the write was answered. It may be replaced since: the reply of a server that
                has just been given up, for instance after a failover.

        Raises:
            RedisUnavailable: The connection has ended; nothing is confirmed.
            ServerReplied: The server answered with an error.
            QueueFull: As in `execute`.
        """
        durable = self.roles[Role.DURABLE]
        try:
            return await self._confirmer.confirm(connection, command)
        except RedisError as error:
            read = bus_error(error)
            raise self.noted(read, command) if isinstance(read, ServerReplied) else read from None
        except ConnectionEnded as ended:
            raise durable.unavailable(ended.problem) from None

    async def _ask(self, *args: Arg) -> Any:
        return await self.execute(*args, retry_safe=True)

    def noted(
        self, answer: ServerReplied, args: tuple[Arg, ...], script: Script | None = None
    ) -> ServerReplied:
        """Take note of the error reply to a command, and return it in the words that fit the server."""
        operator = self._target.operator
        if operator is not None:
            operator.advise(answer)
        self._health.notice(args, answer)
        specific = named(answer, args, script=script, username=self._target.username)
        if operator is not None and specific is not answer:
            operator.advise(specific)
        return specific

    def _ping_refused(self, error: RedisError) -> None:
        if isinstance(answer := bus_error(error), ServerReplied):
            self.noted(answer, ("PING",))

    def _connector(self, role: Role) -> Callable[[], Connection]:
        def connect() -> Connection:
            return Connection(
                self._target,
                role=role.value,
                on_push=self._push if role is Role.WATCH else None,
                on_ping_refused=self._ping_refused,
                reply_timeout=self._command_timeout,
                ping_interval=self._ping_interval,
                ping_timeout=self._ping_timeout,
                one_at_a_time=role is Role.LARGE,
                traffic=self.traffic[role],
            )

        return connect

    def _open_connections(self) -> dict[Role, Connection]:
        connections = {role: each.connection for role, each in self.roles.items()}
        return {role: each for role, each in connections.items() if each is not None}

    def _push(self, message: list[Any]) -> None:
        self.hooks.on_push(self, message)

    def _begin_incarnation(self) -> None:
        self.incarnation += 1

    def _watch_connected(self) -> None:
        try:
            self.hooks.on_connected(self)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the connection serves on
            report_defect("the hook for a new watch connection failed", exc)

    def _tell(self, event: RedisEvent) -> None:
        report(self._on_event, event)
