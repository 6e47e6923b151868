"""Waiting for something that a read of Redis does not find yet.

Owns the loop of every such wait: reset the watch, read, wait for a change. No change between the read and the
wait is missed, and an outage of Redis is waited out.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable

import trio

from redstreamd.errors import BusError, Code
from redstreamd.streams.tail_hub import TailHub, Watch

#: Errors that may go away by themselves.
TRANSIENT = frozenset({Code.CONNECTION_ERROR, Code.TIMEOUT, Code.OUTCOME_UNKNOWN})
#: Seconds until the next read when Redis could not be asked; a change may not be pushed then.
RETRY_SECONDS = 0.5


class ReadResult(enum.Enum):
    """What a read found."""

    FOUND = enum.auto()  #: A match.
    MORE = enum.auto()  #: No match; entries left to read.
    EMPTY = enum.auto()  #: No match; no entries left to read.


async def read_until_found(
    deadline: float,
    read: Callable[[], Awaitable[ReadResult]],
    *,
    hub: TailHub,
    watch: Watch,
    first_may_fail: bool,
) -> None:
    """Read until there is a match, the deadline has passed, or the daemon stops; at least once.

    Args:
        deadline: By trio's clock.
        read: Reads once, and keeps its own position.
        hub: Knows when the daemon stops.
        watch: Wakes when there may be something new.
        first_may_fail: Also wait if Redis cannot be reached at the beginning. If False, a first read that
            times out is repeated once: Redis was slow, or is known to be unreachable by then.

    Raises:
        BusError: What `read` raised, unless waiting may help.

    Cancellation: leaves nothing behind.
    """
    must_succeed, may_repeat = not first_may_fail, True
    while True:
        watch.reset()
        next_read = deadline
        try:
            result = await read()
        except BusError as error:
            repeat = error.code is Code.TIMEOUT and may_repeat and trio.current_time() < deadline
            if error.code not in TRANSIENT or (must_succeed and not repeat):
                raise
            result, next_read = ReadResult.EMPTY, min(deadline, trio.current_time() + RETRY_SECONDS)
            may_repeat = False
        else:
            must_succeed = False
        if result is ReadResult.FOUND or hub.draining or trio.current_time() >= deadline:
            return
        if result is ReadResult.EMPTY:
            with trio.move_on_at(next_read):
                await watch.changed()
