"""Answers a peer in place of a server that will not start.

MCP clients show their users the error that the handshake is answered with. To one whose connection only
ends, or is told something in answer to nobody, that is "connection closed".
"""

from __future__ import annotations

import contextlib
from typing import Final

import trio

from redstreamd.mcpio import jsonrpc
from redstreamd.mcpio.framing import LineSplitter
from redstreamd.mcpio.limits import Limits

#: Seconds in which a peer's handshake is over; it has its first request ready when it comes.
PATIENCE_SECONDS: Final = 2.0

#: The requests of a handshake take about one KiB.
_LIMITS: Final = Limits(max_message_bytes=64 * 1024)


async def answer_for_absent(stream: trio.abc.Stream, reason: str) -> None:
    """Answer each request with `reason` until the handshake is over, and close the stream.

    That is after ``initialize``: clients of the newer revision send it when ``server/discover`` failed, so
    the answer to that may not be the one they show. A peer that asks nothing that can be answered is told,
    too, in answer to nothing. Takes up to `PATIENCE_SECONDS`.

    Args:
        stream: To the peer; closed on the way out.
        reason: What is wrong and what to do, for a person and a model.
    """
    try:
        # A peer that has gone in the meantime needs no explanation.
        with trio.move_on_after(PATIENCE_SECONDS), contextlib.suppress(trio.BrokenResourceError):
            if not await _answer(stream, reason):
                await _send(stream, None, reason)
    finally:
        await trio.aclose_forcefully(stream)


async def _answer(stream: trio.abc.Stream, reason: str) -> bool:
    """Answer requests; return whether there were any."""
    splitter = LineSplitter(_LIMITS.max_message_bytes)
    answered = False
    with trio.move_on_after(PATIENCE_SECONDS / 2):
        while not splitter.overlong and (data := await stream.receive_some()):
            splitter.feed(bytes(data))
            while (line := splitter.next_line()) is not None:
                request = jsonrpc.decode(line, _LIMITS)
                if isinstance(request, jsonrpc.Request):
                    await _send(stream, request.id, reason)
                    answered = True
                    if request.method == "initialize":
                        return True
    return answered


async def _send(stream: trio.abc.Stream, request_id: jsonrpc.RequestId | None, reason: str) -> None:
    await stream.send_all(jsonrpc.error(request_id, jsonrpc.NOT_NOW, reason))
