"""The requests on one connection: queued, then in flight, then answered in the same order.

Owns the order, the bounds, and the exact line between sent and not sent. It does no I/O and does
not know what goes over the wire beyond its packed length.

Requests on behalf of clients are sent while those ahead of them are no more than `WINDOW_SECONDS` of work;
the others are deferred, and sent in the order of a `FairQueue`. Whoever got little is not deferred. So what a
client sends waits for little else, however much others have sent before. The daemon's own requests are never
deferred. Work is estimated from sizes: measured times would contain those of the network and of our own event
loop.

Prior art: redis-rs's multiplexed connection, coredis's request queue. They give every request a
channel or an event; here the caller parks its own task, which at 100,000 requests a second is
half of the work saved, or is called back, which saves the task.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence, Sized
from typing import Any, Final

import hiredis
import msgspec
import trio
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from redstreamd.admission.accounts import Account
from redstreamd.admission.fair_queue import FairQueue
from redstreamd.admission.turns import Turns
from redstreamd.errors.defects import report_defect
from redstreamd.redisio import Arg
from redstreamd.redisio.redis_errors import NotSent, Problem, QueueFull, ReplyLost
from redstreamd.redisio.script import PackedCommand
from redstreamd.redisio.traffic import Traffic

#: Requests queued or awaiting their reply, together. 64 connections with 256 requests in flight each
#: (mcpio's limit) make 16,384; beyond that the server is the bottleneck and queueing more only makes
#: everybody's answer later.
MAX_REQUESTS: Final = 16_384

#: Bytes queued for sending. Eight of the largest messages mcpio lets in (8 MiB each): enough to ride
#: out a pause of the server, little enough for a small host. One larger request may pass alone.
MAX_QUEUED_BYTES: Final = 64 * 1024 * 1024

#: Bytes handed to the socket at once. What is not handed over can still be taken back or sent
#: elsewhere, and beyond the size of the socket's own buffer nothing is gained.
MAX_SEND_BYTES: Final = 256 * 1024

#: Seconds for the reader to get at replies that arrived while this process was held up.
SECOND_LOOK_SECONDS: Final = 0.01

#: Seconds of work that requests in flight may be for the server and for the reader of their replies. So long
#: may others have to wait when they come; with less, fewer are handled at once, which costs more.
WINDOW_SECONDS: Final = 0.004
#: The same while several clients have requests: as long as each waits for the others at the server.
SHARED_WINDOW_SECONDS: Final = 0.0015
#: The same while somebody got little, who is to wait for little.
LIGHT_WINDOW_SECONDS: Final = 0.001

#: A server that has nothing to do gets what is queued once it is half as much work as it had at once before,
#: before the pass ends: so it works on the first commands while the others are put together. At most so much
#: work, and at least as much: with less, replies come back in more and smaller parts, each of which costs a
#: pass.
EARLY_SECONDS: Final = 0.0002
LEAST_EARLY_SECONDS: Final = 0.000075
#: But not if it is so many bytes: writing them keeps us from our work for longer than is gained.
MAX_EARLY_BYTES: Final = 32 * 1024

#: So many requests are in flight whatever the tasks behind them take: with a server that is far away, few in
#: flight are few replies in a second.
STEPS_COUNT_BEYOND: Final = 16
#: The same while somebody got little.
LIGHT_STEPS_COUNT_BEYOND: Final = 4

#: Up to so many times as much work is at the server because those who got little are not deferred.
_LIGHT_TIMES: Final = 2
#: So many of theirs are sent before one that waits.
_MOST_AHEAD: Final = 8

#: So many times what a task takes are counted for the request that it waits for: replies behind that wait for
#: the task, and so do messages that arrive.
_STEP_TIMES: Final = 2

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
_SMALL_REPLY_BYTES: Final = 512
#: So many bytes of a deferred request count as one more request.
_QUEUED_BYTES: Final = 64 * 1024

_PENDING: Final = object()


class Request(msgspec.Struct, eq=False, gc=False):
    """One command on its way; made by `Pipeline.enqueue`.

    Attributes:
        pipeline: Where it is queued.
        then: Called with the reply, or with the exception that `reply` would raise; None once that is done,
            or if a task waits in `reply`.
        account: On whose behalf it is sent; None for the daemon itself.
        kind: The command's name, or a script's digest.
        seconds: How much work it is, for the server and for the reader of its reply.
        step: What is counted for the task that waits for the reply, if other clients have requests.
        deadline: When its reply is overdue, on trio's clock; infinite until it is sent.
        result: The reply, or an exception to raise, if nothing was called; None once it was returned.
        task: Is parked in `reply`.
        deferred: Its bytes while it waits for its turn.
    """

    # Invariant: task is set exactly while one is parked in reply(). Python's collector does not see these
    # objects, so whatever may refer to one is let go of when it is done: then, task, result.
    pipeline: Pipeline
    then: Callable[[Any], None] | None
    account: Account | None = None
    kind: Arg = ""
    seconds: float = 0.0
    step: float = 0.0
    deadline: float = math.inf
    result: Any = _PENDING
    task: Task | None = None
    deferred: bytes | None = None

    @property
    def sent(self) -> bool:
        """Whether its bytes were handed to the socket."""
        return self.deadline < math.inf

    async def reply(self) -> Any:
        """Wait for the reply and return it, undecoded. For one caller.

        Raises:
            RedisError: The server answered with an error.
            NotSent: The connection ended first; the command was not executed.
            ReplyLost: The connection ended first; the command may have been executed.

        If cancelled, an unsent request is taken back; ``sent`` tells.
        """
        if self.result is _PENDING:
            self.task = current_task()
            await wait_task_rescheduled(self._abort)
        result, self.result = self.result, None
        if isinstance(result, Exception):
            raise result
        return result

    async def reply_by(self, deadline: float) -> Any:
        """As `reply`, but no longer than until `deadline`, on trio's clock.

        Raises:
            trio.TooSlowError: There was no reply by then; an unsent request is taken back.
        """
        with trio.CancelScope(deadline=deadline):
            return await self.reply()
        if self.sent:
            # If this process was held up itself, the reply is there and not yet read.
            with trio.move_on_after(SECOND_LOOK_SECONDS):
                return await self.reply()
        raise trio.TooSlowError

    def send_now(self) -> None:
        """Send it before the pass ends, if it is the first in this pass that asks for that."""
        self.pipeline.send_now()

    def take_back(self) -> bool:
        """Take the request back if it is not sent; return whether it was. Else its reply still comes."""
        if self.deadline < math.inf:
            return False
        self.pipeline.withdraw(self)
        return True

    def _abort(self, _raise_cancel: Any) -> Abort:
        self.task = None
        self.take_back()
        return Abort.SUCCEEDED


class Pipeline:
    """The requests of one connection, in order.

    Attributes:
        sendable: Requests not yet sent that need not wait for their turn.
        oldest_deadline: When the oldest unanswered request is overdue; None if nothing is in flight.
    """

    def __init__(
        self,
        on_queued: Callable[[], None],
        turns: Turns | None = None,
        *,
        send_now: Callable[[], object] | None = None,
        one_at_a_time: bool = False,
        traffic: Traffic | None = None,
    ) -> None:
        """Begin empty.

        Args:
            on_queued: Called when something is to be sent where nothing was.
            turns: Say on whose behalf requests are sent; None: all are the daemon's own.
            send_now: Sends at once what is to be sent.
            one_at_a_time: Whether a request of a client is sent only when none is ahead of it: where most are
                large, and each is more than the server should have before it.
            traffic: Where it counts what is sent; None for a new one.
        """
        # Seconds of work that may be in flight while one client has requests, while several have, and while
        # one of these got little.
        self._lone_window = _NO_WORK_SECONDS if one_at_a_time else WINDOW_SECONDS
        self._shared_window = _NO_WORK_SECONDS if one_at_a_time else SHARED_WINDOW_SECONDS
        self._light_window = _NO_WORK_SECONDS if one_at_a_time else LIGHT_WINDOW_SECONDS
        self._on_queued = on_queued
        self._send_now = send_now
        # The pass in which that was called last, by `Turns.now`.
        self._sent_now_at = 0.0
        self._turns = self.turns = turns
        # Requests that wait for their turn, how many they are, and their size.
        self._deferred: FairQueue[Request] = FairQueue()
        self._waiting = 0
        # How many were sent ahead of them since one of them was.
        self._ahead = 0
        self._deferred_bytes = 0
        # Invariant: the sums of seconds and of step over _outbox and _in_flight.
        self._work = self._steps = 0.0
        # The most work that was sent since the server had nothing to do, and what is sent early when it has
        # nothing to do again.
        self._most_work = 0.0
        self._early_work = EARLY_SECONDS
        # Unsent requests in order, with their bytes. A dict, because cancellation removes from the middle.
        self._outbox: dict[Request, bytes] = {}
        self.sendable: Final[Sized] = self._outbox
        # Invariant: the sum of the sizes in _outbox.
        self._outbox_bytes = 0
        # Sent requests, in the order in which the server answers them.
        self._in_flight: deque[Request] = deque()
        self.oldest_deadline: float | None = None
        self._sent = 0
        self._traffic = traffic or Traffic()
        # Set once nothing more is taken.
        self._problem: Problem | None = None

    @property
    def queued(self) -> int:
        """Requests not yet sent, deferred ones included."""
        return len(self._outbox) + self._waiting

    @property
    def deferred(self) -> int:
        """Requests that wait for their turn."""
        return self._waiting

    @property
    def queued_bytes(self) -> int:
        """The packed size of the requests not yet sent."""
        return self._outbox_bytes + self._deferred_bytes

    @property
    def in_flight(self) -> int:
        """Requests sent and not answered, those of cancelled callers included."""
        return len(self._in_flight)

    @property
    def sent(self) -> int:
        """Requests sent so far."""
        return self._sent

    def enqueue(
        self,
        args: tuple[Arg, ...] | PackedCommand,
        then: Callable[[Any], None] | None = None,
        is_own: bool = False,
        calls: int = 1,
    ) -> Request:
        """Queue one command for sending.

        Args:
            args: The command and its arguments.
            then: Called with the reply, or with the exception that `Request.reply` would raise. None: a
                task calls `Request.reply`.
            is_own: Whether it is sent as the daemon's own, whoever it is for: never deferred.
            calls: How many calls a script serves.

        Raises:
            NotSent: The pipeline was closed.
            QueueFull: A bound is reached.
            TypeError: An argument is of a type that `Arg` excludes.
            ValueError: There are no arguments.
        """
        if self._problem is not None:
            raise NotSent(self._problem)
        kind: Arg
        if type(args) is PackedCommand:
            packed, kind = args.packed, args.name
        elif args:
            # hiredis's annotation means a tuple of one element; it takes any number.
            packed, kind = hiredis.pack_command(args), args[0]  # type: ignore[arg-type, index]
        else:
            # The server ignores an empty command, and every later reply would go to the wrong caller.
            raise ValueError("a command has a name")
        outbox, size = self._outbox, len(packed)
        if len(outbox) + len(self._in_flight) + self._waiting >= MAX_REQUESTS:
            raise QueueFull(cause=f"{MAX_REQUESTS} commands await their replies")
        if outbox and self._outbox_bytes + size > MAX_QUEUED_BYTES:
            raise QueueFull(cause=f"{self._outbox_bytes} bytes wait to be sent")
        turns = self._turns
        account = None if turns is None or is_own else turns.account
        if account is None:
            request = Request(self, then)
        else:
            if kind == "EVALSHA":
                kind = args[1]  # type: ignore[index]
                # Every further call takes a command, at least.
                seconds = SCRIPT_SECONDS + size * SCRIPT_BYTE_SECONDS + (calls - 1) * COMMAND_SECONDS
            else:
                seconds = COMMAND_SECONDS + size * BYTE_SECONDS
            if account.reply_bytes is not None:
                seconds += account.reply_bytes.get(kind, 0.0) * (REPLY_BYTE_SECONDS + READ_BYTE_SECONDS)
            request = Request(self, then, account, kind, seconds)
            window = self._lone_window
            steps = self._steps
            if turns.is_shared:  # type: ignore[union-attr]
                # Not for a lone client: nobody else waits for its tasks.
                window = self._window
                if then is None:
                    request.step = _STEP_TIMES * account.part
                    steps += request.step
            work = self._work + seconds
            if self._waiting or (work + steps > window and not self._has_room(work, window)):
                if (
                    account.queued
                    or work > _LIGHT_TIMES * window
                    or not turns.let_pass(account.parent or account)  # type: ignore[union-attr]
                ):
                    self._defer(account, request, packed)
                    return request
                # Whoever got little is not deferred.
                self._let_one_follow()
            self._work += seconds
            if request.step:
                self._steps += request.step
            account.running += 1
            turns.redis_seconds += seconds  # type: ignore[union-attr]
        if not outbox:
            self._on_queued()
        outbox[request] = packed
        self._outbox_bytes += size
        if self._work >= self._early_work and not self._in_flight and self._outbox_bytes <= MAX_EARLY_BYTES:
            self.send_now()
        return request

    def _let_one_follow(self) -> None:
        """Send one that waits after some that went ahead of it: else its turn might never come."""
        self._ahead += 1
        if self._ahead >= _MOST_AHEAD and self._waiting:
            self._ahead = 0
            if not self._outbox:
                self._on_queued()
            self._let_go(*self._deferred.pop())

    def _has_room(self, work: float, window: float) -> bool:
        """Return whether one more request may be in flight, although tasks may take long to read the replies.

        Args:
            work: How much work there would be then.
            window: How much there may be.
        """
        return not self._work or (work <= window and self._has_few())

    def _has_few(self) -> bool:
        """Return whether so few requests are in flight that one more may be, whatever tasks take."""
        is_light = self._turns is not None and self._turns.is_light
        most = LIGHT_STEPS_COUNT_BEYOND if is_light else STEPS_COUNT_BEYOND
        return len(self._outbox) + len(self._in_flight) < most

    def send_now(self) -> None:
        """Send what is queued before the pass ends, once in a pass: those who come later share a write."""
        turns = self._turns
        if self._send_now is not None and turns is not None and turns.now != self._sent_now_at:
            self._sent_now_at = turns.now
            self._send_now()

    def end_pass(self) -> None:
        """Send nothing more before the pass ends: it is over, and what is queued is about to be sent."""
        if self._turns is not None:
            self._sent_now_at = self._turns.now

    @property
    def _window(self) -> float:
        turns = self._turns
        if turns is None or not turns.is_shared:
            return self._lone_window
        return self._light_window if turns.is_light else self._shared_window

    def _defer(self, account: Account, request: Request, packed: bytes) -> None:
        request.deferred = packed
        self._waiting += 1
        self._deferred_bytes += len(packed)
        self._deferred.push(account, request)
        account.queue(1 + len(packed) // _QUEUED_BYTES)

    def _not_deferred(self, account: Account, request: Request) -> bytes:
        """Take note that a request is not deferred any more, and return its bytes."""
        packed, request.deferred = request.deferred or b"", None
        self._waiting -= 1
        self._deferred_bytes -= len(packed)
        account.queue(-1 - len(packed) // _QUEUED_BYTES)
        self._turns.dequeued(account)  # type: ignore[union-attr]
        return packed

    def _admit(self) -> None:
        """Send deferred requests as far as the window allows."""
        outbox = self._outbox
        was_empty = not outbox
        now = self._turns.now if self._turns is not None else 0.0
        window = self._window
        while self._waiting and (
            self._work + self._steps < window or (self._work < window and self._has_few())
        ):
            account, request = self._deferred.pop()
            self._let_go(account, request)
            account.charge(request.seconds, now)
        if was_empty and outbox:
            self._on_queued()

    def _let_go(self, account: Account, request: Request) -> None:
        """Queue a request for sending that was deferred."""
        packed = self._not_deferred(account, request)
        self._work += request.seconds
        self._steps += request.step
        account.running += 1
        self._outbox[request] = packed
        self._outbox_bytes += len(packed)

    def withdraw(self, request: Request) -> None:
        """Take back a request that is not sent."""
        account = request.account
        if request.deferred is not None:
            if account is not None and self._deferred.remove(account, request):
                self._not_deferred(account, request)
        # Not there if the connection has ended.
        elif (packed := self._outbox.pop(request, None)) is not None:
            self._outbox_bytes -= len(packed)
            if account is not None:
                account.running -= 1
                self._work -= request.seconds
                self._steps -= request.step
                if not self._in_flight and not self._outbox:
                    self._work = self._steps = 0.0
                if self._waiting:
                    self._admit()
        request.then = None

    def replace(self, request: Request, args: tuple[Arg, ...]) -> None:
        """Let a request that is not sent send something else, no longer than before, in the same place.

        It is taken for as much work as before.

        Args:
            request: The request; nothing is done if the connection has ended.
            args: As in `enqueue`.
        """
        packed = hiredis.pack_command(args)  # type: ignore[arg-type]
        if (before := request.deferred) is not None:
            request.deferred = packed
            self._deferred_bytes += len(packed) - len(before)
            if request.account is not None:
                request.account.queue(len(packed) // _QUEUED_BYTES - len(before) // _QUEUED_BYTES)
        elif request in self._outbox:
            self._outbox_bytes += len(packed) - len(self._outbox[request])
            self._outbox[request] = packed

    def take(self, deadline: float) -> bytes:
        """Return the bytes to send next. From here on the requests they hold count as sent.

        Args:
            deadline: When their replies are overdue.
        """
        outbox = self._outbox
        batch = outbox
        if self._outbox_bytes > MAX_SEND_BYTES:
            batch = self._first()
        for request in batch:
            request.deadline = deadline
        if not self._in_flight:
            self.oldest_deadline = deadline
            # What had no client, as a PING, says nothing of clients.
            if self._most_work:
                self._early_work = min(max(self._most_work / 2, LEAST_EARLY_SECONDS), EARLY_SECONDS)
            self._most_work = 0.0
        self._most_work = max(self._most_work, self._work)
        self._in_flight.extend(batch)
        data = b"".join(batch.values())
        traffic = self._traffic
        self._sent += len(batch)
        traffic.commands += len(batch)
        traffic.sent_bytes += len(data)
        self._outbox_bytes -= len(data)
        if batch is outbox:
            outbox.clear()
        else:
            for request in batch:
                del outbox[request]
        return data

    def _first(self) -> dict[Request, bytes]:
        """Return as much of what is to be sent as the socket gets at once."""
        batch: dict[Request, bytes] = {}
        size = 0
        for request, packed in self._outbox.items():
            size += len(packed)
            if batch and size > MAX_SEND_BYTES:
                break
            batch[request] = packed
        return batch

    def answer(
        self,
        replies: Sequence[Any],
        on_push: Callable[[list[Any]], None],
        *,
        size: int = 0,
        seconds: float = math.inf,
    ) -> Sequence[Any]:
        """Give each reply to the oldest request in flight; return those that were not given.

        That is from the first on that has no request; and, while there are requests, from the first on for
        which there was no time. A caller that has gone gets nothing.

        Args:
            replies: The replies, or exceptions in their place, in order.
            on_push: Called with each push notification among them.
            size: How many bytes a reply has, in the mean.
            seconds: For so long at most, but at least one reply.
        """
        in_flight, turns = self._in_flight, self._turns
        next_request, clock, push = in_flight.popleft, time.perf_counter, hiredis.PushNotification
        until = clock() + seconds
        is_large = size > _SMALL_REPLY_BYTES
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
                self._work -= request.seconds
                if request.step:
                    self._steps -= request.step
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
        self.oldest_deadline = in_flight[0].deadline if in_flight else None
        if not in_flight and not self._outbox:
            # Nothing is left of an empty pipeline but errors of rounding.
            self._work = self._steps = 0.0
        if self._waiting and self._work < self._window:
            self._admit()
        return replies[given:] if given < len(replies) else ()

    def close(self, problem: Problem) -> None:
        """Refuse every further command because of `problem`; those before are not affected."""
        self._problem = problem

    def abandon(self, problem: Problem) -> None:
        """Close, and fail every request: no reply will come any more."""
        self.close(problem)
        while self._waiting:
            self._let_go(*self._deferred.pop())
        lost: list[Exception] = [ReplyLost(problem) for _ in self._in_flight]
        unsent = [NotSent(problem) for _ in self._outbox]
        self._in_flight.extend(self._outbox)
        self._outbox.clear()
        self._outbox_bytes = 0
        self.answer([*lost, *unsent], _no_push)


def _no_push(_message: list[Any]) -> None: ...
