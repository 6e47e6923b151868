"""One peer, from its first byte to the close.

Owns the stream: when it is read, when it is written, and how it ends. What the lines mean is the
``dispatcher``'s business.
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

# A peer that stopped sending may still read, as `nc` does once its input ends; one that is gone must not hold
# its waits for longer than this.
EOF_GRACE_SECONDS: Final = 1.0
# For the answers to requests that were cut off: they are short, so a peer that reads has them at once.
LAST_WORDS_SECONDS: Final = 0.25
# A peer that has just connected has its first request on the way. Drained before that is read, it would find
# its connection closed, or reset, without an answer; so it is given this long from its opening on. A quarter
# of a second was too short for one in a hundred, on a machine that is busy with the restart itself.
FIRST_REQUEST_SECONDS: Final = 1.0
# The most that is read at once; a Unix socket holds about three times as much by default.
READ_BYTES: Final = 65536
# A peer that sends much at once gives way to the others after so many messages or bytes: a millisecond of
# work, or one message that is longer than that.
MESSAGES_PER_TURN: Final = 16
BYTES_PER_TURN: Final = 16384
# How an HTTP request begins (RFC 9112, section 3). Any web page can have a browser send one to a TCP port of
# this host, with a body of the page's choice: lines of the header are no JSON, but those of the body may be.
# What is between, the page's address, can be megabytes, and nobody is served while it is searched.
_HTTP_METHOD: Final = re.compile(rb"[A-Z]{1,32} ")
_HTTP_VERSION: Final = re.compile(rb" HTTP/[0-9.]+\r?\Z")
_HTTP_VERSION_BYTES: Final = 16


@attrs.frozen
class ConnectionStatistics:
    """A snapshot of one connection.

    Attributes:
        connection_id: Its name in events.
        era: None until the peer has shown it.
        requests: Requests received so far, refused ones included.
        requests_in_flight: Those being served now.
        outbox_bytes: What waits for the peer to read it.
    """

    connection_id: str
    era: Era | None
    requests: int
    requests_in_flight: int
    outbox_bytes: int


class ClientConnection:
    """Serves one peer over one byte stream.

    Behaviour:
        See `Dispatcher` for how messages are answered.
        When the peer stops sending, requests in flight get `EOF_GRACE_SECONDS` and then an error. When the
        stream breaks, or more waits for the peer to read than the limit allows, they are cancelled at once.
        A peer that begins to speak HTTP is told so, and nothing else that it sends is looked at.

    Resource handling:
        `run` takes the stream over and closes it on the way out, except after `hand_over`.
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
            stream: Both directions of the peer.
            server: What is served.
            principal: On whose behalf the peer calls; handlers find it as their lifespan context.
            limits: Bounds; the defaults if None.
            state: What an earlier connection over the same stream left behind. Requests that were in flight
                in it are answered with an error, because nobody knows how they ended; listens are taken up
                again.
            on_event: Told what happens.

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
        self._has_begun = state is not None
        self._heard = trio.Event()
        if state is not None:
            self._splitter.feed(state.unread)
            self._heard.set()
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
        self._left: ConnectionState | None = None
        self._dispatcher = Dispatcher(
            server,
            principal=principal,
            limits=limits,
            peer=ConnectionHandle(
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
        """Return what another process would need to go on with this peer, as of now."""
        return self._dispatcher.state(self._splitter.unread())

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the peer until it leaves, its stream breaks, or we close it; started once it is being read.

        Cancellation closes the stream at once. Once only: a connection that ended is discarded.
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
                    # A nursery that is about to close takes no tasks any more, and says so by raising.
                    self._nursery = None
        finally:
            with trio.CancelScope(shield=True):
                await self._dispatcher.aclose()
                if self._left is None:
                    await trio.aclose_forcefully(self._stream)
            # This object and its parts refer to each other, so it can be a while before they are collected.
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
        """Take no further requests, let those in flight be answered, then close; returns once closed.

        Requests that arrive meanwhile are answered with an error; a peer that has just connected has
        `FIRST_REQUEST_SECONDS` for its first one. Those still in flight after
        `timeout_seconds` are cancelled and answered with one too, for which the peer has
        `LAST_WORDS_SECONDS` more. Handlers that wait can watch `RequestContext.draining`. `run` must be
        running, about to, or over. Cancelling this stops nothing.

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
        """Stop at the next message border and leave the stream open, for a successor to go on with.

        Nothing more is read. Requests in flight get `timeout_seconds` to be answered; the others are
        cancelled without an answer and named in the state. `run` must be running, about to, or over.

        Returns:
            What to give the successor; None if the connection could not be kept, because it ended by itself
            or the peer did not read what was sent to it. Then the stream is closed.
        """
        self._stop(Ending.HANDED_OVER, timeout_seconds)
        self._reading.cancel()
        await self._closed.wait()
        return self._left

    def _stop(self, ending: Ending, timeout_seconds: float) -> None:
        """End in an orderly way: `_finish` follows, once reading has stopped."""
        if self._ending is None:
            self._ending = ending
        self._deadline = min(self._deadline, trio.current_time() + timeout_seconds)
        self._reading.deadline = self._deadline

    def _break(self, ending: Ending) -> None:
        """End at once."""
        self._ending = ending
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    async def _stop_reading_when_idle(self) -> None:
        with trio.move_on_at(min(self._deadline, self._opened_at + FIRST_REQUEST_SECONDS)):
            await self._heard.wait()
        await self._dispatcher.in_flight.wait_empty()
        self._reading.cancel()

    async def _read(self, nursery: trio.Nursery) -> None:
        """Take messages until the peer stops sending, or breaks the rules of the wire."""
        messages = size = 0
        while True:
            while (line := self._splitter.next_line()) is not None:
                if not self._has_begun and _begins_http(line):
                    message = "this is no HTTP server: messages are JSON-RPC, each on a line of its own"
                    self._turn_away(Ending.HTTP, jsonrpc.PARSE_ERROR, message)
                    return
                self._has_begun = True
                await self._dispatcher.take(line, nursery)
                self._heard.set()
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
                self._turn_away(Ending.OVERSIZE, jsonrpc.INVALID_REQUEST, message)
                return
            try:
                data = await self._stream.receive_some(READ_BYTES)
            except trio.BrokenResourceError:
                self._break(Ending.BROKEN)
                return
            if not data:
                self._stop(Ending.EOF, EOF_GRACE_SECONDS)
                # A last line without its newline is complete or no JSON, since an object ends with its brace.
                rest = self._splitter.take_rest()
                if rest:
                    await self._dispatcher.take(rest, nursery)
                return
            self._splitter.feed(bytes(data))

    def _turn_away(self, ending: Ending, code: int, message: str) -> None:
        """Say what is wrong with what the peer sends, and end; the rest of it is read and not looked at."""
        self._send(jsonrpc.error(None, code, message))
        self._stop(ending, EOF_GRACE_SECONDS)

    async def _finish(self, nursery: trio.Nursery) -> None:
        """Let requests in flight end, and have everything written, as far as the deadline allows."""
        is_sending = self._ending in (Ending.OVERSIZE, Ending.HTTP)
        if is_sending:
            nursery.start_soon(self._discard_input)
        in_flight = self._dispatcher.in_flight
        with trio.move_on_at(self._deadline):
            await in_flight.wait_empty()
        state = self.state() if self._ending is Ending.HANDED_OVER else None
        self._cut_off = in_flight.cut_off(silently=state is not None)
        await in_flight.wait_empty()
        with trio.move_on_at(max(self._deadline, trio.current_time() + LAST_WORDS_SECONDS)):
            await self._outbox.wait_written()
            if is_sending:
                await self._linger()
        if state is not None and self._outbox.size == 0:
            self._left = state
        elif state is not None:
            self._break(Ending.OVERFLOW)

    async def _discard_input(self) -> None:
        """Read on without looking, so that a peer in the middle of sending gets to reading our answer."""
        with contextlib.suppress(trio.BrokenResourceError):
            while await self._stream.receive_some(READ_BYTES):
                pass
        self._input_ended.set()

    async def _linger(self) -> None:
        """Tell the peer that we are done, and wait for it to leave.

        Closing with input unread would reset the connection, which can cost the peer our last line
        (RFC 9112, section 9.6, says so of HTTP).
        """
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            with contextlib.suppress(trio.BrokenResourceError):
                await self._stream.send_eof()
        await self._input_ended.wait()

    def _start(self, task: Task) -> bool:
        """Run a handler's task for as long as the connection lives; tell whether it still does."""
        if self._nursery is None:
            return False
        self._nursery.start_soon(task)
        return True

    def _send(self, line: bytes) -> None:
        """Queue a line, and have it written; for tasks that must not wait for the peer."""
        if self._enqueue(line) and self._nursery is not None:
            self._nursery.start_soon(self._write)

    async def _deliver(self, line: bytes) -> None:
        """Queue a line and write it; for tasks that have nothing else to do."""
        if self._enqueue(line):
            await self._write()

    def _enqueue(self, line: bytes) -> bool:
        """Queue a line and tell whether somebody has to write it."""
        if self._nursery is None:
            return False
        if not self._outbox.put(line):
            self._break(Ending.OVERFLOW)
            return False
        return self._outbox.needs_writer()

    async def _write(self) -> None:
        try:
            await self._outbox.write()
        except trio.BrokenResourceError:
            self._break(Ending.BROKEN)


def _begins_http(line: bytes) -> bool:
    """Tell whether a line is the first of an HTTP request."""
    if _HTTP_METHOD.match(line) is None:
        return False
    return _HTTP_VERSION.search(line[-_HTTP_VERSION_BYTES:]) is not None
