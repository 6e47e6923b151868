"""One client connection: reading, writing and closing its stream.

What the lines mean is the `dispatcher`'s.
"""

from __future__ import annotations

import contextlib
import math
import re
import secrets
from typing import Final

import attrs
import trio
from mcp.server.lowlevel import Server

from redstreamd.errors.remedies import setting
from redstreamd.mcpio import jsonrpc
from redstreamd.mcpio.connection_events import (
    ConnectionClosed,
    ConnectionOpened,
    Ending,
    EventHook,
    contained,
    ignore,
)
from redstreamd.mcpio.connection_state import ConnectionState, Era
from redstreamd.mcpio.dispatcher import Dispatcher
from redstreamd.mcpio.framing import LineSplitter
from redstreamd.mcpio.limits import Limits
from redstreamd.mcpio.outbox import Outbox
from redstreamd.mcpio.request_context import ConnectionHandle, Task
from redstreamd.policy import Principal

# A client that stopped sending may still read, as `nc` does once its input ends. A client that has gone keeps
# its waits for no longer than this.
EOF_GRACE_SECONDS: Final = 1.0
# For writing the short error answers to requests that were cut off.
FINAL_WRITE_SECONDS: Final = 0.25
# The first request of a new connection may still be on its way when the daemon stops. Draining waits for it,
# until the connection is this old, because it would get no answer otherwise. 0.25 s was too short for one
# connection in a hundred, on a machine busy with the restart.
FIRST_REQUEST_SECONDS: Final = 1.0
# The most that is read at once; by default a Unix socket buffers about three times as much.
READ_BYTES: Final = 65536
# After so many messages or bytes the other tasks run: a millisecond of work, or one longer message.
MESSAGES_PER_TURN: Final = 16
BYTES_PER_TURN: Final = 16384
# How an HTTP request begins (RFC 9112, section 3). A web page can make a browser send one to a TCP port of
# this host, with lines of JSON in the body. The URL in the middle can be long, so it is not searched.
_HTTP_METHOD: Final = re.compile(rb"[A-Z]{1,32} ")
_HTTP_VERSION: Final = re.compile(rb" HTTP/[0-9.]+\r?\Z")
_HTTP_VERSION_BYTES: Final = 16


@attrs.frozen
class ConnectionStatistics:
    """A snapshot of one connection.

    Attributes:
        connection_id: Its name in events.
        era: None until the client has shown it.
        requests: Requests received so far, rejected ones included.
        requests_in_flight: Requests in flight now.
        outbox_bytes: Bytes that the client has not read yet.
    """

    connection_id: str
    era: Era | None
    requests: int
    requests_in_flight: int
    outbox_bytes: int


