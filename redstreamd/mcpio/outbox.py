"""The bounded queue of messages for one client, written in as few system calls as possible.

What is queued is written at the end of the scheduler's pass (see ``stream_io``), so that many lines are one
write; a line that nothing is expected to follow is written at once. Neither copies a long answer. What the
socket does not accept is a backlog, on which a writer task works; so is everything where the stream cannot be
written without blocking. Of a stream that is simply a descriptor it is known at any time what was written.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from redstreamd.admission.memory import STEP_BYTES, Share
from redstreamd.stream_io import answers_of_pass, nonblocking_write

#: How much a client may leave unread for as long as it likes: no more than it costs to know it.
UNREAD_BYTES: Final = 64 * 1024


class Outbox:
    """Lines waiting to be sent to one client.

    Behaviour:
        `send` never blocks. A line beyond the limit is not queued, and the connection is told, which closes
        the stream. So it is if writing fails, or if the client reads nothing for too long while more than
        `UNREAD_BYTES` wait.

    Attributes:
        size: Bytes that the socket has not accepted yet; to be read only.
    """

    # Invariant: there are no lines while there is a backlog, and the first line of a pass schedules a flush.
    __slots__ = (
        "_at_end_of_pass",
        "_backlog",
        "_being_sent",
        "_held",
        "_is_closed",
        "_lines",
        "_max_bytes",
        "_on_broken",
        "_on_overflow",
        "_on_unread",
        "_share",
        "_start_soon",
        "_stream",
        "_unread_seconds",
        "_write",
        "_written",
        "size",
    )

    def __init__(
        self,
        stream: trio.abc.SendStream,
        max_bytes: int,
        *,
        start_soon: Callable[[Callable[[], Awaitable[None]]], bool],
        on_overflow: Callable[[], None],
        on_broken: Callable[[], None],
        unread_seconds: float = math.inf,
        on_unread: Callable[[], None] | None = None,
        share: Share | None = None,
    ) -> None:
        """Queue at most `max_bytes` for `stream`.

        Args:
            stream: Where to write.
            max_bytes: The limit.
            start_soon: Starts a task; False if the connection is closing, when nothing is written any more.
            on_overflow: Called when a line does not fit.
            on_broken: Called when the stream has failed.
            unread_seconds: How long a client may read nothing.
            on_unread: Called when it has.
            share: Where it is counted what the socket has not accepted, once that is much.
        """
        self._stream = stream
        self._write = nonblocking_write(stream)
        self._at_end_of_pass = answers_of_pass()
        self._max_bytes = max_bytes
        self._start_soon = start_soon
        self._on_overflow = on_overflow
        self._on_broken = on_broken
        self._unread_seconds = unread_seconds
        self._on_unread = on_unread
        self._share = share
        # Counted there: the backlog.
        self._held = 0
        self.size = 0
        # Queued in this pass.
        self._lines: list[bytes] = []
        # Invariant: begins where the last write ended.
        self._backlog: bytearray | None = None
        # Only of a stream that is not simply a descriptor.
        self._being_sent = 0
        self._is_closed = False
        # Made when somebody waits: most never do.
        self._written: trio.lowlevel.ParkingLot | None = None

    def reconfigure(self, max_bytes: int, *, unread_seconds: float) -> None:
        """Apply other limits from the next line on."""
        self._max_bytes = max_bytes
        self._unread_seconds = unread_seconds

    # Python calls a function with an argument that can only be named in a slower way.
    def send(self, line: bytes, is_last: bool = False) -> None:
        """Queue a line; dropped once the connection is closing.

        Args:
            line: The line.
            is_last: Whether no other is expected in this pass; then it is written at once, if possible.
        """
        size = len(line)
        if self._lines and self.size + size <= self._max_bytes:
            # As most are: it is open, there is no backlog, and the pass is not over.
            self._lines.append(line)
            self.size += size
            return
        if self._is_closed:
            return
        if self.size + size > self._max_bytes:
            self._on_overflow()
        elif self._backlog is not None:
            self._backlog += line
            self.size += size
            self._count()
        elif self._write is None:
            self._begin_backlog(line)
        elif is_last:
            try:
                written = self._write(line)
            except OSError:
                self._break()
            else:
                if written < size:
                    self._begin_backlog(memoryview(line)[written:])
        else:
            self._at_end_of_pass(self._flush)
            self._lines.append(line)
            self.size += size

    # Of a byte stream, all messages are lines.
    answer = send

    def unanswered(self, request_id: object) -> None:
        """Do nothing: nobody waits for the end of anything."""

    def close(self) -> None:
        """Drop the queue, and all that is sent from now on."""
        self._is_closed = True
        self._lines = []
        self._backlog = None
        self.size = self._being_sent = 0
        self._count()
        # Who waits may be no task of the connection.
        self._tell_written()

    def detach(self) -> None:
        """Let go of the connection, which has ended: nothing is sent or reported any more."""
        self.close()
        del self._start_soon, self._on_overflow, self._on_broken, self._on_unread

    def take(self) -> bytes | None:
        """Close it, and return what was queued and not written; None if that is not known."""
        waiting = None if self._being_sent else b"".join(self._lines) + (self._backlog or b"")
        self.close()
        return waiting

    async def wait_written(self) -> None:
        """Wait until the queue is empty; return at once if it is."""
        while self.size:
            if self._written is None:
                self._written = trio.lowlevel.ParkingLot()
            await self._written.park()

    def _tell_written(self) -> bool:
        """Let all go on who wait for that; return whether there was anybody."""
        return self._written is not None and bool(self._written.unpark_all())

    def _flush(self) -> bool:
        lines, self._lines = self._lines, []
        if not lines or self._write is None:
            # It was closed.
            return False
        data = lines[0] if len(lines) == 1 else b"".join(lines)
        try:
            written = self._write(data)
        except OSError:
            self._break()
            return True
        self.size = 0
        if written == len(data):
            return self._tell_written()
        self._begin_backlog(memoryview(data)[written:])
        return True

    def _break(self) -> None:
        self.close()
        self._on_broken()

    def _begin_backlog(self, data: bytes | memoryview) -> None:
        self._backlog = bytearray(data)
        self.size = len(data)
        self._count()
        if not self._start_soon(self._write_backlog):
            self.close()

    async def _write_backlog(self) -> None:
        try:
            while self.size:
                with trio.move_on_after(self._unread_seconds) as reading:
                    await self._write_some()
                # After half a piece nothing else may be sent.
                is_over = self._being_sent > 0 or self.size > UNREAD_BYTES
                if reading.cancelled_caught and is_over:
                    if self._on_unread is not None:
                        self._on_unread()
                    return
        except (trio.BrokenResourceError, OSError):
            self._break()
            return
        # A large buffer is not kept for an idle client.
        self._backlog = None
        self._tell_written()

    async def _write_some(self) -> None:
        if self._write is not None:
            await self._stream.wait_send_all_might_not_block()
            if self._backlog is not None:
                written = self._write(self._backlog)
                del self._backlog[:written]
                self.size -= written
        elif self._backlog is not None:
            # The client has its time for each piece.
            piece = bytes(memoryview(self._backlog)[:UNREAD_BYTES])
            del self._backlog[: len(piece)]
            self._being_sent = len(piece)
            await self._stream.send_all(piece)
            if self._being_sent:
                self.size -= self._being_sent
                self._being_sent = 0
        self._count()

    def _count(self) -> None:
        size = self.size
        if self._share is not None and (abs(size - self._held) >= STEP_BYTES or (size == 0 and self._held)):
            more, self._held = size - self._held, size
            self._share.hold(more)
