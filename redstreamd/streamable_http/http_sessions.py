"""Sessions of the revisions with a handshake: they outlive the connections that their requests come over.

Owns their names, whose they are, how many there may be, and when they end. A session is an `mcpio.Session`
with a log of its events. Its requests come over any number of connections at the same time, and a client that
disconnects has not cancelled anything. Knows nothing of headers.
"""

from __future__ import annotations

import contextvars
import secrets
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final

import attrs
import trio

from redstreamd.admission.accounts import Held, Peer
from redstreamd.admission.memory import STEP_BYTES
from redstreamd.admission.turns import ACCOUNT, turns
from redstreamd.mcpio import jsonrpc
from redstreamd.mcpio.connection_events import MemoryExceeded, RequestFailed
from redstreamd.mcpio.jsonrpc import RequestId
from redstreamd.mcpio.kernels import Kernels, TakeCall
from redstreamd.mcpio.late_event import LateEvent
from redstreamd.mcpio.session import Session, Task
from redstreamd.policy import Principal
from redstreamd.streamable_http.event_streams import EventLog, EventStream, EventTicker, Fields
from redstreamd.streamable_http.http_messages import Client, Responder, Surroundings

#: Bytes of a session's name, before it is encoded; nobody can guess it.
_NAME_BYTES: Final = 24
#: How often sessions are looked at that may be idle.
_SWEEP_SECONDS: Final = 5.0
#: How long requests that were cut short may take to be answered, before what works on them is cancelled.
_ANSWER_SECONDS: Final = 1.0
#: What a session takes, without what it holds for its client.
_SESSION_BYTES: Final = STEP_BYTES