class ClientConnection:
    """Serves one client over one byte stream.

    Behaviour:
        See `Dispatcher` for how messages are answered. When the client stops sending, requests in flight get
        `EOF_GRACE_SECONDS` and then an error. When the stream breaks, or the client leaves more than
        `Limits.max_outbox_bytes` unread, they are cancelled at once. A client that speaks HTTP is answered
        with one error, and the rest of what it sends is discarded.

    Resource handling:
        `run` owns the stream and closes it, except after `hand_over`.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        server: Server[Principal],
        *,
        principal: Principal,
        limits: Limits | None = None,
        state: ConnectionState | None = None,
        on_event: EventHook = ignore,
    ) -> None:
        """Serve `stream` with the handlers of `server`.

        Args:
            stream: Both directions.
            server: What is served.
            principal: On whose behalf the client calls; handlers find it as their lifespan context.
            limits: Bounds; the defaults if None.
            state: From the connection that served the same stream before. Its requests in flight are
                answered with an error, because their outcome is unknown; its listen requests continue.
            on_event: Called with each event.

        Raises:
            ValueError: The handshake that `state` remembers is not valid.
        """
        self._limits = limits = limits or Limits()
        self.id = secrets.token_hex(8) if state is None else state.connection_id
        self._stream = stream
        self._principal = principal
        self._inherited = state
        self._report = contained(on_event)
        self._splitter = LineSplitter(limits.max_message_bytes)
        self._is_first_line_read = state is not None
        self._message_received = trio.Event()
        if state is not None:
            self._splitter.feed(state.unread)
            self._message_received.set()
        self._outbox = Outbox(stream, limits.max_outbox_bytes)
        self._draining = trio.Event()
        self._closed = trio.Event()
        self._opened_at = -math.inf
        self._input_ended = trio.Event()
        self._reading = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        # When requests in flight are cut off, in trio's time.
        self._deadline = math.inf
        self._ending: Ending | None = None
        self._cut_off = 0
        self._handed_over: ConnectionState | None = None
        self._dispatcher = Dispatcher(
            server,
            principal=principal,
            limits=limits,
            connection=ConnectionHandle(
                self.id,
                start=self._start,
                flushed=self._outbox.wait_written,
                subscriptions={} if state is None else state.subscriptions,
            ),
            draining=self._draining,
            send=self._send,
            deliver=self._deliver,
            report=self._report,
            state=state,
        )

    def statistics(self) -> ConnectionStatistics:
        """Return a snapshot."""
        return ConnectionStatistics(
            connection_id=self.id,
            era=self._dispatcher.era,
            requests=self._dispatcher.requests,
            requests_in_flight=len(self._dispatcher.in_flight),
            outbox_bytes=self._outbox.size,
        )

    def state(self) -> ConnectionState:
        """Return what another process needs to continue this connection, as of now."""
        return self._dispatcher.state(self._splitter.unread())

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the client until it disconnects or we close; started once the stream is being read.

        Cancellation closes the stream at once. To be called once.
        """
        began = self._opened_at = trio.current_time()
        self._report(ConnectionOpened(self.id, self._principal))
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                try:
                    if self._inherited is not None:
                        self._dispatcher.resume(self._inherited, nursery)
                        self._inherited = None
                    if self._draining.is_set():
                        nursery.start_soon(self._stop_reading_when_idle)
                    task_status.started()
                    with self._reading:
                        await self._read(nursery)
                    await self._finish(nursery)
                    nursery.cancel_scope.cancel()
                finally:
                    # A nursery that is closing raises when a task is started.
                    self._nursery = None
        finally:
            with trio.CancelScope(shield=True):
                await self._dispatcher.aclose()
                if self._handed_over is None:
                    await trio.aclose_forcefully(self._stream)
            # The object is part of reference cycles, so it may be collected late.
            self._outbox.clear()
            self._splitter.clear()
            self._closed.set()
            self._report(
                ConnectionClosed(
                    self.id,
                    self._principal,
                    ending=self._ending or Ending.CANCELLED,
                    open_seconds=trio.current_time() - began,
                    requests=self._dispatcher.requests,
                    cut_off=self._cut_off,
                    limit_bytes={
                        Ending.OVERSIZE: self._limits.max_message_bytes,
                        Ending.OVERFLOW: self._limits.max_outbox_bytes,
                    }.get(self._ending or Ending.CANCELLED),
                )
            )

    async def drain(self, timeout_seconds: float) -> bool:
        """Reject further requests, let those in flight be answered, then close; returns once closed.

        A new connection has `FIRST_REQUEST_SECONDS` for its first request. Requests still in flight after
        `timeout_seconds` are cancelled and answered with an error, within `FINAL_WRITE_SECONDS` more.
        Handlers that wait can watch `RequestContext.draining`. `run` must have been called, or be called
        next. Cancelling this does not stop the draining.

        Returns:
            Whether every request in flight was answered by its handler.
        """
        self._stop(Ending.DRAINED, timeout_seconds)
        self._draining.set()
        if self._nursery is not None:
            self._nursery.start_soon(self._stop_reading_when_idle)
        await self._closed.wait()
        return self._cut_off == 0

    async def hand_over(self, timeout_seconds: float) -> ConnectionState | None:
        """Stop between two messages and leave the stream open for another connection object.

        Nothing more is read. Requests not answered within `timeout_seconds` are cancelled without an answer
        and named in the state. `run` must have been called, or be called next.

        Returns:
            The state for the successor; None if the connection ended before, or the client did not read
            what was sent. Then the stream is closed.
        """
        self._stop(Ending.HANDED_OVER, timeout_seconds)
        self._reading.cancel()
        await self._closed.wait()
        return self._handed_over

    def _stop(self, ending: Ending, timeout_seconds: float) -> None:
        """End in order: when reading has stopped, `_finish` follows."""
        if self._ending is None:
            self._ending = ending
        self._deadline = min(self._deadline, trio.current_time() + timeout_seconds)
        self._reading.deadline = self._deadline

    def _abort(self, ending: Ending) -> None:
        """End at once."""
        self._ending = ending
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    async def _stop_reading_when_idle(self) -> None:
        with trio.move_on_at(min(self._deadline, self._opened_at + FIRST_REQUEST_SECONDS)):
            await self._message_received.wait()
        await self._dispatcher.in_flight.wait_empty()
        self._reading.cancel()

    async def _read(self, nursery: trio.Nursery) -> None:
        """Handle messages until the client stops sending or violates the framing."""
        messages = size = 0
        while True:
            while (line := self._splitter.next_line()) is not None:
                if not self._is_first_line_read and _begins_http(line):
                    message = "this is not an HTTP server; send JSON-RPC messages, one on each line"
                    self._reject(Ending.HTTP, jsonrpc.PARSE_ERROR, message)
                    return
                self._is_first_line_read = True
                await self._dispatcher.handle_line(line, nursery)
                self._message_received.set()
                messages += 1
                size += len(line)
                if messages >= MESSAGES_PER_TURN or size >= BYTES_PER_TURN:
                    messages = size = 0
                    await trio.lowlevel.checkpoint()
            if self._splitter.overlong:
                limit = self._limits.max_message_bytes
                message = (
                    f"a message must not be longer than {limit} bytes ({setting('limits.max_message_bytes')})"
                )
                self._reject(Ending.OVERSIZE, jsonrpc.INVALID_REQUEST, message)
                return
            try:
                data = await self._stream.receive_some(READ_BYTES)
            except trio.BrokenResourceError:
                self._abort(Ending.BROKEN)
                return
            if not data:
                self._stop(Ending.EOF, EOF_GRACE_SECONDS)
                # A last line without its newline is complete or no JSON, since an object ends with its brace.
                rest = self._splitter.take_rest()
                if rest:
                    await self._dispatcher.handle_line(rest, nursery)
                return
            self._splitter.feed(bytes(data))

    def _reject(self, ending: Ending, code: int, message: str) -> None:
        """Answer with an error, and end; the rest of the input is discarded."""
        self._send(jsonrpc.error(None, code, message))
        self._stop(ending, EOF_GRACE_SECONDS)

    async def _finish(self, nursery: trio.Nursery) -> None:
        """Wait for requests in flight and for the outbox, until the deadline."""
        is_sending = self._ending in (Ending.OVERSIZE, Ending.HTTP)
        if is_sending:
            nursery.start_soon(self._discard_input)
        in_flight = self._dispatcher.in_flight
        with trio.move_on_at(self._deadline):
            await in_flight.wait_empty()
        state = self.state() if self._ending is Ending.HANDED_OVER else None
        self._cut_off = in_flight.cut_off(unanswered=state is not None)
        await in_flight.wait_empty()
        with trio.move_on_at(max(self._deadline, trio.current_time() + FINAL_WRITE_SECONDS)):
            await self._outbox.wait_written()
            if is_sending:
                await self._linger()
        if state is not None and self._outbox.size == 0:
            self._handed_over = state
        elif state is not None:
            self._abort(Ending.OVERFLOW)

    async def _discard_input(self) -> None:
        """Discard input, so that a client that is still sending comes to read our answer."""
        with contextlib.suppress(trio.BrokenResourceError):
            while await self._stream.receive_some(READ_BYTES):
                pass
        self._input_ended.set()

    async def _linger(self) -> None:
        """Shut down our side, and wait until the client closes its own.

        Closing with unread input resets the connection, and the client may lose our last line
        (RFC 9112, section 9.6, on HTTP).
        """
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            with contextlib.suppress(trio.BrokenResourceError):
                await self._stream.send_eof()
        await self._input_ended.wait()

    def _start(self, task: Task) -> bool:
        """Start a handler's task, to end with the connection; return False if that is ending."""
        if self._nursery is None:
            return False
        self._nursery.start_soon(task)
        return True

    def _send(self, line: bytes) -> None:
        """Queue a line and start a writer if needed; never waits for the client."""
        if self._enqueue(line) and self._nursery is not None:
            self._nursery.start_soon(self._write)

    async def _deliver(self, line: bytes) -> None:
        """Queue a line and write it in the calling task if a writer is needed."""
        if self._enqueue(line):
            await self._write()

    def _enqueue(self, line: bytes) -> bool:
        """Queue a line; return whether the caller has to write."""
        if self._nursery is None:
            return False
        if not self._outbox.put(line):
            self._abort(Ending.OVERFLOW)
            return False
        return self._outbox.needs_writer()

    async def _write(self) -> None:
        try:
            await self._outbox.write()
        except trio.BrokenResourceError:
            self._abort(Ending.BROKEN)


def _begins_http(line: bytes) -> bool:
    """Return whether a line is the first of an HTTP request."""
    if _HTTP_METHOD.match(line) is None:
        return False
    return _HTTP_VERSION.search(line[-_HTTP_VERSION_BYTES:]) is not None
