"""Asks the server whether a write is replicated or on disk yet: one WAIT or WAITAOF for many writers.

Owns who shares such a command. Both confirm what was written before on the connection they are sent on,
and block it until they are answered. So there is a connection for confirmed writes, with one such command
at a time; writes that are answered meanwhile are confirmed by the next. What the answer means to a writer is
decided in ``streams.durability``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import trio

from redstreamd.errors import BusError
from redstreamd.redisio import Arg
from redstreamd.redisio.connection import Connection


class ConfirmedWrite(msgspec.Struct, frozen=True):
    """A write that was executed, and what is known of its safety.

    Attributes:
        reply: The reply to the write.
        confirmation: The reply to WAIT or WAITAOF, or the error in its place; None if nothing was asked.
        ask: Sends a further question on the connection that answered the write, since no other one is
            certainly to the server that has it; raises as `Node.confirm`.
    """

    reply: Any
    confirmation: Any | BusError | None
    ask: Callable[[tuple[Arg, ...]], Awaitable[Any]]


class _Round(msgspec.Struct, eq=False):
    """Writers that share one command.

    Attributes:
        connection: Where they were answered.
        over: Set once there is an answer, or none will come.
        answer: The reply or the exception; None if the writer that sent the command was cancelled.
    """

    connection: Connection
    over: trio.Event = msgspec.field(default_factory=trio.Event)
    answer: Any = None


class WaitBatch:
    """Confirms writes on the durable connection, in rounds."""

    def __init__(self) -> None:
        """Begin with nobody waiting."""
        self._under_way = trio.Lock()
        # For each command the round that can still be joined, because nothing was sent for it yet.
        self._gathering: dict[tuple[Arg, ...], _Round] = {}
        #: Commands sent so far.
        self.asked = 0

    async def confirm(self, connection: Connection, command: tuple[Arg, ...]) -> Any:
        """Return the server's answer to `command`, sent on `connection` after this call.

        Args:
            connection: Where the caller's write was answered.
            command: WAIT or WAITAOF, with a timeout well below the connection's own, or another question.

        Raises:
            RedisError: The server answered with an error.
            ConnectionEnded: The connection ended first; nothing is confirmed.
            QueueFull: See `Connection.submit`.

        If cancelled, others who share the command ask again.
        """
        while True:
            current = self._gathering.get(command)
            if current is None or current.connection is not connection:
                current = self._gathering[command] = _Round(connection)
                await self._ask(current, command)
            else:
                await current.over.wait()
            if isinstance(current.answer, Exception):
                raise current.answer
            if current.answer is not None:
                return current.answer

    async def _ask(self, current: _Round, command: tuple[Arg, ...]) -> None:
        try:
            async with self._under_way:
                self._close(current, command)
                self.asked += 1
                try:
                    current.answer = await current.connection.execute(*command)
                except Exception as error:  # noqa: BLE001 - whatever it is, it is everybody's answer
                    current.answer = error
        finally:
            self._close(current, command)
            current.over.set()

    def _close(self, current: _Round, command: tuple[Arg, ...]) -> None:
        if self._gathering.get(command) is current:
            del self._gathering[command]
