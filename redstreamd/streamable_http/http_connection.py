"""One HTTP connection of a client: its stream, what it may hold, and how it ends.

What its requests are is read in `request_loop`, and what they mean is the `Site`'s. Which phase follows which
event is the same as over the line transport (`mcpio.lifecycle`).
"""

from __future__ import annotations

import math
from typing import Final

import trio

from redstreamd.admission.accounts import Account, Held, Peer
from redstreamd.mcpio.client_connection import FINAL_WRITE_SECONDS
from redstreamd.mcpio.closing import LINGER_SECONDS
from redstreamd.mcpio.connection_account import ConnectionAccount
from redstreamd.mcpio.connection_events import Ending
from redstreamd.mcpio.connection_state import ConnectionStatistics
from redstreamd.mcpio.lifecycle import Lifecycle, Phase
from redstreamd.mcpio.outbox import Outbox
from redstreamd.mcpio.peers import UNKNOWN
from redstreamd.mcpio.session import Task
from redstreamd.policy import Principal
from redstreamd.streamable_http.http_deadlines import Deadlines
from redstreamd.streamable_http.http_messages import Client, Handler, Site, Surroundings
from redstreamd.streamable_http.http_parser import HttpParser
from redstreamd.streamable_http.lingering import UPLOAD_SECONDS, Lingering
from redstreamd.streamable_http.request_loop import RequestLoop
from redstreamd.streamable_http.request_rules import Fault

