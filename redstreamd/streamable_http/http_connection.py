"""One HTTP connection of a client: its stream read, answered, bounded and closed.

What a request means is the `Site`'s; what the bytes mean is the parser's. One task reads and serves. A plain
request costs neither a task nor a cancel scope: whoever answers writes, and a deadline that only moves later
is an assignment (`_wait_until`).
"""

from __future__ import annotations

import contextlib
import contextvars
import enum
import math
import secrets
import time
from collections.abc import Awaitable
from typing import Final

import msgspec
import trio

from redstreamd.admission.accounts import Account, Held, Level, Peer
from redstreamd.admission.memory import STEP_BYTES
from redstreamd.admission.turns import ACCOUNT, MAX_QUEUED, TURN_SECONDS, turns
from redstreamd.mcpio.client_connection import (
    EOF_GRACE_SECONDS,
    FINAL_WRITE_SECONDS,
    FIRST_REQUEST_SECONDS,
    READ_BYTES,
)
from redstreamd.mcpio.closing import discard_input, shut_down
from redstreamd.mcpio.connection_events import (
    ConnectionClosed,
    ConnectionOpened,
    Ending,
    MemoryExceeded,
    contained,
)
from redstreamd.mcpio.connection_state import ConnectionStatistics
from redstreamd.mcpio.late_event import LateEvent
from redstreamd.mcpio.lifecycle import Lifecycle, Phase
from redstreamd.mcpio.outbox import Outbox
from redstreamd.mcpio.peers import UNKNOWN
from redstreamd.mcpio.session import LONG_MESSAGE, Task
from redstreamd.policy import Principal
from redstreamd.stream_io import nonblocking_receiver, receiver
from redstreamd.streamable_http.http_messages import Answer, Client, Handler, Site, Surroundings
from redstreamd.streamable_http.http_parser import HttpParser
from redstreamd.streamable_http.http_responder import HttpResponder
from redstreamd.streamable_http.http_responses import CONTINUE, refusal, whole
from redstreamd.streamable_http.request_rules import Fault, RequestStart

#: Of a client that does not wait for its responses so much is kept; then it is not read from.
MAX_AHEAD_BYTES: Final = 64 * 1024
#: A body that is not wanted is read, so that the connection may go on, if it has so many bytes at most.
MAX_SKIPPED_BYTES: Final = 64 * 1024
#: What the outbox may hold beyond the longest message: the head of a response.
_HEAD_BYTES: Final = 16 * 1024
# What a request is taken to cost before it is served, and each byte of a long one.
_REQUEST_SECONDS: Final = 0.00015
_BYTE_SECONDS: Final = 1e-7
# What it takes to receive as much as is read at once, and to keep it.
_READ_SECONDS: Final = 0.0002


class _Waits(enum.Enum):
    """What a connection waits for."""

    FIRST = enum.auto()
    """The first byte of its first request."""
    HEAD = enum.auto()
    """The rest of a head."""
    BODY = enum.auto()
    """The rest of a body."""
    RESPONSE = enum.auto()
    """The end of a response, or its own work; there is no deadline."""
    GRACE = enum.auto()
    """The end of a response, and the client sends nothing more."""
    NEXT = enum.auto()
    """The next request."""


