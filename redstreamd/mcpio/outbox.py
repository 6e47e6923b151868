"""What waits to be written to one peer: bounded, and written in as few system calls as the peer allows.

There is no writer task while there is nothing to write, which keeps an idle connection small.
Whoever adds a line and is told that a writer is needed becomes it, or starts a task that does; the writer
takes along what others add while it waits for the socket. Knows nothing of what the lines say.
"""

from __future__ import annotations

import trio


class Outbox:
    """Lines on their way to one peer.

    Behaviour:
        `put` never blocks. What passes the limit is kept out, and the stream can only be closed afterwards.
        `write` cancelled or broken in the middle leaves the stream unusable, because part of a line may be
        out.
    """

    def __init__(self, stream: trio.abc.SendStream, max_bytes: int) -> None:
        """Write to `stream`, and let at most `max_bytes` wait."""
        self._stream = stream
        self._max_bytes = max_bytes
        # Invariant: holds whole lines only.
        self._waiting = bytearray()
        self._being_sent = 0
        self._has_writer = False
        self._written = trio.lowlevel.ParkingLot()

    @property
    def size(self) -> int:
        """Bytes that the peer's socket has not taken yet."""
        return len(self._waiting) + self._being_sent

    def put(self, line: bytes) -> bool:
        """Add a line; False if that would pass the limit, and then it is not added."""
        if self.size + len(line) > self._max_bytes:
            return False
        self._waiting += line
        return True

    def needs_writer(self) -> bool:
        """Tell whether someone has to call `write`; having said so once, it takes it as promised."""
        if self._has_writer or not self._waiting:
            return False
        self._has_writer = True
        return True

    async def write(self) -> None:
        """Write until nothing waits; only for whom `needs_writer` asked.

        Raises:
            trio.BrokenResourceError: The stream broke.
        """
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, bytearray()
                self._being_sent = len(batch)
                await self._stream.send_all(batch)
                self._being_sent = 0
        finally:
            self._has_writer = False
        self._written.unpark_all()

    def clear(self) -> None:
        """Drop what waits, once the stream is closed."""
        self._waiting = bytearray()
        self._being_sent = 0

    async def wait_written(self) -> None:
        """Wait until nothing waits; returns at once if so already."""
        while self.size:
            await self._written.park()
