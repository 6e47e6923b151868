"""Waiting for something that a read of Redis does not find yet.

Owns the loop of every such wait, in a task and without one: reset the watch, read, wait for a change. No
change between the read and the wait is missed. In a task an outage of Redis is waited out; without one, who
reads has to go on in a task then.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable

import trio

from redstreamd.errors import BusError, Code
from redstreamd.streams.deadlines import Deadline
from redstreamd.streams.tail_hub import TailHub
from redstreamd.streams.watches import Watch

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


class Sleep:
    """The wait of a call that reads one stream again when it changes: a record in the hub, without a task.

    Behaviour:
        See `plans.Pause`. It also ends at its deadline, and when the hub drains: then there is one more read.

    Attributes:
        keys: The stream.
        is_eager: True: what is added is what the call waits for.
    """

    # Invariant: while _resume is set, whatever happened since the last read was sent is yet to wake it.
    __slots__ = (
        "_alarm",
        "_armed_by",
        "_deadline",
        "_hub",
        "_is_added",
        "_is_woken",
        "_resume",
        "_stream",
        "keys",
    )

    is_eager = True

    def __init__(self, hub: TailHub, stream: str, deadline: float) -> None:
        """Prepare a wait until `deadline`; to be made before the first read is sent."""
        self.keys = frozenset((stream.encode(),))
        self._hub = hub
        self._stream = stream
        self._deadline = deadline
        self._armed_by = hub.armed_by(stream)
        self._is_added = False
        self._alarm: Deadline | None = None
        # A change came while its read was on the way.
        self._is_woken = False
        self._resume: Callable[[], None] | None = None

    @property
    def has_begun(self) -> bool:
        """Whether a read succeeded and found nothing."""
        return self._alarm is not None

    @property
    def waiting(self) -> int:
        """1 while it sleeps, else 0."""
        return int(self._resume is not None)

    def begin(self, resume: Callable[[], None]) -> None:
        """Call `resume` once there may be something to read; at once if that was so since the last read.

        Raises:
            BusError: RATE_LIMITED if too many wait.
        """
        if self._alarm is None:
            self._hub.add(self)
            self._is_added = True
            self._alarm = self._hub.deadlines.add(self._deadline, self.wake)
            # What came before it was armed was not pushed. If it is being armed, that wakes.
            armed_by = self._hub.armed_by(self._stream)
            self._is_woken = self._is_woken or (armed_by != 0 and armed_by != self._armed_by)
        else:
            self._hub.arm(self)
        self._resume = resume
        if self._is_woken:
            self.wake()

    def wake(self) -> None:
        """Have the call read again, or remember that it must."""
        resume, self._resume = self._resume, None
        self._is_woken = resume is None
        if resume is not None:
            resume()

    def end(self) -> None:
        """Sleep no more. Idempotent."""
        self._resume = None
        if self._is_added:
            self._is_added = False
            self._hub.remove(self)
        if self._alarm is not None:
            self._hub.deadlines.remove(self._alarm)
