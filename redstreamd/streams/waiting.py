"""Waiting for what a look at Redis does not find yet.

Owns the loop that every such wait is: mark, look, wait for a change. So no change between the look and the
wait is missed, and an outage of Redis is waited out. What is looked for, and where, is not known here.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable

import trio

from redstreamd.errors import BusError, Code
from redstreamd.streams.tail_hub import TailHub, Watch

#: Errors that more waiting may cure.
PASSING = frozenset({Code.CONNECTION_ERROR, Code.TIMEOUT, Code.OUTCOME_UNKNOWN})
#: Seconds after which one looks again when Redis could not be asked: perhaps nobody will push.
RETRY_LOOK = 0.5


class Sight(enum.Enum):
    """What a look saw."""

    FOUND = enum.auto()  #: What was looked for.
    MORE = enum.auto()  #: Nothing yet, and there is more to look at.
    NOTHING = enum.auto()  #: Nothing, and no more than that.


async def look_until(
    deadline: float,
    look: Callable[[], Awaitable[Sight]],
    *,
    hub: TailHub,
    watch: Watch,
    first_may_fail: bool,
) -> None:
    """Look until something is found, the deadline has passed, or the daemon stops; at least once.

    Args:
        deadline: By trio's clock.
        look: Looks once, and remembers where it got to.
        hub: Says when the daemon stops.
        watch: Says when there may be something new.
        first_may_fail: Wait also if Redis is out of reach from the beginning. If not, a first look that
            took too long is taken once more: then Redis was slow, or is known to be out of reach by now.

    Raises:
        BusError: What `look` raised, unless waiting may cure it.

    Cancellation: leaves nothing behind.
    """
    must_succeed, once_more = not first_may_fail, True
    while True:
        watch.mark()
        look_again = deadline
        try:
            sight = await look()
        except BusError as error:
            too_slow = error.code is Code.TIMEOUT and once_more and trio.current_time() < deadline
            if error.code not in PASSING or (must_succeed and not too_slow):
                raise
            sight, look_again = Sight.NOTHING, min(deadline, trio.current_time() + RETRY_LOOK)
            once_more = False
        else:
            must_succeed = False
        if sight is Sight.FOUND or hub.draining or trio.current_time() >= deadline:
            return
        if sight is Sight.NOTHING:
            with trio.move_on_at(look_again):
                await watch.changed()
