"""How much work is at a server, by estimate, and how much of it clients may have there at once.

Requests on behalf of clients are sent while those ahead of them are no more than `WINDOW_SECONDS` of work. So
what a client sends waits for little else, however much others have sent before. Work is estimated from sizes:
measured times contain those of the network and of our own event loop. What takes far more is found out by
`ObservedCosts`, which leaves these out as well as it can.
"""

from __future__ import annotations

from typing import Final

from redstreamd.admission.turns import Turns
from redstreamd.redisio.redis_request import Request

#: Seconds of work that requests in flight may be for the server and for the reader of their replies. So long
#: may others have to wait when they come; with less, fewer are handled at once, which costs more.
WINDOW_SECONDS: Final = 0.004
#: The same while several clients have requests: as long as each waits for the others at the server.
SHARED_WINDOW_SECONDS: Final = 0.0015
#: The same while somebody got little, who is to wait for little.
LIGHT_WINDOW_SECONDS: Final = 0.001

#: A server that has nothing to do gets what is queued once it is so much work, before the pass ends: so it
#: works on the first commands while the others are put together. With less, what many send is cut into more
#: and smaller parts, each of which costs a write and a read.
EARLY_SECONDS: Final = 0.0002
#: Where one client alone has few requests, it is half of what the server had at once the last time, and this
#: at the least: some eight small commands. With less, a part costs more than the waiting.
LEAST_EARLY_SECONDS: Final = 7e-5

#: So many requests are in flight whatever the tasks behind them take: with a server that is far away, few in
#: flight are few replies in a second.
STEPS_COUNT_BEYOND: Final = 16
#: The same while somebody got little.
LIGHT_STEPS_COUNT_BEYOND: Final = 4

#: So many times what a task takes are counted for the request that it waits for: replies behind that wait for
#: the task, and so do messages that arrive.
STEP_TIMES: Final = 2

#: Less than any request takes.
_NO_WORK_SECONDS: Final = 1e-9

#: What a command takes of the server's time: at least, for each byte of it, and for each byte of its reply.
#: A script makes commands of what it gets: 100 small entries are 7 KB, and XADD takes 6 µs for each of them.
#: Measured with XADD, XRANGE and the scripts of ``streams``; a slower server makes all of them longer.
COMMAND_SECONDS: Final = 8e-6
BYTE_SECONDS: Final = 1e-8
SCRIPT_SECONDS: Final = 2e-5
SCRIPT_BYTE_SECONDS: Final = 8e-8
REPLY_BYTE_SECONDS: Final = 5e-9
#: What each byte of a reply takes of the reader's time.
READ_BYTE_SECONDS: Final = 1e-8
#: Replies up to this size are not counted.
SMALL_REPLY_BYTES: Final = 512


class WorkWindow:
    """The work of the requests of one connection that are queued for sending or in flight.

    Attributes:
        seconds: How much they are, for the server and for the reader of the replies. What is sent for the
            daemon itself counts as none.
        steps: What is counted for the tasks that wait for their replies.
        lone: How much there may be while one client alone has requests.
    """

    __slots__ = ("_light", "_shared", "_turns", "lone", "seconds", "steps")

    def __init__(self, turns: Turns | None, *, one_at_a_time: bool) -> None:
        """Begin with none; see `Pipeline` for both."""
        self._turns = turns
        self.seconds = self.steps = 0.0
        self.lone = _NO_WORK_SECONDS if one_at_a_time else WINDOW_SECONDS
        self._shared = _NO_WORK_SECONDS if one_at_a_time else SHARED_WINDOW_SECONDS
        self._light = _NO_WORK_SECONDS if one_at_a_time else LIGHT_WINDOW_SECONDS

    @property
    def limit(self) -> float:
        """How many seconds of work there may be now."""
        turns = self._turns
        if turns is None or not turns.is_shared:
            return self.lone
        return self._light if turns.is_light else self._shared

    def add(self, request: Request) -> None:
        """Count a request that is queued for sending."""
        self.seconds += request.seconds
        self.steps += request.step

    def remove(self, request: Request) -> None:
        """Count it no more: it was answered, or taken back."""
        self.seconds -= request.seconds
        self.steps -= request.step

    def takes(self, seconds: float, limit: float, count: int) -> bool:
        """Return whether one more request may be sent, although tasks may take long to read the replies.

        Args:
            seconds: How much work there would be then.
            limit: How much there may be.
            count: How many requests there are.
        """
        # What is left of many that came and went may be an error of rounding.
        return self.seconds < _NO_WORK_SECONDS or (seconds <= limit and self._are_few(count))

    def is_open(self, limit: float, count: int) -> bool:
        """Return whether one may be sent that was deferred; see `takes`."""
        return self.seconds < limit and (self.seconds + self.steps < limit or self._are_few(count))

    def _are_few(self, count: int) -> bool:
        """Return whether so few requests are in flight that one more may be, whatever tasks take."""
        is_light = self._turns is not None and self._turns.is_light
        return count < (LIGHT_STEPS_COUNT_BEYOND if is_light else STEPS_COUNT_BEYOND)
