"""Confirming writes: an entry is in memory, on a replica, or on disk.

An entry that is not confirmed in time was added nevertheless. That is not an error, which would invite a
repetition.

WAIT and WAITAOF speak of what their own connection wrote last. A script that finds what was added before, by
another call or by a sending whose reply was lost, writes nothing, and Redis 8 and Valkey would answer for
whatever that connection wrote before. So something is written first.

WAIT and WAITAOF do not make Redis a consistent store: a replica that confirmed may lose an election to one
that did not (https://redis.io/docs/latest/commands/wait/).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

import msgspec

from redstreamd.errors import BusError
from redstreamd.redisio import Arg
from redstreamd.redisio.client import Redis
from redstreamd.redisio.error_replies import UNKNOWN_COMMAND
from redstreamd.redisio.redis_errors import ServerReplied
from redstreamd.redisio.reply_parsing import config_value
from redstreamd.redisio.script import ScriptCall
from redstreamd.redisio.write_confirmation import ConfirmedWrite
from redstreamd.streams.bounds import DEFAULT_BOUNDS, Bounds
from redstreamd.streams.scripts import NamedScript


class Durability(enum.StrEnum):
    """What a writer asks for."""

    MEMORY = "memory"  #: Nothing beyond the server's acknowledgement.
    REPLICATED = "replicated"  #: At least one replica has it in its memory.
    FSYNCED = "fsynced"  #: The server has it on its disk.


class Confirmation(msgspec.Struct, frozen=True):
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


async def run_confirmed(
    script: NamedScript,
    redis: Redis,
    asked: Durability,
    *,
    retry_safe: bool,
    wrote: Callable[[Any], bool],
    found: Callable[[Any], bool],
    limits: Bounds = DEFAULT_BOUNDS,
    **operands: Any,
) -> tuple[Any, Confirmation | None]:
    """Run a script that writes, and have what it wrote confirmed.

    Args:
        script: The script; it has a `call_record`.
        redis: Runs it.
        asked: REPLICATED or FSYNCED.
        retry_safe: As for `NamedScript.run`.
        wrote: Given the reply, whether the script wrote what is to be confirmed.
        found: Given the reply, whether it found that written before. If neither, nothing is asked.
        limits: For how long to wait for a confirmation.
        operands: As for `NamedScript.run`.

    Returns:
        The reply, and the confirmation; None if nothing was asked.

    Raises: as `NamedScript.run`, for the script only.
    """
    replicated = asked is Durability.REPLICATED
    timeout = limits.replica_seconds if replicated else limits.disk_seconds
    # Never 0, which means forever; and well below the time after which the connection is closed.
    timeout_ms = max(1, int(1000 * min(timeout, redis.command_timeout / 2)))
    confirm_by = ("WAIT", 1, timeout_ms) if replicated else ("WAITAOF", 1, 0, timeout_ms)
    call = ScriptCall(script, *script.operands(operands))
    written = await redis.execute_confirmed(
        call,
        confirm_by,
        key=call.keys[0],
        retry_safe=retry_safe,
        wrote=lambda reply: wrote(script.read(reply)),
    )
    reply, answer = script.read(written.reply), written.confirmation
    if found(reply):
        answer = await _confirm_found(written, confirm_by, operands["call_record"])
    if answer is None:
        return reply, None
    if isinstance(answer, ServerReplied) and answer.kind == UNKNOWN_COMMAND:
        return reply, await _by_settings(written, asked)
    if isinstance(answer, BusError):
        return reply, _unconfirmed(asked, answer)
    late = f"it was not confirmed within {timeout_ms} ms"
    if replicated:
        replicas = int(answer)
        reason = None if replicas else f"{late} by any replica"
        return reply, Confirmation(asked, replicas >= 1, replicas, reason)
    local, _ = answer
    return reply, Confirmation(asked, local >= 1, reason=None if local else late)


async def _confirm_found(written: ConfirmedWrite, confirm_by: tuple[Arg, ...], call_record: str) -> Any:
    """Return the answer to WAIT or WAITAOF, or the error in its place, for what was there before.

    What is written for it is the record of a call that is not sent again, and ends at once.
    """
    try:
        await written.ask(("SET", call_record, "", "PX", 1))
        return await written.ask(confirm_by)
    except BusError as error:
        return error


async def _by_settings(written: ConfirmedWrite, asked: Durability) -> Confirmation:
    """Confirm by settings, without WAITAOF: with `appendfsync always` the server syncs before it answers.

    Only the server that has the write is asked: after a failover the next one may have other settings.
    """
    try:
        on, policy = [
            config_value(await written.ask(("CONFIG", "GET", name)), name)
            for name in ("appendonly", "appendfsync")
        ]
    except BusError as error:
        return _unconfirmed(asked, error)
    if on == "yes" and policy == "always":
        return Confirmation(asked, confirmed=True)
    return Confirmation(
        asked,
        confirmed=False,
        reason="this Redis has no WAITAOF (7.2 and later have), and does not fsync before it answers "
        f"(appendonly {on}, appendfsync {policy})",
    )


def _unconfirmed(asked: Durability, error: BusError) -> Confirmation:
    """Return a confirmation that failed, with what an operator can do about it if the server refused it."""
    reason = f"{error.cause}. {error.next_step}" if isinstance(error, ServerReplied) else error.cause
    return Confirmation(asked, confirmed=False, reason=reason)