class HttpConnection:
    """Serves one client over one byte stream.

    Behaviour:
        Requests are served one after the other. What is no correct request is answered with an error, and
        the connection ends. When the client stops sending, a response in progress gets `EOF_GRACE_SECONDS`;
        then, or when the stream breaks, or when the client leaves too much unread, the client has gone,
        and who serves the request is told.

    Resource handling:
        `run` owns the stream and closes it.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        site: Site,
        surroundings: Surroundings,
        *,
        principal: Principal,
        socket: str = "",
        peer: Peer | None = None,
        received: bytes = b"",
    ) -> None:
        """Serve `stream`.

        Args:
            stream: Both directions.
            site: What is served.
            surroundings: Bounds and budgets, and where events go.
            principal: Of the listener, or by the client's certificate.
            socket: The address of the listening socket that it came through, if any.
            peer: Who connected; None if that is not known.
            received: What was read of the stream already.
        """
        self.id = secrets.token_hex(8)
        self.socket = socket
        self._stream = stream
        self._site = site
        self._limits = limits = surroundings.limits
        self._http_limits = surroundings.http_limits
        self.counts = surroundings.counts
        self._principal = principal
        self._peer = peer
        self._accounts = surroundings.accounts
        self._account = self._accounts.open(principal, peer or UNKNOWN, self.id)
        self._share = surroundings.memory.open(self._account, self)
        self._report = contained(surroundings.report)
        self._parser = HttpParser(
            max_head_bytes=self._http_limits.max_head_bytes,
            max_fields=self._http_limits.max_fields,
            max_body_bytes=limits.max_message_bytes,
        )
        if received:
            self._parser.feed(received)
        self._receive = receiver(stream)
        self._lifecycle = Lifecycle()
        self._handler: Handler | None = None
        # The request that is read or served: its head, once taken, and its body, once that is whole.
        self._start: RequestStart | None = None
        self._body: bytes | None = None
        # Whether it was refused, and what comes of its body is dropped.
        self._is_skipping = False
        # In progress; None while there is none.
        self._response: HttpResponder | None = None
        self._requests = 0
        self._cut_off = 0
        self._waits = _Waits.FIRST
        # When what it waits for is overdue, in trio's time; never later than `_deadline`.
        self._due = math.inf
        # When a response in progress is cut off, because the connection is to end.
        self._deadline = math.inf
        self._opened_at = -math.inf
        # Around what waits for input; cancelled to have the state looked at again.
        self._reading = trio.CancelScope()
        # Whether it waits for input only to notice that the client disconnects.
        self._is_watching = False
        self._input_ended = LateEvent()
        # Around the work of a handler that takes time.
        self._working: trio.CancelScope | None = None
        self._closed = LateEvent()
        # Bytes counted in the share.
        self._held = 0
        self._unread_bytes = 0
        # None unless tasks can be started: a nursery that is closing raises.
        self._nursery: trio.Nursery | None = None
        self._outbox = Outbox(
            stream,
            limits.max_outbox_bytes + _HEAD_BYTES,
            start_soon=self._start_soon,
            on_overflow=self._on_overflow,
            on_broken=self._on_broken,
            unread_seconds=limits.unread_seconds,
            on_unread=self._on_unread,
            share=self._share,
        )

    def apply_limits(self) -> None:
        """Apply the limits that were given, which have changed since."""
        limits, http = self._limits, self._http_limits
        self._parser.reconfigure(
            max_head_bytes=http.max_head_bytes,
            max_fields=http.max_fields,
            max_body_bytes=limits.max_message_bytes,
        )
        self._outbox.reconfigure(limits.max_outbox_bytes + _HEAD_BYTES, unread_seconds=limits.unread_seconds)

    def statistics(self) -> ConnectionStatistics:
        """Return a snapshot; each request may have an era of its own."""
        return ConnectionStatistics(
            connection_id=self.id,
            era=None,
            requests=self._requests,
            direct=0,
            requests_in_flight=self._in_flight,
            outbox_bytes=self._outbox.size,
        )

    @property
    def process(self) -> Account:
        """The account of the client's process."""
        return self._account.path()[Level.PROCESS]

    @property
    def requests(self) -> int:
        """How many requests of HTTP it has received so far."""
        return self._requests

    @property
    def load(self) -> int:
        """How much would be cut off if it were closed now: see `ClientConnection.load`."""
        in_flight = self._in_flight
        return in_flight + 1 if in_flight else int(self._response is not None)

    @property
    def _in_flight(self) -> int:
        return 0 if self._handler is None else self._handler.requests_in_flight

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the client until it disconnects or we close; started once the stream is being read.

        Cancellation closes the stream at once. To be called once.
        """
        began = self._opened_at = trio.current_time()
        self._report(ConnectionOpened(self.id, self._principal))
        self.counts.connections += 1
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                try:
                    self._handler = self._connect()
                    self._wait_for(_Waits.FIRST, self._http_limits.head_seconds)
                    task_status.started()
                    await self._serve(self._handler)
                    self._lifecycle.stop_reading()
                    await self._finish(nursery)
                    nursery.cancel_scope.cancel()
                finally:
                    self._nursery = None
        finally:
            ending = self._lifecycle.close()
            self._cut()
            with trio.CancelScope(shield=True):
                if self._handler is not None:
                    await self._handler.aclose()
                await trio.aclose_forcefully(self._stream)
            self.counts.connections -= 1
            self._outbox.close()
            self._parser.stop()
            self._share.close()
            self._accounts.close(self._account)
            self._closed.set()
            self._report(
                ConnectionClosed(
                    self.id,
                    self._principal,
                    ending=ending,
                    open_seconds=trio.current_time() - began,
                    requests=self._requests,
                    cut_off=self._cut_off,
                    limit_bytes={
                        Ending.OVERFLOW: self._limits.max_outbox_bytes,
                        Ending.MEMORY: self._limits.max_memory_bytes,
                    }.get(ending),
                    peer=self._peer,
                    unread_bytes=self._unread_bytes,
                )
            )
            # What is left has no cycle of references, and so is freed at once.
            self._handler = None
            self._outbox.detach()
            self._share.detach()

    def _connect(self) -> Handler:
        handler = self._site.connected(
            Client(
                self.id,
                self._principal,
                self._peer or UNKNOWN,
                self._start_soon,
                self._outbox.wait_written,
                lambda: self._lifecycle.phase is not Phase.OPEN,
                lambda: self._outbox.size,
            )
        )
        if self._lifecycle.phase is Phase.DRAINING:
            handler.drain()
        return handler

    # The end

    async def drain(self, timeout_seconds: float) -> bool:
        """Let the request that has begun be answered, serve no other, then close; returns once closed.

        A new connection has `FIRST_REQUEST_SECONDS` for its first request. A response in progress after
        `timeout_seconds` is cut off; the client has `FINAL_WRITE_SECONDS` more to read. `run` must have been
        called, or be called next. Cancelling this does not stop the draining.

        Returns:
            Whether every request was answered by its handler.
        """
        self._end(Ending.DRAINED, timeout_seconds)
        if self._handler is not None:
            self._handler.drain()
        await self._closed.wait()
        return self._cut_off == 0

    def give_way(self, why: str) -> None:
        """Give its place to another client: refuse the request in progress, if there is one, and close.

        Its place is free at once.
        """
        self._account.hold(Held.CONNECTIONS, -1)
        self._end(Ending.GAVE_WAY, 0)
        self._cut(Fault(503, why))

    def _end(self, event: Ending, timeout_seconds: float = math.inf) -> None:
        """Go on to the phase that follows an event, within so many seconds."""
        phase = self._lifecycle.on(event)
        if phase is Phase.CLOSED:
            if self._nursery is not None:
                self._nursery.cancel_scope.cancel()
            return
        self._deadline = min(self._deadline, trio.current_time() + timeout_seconds)
        self._due = min(self._due, self._deadline)
        if self._working is not None:
            self._working.deadline = self._deadline
        self._reading.cancel()

    def _cut(self, fault: Fault | None = None) -> None:
        """Cut off a response in progress; say so if nothing of it was sent."""
        response = self._response
        if response is None:
            return
        self._cut_off += 1
        on_gone, response.on_gone = response.on_gone, None
        if fault is not None and not response.has_begun:
            response.answer(refusal(fault))
        response.gone()
        self._response = None
        if on_gone is not None:
            on_gone()

    def _on_overflow(self) -> None:
        self._end(Ending.OVERFLOW)

    def _on_broken(self) -> None:
        self._end(Ending.BROKEN)

    def _on_unread(self) -> None:
        self._unread_bytes = self._outbox.size
        self._end(Ending.UNREAD)

    async def _finish(self, nursery: trio.Nursery) -> None:
        """Wait until the client has read what it is sent, and see that closing does not take that away."""
        ending = self._lifecycle.ending
        if ending in (Ending.EOF, Ending.IDLE):
            if self._outbox.size:
                with trio.move_on_after(self._limits.unread_seconds):
                    await self._outbox.wait_written()
            return
        nursery.start_soon(discard_input, self._stream, self._input_ended)
        most = trio.current_time() + self._limits.unread_seconds
        last = max(self._deadline, trio.current_time() + FINAL_WRITE_SECONDS)
        with trio.move_on_at(min(most, last)):
            await self._outbox.wait_written()
        await shut_down(self._stream, self._input_ended)

    # Reading

    async def _serve(self, handler: Handler) -> None:
        """Serve requests until the connection is to end."""
        reading = (Phase.OPEN, Phase.DRAINING)
        while self._lifecycle.phase in reading:
            work = None
            with trio.CancelScope(deadline=self._due) as self._reading:
                work = await self._read(handler)
            if work is not None:
                # Not within the other scope, whose deadline may have passed long ago.
                with trio.CancelScope(deadline=self._deadline) as self._working:
                    await work
                is_late, self._working = self._working.cancelled_caught, None
                if is_late:
                    self._stop()
            elif self._reading.cancelled_caught and trio.current_time() >= self._due:
                self._on_overdue()

    async def _read(self, handler: Handler) -> Awaitable[None] | None:
        """Read and serve; return at the end, or with what has to be awaited first."""
        parser, lifecycle = self._parser, self._lifecycle
        while True:
            if self._response is not None:
                await self._watch()
                continue
            if lifecycle.phase is not Phase.OPEN and not await self._may_go_on():
                return None
            if self._start is not None and self._body is not None:
                await self._take_turn(len(self._body))
                start, body = self._start, self._body
                self._start = self._body = None
                self._requests += 1
                self._response = response = HttpResponder(self, start)
                serving = handler.serve(start.head, body, response)
                if serving is not None:
                    return serving
                continue
            parsed = parser.take()
            if parsed is None:
                await self._receive_more()
            elif isinstance(parsed, bytes):
                if self._is_skipping:
                    self._is_skipping = False
                    self._wait_for(_Waits.NEXT, self._http_limits.idle_seconds)
                else:
                    self._body = parsed
                    self._wait_for(_Waits.RESPONSE, math.inf)
            elif isinstance(parsed, Fault):
                self._refuse(parsed)
                return None
            else:
                self._start = parsed
                self._wait_for(_Waits.BODY, self._http_limits.body_seconds)
                checked = handler.check(parsed.head)
                if checked is None:
                    self._accept(parsed)
                elif isinstance(checked, Answer):
                    self._turn_away(parsed, checked)
                else:
                    return self._check_late(parsed, checked)

    async def _watch(self) -> None:
        """Read on while a response is in progress, to notice that the client disconnects."""
        if self._waits is _Waits.GRACE or self._parser.unparsed >= MAX_AHEAD_BYTES:
            self._is_watching = True
            try:
                await trio.sleep_forever()
            finally:
                self._is_watching = False
        await self._receive_more()

    async def _receive_more(self) -> None:
        """Feed the parser with what the client sends."""
        self._is_watching = True
        try:
            data = await self._receive(READ_BYTES)
        except trio.BrokenResourceError:
            self._end(Ending.BROKEN)
            return
        finally:
            self._is_watching = False
        if data:
            self._parser.feed(bytes(data))
            if self._held or self._parser.held >= STEP_BYTES:
                self._count()
            if len(data) == READ_BYTES and (turn := turns()).is_shared:
                # Many clients may send long bodies at the same time, which are copied as they come.
                await turn.turn(self._account, _READ_SECONDS)
            return
        self._input_ended.set()
        if self._response is None:
            self._end(Ending.EOF)
        else:
            self._wait_for(_Waits.GRACE, EOF_GRACE_SECONDS)

    async def _take_turn(self, size: int) -> None:
        """Wait until it is this client's turn, for a request of so many bytes."""
        account, turn = self._account, turns()
        process = account.parent or account
        is_late = len(turn.waiting) > 0 or (time.perf_counter() >= turn.ends and turn.is_over())
        if (is_late or (turn.is_shared and size >= LONG_MESSAGE)) and not turn.let_pass(process):
            seconds = max(size * _BYTE_SECONDS, min(_REQUEST_SECONDS, TURN_SECONDS))
            await turn.turn(account, seconds)
        while process.queued >= MAX_QUEUED:
            await turn.wait_fewer_queued(process)
            await turn.turn(account, _REQUEST_SECONDS)
        turn.work_for(account)

    async def _may_go_on(self) -> bool:
        """Return whether a connection that is to end reads on for a request."""
        parser, lifecycle = self._parser, self._lifecycle
        if lifecycle.phase is not Phase.DRAINING:
            return False
        if self._start is not None or parser.is_begun or parser.has_more:
            return True
        receive = nonblocking_receiver(self._stream)
        if receive is not None:
            # A request that arrived before the daemon began to stop.
            with contextlib.suppress(trio.WouldBlock, trio.BrokenResourceError):
                if data := await receive(READ_BYTES):
                    parser.feed(bytes(data))
                    return True
        first = self._opened_at + FIRST_REQUEST_SECONDS
        if self._requests == 0 and trio.current_time() < first:
            self._due = min(self._due, first)
            self._reading.deadline = min(self._reading.deadline, self._due)
            return True
        lifecycle.stop_reading()
        return False

    def _wait_for(self, what: _Waits, seconds: float) -> None:
        """Wait for something that is overdue after so many seconds.

        The scope around reading keeps an earlier deadline, at which the later one is looked at: to move the
        deadline of a scope costs more than most requests would have to.
        """
        self._waits = what
        self._due = due = min(trio.current_time() + seconds, self._deadline)
        if due < self._reading.deadline:
            self._reading.deadline = due

    def _on_overdue(self) -> None:
        """End the connection: what it waits for has not come in time."""
        waits, is_draining = self._waits, self._lifecycle.phase is Phase.DRAINING
        if waits is _Waits.GRACE:
            self._end(Ending.EOF)
            self._cut()
        elif waits is _Waits.NEXT or (is_draining and waits is _Waits.FIRST) or self._is_skipping:
            self._end(Ending.IDLE)
        elif waits is _Waits.RESPONSE or is_draining:
            self._stop()
        else:
            what = "the body" if waits is _Waits.BODY else "the head"
            self._refuse(Fault(408, f"{what} of a request did not come in time"), Ending.SLOW)

    def _stop(self) -> None:
        """End the connection, because the daemon stops and cannot wait longer."""
        self._lifecycle.stop_reading()
        self._cut(Fault(503, "the daemon stops; whether the request took effect is unknown"))

    def _refuse(self, fault: Fault, ending: Ending = Ending.BAD_REQUEST) -> None:
        """Answer what is no request that can be served, and end the connection."""
        self._end(ending)
        if self._response is None:
            self.counts.note(fault.status)
            self.send(whole(refusal(fault), is_1_1=True, keeps_alive=False), is_last=True)
        else:
            self._cut(fault)

    # Heads

    def _accept(self, start: RequestStart) -> None:
        """Have the body of a request come."""
        parser = self._parser
        if start.expects_continue and start.content_length != 0 and not parser.held and not parser.has_more:
            self.send(CONTINUE, is_last=True)

    def _turn_away(self, start: RequestStart, answer: Answer) -> None:
        """Refuse a request, and read its body so that another may follow, if that is short."""
        length = start.content_length
        if length is None or length > MAX_SKIPPED_BYTES or (start.expects_continue and length):
            answer = msgspec.structs.replace(answer, closes=True)
        self._start = None
        self._requests += 1
        self._is_skipping = True
        self._parser.skip_body()
        HttpResponder(self, start).answer(answer)
        self._wait_for(_Waits.BODY, self._http_limits.body_seconds)

    async def _check_late(self, start: RequestStart, checking: Awaitable[Answer | None]) -> None:
        self._wait_for(_Waits.RESPONSE, math.inf)
        answer = await checking
        if answer is None:
            self._accept(start)
            self._wait_for(_Waits.BODY, self._http_limits.body_seconds)
        else:
            self._turn_away(start, answer)

    # For responders

    @property
    def keeps_alive(self) -> bool:
        """Whether the connection may go on after a response."""
        return self._lifecycle.phase is Phase.OPEN and not self._input_ended.is_set()

    def send(self, data: bytes, *, is_last: bool) -> None:
        """Send bytes; never blocks."""
        self._outbox.send(data, is_last=is_last)

    def response_ended(self, *, closes: bool) -> None:
        """Note that the response in progress has ended, and whether the connection ends with it."""
        self._response = None
        if closes or self._input_ended.is_set():
            self._end(Ending.EOF if self._input_ended.is_set() else Ending.ANSWERED)
            return
        self._wait_for(_Waits.NEXT, self._http_limits.idle_seconds)
        if self._is_watching and self._parser.has_more:
            # The next request is here already.
            self._reading.cancel()

    # Memory

    def _count(self) -> None:
        held = self._parser.held
        if held < STEP_BYTES:
            held = 0
        if held != self._held:
            more, self._held = held - self._held, held
            self._share.hold(more)

    def give_back(self) -> bool:
        """Free the largest thing that the client makes us hold: all clients together hold too much."""
        body, answers = self._held, self._outbox.size
        most = max(body, answers, self._account.held[Held.BYTES] - body - answers)
        if most <= 0:
            return False
        if most == answers:
            self._unread_bytes = answers
            self._end(Ending.MEMORY)
            self._outbox.close()
            return True
        self.on_refused()
        self._refuse(Fault(503, "all clients together hold too much memory; send the request later"))
        self._parser.drop()
        self._count()
        return True

    def on_refused(self) -> None:
        """Report that a request was refused, because all clients together hold too much."""
        limit, held = self._limits.max_memory_bytes, self._account.held[Held.BYTES]
        self._report(MemoryExceeded(self.id, self._principal, limit, held, self._peer))

    def _start_soon(self, task: Task) -> bool:
        """Start a task, to end with the connection; return False if that is ending."""
        if self._nursery is None:
            return False
        # In a context of its own: who starts it may be somebody else's task.
        context = contextvars.copy_context()
        context.run(ACCOUNT.set, self._account)
        context.run(self._nursery.start_soon, task)
        turns().spend(self._account)
        return True
