"""Reads the messages of one connection, and has them served in turns.

A socket is read by `parked_readers`, without waking a task: `MessageReader.take` serves the plain calls in
what arrived. Whatever it leaves is for the task that runs `MessageReader.run`, which waits for what `take`
does not wait for, and goes on with it. What is no socket, such as pipes, and the rest of the input while the
connection drains are received by the task itself, and served likewise.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from redstreamd.admission.turns import MAX_QUEUED, TURN_SECONDS, turns
from redstreamd.mcpio import jsonrpc, openings
from redstreamd.mcpio.call_forms import CallForms
from redstreamd.mcpio.connection_account import ConnectionAccount
from redstreamd.mcpio.connection_events import Ending, MessageTooLong
from redstreamd.mcpio.connection_state import ConnectionState
from redstreamd.mcpio.framing import LineSplitter, LongLine
from redstreamd.mcpio.late_event import LateEvent
from redstreamd.mcpio.limits import Limits
from redstreamd.mcpio.outbox import Outbox
from redstreamd.mcpio.parked_readers import READ_BYTES, Left, readers
from redstreamd.mcpio.session import LONG_MESSAGE, Session
from redstreamd.stream_io import Receive, descriptor, nonblocking_receiver, receiver
from redstreamd.strict_json import LONG

# So many plain calls are served whether the turn is over or not. Who keeps few calls in flight has them
# answered together, sends as many again, and waits for a turn: with one call in each it would get too little.
_AT_ONCE: Final = 8
# While nobody else has work, a cancellation is read with the call before it.
_AT_ONCE_ALONE: Final = 2
_CANCELLATION: Final = b"notifications/cancelled"
_FEW: Final = 8
# What a message is taken to cost before it is read, and each byte of a long one.
_MESSAGE_SECONDS: Final = 0.0001
_BYTE_SECONDS: Final = 1e-7
# What it takes to receive as much as is read at once, and to keep it.
_READ_SECONDS: Final = 0.0002


class MessageReader:
    """Reads what one client sends.

    Attributes:
        splitter: What was received and is not served yet.
        message_received: Set once messages were served.
        input_ended: Set once the client has stopped sending.
    """

    # Most wait for long, and are in no cache when the next message comes: slots are fewer places to look at.
    __slots__ = (
        "_at_once",
        "_books",
        "_descriptor",
        "_forms",
        "_is_begun",
        "_is_opening",
        "_is_rejected",
        "_limits",
        "_on_end",
        "_outbox",
        "_process",
        "_refused",
        "_session",
        "_stream",
        "_turns",
        "input_ended",
        "message_received",
        "splitter",
    )

    def __init__(
        self,
        stream: trio.abc.Stream,
        session: Session,
        outbox: Outbox,
        *,
        books: ConnectionAccount,
        limits: Limits,
        state: ConnectionState | None,
        on_end: Callable[[Ending], None],
    ) -> None:
        """Read from `stream`.

        Args:
            stream: What the client sends.
            session: Serves messages.
            outbox: Where answers go.
            books: Whose work it is.
            limits: Bounds of messages.
            state: From the connection that served the same stream before, if any.
            on_end: Called when there is nothing more to read: the client has stopped sending, or speaks
                another protocol, or the stream is broken.
        """
        self._stream: Final = stream
        self._session: Final = session
        self._outbox: Final = outbox
        self._books: Final = books
        self._limits: Final = limits
        self._on_end = on_end
        self._process: Final = books.account.parent or books.account
        self._turns: Final = turns()
        self._descriptor: Final = descriptor(stream)
        self._forms: Final = CallForms()
        self.splitter = LineSplitter(limits.max_message_bytes, books.share)
        # Whether the client may still turn out to speak another protocol.
        self._is_opening = state is None or state.era is None
        self._is_rejected = False
        # Whether `take` may serve what arrives: the client speaks this protocol, and messages were served.
        self._is_begun = False
        self.message_received = LateEvent()
        self.input_ended = LateEvent()
        # For the task: how many more messages may be served whether the turn is over or not, and the line
        # that it is to handle.
        self._at_once, self._refused = 0, b""
        if state is not None:
            self.splitter.resume(state.unread, state.long_lines)
            self.message_received.set()

    def detach(self) -> None:
        """Let go of the connection, which has ended, and of what was not served."""
        self.splitter.clear()
        del self._on_end

    async def run(self) -> None:
        """Have messages served until there is nothing more to read, without a task where that is possible."""
        fileno = self._descriptor()
        if not isinstance(self._stream, trio.SocketStream):
            await self._read(self._receive_by(receiver(self._stream)))
            return
        reader = readers().open(fileno, self._books.account, self.take)
        try:
            await self._read(reader.receive)
        finally:
            reader.close()

    async def run_rest(self) -> None:
        """Have served what the client had sent when `run` was cancelled, and what it sends while it reads."""
        receive = nonblocking_receiver(self._stream)
        while receive is not None and not self.input_ended.is_set():
            with contextlib.suppress(trio.WouldBlock):
                await self._read(self._receive_by(receive))
            if self._outbox.size == 0:
                return
            # It may send more while it reads.
            await self._outbox.wait_written()

    def take(
        self,
        data: bytes | None,
        at_once: int = _AT_ONCE,
        *,
        was_held_back: bool = False,
        by_task: bool = False,
    ) -> Left:
        """Take what was received, and serve plain calls until something has to be waited for.

        Args:
            data: What was received, empty at the end; None: go on with what was left.
            at_once: So many messages are served whether the turn is over or not.
            was_held_back: Whether it was waited until fewer commands of the process wait: then others who
                wait for that come after the next message.
            by_task: Whether the task calls, which handles at once what is no plain call; else that is put
                back.
        """
        splitter = self.splitter
        if data is not None:
            splitter.feed(data)
            # What is cancelled in the same bytes is not sent: only the task can serve both in one pass.
            if not self._is_begun:
                self._is_begun = self.message_received.was_set and not self._is_opening
            is_cancelled = (
                data.find(_CANCELLATION) >= 0
                if len(data) < LONG or len(splitter.lines) > _FEW
                # To look for it in long messages takes long, and it is none of them.
                else any(_CANCELLATION in line for line in splitter.lines if len(line) < LONG)
            )
            if not data or is_cancelled or not self._is_begun:
                return Left.FOR_TASK
        turn, process, session, outbox = self._turns, self._process, self._session, self._outbox
        limits, lines, decode = session.limits, splitter.lines, self._forms.decode
        take = session.take_directly
        held_back, clock = turn.held_back, time.perf_counter
        left = Left.NOTHING
        while lines:
            if at_once:
                at_once -= 1
            elif clock() >= turn.ends and turn.is_over():
                return Left.MESSAGES
            if process.queued >= MAX_QUEUED or (held_back and process in held_back and not was_held_back):
                left = Left.HELD_BACK
                break
            if len(lines[-1]) >= LONG_MESSAGE:
                left = Left.LONG
                break
            line = lines.pop()
            if splitter.held:
                splitter.took(line)
            call = decode(line, limits)
            is_taken = call is not None and take(session, call, len(line), outbox)
            if call is not None and not is_taken:
                # It may have been taken for another one by its form.
                self._forms.forget()
                call = decode(line, limits)
                is_taken = call is not None and take(session, call, len(line), outbox)
            if not is_taken:
                if by_task:
                    self._refused = line
                else:
                    splitter.put_back(line)
                left = Left.FOR_TASK
                break
            was_held_back = False
        self._at_once = at_once
        return left

    async def _read(self, receive: Callable[[], Awaitable[bool]]) -> None:
        """Have messages served until the client stops sending or shows that it speaks another protocol."""
        splitter = self.splitter
        has_ended = False
        while not (self._is_opening and self._is_foreign()):
            if splitter.lines:
                await self._serve()
                self.message_received.set()
            if has_ended:
                self.input_ended.set()
                # Last, because the daemon's own start does not count.
                self._on_end(Ending.EOF)
                return
            try:
                has_ended = not await receive()
            except trio.BrokenResourceError:
                self._on_end(Ending.BROKEN)
                return
            if has_ended:
                splitter.end()

    async def _serve(self) -> None:
        """Serve the messages that were received, and wait where that is needed."""
        splitter, session, outbox = self.splitter, self._session, self._outbox
        account, turn, process, lines = self._books.account, self._turns, self._process, self.splitter.lines
        must_wait = len(turn.waiting) > 0
        others = must_wait or turn.is_shared or (time.perf_counter() >= turn.ends and turn.is_over())
        # Whoever got little may read one message at once.
        may_go = others and turn.let_pass(process, self._descriptor())
        must_wait = must_wait and not may_go
        turn.work_for(account)
        at_once = int(may_go) if turn.is_shared else _AT_ONCE_ALONE
        was_held_back = has_turn = False
        # They may be given up for want of memory meanwhile.
        while lines:
            if must_wait:
                first = len(lines[-1]) * _BYTE_SECONDS
                await turn.turn(account, max(first, min(len(lines) * _MESSAGE_SECONDS, TURN_SECONDS)))
                turn.work_for(account)
                must_wait, has_turn = False, True
                at_once = 1 if turn.is_shared else _AT_ONCE_ALONE
                continue
            before = len(lines)
            left = self.take(None, at_once, was_held_back=was_held_back, by_task=True)
            if len(lines) < before:
                was_held_back = has_turn = False
            at_once = self._at_once
            if left is Left.NOTHING:
                return
            if left is Left.HELD_BACK:
                await turn.wait_fewer_queued(process)
                must_wait = was_held_back = True
            elif left is Left.MESSAGES or (left is Left.LONG and turn.is_shared and not has_turn):
                must_wait = True
            else:
                if left is Left.LONG:
                    line = lines.pop()
                    if splitter.held:
                        splitter.took(line)
                    try:
                        taken = await session.take_long(line, outbox)
                    except trio.Cancelled:
                        # For `run_rest` or the successor.
                        splitter.put_back(line)
                        raise
                    turn.work_for(account)
                else:
                    line, self._refused = self._refused, b""
                    taken = False
                if not taken:
                    await self._handle(line)
                    if turn.account is not account:
                        turn.work_for(account)
                # It may be large, and the next one may come in hours.
                line = b""
                was_held_back = has_turn = False

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
            self.splitter.feed(bytes(data))
            return size > 0

        return receive_and_feed

    async def _handle(self, line: bytes) -> None:
        """Handle a line that is no plain call."""
        if isinstance(line, LongLine):
            limits, books = self._limits, self._books
            books.report(MessageTooLong(books.id, books.principal, limits.max_message_bytes, books.peer))
            if (answer := jsonrpc.too_long(line.beginning, limits)) is not None:
                self._outbox.send(answer)
        elif not openings.is_blank(line):
            session = self._session
            try:
                decoded = await session.decode(line)
            except trio.Cancelled:
                # Likewise.
                self.splitter.put_back(line)
                raise
            await session.handle_at_once(decoded, len(line), self._outbox)

    def _is_foreign(self) -> bool:
        """Look at how the client begins; if it speaks another protocol, answer, end, and return True.

        Until that is known, no line is left to be handled.
        """
        # Reading begins again while the connection is drained.
        if not self._is_rejected:
            verdict = openings.judge_input(self.splitter)
            self._is_opening = not isinstance(verdict, openings.Text)
            if isinstance(verdict, openings.Foreign):
                self._is_rejected = True
                self.splitter.clear()
                self._outbox.send(verdict.answer)
                # The rest of the input is discarded.
                self._on_end(verdict.ending)
        return self._is_rejected
