"""Delivers what the domain sends: commands, scripts, what was submitted, and writes that want confirmation.

Owns how a script is known to a server, and on which node a write is confirmed. Where a command goes is known
to its `Routes`; sending it again is done in ``lost_replies``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import trio
from redis.exceptions import NoScriptError, RedisError

from redstreamd.errors import BusError
from redstreamd.redisio import Arg, Role
from redstreamd.redisio.lost_replies import Routes, send_with_retries
from redstreamd.redisio.redis_errors import ConnectionEnded, ServerReplied
from redstreamd.redisio.script import JoinableCall, PackedCommand, ScriptCall, Write
from redstreamd.redisio.write_confirmation import ConfirmedWrite

if TYPE_CHECKING:
    from redstreamd.redisio.connection import Connection
    from redstreamd.redisio.node import Node

Key = str | bytes | None


async def deliver(
    routes: Routes,
    write: Write,
    key: Key,
    role: Role,
    *,
    retry_safe: bool,
    deadline: float,
    after: Exception | None = None,
    answered_by: Callable[[Node, Connection], None] | None = None,
) -> Any:
    """Send a command or a script until it is answered, and return the reply.

    A script is sent by its digest, and by its text to a server that does not know it yet.

    Args:
        routes: Where nodes are looked up.
        write: What is sent.
        key: Decides the node.
        role: Over which of its connections.
        retry_safe: As in `Node.execute`.
        deadline: When to give up, on trio's clock.
        after: What an earlier sending raised, or gave in the place of the reply. What is no matter of the
            connection or of Redis is raised.
        answered_by: As in `send_with_retries`.

    Raises: as `Node.execute`.
    """
    if after is not None and not isinstance(after, RedisError | ConnectionEnded):
        raise after
    if isinstance(write, JoinableCall):
        reply = await deliver(
            routes,
            write.alone,
            key,
            role,
            retry_safe=retry_safe,
            deadline=deadline,
            after=after,
            answered_by=answered_by,
        )
        return write.read_alone(reply)
    if not isinstance(write, ScriptCall):
        args = write.args if isinstance(write, PackedCommand) else write
        return await send_with_retries(
            routes,
            key,
            role,
            args,
            retry_safe=retry_safe,
            deadline=deadline,
            after=after,
            answered_by=answered_by,
        )
    args = write.by_digest
    while True:
        try:
            return await send_with_retries(
                routes,
                key,
                role,
                args,
                retry_safe=retry_safe,
                deadline=deadline,
                script=write.script,
                after=after,
                answered_by=answered_by,
            )
        except ServerReplied as answer:
            if not isinstance(answer.reply, NoScriptError) or args[0] == "EVAL":
                raise
        args, after = write.by_text, None


async def deliver_confirmed(
    routes: Routes,
    write: Write,
    confirm_by: tuple[Arg, ...],
    key: Key,
    *,
    retry_safe: bool,
    wrote: Callable[[Any], bool],
) -> ConfirmedWrite:
    """Send a write on a durable connection, and WAIT or WAITAOF behind it on the same; see `Redis`.

    These speak of what their own connection wrote. What another connection or another node says of the write
    would be a guess, and after a failover a wrong one.
    """
    answering: list[tuple[Node, Connection]] = []
    deadline = trio.current_time() + routes.command_timeout
    reply = await deliver(
        routes,
        write,
        key,
        Role.DURABLE,
        retry_safe=retry_safe,
        deadline=deadline,
        answered_by=lambda node, connection: answering.append((node, connection)),
    )
    node, connection = answering[-1]
    ask = partial(node.confirm, connection=connection)
    if not wrote(reply):
        return ConfirmedWrite(reply, None, ask)
    try:
        return ConfirmedWrite(reply, await ask(confirm_by), ask)
    except BusError as error:
        return ConfirmedWrite(reply, error, ask)
