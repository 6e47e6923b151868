"""When a request is served, of those of all clients: what it waits for before anybody works on it."""

from __future__ import annotations

import time
from typing import Final

from redstreamd.admission.accounts import Account
from redstreamd.admission.turns import MAX_QUEUED, turns
from redstreamd.mcpio.session import LONG_MESSAGE

# What a request is taken to cost before it is served, and each byte of a long one.
_REQUEST_SECONDS: Final = 0.00015
_BYTE_SECONDS: Final = 1e-7
#: The same of a request that a task serves: through the SDK.
WORK_SECONDS: Final = 0.001


async def take_turn(account: Account, size: int, seconds: float = _REQUEST_SECONDS) -> None:
    """Wait until it is the turn of an account; what follows, up to the next checkpoint, counts as its time.

    Where nothing has to be waited for, it is no checkpoint. If cancelled, the turn is given up.

    Args:
        account: Of the connection, or of whoever it calls for.
        size: How many bytes the request has.
        seconds: What it is taken to cost at least.
    """
    turn = turns()
    process = account.parent or account
    must_wait = len(turn.waiting) > 0 or (time.perf_counter() >= turn.ends and turn.is_over())
    if (must_wait or (turn.is_shared and size >= LONG_MESSAGE)) and not turn.let_pass(process):
        await turn.turn(account, max(size * _BYTE_SECONDS, seconds))
    is_held_back = process in turn.held_back
    while is_held_back or process.queued >= MAX_QUEUED:
        await turn.wait_fewer_queued(process)
        is_held_back = False
        await turn.turn(account, _REQUEST_SECONDS)
    turn.work_for(account)