class HttpSession:
    """One session.

    Attributes:
        name: What the client shows in ``Mcp-Session-Id``.
        principal: Whose it is; nobody else is served in it.
        session: Its era, requests and subscriptions.
        log: Its events.
        used_at: When the last request came, in trio's time.
        is_ended: Whether it has ended.
    """

    __slots__ = (
        "__weakref__",
        "_client",
        "_flushing",
        "_log_bytes",
        "_notices",
        "_peer",
        "_sessions",
        "_tasks",
        "account",
        "is_ended",
        "log",
        "name",
        "principal",
        "session",
        "share",
        "used_at",
    )

    def __init__(self, sessions: HttpSessions, principal: Principal, peer: Peer) -> None:
        """Begin a session for a principal; `peer` is who asked for it."""
        around = sessions.surroundings
        self.name: Final = secrets.token_urlsafe(_NAME_BYTES)
        self.principal: Final = principal
        self.used_at = trio.current_time()
        self.is_ended = False
        self._sessions = sessions
        self._peer = peer
        # Its name is a secret, and not for logs.
        connection_id = secrets.token_hex(8)
        self.account: Final = around.accounts.open(principal, peer, connection_id)
        # It is no connection.
        self.account.hold(Held.CONNECTIONS, -1)
        self.share: Final = around.memory.open(self.account, self)
        # Counted in the share.
        self._log_bytes = 0
        self.log: Final = EventLog(around.http_limits, self._count_log)
        # What belongs to no request. The first stream of the log; it never ends before the session.
        self._notices = EventStream(sessions.ticker, self.log, self._has_gone)
        self._client: Client | None = None
        # Around the wait until that has read everything.
        self._flushing: trio.CancelScope | None = None
        # Of the tasks that run for it; None: there were none yet.
        self._tasks: set[trio.CancelScope] | None = None
        self.session = Session(
            sessions.kernels,
            connection_id=connection_id,
            principal=principal,
            account=self.account,
            limits=around.limits,
            sink=self,
            start_soon=self._start_soon,
            flushed=self._flushed,
            draining=sessions.draining,
            report=around.report,
            direct_path=sessions.direct_path,
            share=self.share,
        )
        # Last: who holds most may be asked to give back at once, and that may be this one.
        self.share.hold(_SESSION_BYTES)

    # The sink of what belongs to no request.

    @property
    def size(self) -> int:
        """Bytes that the client's socket has not accepted yet."""
        return self._client.outbox.size if self._client is not None and self._notices.is_attached else 0

    def send(self, line: bytes, *, is_last: bool = False) -> None:
        """Send a notification, or keep it until the client asks for it."""
        if not self.is_ended:
            self._notices.send(line, is_last=is_last)

    def answer(self, line: bytes, *, is_last: bool = False) -> None:
        """Do nothing: each request has a sink of its own."""

    def unanswered(self, request_id: RequestId) -> None:
        """Do nothing, likewise."""

    # Streams

    def find_stream(self, event: str | None) -> tuple[EventStream, int | None] | None:
        """Return the stream of an event, with its number; of None the stream of what belongs to no request.

        None if what came after the event is not kept any more.
        """
        return (self._notices, None) if event is None else self.log.find(event)

    def attach(
        self,
        found: tuple[EventStream, int | None],
        client: Client,
        responder: Responder,
        fields: Fields,
        *,
        primes: bool,
        is_valid: Callable[[], bool],
    ) -> None:
        """Go on with a stream by a response of a client; for the arguments see `EventStream.attach`."""
        stream, after = found
        if stream is self._notices:
            self._has_gone()
            self._client = client
        stream.attach(responder, fields, after=after, primes=primes, is_valid=is_valid)

    @property
    def is_listening(self) -> bool:
        """Whether the client has a stream for what belongs to no request."""
        return self._notices.is_attached

    def stop_listening(self) -> None:
        """End the response for what belongs to no request: the daemon stops."""
        self._notices.close()
        self._has_gone()

    @property
    def is_idle(self) -> bool:
        """Whether no request is in flight, and no stream open."""
        return not self.session.in_flight and not self.is_listening

    # Memory

    def give_back(self) -> bool:
        """Free the largest thing that the client makes us hold: all clients together hold too much."""
        in_flight = self.session.in_flight
        if self.log.size >= in_flight.held and self.log.clear():
            return True
        self.on_refused()
        return in_flight.cut_longest(jsonrpc.memory_exceeded(self.session.limits))

    def on_refused(self) -> None:
        """Report that a message was refused, because all clients together hold too much."""
        limit, held = self.session.limits.max_memory_bytes, self.account.held[Held.BYTES]
        event = MemoryExceeded(self.session.connection_id, self.principal, limit, held, self._peer)
        self._sessions.surroundings.report(event)

    def _count_log(self) -> None:
        size = self.log.size
        if abs(size - self._log_bytes) >= STEP_BYTES or (not size and self._log_bytes):
            more, self._log_bytes = size - self._log_bytes, size
            self.share.hold(more)

    # Ending

    def end(self) -> None:
        """Begin to end it: requests in flight are cut short, and answered with an error."""
        self.is_ended = True
        self.session.in_flight.cut_off(drop=False)

    async def aclose(self) -> None:
        """Let go of all that it holds, once its tasks have ended; shielded from cancellation."""
        session = self.session
        with trio.CancelScope(shield=True):
            with trio.move_on_after(_ANSWER_SECONDS):
                await session.in_flight.wait_empty()
            for scope in self._tasks or ():
                scope.cancel()
            while self._tasks:
                await self._sessions.task_ended.park()
            session.in_flight.cut_off(drop=True)
            await session.aclose()
        self.log.close()
        self.share.close()
        self._sessions.surroundings.accounts.close(self.account)
        # What is left has no cycle of references, and so is freed at once.
        session.detach()
        self.share.detach()
        self._client = None
        del self.session, self._notices

    async def _flushed(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._client is not None and self._notices.is_attached:
            # Not for longer than the client reads by this response.
            with trio.CancelScope() as self._flushing:
                await self._client.outbox.wait_written()
            self._flushing = None

    def _has_gone(self) -> None:
        """Let go of the connection by which the client listened."""
        self._client = None
        if self._flushing is not None:
            self._flushing.cancel()

    def _start_soon(self, task: Task) -> bool:
        """Start a task, to end with the session; return False if that has ended."""
        nursery = self._sessions.nursery
        if self.is_ended or nursery is None:
            return False
        scope = trio.CancelScope()
        self._tasks = self._tasks or set()
        self._tasks.add(scope)
        # In a context of its own: who starts it may be somebody else's task.
        context = contextvars.copy_context()
        context.run(ACCOUNT.set, self.account)
        context.run(nursery.start_soon, partial(self._run, scope, task))
        turns().spend(self.account)
        return True

    async def _run(self, scope: trio.CancelScope, task: Task) -> None:
        try:
            with scope:
                await task()
        except Exception as exc:  # noqa: BLE001 - a defect of one session may not end the others
            session = self.session
            event = RequestFailed(session.connection_id, self.principal, "", None, exc)
            self._sessions.surroundings.report(event)
            self._sessions.end(self)
        finally:
            if self._tasks is not None:
                self._tasks.discard(scope)
            self._sessions.task_ended.unpark_all()


@attrs.frozen
class SessionStatistics:
    """A snapshot.

    Attributes:
        sessions: Sessions that are open.
        listening: How many of them have a stream for what belongs to no request.
        requests_in_flight: Requests in flight in sessions.
        kept_bytes: What is kept of events for clients that come back for them.
        event_streams: Streams of events that are open, also those of requests without a session.
    """

    sessions: int
    listening: int
    requests_in_flight: int
    kept_bytes: int
    event_streams: int


class HttpSessions:
    """All sessions; a supervised child.

    Attributes:
        nursery: Of the sessions' tasks; None while it does not run.
        draining: Set once the daemon stops.
        task_ended: Woken whenever a task of an ended session ends.
    """

    def __init__(
        self,
        kernels: Kernels,
        direct_path: TakeCall | None,
        surroundings: Surroundings,
        ticker: EventTicker,
    ) -> None:
        """Have sessions served by `kernels` and `direct_path`; `ticker` keeps their streams open."""
        self.kernels: Final = kernels
        self.direct_path: Final = direct_path
        self.surroundings: Final = surroundings
        self.ticker: Final = ticker
        self.nursery: trio.Nursery | None = None
        self._sessions: dict[str, HttpSession] = {}
        self.draining: Final = LateEvent()
        self.task_ended: Final = trio.lowlevel.ParkingLot()

    def statistics(self) -> SessionStatistics:
        """Return a snapshot."""
        sessions = self._sessions.values()
        return SessionStatistics(
            sessions=len(sessions),
            listening=sum(each.is_listening for each in sessions),
            requests_in_flight=sum(len(each.session.in_flight) for each in sessions),
            kept_bytes=sum(each.log.size for each in sessions),
            event_streams=self.ticker.open_streams,
        )

    def find(self, name: str, principal: Principal) -> HttpSession | None:
        """Return the session of this name, which is used now; None if there is none of this principal."""
        session = self._sessions.get(name)
        if session is None or session.principal != principal:
            return None
        session.used_at = trio.current_time()
        return session

    def open(self, principal: Principal, peer: Peer) -> HttpSession | None:
        """Return a new session; None if there are too many, and none that gives way.

        The idlest gives way, without requests and streams, of the principal that has most.
        """
        if self.nursery is None or self.draining.is_set():
            return None
        if len(self._sessions) >= self.surroundings.http_limits.max_sessions:
            idlest = self._idlest()
            if idlest is None:
                return None
            self.end(idlest)
        session = HttpSession(self, principal, peer)
        self._sessions[session.name] = session
        return session

    def end(self, session: HttpSession) -> None:
        """End a session. Idempotent."""
        if self._sessions.pop(session.name, None) is not None:
            session.end()
            if self.nursery is not None:
                self.nursery.start_soon(session.aclose)

    def drain(self) -> None:
        """Reject requests from now on, and end the streams that no request does. Idempotent."""
        self.draining.set()
        for session in self._sessions.values():
            session.stop_listening()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the sessions' tasks, and end those that are idle. Cancellation ends all sessions at once."""
        try:
            async with trio.open_nursery() as nursery:
                self.nursery = nursery
                nursery.start_soon(self.ticker.run)
                nursery.start_soon(self._sweep)
                task_status.started()
        finally:
            self.nursery = None
            for session in list(self._sessions.values()):
                del self._sessions[session.name]
                session.end()
                await session.aclose()

    async def _sweep(self) -> None:
        while True:
            idle_seconds = self.surroundings.http_limits.session_idle_seconds
            await trio.sleep(min(_SWEEP_SECONDS, idle_seconds / 4))
            now = trio.current_time()
            for session in list(self._sessions.values()):
                if not session.is_idle:
                    session.used_at = now
                elif session.used_at < now - idle_seconds:
                    self.end(session)

    def _idlest(self) -> HttpSession | None:
        count = Counter(session.principal for session in self._sessions.values())
        idle = (session for session in self._sessions.values() if session.is_idle)
        return max(idle, key=lambda session: (count[session.principal], -session.used_at), default=None)
