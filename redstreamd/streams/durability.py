"""Confirming writes: an entry is in memory, on a replica, or on disk.

An entry that is not confirmed in time was added nevertheless. That is not an error, which would invite a
repetition.

WAIT and WAITAOF do not make Redis a consistent store: a replica that confirmed may lose an election to one
that did not (https://redis.io/docs/latest/commands/wait/).
"""

from __future__ import annotations

import enum

import attrs

from redstreamd.errors import BusError
from redstreamd.redisio.commands import Commands
from redstreamd.redisio.connection_manager import Manager
from redstreamd.redisio.error_replies import UNKNOWN_COMMAND
from redstreamd.redisio.redis_errors import ServerReplied
from redstreamd.streams.bounds import DEFAULT_BOUNDS, Bounds


class Durability(enum.StrEnum):
    """What a writer asks for."""

    MEMORY = "memory"  #: Nothing beyond the server's acknowledgement.
    REPLICATED = "replicated"  #: At least one replica has it in its memory.
    FSYNCED = "fsynced"  #: The server has it on its disk.


@attrs.frozen
class Confirmation:
    """Result of confirming a write.

    Attributes:
        asked: What the writer asked for.
        confirmed: Whether it was confirmed.
        replicas: How many replicas have it, for REPLICATED.
        reason: Why it is not confirmed.
    """

    asked: Durability
    confirmed: bool
    replicas: int | None = None
    reason: str | None = None


async def confirm(
    manager: Manager, commands: Commands, asked: Durability, limits: Bounds = DEFAULT_BOUNDS
) -> Confirmation:
    """Wait for the confirmation of the write that was just answered on the durable connection.

    Call this without a checkpoint after the answer; see `Manager.confirm`. Never raises a BusError.
    """
    timeout = limits.replica_seconds if asked is Durability.REPLICATED else limits.disk_seconds
    # Never 0, which means forever; and well below the time after which the connection is closed.
    timeout_ms = max(1, int(1000 * min(timeout, manager.command_timeout / 2)))
    late = f"it was not confirmed within {timeout_ms} ms"
    try:
        if asked is Durability.REPLICATED:
            replicas = int(await manager.confirm("WAIT", 1, timeout_ms))
            return Confirmation(
                asked, replicas >= 1, replicas, None if replicas else f"{late} by any replica"
            )
        local, _ = await manager.confirm("WAITAOF", 1, 0, timeout_ms)
        return Confirmation(asked, local >= 1, reason=None if local else late)
    except ServerReplied as refusal:
        if refusal.kind != UNKNOWN_COMMAND:
            return Confirmation(asked, confirmed=False, reason=_why(refusal))
    except BusError as error:
        return Confirmation(asked, confirmed=False, reason=error.cause)
    return await _by_settings(commands, asked)


async def _by_settings(commands: Commands, asked: Durability) -> Confirmation:
    """Confirm by settings, without WAITAOF: with `appendfsync always` the server syncs before it answers."""
    try:
        on, policy = await commands.config_get("appendonly"), await commands.config_get("appendfsync")
    except ServerReplied as refusal:
        return Confirmation(asked, confirmed=False, reason=_why(refusal))
    except BusError as error:
        return Confirmation(asked, confirmed=False, reason=error.cause)
    if on == "yes" and policy == "always":
        return Confirmation(asked, confirmed=True)
    return Confirmation(
        asked,
        confirmed=False,
        reason="this Redis has no WAITAOF (7.2 and later have), and does not fsync before it answers "
        f"(appendonly {on}, appendfsync {policy})",
    )


def _why(refusal: ServerReplied) -> str:
    """Return the server's reason, and what an operator can do about it."""
    return f"{refusal.cause}. {refusal.next_step}"
