"""The line transport: one client connection, its stream read, written and closed.

What the lines mean is the `session`'s; which phase follows which event is the `lifecycle`'s.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import trio

from redstreamd.admission.accounts import Account, Accounts, Held, Peer
from redstreamd.admission.memory import Memory
from redstreamd.admission.turns import MAX_QUEUED, TURN_SECONDS, turns
from redstreamd.mcpio import jsonrpc, openings
from redstreamd.mcpio.closing import discard_input, shut_down
from redstreamd.mcpio.connection_account import ConnectionAccount
from redstreamd.mcpio.connection_events import FOREIGN, Ending, EventHook, MessageTooLong, ignore
from redstreamd.mcpio.connection_state import ConnectionState, ConnectionStatistics
from redstreamd.mcpio.framing import LineSplitter, LongLine
from redstreamd.mcpio.kernels import DirectPath, Kernels
from redstreamd.mcpio.late_event import LateEvent
from redstreamd.mcpio.lifecycle import Lifecycle, Phase
from redstreamd.mcpio.limits import Limits
from redstreamd.mcpio.outbox import Outbox
from redstreamd.mcpio.parked_readers import READ_BYTES, Left, readers
from redstreamd.mcpio.plain_calls import decode
from redstreamd.mcpio.session import LONG_MESSAGE, Session, Task
from redstreamd.policy import Principal
from redstreamd.stream_io import Receive, descriptor, nonblocking_receiver, receiver

# A client that stopped sending may still read, as `nc` does once its input ends. A client that has gone keeps
# its waits for no longer than this.
EOF_GRACE_SECONDS: Final = 1.0
# For writing the short error answers to requests that were cut off.
FINAL_WRITE_SECONDS: Final = 0.25
# The first request of a new connection may still be on its way when the daemon stops. Draining waits for it,
# until the connection is this old, because it would get no answer otherwise. 0.25 s was too short for one
# connection in a hundred, on a machine busy with the restart.
FIRST_REQUEST_SECONDS: Final = 1.0
# So many plain calls are served whether the turn is over or not. Who keeps few calls in flight has them
# answered together, sends as many again, and waits for a turn: with one call in each it would get too little.
_AT_ONCE: Final = 8
_CANCELLATION: Final = b"notifications/cancelled"
# What a message is taken to cost before it is read, and each byte of a long one.
_MESSAGE_SECONDS: Final = 0.0001
_BYTE_SECONDS: Final = 1e-7
# What it takes to receive as much as is read at once, and to keep it.
_READ_SECONDS: Final = 0.0002


class ClientConnection:
    """Serves one client over one byte stream.

    Behaviour:
        See `Session` for how messages are answered. When the client stops sending, requests in flight get
        `EOF_GRACE_SECONDS` and then an error. When the stream breaks, or the client leaves more than
        `Limits.max_outbox_bytes` unread, they are cancelled at once. A message that is too long is skipped
        and answered with an error. A client that speaks another protocol is answered with one error, and
        the rest of what it sends is discarded.

    Resource handling:
        `run` owns the stream and closes it, except after `hand_over`.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        kernels: Kernels,
        *,
        principal: Principal,
        socket: str = "",
        direct_path: DirectPath | None = None,
        limits: Limits | None = None,
        state: ConnectionState | None = None,
        peer: Peer | None = None,
        accounts: Accounts | None = None,
        memory: Memory | None = None,
        on_event: EventHook = ignore,
    ) -> None:
        """Serve `stream`.

        Args:
            stream: Both directions.
            kernels: What is served.
            principal: On whose behalf the client calls.
            socket: The address of the listening socket that it came through, if any.
            direct_path: Serves plain calls of tools; None: `kernels` serves them, too.
            limits: Bounds; the defaults if None.
            state: From the connection that served the same stream before. Its requests in flight are
                answered with an error, because their outcome is unknown; its listen requests continue. If it
                has a principal, that one and its socket are used.
            peer: Who connected; None if that is not known.
            accounts: Where what the client holds and uses is counted; None for accounts of its own.
            memory: The budget of these accounts; None for one of its own.
            on_event: Called with each event.

        Raises:
            ValueError: The handshake that `state` remembers is not valid.
        """
        self._limits = limits = limits or Limits()
        self._stream = stream
        if state is not None and state.principal is not None:
            principal, socket = state.principal, state.socket
        self._socket = socket
        accounts = accounts or Accounts()
        self._books = books = ConnectionAccount(
            self,
            principal=principal,
            peer=peer,
            accounts=accounts,
            memory=memory or Memory(accounts, limits.max_memory_bytes),
            limits=limits,
            report=on_event,
            id=None if state is None else state.connection_id,
        )
        self.id = books.id
        self._process: Final = books.account.parent or books.account
        self._turns: Final = turns()
        self._descriptor: Final = descriptor(stream)
        self._inherited = state
        self._splitter = LineSplitter(limits.max_message_bytes, books.share)
        # Whether the client may still turn out to speak another protocol.
        self._is_opening = state is None or state.era is None
        self._is_rejected = False
        self._message_received = LateEvent()
        self._lifecycle = Lifecycle()
        # When requests in flight are cut off, in trio's time.
        self._deadline = math.inf
        self._cut_off = 0
        self._handed_over: ConnectionState | None = None
        self._input_ended = LateEvent()
        self._reading = trio.CancelScope()
        # None unless tasks can be started: a nursery that is closing raises.
        self._nursery: trio.Nursery | None = None
        self._outbox = Outbox(
            stream,
            limits.max_outbox_bytes,
            start_soon=self._start_soon,
            on_overflow=self._on_overflow,
            on_broken=self._on_broken,
            unread_seconds=limits.unread_seconds,
            on_unread=self._on_unread,
            share=books.share,
        )
        self._session = Session(
            kernels,
            connection_id=self.id,
            principal=principal,
            account=books.account,
            limits=limits,
            sink=self._outbox,
            start_soon=self._start_soon,
            flushed=self._outbox.wait_written,
            draining=LateEvent(),
            report=books.report,
            direct_path=direct_path,
            state=state,
            share=books.share,
        )
        if state is not None:
            self._splitter.resume(state.unread, state.long_lines)
            self._message_received.set()

    def apply_limits(self) -> None:
        """Apply the limits that were given, which have changed since."""
        limits = self._limits
        self._splitter.reconfigure(limits.max_message_bytes)
        self._outbox.reconfigure(limits.max_outbox_bytes, unread_seconds=limits.unread_seconds)

    def statistics(self) -> ConnectionStatistics:
        """Return a snapshot."""
        session = self._session
        return ConnectionStatistics(
            connection_id=self.id,
            era=session.era,
            requests=session.requests,
            direct=session.direct,
            requests_in_flight=len(session.in_flight),
            outbox_bytes=self._outbox.size,
        )

    def state(self) -> ConnectionState:
        """Return what another process needs to continue this connection, as of now, but for its output."""
        splitter = self._splitter
        return msgspec.structs.replace(
            self._session.state(splitter.unread()),
            principal=self._books.principal,
            socket=self._socket,
            long_lines=splitter.long_lines(),
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the client until it disconnects or we close; started once the stream is being read.

        Cancellation closes the stream at once. To be called once.
        """
        self._books.open()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                try:
                    if self._inherited is not None:
                        if self._inherited.unwritten:
                            self._outbox.send(self._inherited.unwritten)
                        self._session.resume(self._inherited)
                        self._inherited = None
                    if self._lifecycle.phase is Phase.DRAINING:
                        nursery.start_soon(self._stop_reading_when_idle)
                    task_status.started()
                    with self._reading:
                        await self._read_all()
                    self._lifecycle.stop_reading()
                    await self._finish(nursery)
                    nursery.cancel_scope.cancel()
                finally:
                    self._nursery = None
        finally:
            ending = self._lifecycle.close()
            # Calls that have no task, which would have been cancelled with the nursery.
            self._session.in_flight.cut_off(unanswered=True)
            with trio.CancelScope(shield=True):
                await self._session.aclose()
                if self._handed_over is None:
                    await trio.aclose_forcefully(self._stream)
            self._outbox.close()
            self._splitter.clear()
            self._books.close(ending, requests=self._session.requests, cut_off=self._cut_off)
            # What is left has no cycle of references, and so is freed at once.
            self._session.detach()
            self._outbox.detach()
            self._books.share.detach()

    @property
    def process(self) -> Account:
        """The account of the client's process."""
        return self._books.process

    @property
    def requests(self) -> int:
        """How many requests it has received so far."""
        return self._session.requests

    @property
    def load(self) -> int:
        """How much would be cut off if it were closed now.

        0 if nothing, 1 if it has subscriptions only, else more than there are requests in flight.
        """
        session = self._session
        return len(session.in_flight) + 1 if session.in_flight else int(bool(session.subscriptions))

    def give_way(self, why: str) -> None:
        """Give its place to another client: send a last message and close.

        Its place is free at once. Requests in flight are answered with an error. The client has
        `FINAL_WRITE_SECONDS` to read, and `closing.LINGER_SECONDS` to close its side.
        """
        self._books.leave_place()
        self._outbox.send(jsonrpc.error(None, jsonrpc.NOT_NOW, why))
        self._end(Ending.GAVE_WAY, 0)

    async def drain(self, timeout_seconds: float) -> bool:
        """Reject further requests, let those in flight be answered, then close; returns once closed.

        Whatever the client has sent before this is read and answered. Our side is shut down then, and closed
        when the client has closed its own, or after `closing.LINGER_SECONDS`.
        A new connection has `FIRST_REQUEST_SECONDS` for its first request. Requests still in flight after
        `timeout_seconds` are cancelled and answered with an error; for that and for the rest of the input
        there are `FINAL_WRITE_SECONDS` more.
        Handlers that wait can watch `Session.draining`. `run` must have been called, or be called
        next. Cancelling this does not stop the draining.

        Returns:
            Whether every request in flight was answered by its handler.
        """
        self._end(Ending.DRAINED, timeout_seconds)
        self._session.draining.set()
        self._start_soon(self._stop_reading_when_idle)
        await self._books.closed.wait()
        return self._cut_off == 0

    async def hand_over(self, timeout_seconds: float) -> ConnectionState | None:
        """Stop between two messages and leave the stream open for another connection object.

        Nothing more is read. Requests not answered within `timeout_seconds` are cancelled without an answer
        and named in the state. `run` must have been called, or be called next.

        Returns:
            The state for the successor, with the output that the client has not read. None if the connection
            ended before, or it is not known how much was written (TLS); then the stream is closed.
        """
        self._end(Ending.HANDED_OVER, timeout_seconds)
        self._reading.cancel()
        await self._books.closed.wait()
        return self._handed_over

    def _end(self, event: Ending, timeout_seconds: float = math.inf) -> None:
        """Go on to the phase that follows an event, within so many seconds."""
        if self._lifecycle.on(event) is Phase.CLOSED:
            if self._nursery is not None:
                self._nursery.cancel_scope.cancel()
            return
        self._deadline = min(self._deadline, trio.current_time() + timeout_seconds)
        self._reading.deadline = self._deadline

    def _on_overflow(self) -> None:
        self._end(Ending.OVERFLOW)

    def _on_broken(self) -> None:
        self._end(Ending.BROKEN)

    def _on_unread(self) -> None:
        self._books.unread_bytes = self._outbox.size
        self._end(Ending.UNREAD)

    def give_back(self) -> bool:
        """Free the largest thing that the client makes us hold: all clients together hold too much."""
        in_flight, lines, answers = self._session.in_flight.held, self._splitter.held, self._outbox.size
        most = max(
            in_flight, lines, answers, self._books.account.held[Held.BYTES] - in_flight - lines - answers
        )
        if most <= 0:
            return False
        if most == lines:
            self.on_refused()
            beginning = self._splitter.give_up()
            if beginning is not None and (answer := jsonrpc.given_up(beginning, self._limits)) is not None:
                self._outbox.send(answer)
            return True
        if most == in_flight:
            self.on_refused()
            return self._session.in_flight.cut_longest(jsonrpc.memory_exceeded(self._limits))
        self._books.unread_bytes = answers
        self._end(Ending.MEMORY)
        self._outbox.close()
        return True

    def on_refused(self) -> None:
        """Report that a message was refused, because all clients together hold too much."""
        self._books.report_refusal()

    async def _stop_reading_when_idle(self) -> None:
        with trio.move_on_at(min(self._deadline, self._books.opened_at + FIRST_REQUEST_SECONDS)):
            await self._message_received.wait()
        await self._session.in_flight.wait_empty()
        self._reading.cancel()

    async def _read_all(self) -> None:
        """Handle messages until the client stops sending, without a task where that is possible."""
        fileno = self._descriptor()
        if not isinstance(self._stream, trio.SocketStream):
            await self._read(self._receive_by(receiver(self._stream)))
            return
        reader = readers().open(fileno, self._books.account, self._take)
        try:
            await self._read(reader.receive)
        finally:
            reader.close()

    def _receive_by(self, receive: Receive) -> Callable[[], Awaitable[bool]]:
        """Return what receives and feeds the splitter; it returns False at the end of the stream."""
        size, turn, account = 0, self._turns, self._books.account

        async def receive_and_feed() -> bool:
            nonlocal size
            if size == READ_BYTES and turn.is_shared:
                # Many clients may send long messages at the same time, which are copied as they come.
                await turn.turn(account, _READ_SECONDS)
            data = await receive(READ_BYTES)
            size = len(data)
            self._splitter.feed(bytes(data))
            return size > 0

        return receive_and_feed

    def _take(self, data: bytes | None) -> Left:
        """Take what was received, and serve it as `_read` does, which waits for more meanwhile.

        What is not served at once is left to that. In the place of `data` None stands for what was left.
        """
        splitter = self._splitter
        if data is not None:
            splitter.feed(data)
            # What is cancelled in the same bytes is not sent: only the task can serve both in one pass.
            is_cancelled = _CANCELLATION in data
            if not data or is_cancelled or self._is_opening or not self._message_received.was_set:
                return Left.FOR_TASK
        turn, process, session, outbox = self._turns, self._process, self._session, self._outbox
        limits, lines = session.limits, splitter.lines
        at_once = _AT_ONCE
        while lines:
            if at_once:
                at_once -= 1
            elif time.perf_counter() >= turn.ends and turn.is_over():
                return Left.MESSAGES
            if len(lines[-1]) >= LONG_MESSAGE or process.queued >= MAX_QUEUED or process in turn.held_back:
                return Left.FOR_TASK
            line = lines.pop()
            if splitter.held:
                splitter.took(line)
            if not session.take_call(decode(line, limits), len(line), outbox):
                splitter.put_back(line)
                return Left.FOR_TASK
        return Left.NOTHING

    async def _read(self, receive: Callable[[], Awaitable[bool]]) -> None:
        """Handle messages until the client stops sending or shows that it speaks another protocol."""
        session, outbox, splitter = self._session, self._outbox, self._splitter
        account, turn, process = self._books.account, self._turns, self._process
        lines, clock = splitter.lines, time.perf_counter
        fileno = self._descriptor
        limits = session.limits
        has_received = has_ended = was_held_back = False
        while True:
            if self._is_opening and self._is_foreign():
                return
            if lines:
                must_wait, may_go = len(turn.waiting) > 0, False
                others = must_wait or turn.is_shared or (clock() >= turn.ends and turn.is_over())
                if others and turn.let_pass(process, fileno()):
                    # Whoever got little may read one message at once.
                    must_wait, may_go = False, True
                turn.work_for(account)
                read = 0
                while lines:
                    # While nobody else has work, a cancellation is read with the call before it.
                    may_go = may_go or (read < 2 and not turn.is_shared)
                    is_long = turn.is_shared and len(lines[-1]) >= LONG_MESSAGE
                    is_over = not may_go and clock() >= turn.ends and turn.is_over()
                    if must_wait or is_long or is_over:
                        first = len(lines[-1]) * _BYTE_SECONDS
                        await turn.turn(account, max(first, min(len(lines) * _MESSAGE_SECONDS, TURN_SECONDS)))
                        turn.work_for(account)
                        must_wait, read = False, 0
                        if not lines:
                            # They were given up for want of memory.
                            break
                    if process.queued >= MAX_QUEUED or (process in turn.held_back and not was_held_back):
                        await turn.wait_fewer_queued(process)
                        must_wait = was_held_back = True
                        continue
                    may_go = was_held_back = False
                    read += 1
                    line = lines.pop()
                    if splitter.held:
                        splitter.took(line)
                    if len(line) < LONG_MESSAGE:
                        # As `Session.take`.
                        taken = session.take_call(decode(line, limits), len(line), outbox)
                    else:
                        taken = await session.take_long(line, outbox)
                        turn.work_for(account)
                    if not taken:
                        await self._handle(line)
                        if turn.account is not account:
                            turn.work_for(account)
                    # It may be large, and the next one may come in hours.
                    line = b""
                if not has_received:
                    has_received = True
                    self._message_received.set()
            if has_ended:
                self._input_ended.set()
                # Last, because the daemon's own start does not count.
                self._end(Ending.EOF, EOF_GRACE_SECONDS)
                return
            try:
                has_ended = not await receive()
            except trio.BrokenResourceError:
                self._end(Ending.BROKEN)
                return
            if has_ended:
                splitter.end()

    async def _handle(self, line: bytes) -> None:
        """Handle a line that is no plain call."""
        if isinstance(line, LongLine):
            limits, books = self._limits, self._books
            books.report(MessageTooLong(self.id, books.principal, limits.max_message_bytes, books.peer))
            if (answer := jsonrpc.too_long(line.beginning, limits)) is not None:
                self._outbox.send(answer)
        elif not openings.is_blank(line):
            await self._session.handle(line, self._outbox)

    def _is_foreign(self) -> bool:
        """Look at how the client begins; if it speaks another protocol, answer, end, and return True.

        Until that is known, no line is left to be handled.
        """
        # Reading begins again while the connection is drained.
        if not self._is_rejected:
            verdict = openings.judge_input(self._splitter)
            self._is_opening = not isinstance(verdict, openings.Text)
            if isinstance(verdict, openings.Foreign):
                self._is_rejected = True
                self._splitter.clear()
                self._outbox.send(verdict.answer)
                # The rest of the input is discarded.
                self._end(verdict.ending, EOF_GRACE_SECONDS)
        return self._is_rejected

    async def _finish(self, nursery: trio.Nursery) -> None:
        """Wait for requests in flight and for the outbox, until the deadline."""
        ending = self._lifecycle.ending
        if ending in FOREIGN or ending is Ending.GAVE_WAY:
            # The client is still sending. It has to come to read our answer.
            nursery.start_soon(discard_input, self._stream, self._input_ended)
        in_flight = self._session.in_flight
        with trio.move_on_at(self._deadline):
            await in_flight.wait_empty()
        state = self.state() if ending is Ending.HANDED_OVER else None
        self._cut_off = in_flight.cut_off(unanswered=state is not None)
        await in_flight.wait_empty()
        with trio.move_on_at(max(self._deadline, trio.current_time() + FINAL_WRITE_SECONDS)):
            if ending is Ending.DRAINED:
                await self._read_rest()
                nursery.start_soon(discard_input, self._stream, self._input_ended)
            if state is None:
                await self._outbox.wait_written()
            if ending in (Ending.DRAINED, Ending.GAVE_WAY) or ending in FOREIGN:
                await shut_down(self._stream, self._input_ended)
        if state is not None:
            unwritten = self._outbox.take()
            if unwritten is None:
                self._end(Ending.OVERFLOW)
            else:
                self._handed_over = msgspec.structs.replace(state, unwritten=unwritten)

    async def _read_rest(self) -> None:
        """Handle what the client had sent when the reading of messages ended."""
        receive = nonblocking_receiver(self._stream)
        while receive is not None and not self._input_ended.is_set():
            with contextlib.suppress(trio.WouldBlock):
                await self._read(self._receive_by(receive))
            if self._outbox.size == 0:
                return
            # It may send more while it reads.
            await self._outbox.wait_written()

    def _start_soon(self, task: Task) -> bool:
        """Start a task, to end with the connection; return False if that is ending."""
        if self._nursery is None:
            return False
        self._books.start(self._nursery, task)
        return True
