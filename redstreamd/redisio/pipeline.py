"""The requests on one connection: queued, then in flight, then answered in the same order.

Owns the order, the bounds, and the exact line between sent and not sent. It does no I/O and does
not know what goes over the wire beyond its packed length.

A request of a client is sent while little work is ahead of it (`WorkWindow`); else it is deferred
(`DeferredRequests`), unless the client got little. The daemon's own requests are never deferred.
"""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import Any, Final

import hiredis

from redstreamd.admission.accounts import Account
from redstreamd.admission.turns import Turns
from redstreamd.redisio import Arg
from redstreamd.redisio.awaited_replies import AwaitedReplies
from redstreamd.redisio.deferred_requests import DeferredRequests
from redstreamd.redisio.joint_calls import JointCalls
from redstreamd.redisio.observed_costs import InputPolls, ObservedCosts
from redstreamd.redisio.redis_errors import NotSent, Problem, QueueFull, ReplyLost
from redstreamd.redisio.redis_request import Place, Request
from redstreamd.redisio.script import JoinableCall, PackedCommand, ScriptCall, Write
from redstreamd.redisio.traffic import Traffic
from redstreamd.redisio.work_window import (
    BYTE_SECONDS,
    COMMAND_SECONDS,
    EARLY_SECONDS,
    LEAST_EARLY_SECONDS,
    READ_BYTE_SECONDS,
    REPLY_BYTE_SECONDS,
    SCRIPT_BYTE_SECONDS,
    SCRIPT_SECONDS,
    STEP_TIMES,
    WorkWindow,
)

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

#: So many bytes are not sent before a pass ends, however much work they are: writing them keeps us from our
#: work for longer than is gained.
MAX_EARLY_BYTES: Final = 32 * 1024

#: Up to so many times as much work is at the server because those who got little are not deferred.
_LIGHT_TIMES: Final = 2
#: So many of theirs are sent before one that waits.
_MOST_AHEAD: Final = 8


