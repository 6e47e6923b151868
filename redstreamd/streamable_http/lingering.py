"""How a connection is closed whose client may still be sending (RFC 9112, section 9.6).

As `mcpio.closing`, but a client that is refused in the middle of a long body has more time: most look for a
response only when they have sent all, and to close before that would take it away.
"""

from __future__ import annotations

import contextlib
from typing import Final

import trio

from redstreamd.mcpio.closing import LINGER_SECONDS
from redstreamd.mcpio.late_event import LateEvent

#: For a client that goes on sending.
UPLOAD_SECONDS: Final = 5.0
_READ_BYTES: Final = 65536


class Lingering:
    """Drops what a client sends until it has closed its side."""

    def __init__(self, stream: trio.abc.Stream, ended: LateEvent) -> None:
        """Read from `stream` from now on, in `discard`.

        Args:
            stream: The connection.
            ended: Set when the client sends nothing more.
        """
        self._stream = stream
        self._ended = ended
        self._reads = 0

    async def discard(self) -> None:
        """Read and drop."""
        with contextlib.suppress(trio.BrokenResourceError):
            while await self._stream.receive_some(_READ_BYTES):
                self._reads += 1
        self._ended.set()

    async def shut_down(self) -> None:
        """Shut down our side, and wait until the client has closed its own, or sent nothing for a while."""
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            with contextlib.suppress(trio.BrokenResourceError):
                await self._stream.send_eof()
        reads = -1
        while self._reads != reads and not self._ended.is_set():
            reads = self._reads
            with trio.move_on_after(LINGER_SECONDS):
                await self._ended.wait()
