"""Sends one command until it is answered, over as many connections and nodes as that takes.

Owns the deadline of a command, and acts on the `Recovery` of each error: what is sent again, what is not,
and what the caller is told. Which node gets it is asked before each sending (`Routes`); connections come from
its `ReconnectingConnection`.

Behaviour:
- A command has one deadline for everything: waiting for a node and a connection, the queue, the reply,
  repeats.
- A command that was certainly not executed is sent again until the deadline: the connection ended
  before it was sent, or the server said that it serves no commands now (LOADING, BUSY, TRYAGAIN,
  CLUSTERDOWN, MASTERDOWN, NOREPLICAS).
- A command that another node is to execute (MOVED, ASK) is sent there at once, `MAX_REDIRECTIONS` times in a
  row; then the nodes have until the deadline to agree, and it is repeated as one that was not executed.
- A command whose reply was lost is sent again only if the caller declared that safe. Otherwise the
  caller gets `OutcomeUnknown`, and decides.
- While Redis is known to be down, commands fail at once. Reconnecting goes on in the background,
  forever, whether anybody calls or not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
import trio
from redis.backoff import EqualJitterBackoff
from redis.exceptions import RedisError

from redstreamd.errors import BusError
from redstreamd.redisio import Arg, Role
from redstreamd.redisio.connect_errors import unanswered
from redstreamd.redisio.error_replies import bus_error, reply_text
from redstreamd.redisio.reconnecting import pause
from redstreamd.redisio.redis_errors import (
    CommandTimedOut,
    ConnectionEnded,
    NotSent,
    OutcomeUnknown,
    Recovery,
    RedisUnavailable,
    ReplyLost,
    ServerReplied,
)
from redstreamd.redisio.script import Script

if TYPE_CHECKING:
    from redstreamd.redisio.connection import Connection
    from redstreamd.redisio.node import Node

#: Pauses before a command is repeated that the server did not execute: up to 0.5 s, half of each random.
REPEAT_BACKOFF: Final = EqualJitterBackoff(cap=0.5, base=0.02)
#: A repeat has at least so long to be answered. One without would leave open what is known: that the server
#: refused the command, and why.
REPEAT_ROOM_SECONDS: Final = 0.1
#: How often in a row a command is sent to another node at once because a node said so. In a settled cluster
#: once is enough; while slots move, twice. More often, two nodes name each other: for a moment they do, where
#: the old owner of a slot is told of the move before the new one.
MAX_REDIRECTIONS: Final = 5


class Redirection(msgspec.Struct, frozen=True):
    """Where a command is to be sent again, because of the reply to it, which says that it was not executed.

    Attributes:
        node: That node; None if it is to be looked up again, once the topology knows it.
        asking: Whether the node is to execute it although it does not own the key yet.
    """

    node: Node | None
    asking: bool = False


class Routes(Protocol):
    """Knows which node serves a key. Nothing here blocks but `wait_node`, and nothing raises but that."""

    @property
    def command_timeout(self) -> float:
        """Seconds for one command, everything included."""

    def node_for(self, key: str | bytes | None) -> Node | None:
        """Return the node for `key`, or any for None; None if that is not known at the moment."""

    async def wait_node(self, key: str | bytes | None, deadline: float) -> Node:
        """As `node_for`; waits while the node can be expected to be known soon, at most until `deadline`.

        Raises:
            RedisUnavailable: It is not known; says why.
        """

    def follow(self, node: Node, key: str | bytes | None, error: RedisError) -> Redirection | None:
        """Take note of an error reply of `node` to a command for `key`.

        Returns:
            Where the command is to be sent again; None if the reply says nothing about that.
        """

    def connection_lost(self, node: Node) -> None:
        """Take note that a command could not be sent to `node`, or that its reply was lost."""


async def send_with_retries(
    routes: Routes,
    key: str | bytes | None,
    role: Role,
    args: tuple[Arg, ...],
    *,
    retry_safe: bool,
    deadline: float,
    script: Script | None = None,
    after: RedisError | ConnectionEnded | None = None,
    answered_by: Callable[[Node, Connection], None] | None = None,
) -> Any:
    """Send one command to the node for `key` until it is answered.

    Args:
        routes: Where nodes are looked up.
        key: Decides the node.
        role: Over which of its connections.
        args: The command.
        retry_safe: Whether it may be sent again if its reply is lost: reads, and writes that recognise
            their own repetition.
        deadline: When to give up, on trio's clock.
        script: The script that it runs, if it runs one.
        after: What came of an earlier sending, if the command was sent before.
        answered_by: Told which node gave the reply, and on which connection.

    Raises: as `Node.execute`.
    """
    error = after
    node = routes.node_for(key)
    if error is None and node is not None and (connection := node.roles[role].connection) is not None:
        # No cancel scope here: it would cost as much as all the rest. The connection itself ends
        # when a reply is overdue, which is this command's deadline.
        try:
            reply = await connection.submit(*args).reply()
        except (RedisError, ConnectionEnded) as first:
            error = first
        else:
            if answered_by is not None:
                answered_by(node, connection)
            return reply
    try:
        return await _Repetition(routes, key, role, args, retry_safe, deadline, script, answered_by).run(
            node, error
        )
    finally:
        # Its traceback has this frame, so they would be a cycle.
        del error


class _Repetition(msgspec.Struct, gc=False):
    """A command that was not answered at the first sending, or had no connection for it."""

    routes: Routes
    key: str | bytes | None
    role: Role
    args: tuple[Arg, ...]
    retry_safe: bool
    deadline: float
    script: Script | None
    answered_by: Callable[[Node, Connection], None] | None
    repeats: int = 0
    redirections: int = 0
    # Of an earlier sending, which may have been executed.
    lost: ConnectionEnded | None = None

    async def run(self, node: Node | None, error: RedisError | ConnectionEnded | None) -> Any:
        """Go on after `error`, or without a connection to begin with, as far as its recovery allows.

        Args:
            node: The node for the key, where it was sent if it was; None if that is not known any more.
            error: What came of the sending; None if it was not sent.
        """
        while True:
            redirection = None
            if isinstance(error, RedisError):
                if node is None:
                    await self._pause(node, error)
                else:
                    redirection = await self._redirected(node, error)
            elif error is not None:
                self._check_repeatable(node, error)
            asking = False
            try:
                if redirection is not None and redirection.node is not None:
                    node, asking = redirection.node, redirection.asking
                else:
                    node = await self.routes.wait_node(self.key, self.deadline)
                connection = await node.roles[self.role].wait_open(self.deadline)
            except RedisUnavailable as away:
                if node is None or self.routes.node_for(self.key) in (node, None):
                    raise
                # The key may have another node by now. Or this one was named by the key's own, which will
                # name it again.
                error = None
                if redirection is not None:
                    await self._pause_unless_late(away)
                continue
            try:
                request = connection.submit(*self.args, asking=asking)
                try:
                    reply = await request.reply_by(self.deadline)
                except trio.TooSlowError:
                    overdue = unanswered(str(self.args[0]), self.routes.command_timeout)
                    error = ReplyLost(overdue) if request.sent else NotSent(overdue)
                else:
                    if self.answered_by is not None:
                        self.answered_by(node, connection)
                    return reply
            except (RedisError, ConnectionEnded) as next_error:
                error = next_error

    async def _redirected(self, node: Node, error: RedisError) -> Redirection | None:
        """Return where an error reply sends the command; waits, and then has it looked up, after too many."""
        redirection = self.routes.follow(node, self.key, error)
        if redirection is None:
            await self._pause(node, error)
            return None
        self.redirections += 1
        if self.redirections <= MAX_REDIRECTIONS:
            return redirection
        refusal = RedisUnavailable(
            "The nodes of Redis do not agree on which of them serves the stream",
            cause=f"{node.label} replied: {reply_text(error)}, after {MAX_REDIRECTIONS} redirections",
            next_step="Nothing was changed; repeat in a moment.",
        )
        await self._pause_unless_late(refusal)
        return None

    async def _pause(self, node: Node | None, error: RedisError) -> None:
        """Wait before the command is sent again after an error reply.

        Raises:
            BusError: The reply, if a repetition makes no sense or no time is left for one.
        """
        noted = answer = bus_error(error)
        if isinstance(answer, ServerReplied) and node is not None:
            noted = node.noted(answer, self.args, self.script)
        if answer.recovery is not Recovery.NOT_EXECUTED:
            raise noted from None
        await self._pause_unless_late(noted)

    async def _pause_unless_late(self, refusal: BusError) -> None:
        """Wait before the command is sent again; raise `refusal` if no time is left for that.

        Raises:
            BusError: `refusal`; `CommandTimedOut` if an earlier sending may have been executed.
        """
        wait = pause(REPEAT_BACKOFF, self.repeats)
        self.repeats += 1
        self.redirections = 0
        last_repeat = self.deadline - REPEAT_ROOM_SECONDS
        # Twice, because this process may have been held up.
        if trio.current_time() + wait < last_repeat:
            await trio.sleep(wait)
            if trio.current_time() < last_repeat:
                return
        if self.lost is None:
            raise refusal from None
        cause = f"{self.lost.problem.cause}; then {refusal.cause}"
        raise CommandTimedOut(str(self.args[0]), seconds=self.routes.command_timeout, cause=cause) from None

    def _check_repeatable(self, node: Node | None, error: ConnectionEnded) -> None:
        """Raise what the caller gets of a lost connection, if the command is not sent again."""
        if node is not None:
            self.routes.connection_lost(node)
        unknown = error.recovery is Recovery.UNKNOWN
        if unknown:
            self.lost = error
        command = str(self.args[0])
        if unknown and not self.retry_safe:
            raise OutcomeUnknown(command, cause=error.problem.cause)
        if trio.current_time() >= self.deadline:
            if unknown:
                raise CommandTimedOut(command, seconds=self.routes.command_timeout, cause=error.problem.cause)
            if node is not None:
                raise node.roles[self.role].unavailable(error.problem)
            problem = error.problem
            raise RedisUnavailable("Redis is not available", cause=problem.cause, next_step=problem.next_step)
