"""The bounded queue of lines for one client, written in as few system calls as possible.

An idle connection has no writer task, which keeps it small. A task that queues a line and is told that a
writer is needed calls `write`, or starts a task that does. The writer also sends what others queue meanwhile.
"""

from __future__ import annotations

import trio


class Outbox:
    """Lines waiting to be sent to one client.

    Behaviour:
        `put` never blocks. A line beyond the limit is not queued; then the stream has to be closed. So it
        has if `write` fails or is cancelled, because part of a line may have been sent.
    """

    def __init__(self, stream: trio.abc.SendStream, max_bytes: int) -> None:
        """Queue at most `max_bytes` for `stream`."""
        self._stream = stream
        self._max_bytes = max_bytes
        # Invariant: holds whole lines only.
        self._waiting = bytearray()
        self._being_sent = 0
        self._has_writer = False
        self._written = trio.lowlevel.ParkingLot()

    @property
    def size(self) -> int:
        """Bytes that the socket has not accepted yet."""
        return len(self._waiting) + self._being_sent

    def put(self, line: bytes) -> bool:
        """Queue a line; return False, without queueing it, if it would exceed the limit."""
        if self.size + len(line) > self._max_bytes:
            return False
        self._waiting += line
        return True

    def needs_writer(self) -> bool:
        """Return whether the caller has to call `write`; True only once until the writer is done."""
        if self._has_writer or not self._waiting:
            return False
        self._has_writer = True
        return True

    async def write(self) -> None:
        """Write until the queue is empty; only after `needs_writer` returned True.

        Raises:
            trio.BrokenResourceError: The stream failed.
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
        """Drop the queue, once the stream is closed."""
        self._waiting = bytearray()
        self._being_sent = 0

    async def wait_written(self) -> None:
        """Wait until the queue is empty; return at once if it is."""
        while self.size:
            await self._written.park()
