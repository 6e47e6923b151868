"""How safe an entry is when its writer is told: in memory, on a replica, or on disk.

Owns what WAIT and WAITAOF mean to a writer. An entry that is not confirmed in time is there all the
same: that is an answer and not an error, which would invite a repetition.

Neither makes Redis a consistent store: a replica that confirmed may still lose an election to one
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

#: Seconds that a writer waits for the confirmation. A replica that is well answers in milliseconds,
#: and everybody who writes durably waits behind this.
_PATIENCE = 1.0

#: The same where a disk is asked. A server with `appendfsync everysec`, the default, syncs a second after it
#: did last, and looks ten times a second whether that is so.
_DISK_PATIENCE = 2.0


class Durability(enum.StrEnum):
    """What a writer asks for."""

    MEMORY = "memory"  #: Nothing beyond the server's acknowledgement.
    REPLICATED = "replicated"  #: At least one replica has it in its memory.
    FSYNCED = "fsynced"  #: The server has it on its disk.


@attrs.frozen
class Confirmation:
    """What is known about the safety of a write.

    Attributes:
        asked: What the writer asked for.
        confirmed: Whether it is so.
        replicas: How many replicas have it, where that was asked.
        reason: Why it is not confirmed.
    """

    asked: Durability
    confirmed: bool
    replicas: int | None = None
    reason: str | None = None


async def confirm(manager: Manager, commands: Commands, asked: Durability) -> Confirmation:
    """Wait until the write just answered on the durable connection is as safe as asked, if it gets so.

    To be called without a checkpoint after the answer; see `Manager.confirm`. Never raises a BusError.
    """
    patience = _PATIENCE if asked is Durability.REPLICATED else _DISK_PATIENCE
    # Never 0, which means forever; and answered long before the connection is given up.
    patience_ms = max(1, int(1000 * min(patience, manager.command_timeout / 2)))
    late = f"it was not confirmed within {patience_ms} ms"
    try:
        if asked is Durability.REPLICATED:
            replicas = int(await manager.confirm("WAIT", 1, patience_ms))
            return Confirmation(
                asked, replicas >= 1, replicas, None if replicas else f"{late} by any replica"
            )
        local, _ = await manager.confirm("WAITAOF", 1, 0, patience_ms)
        return Confirmation(asked, local >= 1, reason=None if local else late)
    except ServerReplied as refusal:
        if refusal.kind != UNKNOWN_COMMAND:
            return Confirmation(asked, confirmed=False, reason=_why(refusal))
    except BusError as error:
        return Confirmation(asked, confirmed=False, reason=error.cause)
    return await _by_settings(commands, asked)


async def _by_settings(commands: Commands, asked: Durability) -> Confirmation:
    """Find out about the disk of a server without WAITAOF: some fsync before they answer anything."""
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
    """Return what the server said, and what an operator can do about it."""
    return f"{refusal.cause}. {refusal.next_step}"