class Pipeline:
    """The requests of one connection, in order.

    Attributes:
        sendable: Requests not yet sent that need not wait for their turn.
        awaited: Those that are sent.
    """

    def __init__(
        self,
        on_queued: Callable[[], None],
        turns: Turns | None = None,
        *,
        polls: InputPolls | None = None,
        joint: JointCalls | None = None,
        send_now: Callable[[], object] | None = None,
        one_at_a_time: bool = False,
        traffic: Traffic | None = None,
    ) -> None:
        """Begin empty.

        Args:
            on_queued: Called when something is to be sent where nothing was.
            turns: Say on whose behalf requests are sent; None: all are the daemon's own.
            polls: When it was looked for input; None: what requests take is not observed.
            joint: Where calls are joined, those of other connections, too; None: in some of its own.
            send_now: Sends at once what is to be sent.
            one_at_a_time: Whether a request of a client is sent only when none is ahead of it: where most are
                large, and each is more than the server should have before it.
            traffic: Where it counts what is sent; None for a new one.
        """
        self._on_queued = on_queued
        self._send_now = send_now
        # The pass in which that was called last, by `Turns.now`.
        self._sent_now_at = 0.0
        self._turns = self.turns = turns
        self._joint = JointCalls() if joint is None else joint
        self._deferred = DeferredRequests(turns)
        # How many were sent ahead of these since one of them was.
        self._ahead = 0
        # Invariant: of what is in _outbox and _in_flight.
        self._window = WorkWindow(turns, one_at_a_time=one_at_a_time)
        # Unsent requests in order, with their bytes. A dict, because cancellation removes from the middle.
        self._outbox: dict[Request, bytes] = {}
        self.sendable: Final[Sized] = self._outbox
        # Invariant: the sum of the sizes in _outbox.
        self._outbox_bytes = 0
        self.awaited: Final = AwaitedReplies(
            turns, self._window, self._deferred, self._admit, ObservedCosts(polls or InputPolls())
        )
        self._in_flight = self.awaited.requests
        self._dear = self.awaited.costs.dear
        # From how much work on it is sent before the pass ends.
        self._early = EARLY_SECONDS
        self._sent = 0
        self._traffic = traffic or Traffic()
        # Set once nothing more is taken.
        self._problem: Problem | None = None

    @property
    def is_closed(self) -> bool:
        """Whether it takes no more commands."""
        return self._problem is not None

    @property
    def queued(self) -> int:
        """Requests not yet sent, deferred ones included."""
        return len(self._outbox) + self._deferred.count

    @property
    def deferred(self) -> int:
        """Requests that wait for their turn."""
        return self._deferred.count

    @property
    def queued_bytes(self) -> int:
        """The packed size of the requests not yet sent."""
        return self._outbox_bytes + self._deferred.bytes

    @property
    def in_flight(self) -> int:
        """Requests sent and not answered, those of cancelled callers included."""
        return len(self._in_flight)

    @property
    def sent(self) -> int:
        """Requests sent so far."""
        return self._sent

    def submit(self, write: Write, then: Callable[[Any], None] | None, _key: object = None) -> Request:
        """Queue a command or a script, see `CommandQueue.submit`; any key is one of this server."""
        if type(write) is PackedCommand:
            return self.enqueue(write, then)
        if type(write) is JoinableCall:
            if self._problem is not None:
                raise NotSent(self._problem)
            return self._joint.add(self, write, then)
        if self._joint:
            self._joint.queue_all()
        return self.enqueue(
            write.by_digest if type(write) is ScriptCall else write,  # type: ignore[arg-type]
            then,
        )

    def enqueue(
        self,
        args: tuple[Arg, ...] | PackedCommand,
        then: Callable[[Any], None] | None = None,
        is_own: bool = False,
        calls: int = 1,
        tasks: int = 0,
    ) -> Request:
        """Queue one command for sending.

        Args:
            args: The command and its arguments.
            then: Called with the reply, or with the exception that `Request.reply` would raise. None: a
                task calls `Request.reply`.
            is_own: Whether it is sent as the daemon's own, whoever it is for: never deferred.
            calls: How many calls a script serves.
            tasks: How many tasks `then` wakes.

        Raises:
            NotSent: The pipeline was closed.
            QueueFull: A bound is reached.
            TypeError: An argument is of a type that `Arg` excludes.
            ValueError: There are no arguments.
        """
        if self._problem is not None:
            raise NotSent(self._problem)
        kind: Arg
        place: Place | None
        if type(args) is PackedCommand:
            packed, kind = args.packed, args.name
        elif args:
            # hiredis's annotation means a tuple of one element; it takes any number.
            packed, kind = hiredis.pack_command(args), args[0]  # type: ignore[arg-type, index]
        else:
            # The server ignores an empty command, and every later reply would go to the wrong caller.
            raise ValueError("a command has a name")
        outbox, size = self._outbox, len(packed)
        window, deferred = self._window, self._deferred.count
        count = len(outbox) + len(self._in_flight)
        if count + deferred >= MAX_REQUESTS:
            raise QueueFull(cause=f"{MAX_REQUESTS} commands await their replies")
        outbox_bytes = self._outbox_bytes + size
        if outbox_bytes > MAX_QUEUED_BYTES and outbox:
            raise QueueFull(cause=f"{self._outbox_bytes} bytes wait to be sent")
        turns = self._turns
        account = None if turns is None or is_own else turns.account
        if account is None:
            request = Request(self, then)
        else:
            if kind == "EVALSHA":
                kind = args[1]  # type: ignore[index]
                # The last key names the group, too, where it is about one.
                place = (kind, args[2 + args[2]])  # type: ignore[index, operator]
                # Every further call takes a command, at least.
                seconds = SCRIPT_SECONDS + size * SCRIPT_BYTE_SECONDS + (calls - 1) * COMMAND_SECONDS
            else:
                place = None if type(args) is PackedCommand else args[:3]  # type: ignore[index]
                seconds = COMMAND_SECONDS + size * BYTE_SECONDS
            if account.reply_bytes is not None:
                seconds += account.reply_bytes.get(kind, 0.0) * (REPLY_BYTE_SECONDS + READ_BYTE_SECONDS)
            request = Request(self, then, account, kind, seconds, place)
            if place is not None and self._dear:
                seconds = self._observed(request)
            if not count:
                # Nothing is left but errors of rounding.
                window.seconds = window.steps = 0.0
            limit, step = window.lone, 0.0
            if turns.is_shared:  # type: ignore[union-attr]
                limit = window.limit
                if then is None or tasks:
                    # Not for a lone client: nobody else waits for its tasks.
                    request.step = step = STEP_TIMES * account.part * (tasks or 1)
            work = window.seconds + seconds
            if deferred or (work + window.steps + step > limit and not window.takes(work, limit, count)):
                if (
                    account.queued
                    or work > _LIGHT_TIMES * limit
                    or not turns.let_pass(account.parent or account)  # type: ignore[union-attr]
                ):
                    self._deferred.push(account, request, packed, calls)
                    return request
                # Whoever got little is not deferred.
                self._let_one_follow()
                work, outbox_bytes = window.seconds + seconds, self._outbox_bytes + size
            window.seconds = work
            if step:
                window.steps += step
            account.running += 1
            turns.redis_seconds += seconds  # type: ignore[union-attr]
        if not outbox:
            self._on_queued()
        outbox[request] = packed
        self._outbox_bytes = outbox_bytes
        if window.seconds >= self._early and not self._in_flight and outbox_bytes <= MAX_EARLY_BYTES:
            self.send_now()
        return request

    def _let_one_follow(self) -> None:
        """Send one that waits after some that went ahead of it: else its turn might never come."""
        self._ahead += 1
        if self._ahead >= _MOST_AHEAD and self._deferred.count:
            self._ahead = 0
            if not self._outbox:
                self._on_queued()
            self._send_deferred()

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

    def _admit(self) -> None:
        """Send deferred requests as far as the window allows."""
        outbox, deferred, window = self._outbox, self._deferred, self._window
        was_empty = not outbox
        now = self._turns.now if self._turns is not None else 0.0
        limit = window.limit
        while deferred.count and window.is_open(limit, len(outbox) + len(self._in_flight)):
            account, request = self._send_deferred()
            account.charge(request.seconds, now)
        if was_empty and outbox:
            self._on_queued()

    def _send_deferred(self) -> tuple[Account, Request]:
        """Queue the next deferred request for sending; return it and its account."""
        account, request, packed = self._deferred.pop()
        if self._dear or request.observed:
            # That may have been found while it waited.
            self._observed(request)
        self._window.add(request)
        account.running += 1
        self._outbox[request] = packed
        self._outbox_bytes += len(packed)
        return account, request

    def _observed(self, request: Request) -> float:
        """Add what was observed to what a request is taken to take; return that."""
        observed = self._dear.get(request.place, 0.0) if request.place is not None else 0.0
        request.seconds += observed - request.observed
        request.observed = observed
        return request.seconds

    def withdraw(self, request: Request) -> None:
        """Take back a request that is not sent."""
        account = request.account
        if request.deferred is not None:
            if account is not None:
                self._deferred.remove(account, request)
        # Not there if the connection has ended.
        elif (packed := self._outbox.pop(request, None)) is not None:
            self._outbox_bytes -= len(packed)
            if account is not None:
                account.running -= 1
                self._window.remove(request)
                if self._deferred.count:
                    self._admit()
        request.then = None

    def replace(self, request: Request, args: tuple[Arg, ...], calls: int) -> None:
        """Let a request that is not sent send something else, no longer than before, in the same place.

        It is taken for as much work as before.

        Args:
            request: The request; nothing is done if the connection has ended.
            args: As in `enqueue`.
            calls: As in `enqueue`.
        """
        packed = hiredis.pack_command(args)  # type: ignore[arg-type]
        if request.deferred is not None:
            if request.account is not None:
                self._deferred.replace(request.account, request, packed, calls)
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
        awaited = self.awaited
        if not self._in_flight:
            awaited.oldest_deadline = deadline
        self._in_flight.extend(batch)
        work, turns = self._window.seconds, self._turns
        if turns is None or turns.is_shared:
            self._early = EARLY_SECONDS
        elif work > LEAST_EARLY_SECONDS:
            # For a part that is sent early this is too little. The other part corrects it when the pass ends.
            self._early = min(EARLY_SECONDS, max(work / 2, LEAST_EARLY_SECONDS))
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

    def close(self, problem: Problem) -> None:
        """Refuse every further command because of `problem`; those before are not affected."""
        self._problem = problem

    def abandon(self, problem: Problem) -> None:
        """Close, and fail every request: no reply will come any more."""
        self.close(problem)
        while self._deferred.count:
            self._send_deferred()
        lost: list[Exception] = [ReplyLost(problem) for _ in self._in_flight]
        unsent = [NotSent(problem) for _ in self._outbox]
        self._in_flight.extend(self._outbox)
        self._outbox.clear()
        self._outbox_bytes = 0
        self.awaited.answer([*lost, *unsent], _no_push)


def _no_push(_message: list[Any]) -> None: ...
