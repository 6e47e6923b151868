"""Gets one command through to the server, through whatever happens to the connection.

Owns the deadline of a command and the rule for a broken connection: what may be sent again, what
must not, and what the caller is told. Connections come from a `ReconnectingConnection`.

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

import enum
from typing import Any, Final

import trio
from redis.exceptions import RedisError

from redstreamd.redisio import Arg
from redstreamd.redisio.backoff import pause, repeat_backoff
from redstreamd.redisio.connect_errors import ConnectionEnded, NotSent, ReplyLost, unanswered
from redstreamd.redisio.error_replies import bus_error, not_executed
from redstreamd.redisio.reconnecting import ReconnectingConnection
from redstreamd.redisio.redis_errors import CommandTimedOut, OutcomeUnknown

_REPEAT_BACKOFF: Final = repeat_backoff()


class Replay(enum.Enum):
    """Whether a command may be sent again although its first sending may have been executed."""

    NEVER = "never"
    """Writes: a second execution would be a second effect."""
    SAFE = "safe"
    """Reads, and writes that recognise their own repetition."""


async def send_with_retries(
    keeper: ReconnectingConnection,
    args: tuple[Arg, ...],
    *,
    retry_safe: bool,
    deadline: float,
    timeout: float,
) -> Any:
    """Send one command through `keeper`'s connections until it is answered.

    Args:
        keeper: The lane.
        args: The command.
        retry_safe: Whether it may be sent again if its reply is lost.
        deadline: When to give up, on trio's clock.
        timeout: Seconds between the caller's call and the deadline, for messages.

    Raises: as `Manager.execute`.
    """
    trouble: RedisError | ConnectionEnded | None = None
    connection = keeper.connection
    if connection is not None:
        # No cancel scope here: it would cost as much as all the rest. The connection itself ends
        # when a reply is overdue, which is this command's deadline.
        try:
            return await connection.submit(*args).reply()
        except (RedisError, ConnectionEnded) as error:
            trouble = error
    return await _persist(keeper, args, retry_safe, deadline, timeout, trouble)


async def _persist(
    keeper: ReconnectingConnection,
    args: tuple[Arg, ...],
    retry_safe: bool,
    deadline: float,
    timeout: float,
    trouble: RedisError | ConnectionEnded | None,
) -> Any:
    """Go on after `trouble`, or without a connection to begin with, as far as the rules allow."""
    command = str(args[0])
    repeats = 0
    while True:
        too_late = trio.current_time() >= deadline
        if isinstance(trouble, RedisError):
            wait = pause(_REPEAT_BACKOFF, repeats)
            repeats += 1
            if not_executed(trouble) is None or trio.current_time() + wait >= deadline:
                raise bus_error(trouble)
            await trio.sleep(wait)
        elif isinstance(trouble, ReplyLost):
            if not retry_safe:
                raise OutcomeUnknown(command, cause=trouble.failure.cause)
            if too_late:
                raise CommandTimedOut(command, seconds=timeout, cause=trouble.failure.cause)
        elif trouble is not None and too_late:
            raise keeper.unavailable(trouble.failure)
        connection = await keeper.wait_open(deadline)
        try:
            request = connection.submit(*args)
            try:
                return await request.reply_by(deadline)
            except trio.TooSlowError:
                overdue = unanswered(command, timeout)
                trouble = ReplyLost(overdue) if request.sent else NotSent(overdue)
        except (RedisError, ConnectionEnded) as error:
            trouble = error
