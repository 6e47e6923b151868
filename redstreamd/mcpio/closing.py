"""How a stream is closed so that the client gets our last lines.

To close with unread input resets a connection, and the client may lose what we sent (RFC 9112, section 9.6,
on HTTP). So our side is shut down first, and the input is discarded until the client has closed its own.
"""

from __future__ import annotations

import contextlib
from typing import Final

import trio

from redstreamd.mcpio.late_event import LateEvent

#: How long a client may take to close its side after we have shut down ours.
LINGER_SECONDS: Final = 0.5
_READ_BYTES: Final = 65536


async def discard_input(stream: trio.abc.ReceiveStream, ended: LateEvent) -> None:
    """Read and drop what a client sends; set `ended` at the end of its input."""
    with contextlib.suppress(trio.BrokenResourceError):
        while await stream.receive_some(_READ_BYTES):
            pass
    ended.set()


async def shut_down(stream: trio.abc.Stream, input_ended: LateEvent) -> None:
    """Shut down our side, and wait `LINGER_SECONDS` for the client to close its own.

    Args:
        stream: The connection; where only both sides can be closed (TLS), ours stays open.
        input_ended: Set when the client has; something else reads meanwhile.
    """
    if isinstance(stream, trio.abc.HalfCloseableStream):
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_eof()
    with trio.move_on_after(LINGER_SECONDS):
        await input_ended.wait()
