"""A listening socket that several processes have: each gets about as many connections as the others.

The kernel wakes all that wait for a connection, and the first takes it: on an idle host often the same one,
and in a burst whoever runs at that moment takes all. So a process that has more connections than another
leaves the next one to that: it looks again after a millisecond or two, and takes it itself where the other
does not. Whoever does not within `PATIENCE_SECONDS` is hung or busy, and nothing is left to it until it has
taken or lost a connection. A process that has no place for more leaves all to those that have, and gets
nothing left to it. A process that shares this socket with nobody accepts as it would without this.
"""

from __future__ import annotations

import os
import select
from typing import Final, NamedTuple

import trio

from redstreamd.mcpio.process_table import ProcessTable

PATIENCE_SECONDS: Final = 0.05
"""How long a connection is left to a process that does not take it."""

# Whatever the others' numbers do meanwhile, and however many of them are hung.
_LEAVING_SECONDS: Final = 4 * PATIENCE_SECONDS
_LOOK_SECONDS: Final = 0.002
# For a connection that another process has taken in the meantime.
_TAKE_SECONDS: Final = 0.001
# Processes whose numbers differ by so little are alike: one connection, and an eighth of what they have.
_ALIKE: Final = 1
_ALIKE_PART: Final = 8


class _Load(NamedTuple):
    """What another process says of itself; one that changes it is at work."""

    pid: int
    connections: int
    is_full: bool


class SharedListener(trio.abc.Listener[trio.SocketStream]):
    """A listener that leaves connections to processes that have fewer.

    Attributes:
        socket: The listening socket.
    """

    def __init__(self, listener: trio.SocketListener, table: ProcessTable) -> None:
        """Own `listener`, and see in `table` who else accepts.

        Args:
            listener: Accepts.
            table: Has the connections of this process and of the others.
        """
        self._listener = listener
        self._table = table
        self.socket = listener.socket
        self._inode = os.fstat(self.socket.fileno()).st_ino
        self._readable = select.poll()
        self._readable.register(self.socket.fileno(), select.POLLIN)
        # Row -> what a process said that took nothing: nothing is left to it until it says something else.
        self._idle: dict[int, _Load] = {}

    def has_others(self) -> bool:
        """Return whether another process accepts from the same socket."""
        return next(self._table.others(self._inode), None) is not None

    async def accept(self) -> trio.SocketStream:
        """Wait for a connection that is this process's, and return its stream.

        Like `trio.SocketListener.accept`; cancellation loses no connection.
        """
        while True:
            if not self.has_others():
                return await self._listener.accept()
            await trio.lowlevel.wait_readable(self.socket)
            await self._leave_to_others()
            if not self._readable.poll(0):
                continue
            # If another takes it now, the next one may be another's, too.
            with trio.move_on_after(_TAKE_SECONDS):
                return await self._listener.accept()

    async def aclose(self) -> None:
        """Stop listening here; idempotent. The other processes go on."""
        await self._listener.aclose()

    async def _leave_to_others(self) -> None:
        """Return when there is no connection any more, or nobody who should take it before this process."""
        left_to: tuple[int, _Load] | None = None
        until = 0.0
        end = trio.current_time() + _LEAVING_SECONDS
        while (other := self._lighter()) is not None:
            now = trio.current_time()
            if now >= end:
                return
            if other != left_to:
                left_to, until = other, now + PATIENCE_SECONDS
            elif now >= until:
                row, load = other
                if not self._table.forget_if_ended(row):
                    self._idle[row] = load
                continue
            await trio.sleep(_LOOK_SECONDS)
            if not self._readable.poll(0):
                return

    def _lighter(self) -> tuple[int, _Load] | None:
        """Return the process with fewest connections, if this one has clearly more, or no place for more."""
        table = self._table
        least: tuple[int, _Load] | None = None
        for each in table.others(self._inode):
            load = _Load(each.pid, each.connections, each.is_full)
            if load.is_full:
                continue
            if self._idle.get(each.row) == load:
                continue
            self._idle.pop(each.row, None)
            if least is None or load.connections < least[1].connections:
                least = each.row, load
        if least is None:
            return None
        if table.is_full:
            return least
        fewest = least[1].connections
        return least if table.connections > fewest + _ALIKE + fewest // _ALIKE_PART else None
