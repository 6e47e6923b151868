"""The requests that a server got and has not answered, and how replies find them.

A server answers in the order of the requests, so the next reply belongs to the oldest of them. One whose
caller has gone keeps its place until its reply has come.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import hiredis
from trio.lowlevel import reschedule

from redstreamd.admission.turns import Turns
from redstreamd.errors.defects import report_defect
from redstreamd.redisio.deferred_requests import DeferredRequests
from redstreamd.redisio.observed_costs import ObservedCosts
from redstreamd.redisio.redis_request import Request
from redstreamd.redisio.work_window import SMALL_REPLY_BYTES, WorkWindow


class AwaitedReplies:
    """The requests in flight on one connection.

    Attributes:
        requests: They, the oldest first.
        costs: What they are found to take.
        oldest_deadline: When the oldest is overdue; None if there is none.
    """

    __slots__ = ("_admit", "_deferred", "_turns", "_window", "costs", "oldest_deadline", "requests")

    def __init__(
        self,
        turns: Turns | None,
        window: WorkWindow,
        deferred: DeferredRequests,
        admit: Callable[[], None],
        costs: ObservedCosts,
    ) -> None:
        """Begin with none.

        Args:
            turns: See `Pipeline`.
            window: Where their work is counted until they are answered.
            deferred: What waits for that.
            admit: Sends what waits, as far as there is room.
            costs: Takes note of what they take.
        """
        self.costs: Final = costs
        self._turns = turns
        self._window = window
        self._deferred = deferred
        self._admit = admit
        self.requests: Final[deque[Request]] = deque()
        self.oldest_deadline: float | None = None

    def answer(
        self,
        replies: Sequence[Any],
        on_push: Callable[[list[Any]], None],
        *,
        size: int = 0,
        seconds: float = math.inf,
    ) -> Sequence[Any]:
        """Give each reply to the oldest request; return those that were not given.

        That is from the first on that has no request; and, while there are requests, from the first on for
        which there was no time. A caller that has gone gets nothing.

        Args:
            replies: The replies, or exceptions in their place, in order.
            on_push: Called with each push notification among them.
            size: How many bytes a reply has, in the mean.
            seconds: For so long at most, but at least one reply.
        """
        requests, turns, window = self.requests, self._turns, self._window
        next_request, clock, push = requests.popleft, time.perf_counter, hiredis.PushNotification
        until = clock() + seconds
        is_large = size > SMALL_REPLY_BYTES
        given = 0
        for reply in replies:
            if given and clock() >= until:
                break
            if type(reply) is push:
                given += 1
                on_push(reply)
                continue
            try:
                request = next_request()
            except IndexError:
                break
            given += 1
            account = request.account
            if account is not None:
                account.running -= 1
                window.seconds -= request.seconds
                if request.step:
                    window.steps -= request.step
                if is_large or account.reply_bytes:
                    account.expect(request.kind, size if is_large else 0)
            if turns is not None and account is not turns.account:
                turns.work_for(account)
            then = request.then
            if then is not None:
                # Neither is kept: whoever is called back holds the request, and a reply may be large.
                request.then = None
                try:
                    then(reply)
                except Exception as exc:  # noqa: BLE001 - whatever it is
                    # Everybody else depends on the connection.
                    report_defect("a reply could not be handled", exc)
                continue
            request.result = reply
            task = request.task
            if task is not None:
                request.task = None
                reschedule(task)
                if account is not None:
                    # It will run in the next pass.
                    until -= account.part
        self.oldest_deadline = requests[0].deadline if requests else None
        self.costs.given_at = clock()
        if self._deferred.count and window.seconds < window.limit:
            self._admit()
        return replies[given:] if given < len(replies) else ()
