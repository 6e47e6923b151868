"""Reads what a server sends on one connection, and gives its replies to those who asked.

A task waits for it. While one client alone has requests, the task looks once more what was replied meanwhile.
While somebody is to wait for little, it is also looked within a pass of trio's scheduler whether replies have
arrived (see ``admission.arrivals``), and the answers that they make are written at once.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import hiredis
import msgspec
import trio

from redstreamd.admission.turns import turns
from redstreamd.errors.defects import report_defect
from redstreamd.redisio.awaited_replies import AwaitedReplies
from redstreamd.redisio.decoder import MAX_REPLY_BYTES, Decoder, OversizedError, UnreadableError
from redstreamd.redisio.redis_errors import ReplyTooLarge
from redstreamd.redisio.traffic import Traffic
from redstreamd.stream_io import descriptor, receiver, write_answers

_RECEIVE_BYTES: Final = 64 * 1024
#: The same within a pass, where nothing else is done until all of it is handled: some 150 small replies.
_TAKEN_UP_BYTES: Final = 4 * 1024
#: So often more is read in a pass while one client alone has requests.
_MOST_MORE_READS: Final = 3
_PUSH: Final = hiredis.PushNotification


class Broken(msgspec.Struct, frozen=True):
    """The connection has broken.

    Attributes:
        error: How; None: the server closed it.
    """

    error: Exception | None


class Unreadable(msgspec.Struct, frozen=True):
    """What was received are no replies.

    Attributes:
        data: It, or some of it.
        why: What is wrong with it.
    """

    data: bytes
    why: str


class Oversized(msgspec.Struct, frozen=True):
    """A reply is larger than `MAX_REPLY_BYTES`."""


class Unasked(msgspec.Struct, frozen=True):
    """A reply came to no command.

    Attributes:
        reply: It.
    """

    reply: Any


Ending = Broken | Unreadable | Oversized | Unasked
"""Why nothing more is read."""


class ReplyReader:
    """Reads the replies of one connection.

    Attributes:
        pushes: Push notifications received so far.
    """

    def __init__(
        self,
        awaited: AwaitedReplies,
        traffic: Traffic,
        *,
        reply_timeout: float,
        on_push: Callable[[list[Any]], None] | None,
        send_now: Callable[[], object],
        on_end: Callable[[Ending], None],
    ) -> None:
        """Prepare; `run` reads.

        Args:
            awaited: The requests that its replies are for.
            traffic: Where it counts what is received.
            reply_timeout: See `Connection`.
            on_push: See `Connection`.
            send_now: Sends what is queued.
            on_end: Called when the connection has ended, or has to.
        """
        self._awaited = awaited
        self._traffic = traffic
        self._reply_timeout = reply_timeout
        self._on_push = on_push
        self.send_now: Final = send_now
        self._on_end = on_end
        self._turns: Final = turns()
        self._decoder = Decoder()
        self.pushes = 0
        # Set once nothing more is read.
        self._is_over = False
        # Of where replies arrive, if that is simply a descriptor; else it returns -1.
        self._descriptor: Callable[[], int] = _nowhere
        # Bytes since the last reply that was complete.
        self._received = 0
        # What has arrived and was not given yet, the mean size of one, and how long the first took.
        self._replies: Sequence[Any] = ()
        self._size = 0
        self._round_trip = math.inf

    async def run(self, stream: trio.abc.Stream) -> None:
        """Read until the connection ends."""
        receive, arrivals = receiver(stream), self._turns.arrivals
        self._descriptor = descriptor(stream)
        watched = self._descriptor()
        if watched >= 0:
            arrivals.watch(watched, self)
        try:
            while not self._is_over:
                try:
                    data = bytes(await receive(_RECEIVE_BYTES))
                except trio.BrokenResourceError as error:
                    data = b""
                    if not self._is_over:
                        self._end(Broken(error))
                if not self._is_over:
                    self._take(data)
                    # Beside large replies, what a pass takes is little.
                    if len(data) < _TAKEN_UP_BYTES and self._awaited.requests and watched >= 0:
                        self._take_more()
                # Nothing of a large reply is kept here while the next one is awaited, perhaps for hours.
                del data
                while self._replies:
                    # What was answered is given to those who asked, also if the connection ends meanwhile.
                    await trio.lowlevel.cancel_shielded_checkpoint()
                    self._give()
        finally:
            if watched >= 0:
                arrivals.forget(watched)

    def take_replies(self) -> bool:
        """Handle the replies that have arrived; False if its task has them, or ends."""
        # Else the task is at those that came before.
        if self._replies or self._is_over:
            return False
        try:
            data = os.read(self._descriptor(), _TAKEN_UP_BYTES)
        except BlockingIOError:
            return True
        except OSError as error:
            broken = trio.BrokenResourceError(f"reading failed: {error}")
            broken.__cause__ = error
            self._end(Broken(broken))
            return True
        self._take(data)
        while self._replies:
            self._give()
        return True

    def _take_more(self) -> None:
        """Handle what was replied meanwhile, if one client alone has requests.

        What is sent in two parts (see `Pipeline`) is replied to in two parts, and a pass for each would cost
        what was gained. The first answers are written in between: so the client works, too.
        """
        turns, requests = self._turns, self._awaited.requests
        for _ in range(_MOST_MORE_READS):
            left = len(requests)
            if not left or self._replies or turns.is_shared or time.perf_counter() >= turns.ends:
                return
            turns.work_for(None)
            write_answers()
            self.take_replies()
            if len(requests) == left:
                # Nothing had arrived.
                return

    def _take(self, data: bytes) -> None:
        """Decode what was received, and begin to give replies to those who asked."""
        try:
            replies = self._decoder.feed(data)
        except UnreadableError as error:
            self._end(Unreadable(data, str(error)))
            return
        except OversizedError:
            self._awaited.answer([ReplyTooLarge(limit_bytes=MAX_REPLY_BYTES)], self._deliver_push)
            self._end(Oversized())
            return
        if not data:
            self._end(Broken(None))
            return
        self._received += len(data)
        if not replies:
            return
        awaited = self._awaited
        self._traffic.received_bytes += self._received
        self._round_trip = math.inf
        if type(replies[0]) is not _PUSH and (due := awaited.oldest_deadline) is not None:
            self._round_trip = trio.current_time() + self._reply_timeout - due
            answered = sum(type(each) is not _PUSH for each in replies)
            awaited.costs.arrived(awaited.requests, answered, self._round_trip)
        self._size, self._received = self._received // len(replies), 0
        self._replies = replies
        self._give()
        if self._replies:
            # Later on more may be in flight than what was received can be the replies to.
            asked = [each for each in self._replies if type(each) is not _PUSH]
            if len(asked) > len(awaited.requests):
                self._replies = ()
                self._end(Unasked(asked[len(awaited.requests)]))

    def _give(self) -> None:
        """Give replies to those who asked, as many as there is time for."""
        turns = self._turns
        self._replies = self._awaited.answer(
            self._replies, self._deliver_push, size=self._size, seconds=turns.replies_seconds
        )
        if turns.is_light:
            # For all of them.
            turns.work_for(None)
            write_answers()
        if not self._replies and self._round_trip < math.inf:
            # Those who asked have their replies first.
            self._traffic.round_trips.observe(self._round_trip)

    def _end(self, ending: Ending) -> None:
        self._is_over = True
        self._on_end(ending)

    def _deliver_push(self, message: list[Any]) -> None:
        self.pushes += 1
        if self._on_push is None:
            return
        try:
            self._on_push(message)
        except Exception as exc:  # noqa: BLE001 - whatever it is
            # The connection is not to blame, and everybody else depends on it.
            report_defect("the hook for push notifications failed", exc)


def _nowhere() -> int:
    return -1