#: What the outbox may hold beyond the longest message: the head of a response.
_HEAD_BYTES: Final = 16 * 1024
#: For reading the last answer, whatever its size; the longest one takes 28 KB/s.
LAST_ANSWER_SECONDS: Final = 600.0


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

    __slots__ = (
        "_books",
        "_counts",
        "_deadlines",
        "_finishing",
        "_handler",
        "_http_limits",
        "_lifecycle",
        "_limits",
        "_loop",
        "_nursery",
        "_outbox",
        "_parser",
        "_site",
        "_stream",
        "id",
        "socket",
    )

    def __init__(
        self,
        stream: trio.SocketStream,
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
        self.socket = socket
        self._stream = stream
        self._site = site
        self._limits = limits = surroundings.limits
        self._http_limits = http_limits = surroundings.http_limits
        self._counts = surroundings.counts
        self._books = books = ConnectionAccount(
            self,
            principal=principal,
            peer=peer,
            accounts=surroundings.accounts,
            memory=surroundings.memory,
            limits=limits,
            report=surroundings.report,
        )
        self.id = books.id
        self._lifecycle = Lifecycle()
        self._deadlines = Deadlines()
        self._handler: Handler | None = None
        # Around what is left to be done once nothing more is served.
        self._finishing: trio.CancelScope | None = None
        # None unless tasks can be started: a nursery that is closing raises.
        self._nursery: trio.Nursery | None = None
        self._parser = HttpParser(
            max_head_bytes=http_limits.max_head_bytes,
            max_fields=http_limits.max_fields,
            max_body_bytes=limits.max_message_bytes,
        )
        if received:
            self._parser.feed(received)
        self._outbox = Outbox(
            stream,
            limits.max_outbox_bytes + _HEAD_BYTES,
            start_soon=self._start_soon,
            on_overflow=self._on_overflow,
            on_broken=self._on_broken,
            unread_seconds=limits.unread_seconds,
            on_unread=self._on_unread,
            share=books.share,
        )
        self._loop = RequestLoop(
            stream,
            self._parser,
            self._outbox,
            lifecycle=self._lifecycle,
            deadlines=self._deadlines,
            end=self._end,
            account=books.account,
            share=books.share,
            http_limits=http_limits,
            counts=surroundings.counts,
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
            requests=self._loop.requests,
            direct=0,
            requests_in_flight=self._in_flight,
            outbox_bytes=self._outbox.size,
        )

    @property
    def process(self) -> Account:
        """The account of the client's process."""
        return self._books.process

    @property
    def requests(self) -> int:
        """How many requests of HTTP it has received so far."""
        return self._loop.requests

    @property
    def load(self) -> int:
        """How much would be cut off if it were closed now: see `ClientConnection.load`."""
        in_flight = self._in_flight
        return in_flight + 1 if in_flight else int(self._loop.response is not None)

    @property
    def _in_flight(self) -> int:
        return 0 if self._handler is None else self._handler.requests_in_flight

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the client until it disconnects or we close; started once the stream is being read.

        Cancellation closes the stream at once. To be called once.
        """
        self._books.open()
        self._counts.connections += 1
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                try:
                    self._handler = handler = self._connect()
                    task_status.started()
                    try:
                        await self._loop.run(handler)
                    except Exception:
                        # A defect of the handler; its client is told before the connection ends with it.
                        self._loop.refuse(Fault(500, "internal error"), Ending.ANSWERED)
                        await self._finish(nursery)
                        raise
                    await self._finish(nursery)
                    nursery.cancel_scope.cancel()
                finally:
                    self._nursery = None
        finally:
            ending = self._lifecycle.close()
            self._loop.cut()
            with trio.CancelScope(shield=True):
                if self._handler is not None:
                    await self._handler.aclose()
                await trio.aclose_forcefully(self._stream)
            self._outbox.close()
            self._counts.connections -= 1
            loop = self._loop
            self._books.close(ending, requests=loop.requests, cut_off=loop.cut_off, why=loop.why)
            # What is left has no cycle of references, and so is freed at once.
            self._handler = None
            self._parser.stop()
            self._loop.detach()
            self._outbox.detach()
            self._books.share.detach()

    def _connect(self) -> Handler:
        client = Client(
            connection_id=self.id,
            principal=self._books.principal,
            peer=self._books.peer or UNKNOWN,
            start_soon=self._start_soon,
            outbox=self._outbox,
        )
        handler = self._site.connected(client)
        if self._lifecycle.phase is Phase.DRAINING:
            handler.drain()
        return handler

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
        await self._books.closed.wait()
        return self._loop.cut_off == 0

    def give_way(self, why: str) -> None:
        """Give its place to another client: refuse the request in progress, if there is one, and close.

        Its place is free at once.
        """
        self._books.leave_place()
        self._end(Ending.GAVE_WAY, 0)
        self._loop.cut(Fault(503, why))

    def _end(self, event: Ending, timeout_seconds: float = math.inf) -> None:
        """Go on to the phase that follows an event, within so many seconds."""
        if self._lifecycle.on(event) is Phase.CLOSED:
            if self._nursery is not None:
                self._nursery.cancel_scope.cancel()
            return
        self._deadlines.end_by(trio.current_time() + timeout_seconds)
        self._loop.hurry()
        self._finish_by_end()

    def _on_overflow(self) -> None:
        self._end(Ending.OVERFLOW)

    def _on_broken(self) -> None:
        self._end(Ending.BROKEN)

    def _on_unread(self) -> None:
        self._books.unread_bytes = self._outbox.size
        self._end(Ending.UNREAD)

    async def _finish(self, nursery: trio.Nursery) -> None:
        """Wait until the client has read what it is sent, and see that closing does not take that away."""
        self._lifecycle.stop_reading()
        ended, now = self._loop.input_ended, trio.current_time()
        lingering = Lingering(self._stream, ended)
        if not ended.is_set():
            nursery.start_soon(lingering.discard)
        with trio.CancelScope(deadline=now + LAST_ANSWER_SECONDS) as self._finishing:
            self._finish_by_end()
            size = -1
            while self._outbox.size not in (0, size):
                size = self._outbox.size
                with trio.move_on_after(self._limits.unread_seconds):
                    await self._outbox.wait_written()
        if self._outbox.size == 0 and self._lifecycle.ending is not Ending.IDLE:
            now = trio.current_time()
            with trio.CancelScope(deadline=now + UPLOAD_SECONDS) as self._finishing:
                self._finish_by_end(LINGER_SECONDS)
                await lingering.shut_down()

    def _finish_by_end(self, more_seconds: float = FINAL_WRITE_SECONDS) -> None:
        """Have the client take the rest by the end of the connection, or so many seconds from now."""
        if self._finishing is not None:
            last = max(self._deadlines.end, trio.current_time() + more_seconds)
            self._finishing.deadline = min(self._finishing.deadline, last)

    def give_back(self) -> bool:
        """Free the largest thing that the client makes us hold: all clients together hold too much."""
        request, answers = self._loop.held, self._outbox.size
        most = max(request, answers, self._books.account.held[Held.BYTES] - request - answers)
        if most <= 0:
            return False
        if most == answers:
            self._books.unread_bytes = answers
            self._end(Ending.MEMORY)
            self._outbox.close()
        else:
            self.on_refused()
            self._loop.give_up()
        return True

    def on_refused(self) -> None:
        """Report that a request was refused, because all clients together hold too much."""
        self._books.report_refusal()

    def _start_soon(self, task: Task) -> bool:
        """Start a task, to end with the connection; return False if that is ending."""
        if self._nursery is None:
            return False
        self._books.start(self._nursery, task)
        return True
