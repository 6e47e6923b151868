"""Turns on the event loop: work on behalf of a client gives way to that of others."""

from __future__ import annotations

import trio


async def next_turn() -> None:
    """Let others run, and return when it is this call's turn again; to be called between parts of long work.

    A part should take about a millisecond. It is always a checkpoint. Outside a call of a client it is only
    that. If cancelled, the turn is given up.
    """
    await trio.lowlevel.checkpoint()
