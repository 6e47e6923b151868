"""Sends one command until it is answered, over as many connections as that takes.

Owns the deadline of a command, and acts on the `Recovery` of each error: what is sent again, what is not,
and what the caller is told. Connections come from a `ReconnectingConnection`.

Behaviour:
- A command has one deadline for everything: waiting for a connection, the queue, the reply, repeats.
- A command that was certainly not executed is sent again until the deadline: the connection ended
  before it was sent, or the server said that it serves no commands now (LOADING, BUSY, TRYAGAIN,
  CLUSTERDOWN, MASTERDOWN, NOREPLICAS).
- A command whose reply was lost is sent again only if the caller declared that safe. Otherwise the
  caller gets `OutcomeUnknown`, and decides.
- While Redis is known to be down, commands fail at once. Reconnecting goes on in the background,
  forever, whether anybody calls or not.
"""

from __future__ import annotations

from typing import Any, Final

import trio
from redis.backoff import EqualJitterBackoff
from redis.exceptions import RedisError

from redstreamd.redisio import Arg
from redstreamd.redisio.connect_errors import unanswered
from redstreamd.redisio.error_replies import bus_error
from redstreamd.redisio.reconnecting import ReconnectingConnection, pause
from redstreamd.redisio.redis_errors import (
    CommandTimedOut,
    ConnectionEnded,
    NotSent,
    OutcomeUnknown,
    Recovery,
    ReplyLost,
)

#: Pauses before a command is repeated that the server did not execute: up to 0.5 s, half of each random.
REPEAT_BACKOFF: Final = EqualJitterBackoff(cap=0.5, base=0.02)
#: A repeat has at least so long to be answered. One without would leave open what is known: that the server
#: refused the command, and why.
REPEAT_ROOM_SECONDS: Final = 0.1


async def send_with_retries(
    role: ReconnectingConnection,
    args: tuple[Arg, ...],
    *,
    retry_safe: bool,
    deadline: float,
    timeout: float,
    after: RedisError | ConnectionEnded | None = None,
) -> Any:
    """Send one command through the connections of `role` until it is answered.

    Args:
        role: Where connections come from.
        args: The command.
        retry_safe: Whether it may be sent again if its reply is lost: reads, and writes that recognise
            their own repetition.
        deadline: When to give up, on trio's clock.
        timeout: Seconds between the caller's call and the deadline, for messages.
        after: What came of an earlier sending, if the command was sent before.

    Raises: as `Manager.execute`.
    """
    error = after
    connection = role.connection
    if error is None and connection is not None:
        # No cancel scope here: it would cost as much as all the rest. The connection itself ends
        # when a reply is overdue, which is this command's deadline.
        try:
            return await connection.submit(*args).reply()
        except (RedisError, ConnectionEnded) as first:
            error = first
    try:
        return await _retry(role, args, retry_safe, deadline, timeout, error)
    finally:
        # Its traceback has this frame, so they would be a cycle.
        del error


async def _retry(
    role: ReconnectingConnection,
    args: tuple[Arg, ...],
    retry_safe: bool,
    deadline: float,
    timeout: float,
    error: RedisError | ConnectionEnded | None,
) -> Any:
    """Go on after `error`, or without a connection to begin with, as far as its recovery allows."""
    command = str(args[0])
    repeats = 0
    last_repeat = deadline - REPEAT_ROOM_SECONDS
    while True:
        if isinstance(error, RedisError):
            answer = bus_error(error)
            wait = pause(REPEAT_BACKOFF, repeats)
            repeats += 1
            if answer.recovery is not Recovery.NOT_EXECUTED or trio.current_time() + wait >= last_repeat:
                raise answer
            await trio.sleep(wait)
            # Again, because this process may have been held up.
            if trio.current_time() >= last_repeat:
                raise answer
        elif error is not None:
            unknown = error.recovery is Recovery.UNKNOWN
            if unknown and not retry_safe:
                raise OutcomeUnknown(command, cause=error.problem.cause)
            if trio.current_time() >= deadline:
                if unknown:
                    raise CommandTimedOut(command, seconds=timeout, cause=error.problem.cause)
                raise role.unavailable(error.problem)
        connection = await role.wait_open(deadline)
        try:
            request = connection.submit(*args)
            try:
                return await request.reply_by(deadline)
            except trio.TooSlowError:
                overdue = unanswered(command, timeout)
                error = ReplyLost(overdue) if request.sent else NotSent(overdue)
        except (RedisError, ConnectionEnded) as next_error:
            error = next_error
