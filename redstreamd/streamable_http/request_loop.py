"""The requests of one connection: read, checked and served, one after the other.

A plain request costs neither a task nor a cancel scope: whoever answers writes. A socket is read by
`parked_readers`, without waking the connection's task: `RequestLoop.take` serves what waits for nothing but
its turn, and leaves the rest to the task, which waits and goes on with it. While a response is in progress
the client is read from only to notice that it disconnects.

Reading, serving and ending are one module, although it is long: what is read next depends on the request
that is served, each end on both, and all of them move the same deadlines. Two objects would share nearly all
that is here, and ask each other at every step; and each connection, which is to take 12 KiB at most while it
is idle, would have one more.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable, Coroutine
from typing import Final

import msgspec
import trio

from redstreamd.admission.accounts import Account
from redstreamd.admission.memory import STEP_BYTES, Share
from redstreamd.admission.turns import MAX_QUEUED, turns
from redstreamd.mcpio.client_connection import EOF_GRACE_SECONDS, FIRST_REQUEST_SECONDS
from redstreamd.mcpio.connection_events import Ending
from redstreamd.mcpio.late_event import LateEvent
from redstreamd.mcpio.lifecycle import Lifecycle, Phase
from redstreamd.mcpio.outbox import UNREAD_BYTES, Outbox
from redstreamd.mcpio.parked_readers import READ_BYTES, Left, Reader, readers
from redstreamd.mcpio.session import LONG_MESSAGE
from redstreamd.streamable_http.http_counts import HttpCounts
from redstreamd.streamable_http.http_deadlines import Deadlines, Waits
from redstreamd.streamable_http.http_limits import HttpLimits
from redstreamd.streamable_http.http_messages import Answer, Handler
from redstreamd.streamable_http.http_parser import HttpParser, Parsed
from redstreamd.streamable_http.http_responder import HttpResponder
from redstreamd.streamable_http.http_responses import CONTINUE, refusal, whole
from redstreamd.streamable_http.request_rules import Fault, RequestStart
from redstreamd.streamable_http.request_turns import WORK_SECONDS, take_turn

#: Of a client that does not wait for its responses so much is kept; then it is not read from.
MAX_AHEAD_BYTES: Final = 64 * 1024
#: A body that is not wanted is read, so that the connection may go on, if it has so many bytes at most.
MAX_SKIPPED_BYTES: Final = 64 * 1024
_WITHOUT_BODY: Final = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})
_READING: Final = (Phase.OPEN, Phase.DRAINING)


class RequestLoop:
    """Reads from a stream, and serves what comes; a `http_responder.Carrier`.

    Attributes:
        counts: Where responses are counted.
        requests: How many requests it has received.
        response: The one in progress; None while there is none.
        cut_off: How many responses were cut off.
        input_ended: Set when the client sends nothing more.
        why: What was wrong with the last request, if it could not be served.
    """

    __slots__ = (
        "_account",
        "_body",
        "_deadlines",
        "_end",
        "_handler",
        "_held",
        "_is_receiving",
        "_late_at",
        "_lifecycle",
        "_limits",
        "_opened_at",
        "_outbox",
        "_parser",
        "_reader",
        "_share",
        "_socket",
        "_start",
        "_was_refused",
        "_work",
        "_working",
        "counts",
        "cut_off",
        "input_ended",
        "requests",
        "response",
        "why",
    )

    def __init__(
        self,
        stream: trio.SocketStream,
        parser: HttpParser,
        outbox: Outbox,
        *,
        lifecycle: Lifecycle,
        deadlines: Deadlines,
        end: Callable[[Ending], None],
        account: Account,
        share: Share,
        http_limits: HttpLimits,
        counts: HttpCounts,
    ) -> None:
        """Read from `stream`, for the first time in `run`.

        Args:
            stream: Where to read.
            parser: Understands it.
            outbox: Where to write.
            lifecycle: The phase of the connection.
            deadlines: Of the connection.
            end: Called with why the connection is to end.
            account: Of the connection.
            share: Where it is counted what is kept of requests that are not complete.
            http_limits: How long to wait for what.
            counts: Where responses are counted.
        """
        self.counts = counts
        self.requests = self.cut_off = 0
        self.response: HttpResponder | None = None
        self.input_ended = LateEvent()
        self.why = ""
        # There while `run` is.
        self._reader: Reader
        self._handler: Handler
        self._socket = stream.socket
        self._parser = parser
        self._outbox = outbox
        self._lifecycle = lifecycle
        self._deadlines = deadlines
        self._end = end
        self._account = account
        self._share = share
        self._limits = http_limits
        # The request that is read: its head, once that is taken, and its body, once that is whole.
        self._start: RequestStart | None = None
        self._body: bytes | None = None
        self._opened_at = trio.current_time()
        # Whether the last request was refused, and nobody else had a turn since.
        self._was_refused = False
        # After how many requests it was given more time because its input had not been read.
        self._late_at = -1
        # Whether it waits for input.
        self._is_receiving = False
        # What a handler has to do that takes time, until the task does it; and around that.
        self._work: Awaitable[None] | None = None
        self._working: trio.CancelScope | None = None
        # Bytes counted in the share.
        self._held = 0

    async def run(self, handler: Handler) -> None:
        """Serve requests until the connection is to end."""
        self._deadlines.wait_for(Waits.FIRST, self._limits.head_seconds)
        self._handler = handler
        self._reader = readers().open(self._socket.fileno(), self._account, self.take)
        try:
            await self._run()
        finally:
            self._reader.close()
            del self._reader, self._handler
            self._drop_work()

    async def _run(self) -> None:
        while self._lifecycle.phase in _READING:
            with self._deadlines.scope() as scope:
                await self._read()
            work, self._work = self._work, None
            if work is not None:
                # Not within the other scope, whose deadline may have passed long ago.
                with trio.CancelScope(deadline=self._deadlines.end) as working:
                    self._working = working
                    await self._in_turn(work)
                self._working = None
                if working.cancelled_caught:
                    self._stop()
            elif scope.cancelled_caught and self._deadlines.is_overdue():
                self._on_overdue()

    async def _in_turn(self, work: Awaitable[None]) -> None:
        """Do what a handler has to do when it is its turn: many may have been read in one."""
        try:
            await take_turn(self._read_for(), 0, WORK_SECONDS)
        except BaseException:
            if isinstance(work, Coroutine):
                work.close()
            raise
        await work

    def _drop_work(self) -> None:
        """Do nothing of what a handler has to do: its client was told so, or has gone."""
        work, self._work = self._work, None
        if isinstance(work, Coroutine):
            work.close()

    def detach(self) -> None:
        """Let go of the connection, which has ended."""
        self.response = None
        del self._end

    def hurry(self) -> None:
        """Look at the phase of the connection and at its end, which have changed."""
        if self._working is not None:
            self._working.deadline = self._deadlines.end
        self._deadlines.look_again()

    async def _read(self) -> None:
        """Read and serve; return at the end, or when something has to be awaited first."""
        parser, lifecycle, outbox = self._parser, self._lifecycle, self._outbox
        while self._work is None:
            if self.response is not None:
                await self._watch()
            elif lifecycle.phase is not Phase.OPEN and not self._may_go_on():
                return
            elif outbox.size > UNREAD_BYTES:
                # It has to read before it gets more.
                await outbox.wait_written()
            elif self._body is not None:
                await take_turn(self._read_for(), len(self._body))
                self._work = self._serve()
            elif self._was_refused:
                self._was_refused = False
                # A client may send thousands of requests at once that all are refused.
                await take_turn(self._account, 0)
            elif (parsed := parser.take()) is None:
                await self._receive_more()
            else:
                self._work = self._handle(parsed)
                # It may be large, and the next one may come in hours.
                del parsed

    # Without the task

    def take(self, data: bytes | None) -> Left:
        """Take what was received while the task waits for it, and serve what waits for nothing else.

        Args:
            data: What was received, empty at the end; None: go on with what was left.
        """
        if data == b"":
            return Left.FOR_TASK
        parser = self._parser
        if data is not None:
            parser.feed(data)
            if self._held or parser.held >= STEP_BYTES:
                self._count()
        # The task is not woken for what is served here.
        self._is_receiving = False
        read_for = self._reader.account
        if read_for.is_closed:
            turns().work_for(self._read_for())
        left = self._take(read_for)
        self._is_receiving = left is not Left.FOR_TASK
        return left

    def _read_for(self) -> Account:
        """Return on whose behalf it is read, which is somebody else once that account was closed.

        A session may end while a body for it is read, or a response to it is awaited. To read on for an
        account that is in no tree any more would be a share of turns of its own.
        """
        reader = self._reader
        if reader.account.is_closed:
            reader.account = self._handler.account or self._account
        return reader.account

    def _take(self, read_for: Account) -> Left:
        """Serve what waits for nothing else, in the turn of the account that it was read for."""
        parser = self._parser
        while True:
            if self.response is not None:
                return Left.NOTHING if parser.unparsed < MAX_AHEAD_BYTES else Left.FOR_TASK
            if self._lifecycle.phase is not Phase.OPEN or self._outbox.size > UNREAD_BYTES:
                return Left.FOR_TASK
            if self._body is not None:
                if not self._has_turn(read_for, len(self._body)):
                    return Left.FOR_TASK
                self._work = self._serve()
                was_served = self.response is None
            elif (parsed := parser.take()) is None:
                self._expect_more()
                return Left.NOTHING
            else:
                self._work = self._handle(parsed)
                # It may be large, and the next one may come in hours.
                del parsed
                was_served, self._was_refused = self._was_refused, False
            if self._work is not None:
                return Left.FOR_TASK
            if was_served and parser.has_more:
                # A client may send thousands of requests at once that all are answered or refused at once.
                return Left.MESSAGES

    def _has_turn(self, read_for: Account, size: int) -> bool:
        """Return whether the turn in which a request was read is enough to serve it."""
        account, turn = self._reader.account, turns()
        process = account.parent
        if (
            process is not read_for.parent
            or process is None
            or size >= LONG_MESSAGE
            or process.queued >= MAX_QUEUED
            or process in turn.held_back
        ):
            return False
        turn.work_for(account)
        return True

    def _handle(self, parsed: Parsed) -> Awaitable[None] | None:
        if isinstance(parsed, RequestStart):
            self._start = parsed
            checked = self._handler.check(parsed.head)
            if checked is None:
                self._accept(parsed)
            elif isinstance(checked, Answer):
                self._turn_away(parsed, checked)
            else:
                return self._check_late(parsed, checked)
        elif isinstance(parsed, Fault):
            self.refuse(parsed)
        elif self._deadlines.waits is Waits.REST:
            self._deadlines.wait_for(Waits.NEXT, self._limits.idle_seconds)
        else:
            self._body = parsed
            self._deadlines.wait_without_end(Waits.RESPONSE)
        return None

    def _serve(self) -> Awaitable[None] | None:
        start, body, self._start, self._body = self._start, self._body, None, None
        if start is None or body is None:
            return None
        if self._held:
            # From now on it is for whoever serves it to count.
            self._count()
        self.requests += 1
        self.response = HttpResponder(self, start)
        return self._handler.serve(start.head, body, self.response)

    async def _watch(self) -> None:
        """Read on while a response is in progress."""
        if self._deadlines.waits is Waits.GRACE or self._parser.unparsed >= MAX_AHEAD_BYTES:
            self._is_receiving = True
            try:
                await trio.sleep_forever()
            finally:
                self._is_receiving = False
        await self._receive_more()

    def _expect_more(self) -> None:
        """Have the rest of a request that has begun come in time."""
        deadlines = self._deadlines
        if self._start is not None:
            if deadlines.waits is not Waits.BODY:
                deadlines.wait_for(Waits.BODY, self._limits.body_seconds)
        elif self._parser.is_begun and deadlines.waits in (Waits.FIRST, Waits.NEXT):
            deadlines.wait_for(Waits.HEAD, self._limits.head_seconds)

    async def _receive_more(self) -> None:
        """Feed the parser with what the client sends."""
        self._expect_more()
        self._is_receiving = True
        try:
            is_open = await self._reader.receive()
        except trio.BrokenResourceError:
            self._end(Ending.BROKEN)
            return
        finally:
            self._is_receiving = False
        if is_open:
            return
        self.input_ended.set()
        if self.response is None:
            self._end(Ending.EOF)
        else:
            self._deadlines.wait_for(Waits.GRACE, EOF_GRACE_SECONDS)

    def _may_go_on(self) -> bool:
        """Return whether a connection that is to end reads on for a request."""
        parser = self._parser
        if self._lifecycle.phase is not Phase.DRAINING:
            return False
        if self._start is not None or parser.is_begun or parser.has_more:
            return True
        # A request that arrived before the daemon began to stop.
        if self._has_arrived():
            return True
        first = self._opened_at + FIRST_REQUEST_SECONDS
        if self.requests == 0 and trio.current_time() < first:
            self._deadlines.no_later_than(first)
            return True
        self._lifecycle.stop_reading()
        return False

    # Heads

    def _accept(self, start: RequestStart) -> None:
        """Have the body of a request come, and be read on behalf of whoever sends it."""
        parser = self._parser
        self._reader.account = self._handler.account or self._account
        if start.head.method in _WITHOUT_BODY:
            # One has no meaning (RFC 9110, section 9.3), and some of these requests need no credential.
            parser.skip_body()
        if start.expects_continue and start.content_length != 0 and not parser.held and not parser.has_more:
            self._outbox.send(CONTINUE, is_last=True)

    def _turn_away(self, start: RequestStart, answer: Answer) -> None:
        """Refuse a request, and drop its body so that another may follow, if that is short."""
        length = start.content_length
        if length is None or length > MAX_SKIPPED_BYTES or (start.expects_continue and length):
            answer = msgspec.structs.replace(answer, closes=True)
        self._start = None
        self._was_refused = True
        # It is not known whose it is.
        self._reader.account = self._account
        self.requests += 1
        self._parser.skip_body()
        HttpResponder(self, start).answer(answer)
        self._deadlines.wait_for(Waits.REST, self._limits.body_seconds)

    async def _check_late(self, start: RequestStart, checking: Awaitable[Answer | None]) -> None:
        self._deadlines.wait_without_end(Waits.RESPONSE)
        answer = await checking
        if self._start is not start:
            # It was refused meanwhile.
            return
        if answer is None:
            self._accept(start)
        else:
            self._turn_away(start, answer)

    # Ends

    def _on_overdue(self) -> None:
        """End the connection: what it waits for has not come in time."""
        waits, is_draining = self._deadlines.waits, self._lifecycle.phase is Phase.DRAINING
        if waits is Waits.GRACE:
            self._end(Ending.EOF)
            self.cut()
        elif waits is Waits.NEXT and self._outbox.size > UNREAD_BYTES and not is_draining:
            # It is reading; if it is not, the outbox ends the connection.
            self._deadlines.wait_for(Waits.NEXT, self._limits.idle_seconds)
        elif waits is Waits.NEXT or (is_draining and waits is Waits.FIRST):
            self._end(Ending.IDLE)
        elif waits is Waits.REST:
            self._end(Ending.SLOW)
        elif waits is Waits.RESPONSE or is_draining:
            self._stop()
        elif self._reader.gave_up_turn and self._late_at != self.requests and self._has_arrived():
            # It came in time, and waited for its turn to be read. Once, else a client could always be late.
            self._late_at = self.requests
            self._deadlines.wait_for(waits, self._limits.head_seconds)
        else:
            what = "the body" if waits is Waits.BODY else "the head"
            self.refuse(Fault(408, f"{what} of the request did not come in time"), Ending.SLOW)

    def _has_arrived(self) -> bool:
        """Read what has arrived and was not read yet; return whether there is anything."""
        with contextlib.suppress(OSError):
            if data := os.read(self._socket.fileno(), READ_BYTES):
                self._parser.feed(data)
                return True
        return False

    def _stop(self) -> None:
        """End the connection, because it is to end now, whatever is in progress."""
        self._lifecycle.stop_reading()
        if self.response is not None:
            self.cut(Fault(503, "the connection is closing; whether the request took effect is unknown"))
        elif self._start is not None:
            self._tell(Fault(503, "the connection is closing; the request was not executed, send it again"))

    def refuse(self, fault: Fault, ending: Ending = Ending.BAD_REQUEST) -> None:
        """Answer what is no request that can be served, and end the connection."""
        self.why = fault.why
        self._end(ending)
        self._start = None
        if self.response is None:
            self._tell(fault)
        else:
            self.cut(fault)
        if self._working is not None:
            self._working.cancel()

    def _tell(self, fault: Fault) -> None:
        self.counts.note(fault.status)
        self._outbox.send(whole(refusal(fault), is_1_1=True, keeps_alive=False), is_last=True)

    def cut(self, fault: Fault | None = None) -> None:
        """Cut off a response in progress, if there is one; say so if nothing of it was sent."""
        response, self.response = self.response, None
        # Nobody may be told to send a request again that is executed afterwards.
        self._drop_work()
        if response is not None:
            self.cut_off += 1
            response.cut(None if fault is None else refusal(fault))

    # For responders

    @property
    def keeps_alive(self) -> bool:
        """Whether the connection may go on after a response."""
        return self._lifecycle.phase is Phase.OPEN and not self.input_ended.is_set()

    def send(self, data: bytes, *, is_last: bool) -> None:
        """Send bytes; never blocks."""
        self._outbox.send(data, is_last=is_last)

    def events_begin(self) -> None:
        """Keep nothing of a request whose response may be open for hours."""
        self._parser.forget_head()

    def response_ended(self, *, closes: bool) -> None:
        """Note that the response in progress has ended, and whether the connection ends with it."""
        self.response = None
        if self.input_ended.is_set():
            self._end(Ending.EOF)
        elif closes:
            self._end(Ending.ANSWERED)
        else:
            self._deadlines.wait_for(Waits.NEXT, self._limits.idle_seconds)
            if self._is_receiving and (self._parser.has_more or self._parser.is_begun):
                # The next request is here already, or its beginning, whose rest has to come in time.
                self._deadlines.look_again()

    # Memory

    @property
    def held(self) -> int:
        """How many bytes of requests that are not served yet are counted."""
        return self._held

    def _count(self) -> None:
        held = self._parser.held + (0 if self._body is None else len(self._body))
        if held < STEP_BYTES:
            held = 0
        if held != self._held:
            more, self._held = held - self._held, held
            self._share.hold(more)

    def give_up(self) -> None:
        """Refuse the request that is read or served, and keep nothing of what the client sent."""
        self.refuse(Fault(503, "all clients together hold too much memory; send the request later"))
        self._parser.drop()
        self._start = self._body = None
        self._count()
