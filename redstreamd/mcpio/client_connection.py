"""The line transport: the life of one client connection, from its stream to its end.

How messages are read is the `message_reader`'s, and what they mean the `session`'s; which phase follows which
event is the `lifecycle`'s.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec
import trio

from redstreamd.admission.accounts import Account, Accounts, Held, Peer
from redstreamd.admission.memory import Memory
from redstreamd.mcpio import jsonrpc
from redstreamd.mcpio.closing import discard_input, shut_down
from redstreamd.mcpio.connection_account import ConnectionAccount
from redstreamd.mcpio.connection_events import FOREIGN, Ending, EventHook, ignore
from redstreamd.mcpio.connection_state import ConnectionState, ConnectionStatistics
from redstreamd.mcpio.kernels import Kernels, TakeCall
from redstreamd.mcpio.late_event import LateEvent
from redstreamd.mcpio.lifecycle import Lifecycle, Phase
from redstreamd.mcpio.limits import Limits
from redstreamd.mcpio.message_reader import MessageReader
from redstreamd.mcpio.outbox import Outbox
from redstreamd.mcpio.session import Session, Task
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
        direct_path: TakeCall | None = None,
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
        self._inherited = state
        self._lifecycle = Lifecycle()
        # When requests in flight are cut off, in trio's time.
        self._deadline = math.inf
        self._cut_off = 0
        self._handed_over: ConnectionState | None = None
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
        self._reader = MessageReader(
            stream,
            self._session,
            self._outbox,
            books=books,
            limits=limits,
            state=state,
            on_end=self._on_input_end,
        )

    def apply_limits(self) -> None:
        """Apply the limits that were given, which have changed since."""
        limits = self._limits
        self._reader.splitter.reconfigure(limits.max_message_bytes)
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
        splitter = self._reader.splitter
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
                        await self._reader.run()
                    self._lifecycle.stop_reading()
                    await self._finish(nursery)
                    nursery.cancel_scope.cancel()
                finally:
                    self._nursery = None
        finally:
            ending = self._lifecycle.close()
            # Calls that have no task, which would have been cancelled with the nursery.
            self._session.in_flight.cut_off(drop=True)
            with trio.CancelScope(shield=True):
                await self._session.aclose()
                if self._handed_over is None:
                    await trio.aclose_forcefully(self._stream)
            self._outbox.close()
            self._reader.detach()
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

    def _on_input_end(self, ending: Ending) -> None:
        # What is in flight has some time, unless nothing can be answered any more.
        self._end(ending, EOF_GRACE_SECONDS)

    def _on_overflow(self) -> None:
        self._end(Ending.OVERFLOW)

    def _on_broken(self) -> None:
        self._end(Ending.BROKEN)

    def _on_unread(self) -> None:
        self._books.unread_bytes = self._outbox.size
        self._end(Ending.UNREAD)

    def give_back(self) -> bool:
        """Free the largest thing that the client makes us hold: all clients together hold too much."""
        splitter, requests = self._reader.splitter, self._session.in_flight
        in_flight, lines, answers = requests.held, splitter.held, self._outbox.size
        most = max(
            in_flight, lines, answers, self._books.account.held[Held.BYTES] - in_flight - lines - answers
        )
        if most <= 0:
            return False
        if most == lines:
            self.on_refused()
            beginning = splitter.give_up()
            if beginning is not None and (answer := jsonrpc.given_up(beginning, self._limits)) is not None:
                self._outbox.send(answer)
            return True
        if most == in_flight:
            self.on_refused()
            return requests.cut_longest(jsonrpc.memory_exceeded(self._limits))
        self._books.unread_bytes = answers
        self._end(Ending.MEMORY)
        self._outbox.close()
        return True

    def on_refused(self) -> None:
        """Report that a message was refused, because all clients together hold too much."""
        self._books.report_refusal()

    async def _stop_reading_when_idle(self) -> None:
        with trio.move_on_at(min(self._deadline, self._books.opened_at + FIRST_REQUEST_SECONDS)):
            await self._reader.message_received.wait()
        await self._session.in_flight.wait_empty()
        self._reading.cancel()

    async def _finish(self, nursery: trio.Nursery) -> None:
        """Wait for requests in flight and for the outbox, until the deadline."""
        ending = self._lifecycle.ending
        if ending in FOREIGN or ending is Ending.GAVE_WAY:
            # The client is still sending. It has to come to read our answer.
            nursery.start_soon(discard_input, self._stream, self._reader.input_ended)
        in_flight = self._session.in_flight
        with trio.move_on_at(self._deadline):
            await in_flight.wait_empty()
        state = self.state() if ending is Ending.HANDED_OVER else None
        self._cut_off = in_flight.cut_off(drop=state is not None)
        await in_flight.wait_empty()
        with trio.move_on_at(max(self._deadline, trio.current_time() + FINAL_WRITE_SECONDS)):
            if ending is Ending.DRAINED:
                await self._reader.run_rest()
                nursery.start_soon(discard_input, self._stream, self._reader.input_ended)
            if state is None:
                await self._outbox.wait_written()
            if ending in (Ending.DRAINED, Ending.GAVE_WAY) or ending in FOREIGN:
                await shut_down(self._stream, self._reader.input_ended)
        if state is not None:
            unwritten = self._outbox.take()
            if unwritten is None:
                self._end(Ending.OVERFLOW)
            else:
                self._handed_over = msgspec.structs.replace(state, unwritten=unwritten)

    def _start_soon(self, task: Task) -> bool:
        """Start a task, to end with the connection; return False if that is ending."""
        if self._nursery is None:
            return False
        self._books.start(self._nursery, task)
        return True
