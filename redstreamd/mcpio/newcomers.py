"""Clients beyond a bound: each gets another's place, or is told why it is not served; the status is served.

MCP clients show their users only an error that answers a request, so a newcomer's first request is waited
for. Nobody gives way before that: not for a client that says nothing, nor for one that asks for the daemon's
status. That one gets it, because it is needed most while clients have taken all connections.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
from collections.abc import Callable
from typing import Final

import msgspec
import trio

from redstreamd.mcpio import jsonrpc
from redstreamd.mcpio.connection_events import ConnectionCrashed, EventHook
from redstreamd.mcpio.framing import LineSplitter, LongLine
from redstreamd.mcpio.jsonrpc import NOT_EXECUTED, NOT_NOW, Notification, Request, RequestId
from redstreamd.mcpio.kernels import Kernels
from redstreamd.mcpio.limits import Limits
from redstreamd.mcpio.one_request import answer_one
from redstreamd.policy import Principal

#: For the first request of a newcomer.
FIRST_REQUEST_SECONDS: Final = 1.0
#: For a newcomer that was answered to close its side. Closing with unread input would reset the connection,
#: and the client might lose our answer (RFC 9112, section 9.6, on HTTP).
LINGER_SECONDS: Final = 1.0
#: For the status, with the time until it is this newcomer's turn.
STATUS_SECONDS: Final = 5.0
#: What a newcomer has at least while others wait for its place; a client sends its first request at once.
PATIENCE_SECONDS: Final = 0.1
#: When newcomers have waited for places for so long, it is a flood, and nobody has that time any more.
FLOOD_SECONDS: Final = 1.0
#: A longer first message is not read, if its client is not served; the requests of a handshake take 1 KiB.
MAX_MESSAGE_BYTES: Final = 64 * 1024
#: Of one newcomer, which may send several requests at once. The errors fit into the buffer of a new socket.
MAX_ANSWERS: Final = 32
_READ_BYTES: Final = 16 * 1024
#: Reads of what is left of its input when a newcomer is closed.
_MAX_DISCARDED_READS: Final = 16
#: Clients of the modern era try the handshake when this fails, and show the last error.
TRIED_FIRST: Final = "server/discover"

IsStatusRequest = Callable[[Request], bool]
TakeOver = Callable[[bytes], bool]
"""Serves a newcomer that has sent so much as any client; False if it has to be refused."""


class _Newcomer(msgspec.Struct, eq=False):
    """A client beyond a bound.

    Attributes:
        connection: Its socket.
        descriptor: Of the socket.
        principal: On whose behalf it calls.
        message: What it is told.
        since: When it came, on trio's clock.
        deadline: When it is told at the latest; once it was told, when it is closed.
        take_over: Serves it as any client, if it can.
        on_refused: Called when it is told that it is not served.
        answer: What it is told in another protocol; None: it speaks the line transport.
        lines: What it sends.
        received: All that it sent, until it is settled what becomes of it.
        answers: How many lines were sent to it.
        is_taken_over: Whether it is served as any client, and is none of these any more.
        status_request: Its first request, and the line of it, if that asks for the status.
    """

    connection: trio.socket.SocketType
    descriptor: int
    principal: Principal
    message: str
    since: float
    deadline: float
    take_over: TakeOver
    on_refused: Callable[[], None]
    answer: Callable[[], bytes] | None
    status_request: tuple[Request, bytes] | None = None
    lines: LineSplitter = msgspec.field(default_factory=lambda: LineSplitter(MAX_MESSAGE_BYTES))
    received: bytearray = msgspec.field(default_factory=bytearray)
    answers: int = 0
    is_taken_over: bool = False


class Newcomers:
    """Attends to a bounded number of newcomers, each for a bounded time; to be used in a `with` block.

    Behaviour:
        A newcomer has `FIRST_REQUEST_SECONDS` for its first request. If somebody gives way then, it is served
        as any client; else the request is answered with an error, and it has `LINGER_SECONDS` to close its
        side. If its first request asks for the status, it gets the status
        instead; one at a time does. While all places are taken, the next newcomer waits in `admit`, and those
        after it in the backlog. The first one that was answered, or else the first that is silent, then has
        to leave; in a flood at once, so that a request for the status gets its turn.

        One task attends to all, with an epoll(7) of its own: a task for each would make a flood cost several
        times as much.

    Resource handling:
        At the end of the block all newcomers are told and closed.

    Attributes:
        refused: How many were told so far that they are not served.
        crashed: How many ended so far by an exception that is a defect.
    """

    def __init__(
        self,
        kernels: Kernels,
        limits: Limits,
        *,
        is_status_request: IsStatusRequest,
        report: EventHook,
    ) -> None:
        """Begin without newcomers.

        Args:
            kernels: Serves the status.
            limits: Has `max_newcomers`, and the bounds of a message.
            is_status_request: Whether a request asks for the status.
            report: Called with events of defects.
        """
        self.refused = self.crashed = 0
        self._kernels = kernels
        self._limits = limits
        self._is_status_request = is_status_request
        self._report = report
        # By descriptor. Invariant: each is in one of them; the first two are in order of their deadlines.
        self._waiting: dict[int, _Newcomer] = {}
        self._lingering: dict[int, _Newcomer] = {}
        self._served: dict[int, _Newcomer] = {}
        self._left = trio.lowlevel.ParkingLot()
        self._status_turn = trio.Lock()
        self._epoll: select.epoll
        self._nursery: trio.Nursery
        self._is_attending = False
        self._has_ended = False
        # Since when, and when for the last time, somebody needed a place that was taken.
        self._pressed_since = self._pressed_at = -FLOOD_SECONDS

    def __enter__(self) -> None:
        """Be ready for newcomers, also where there is no descriptor left."""
        self._epoll = select.epoll()
        self._is_attending = self._has_ended = False

    def __exit__(self, *_exc: object) -> None:
        """Tell and close all."""
        self._has_ended = True
        for newcomer in [*self._waiting.values(), *self._lingering.values()]:
            self._close(newcomer)
        self._epoll.close()

    async def admit(
        self,
        stream: trio.SocketStream,
        principal: Principal,
        message: str,
        nursery: trio.Nursery,
        *,
        take_over: TakeOver,
        on_refused: Callable[[], None],
        answer: Callable[[], bytes] | None = None,
    ) -> None:
        """Give a newcomer a place, and attend to it in `nursery`; returns once it has the place.

        Args:
            stream: Its connection, which is closed in the end.
            principal: On whose behalf it calls.
            message: What to tell it.
            nursery: Where it is attended to.
            take_over: Serves it as any client, if somebody gives way by then; it owns the connection then.
            on_refused: Called when it is told that it is not served.
            answer: Returns what to tell it instead, if it does not speak the line transport. Its first bytes
                are its request then, and it gets no status.
        """
        now = trio.current_time()
        newcomer = _Newcomer(
            stream.socket,
            stream.socket.fileno(),
            principal,
            message,
            since=now,
            deadline=now + FIRST_REQUEST_SECONDS,
            take_over=take_over,
            on_refused=on_refused,
            answer=answer,
        )
        try:
            while self.count >= self._limits.max_newcomers:
                await self._make_place()
        except BaseException:
            self._close(newcomer)
            raise
        # It may have waited for its place, and has its time from now on.
        self._attend_to(newcomer, self._waiting, FIRST_REQUEST_SECONDS)
        self._epoll.register(newcomer.descriptor, select.EPOLLIN)
        self._nursery = nursery
        self._start_attending()

    async def free_descriptor(self) -> bool:
        """Have a newcomer leave, or wait for that; False, at once, if there is none that can."""
        if not self._waiting and not self._lingering:
            return False
        await self._make_place()
        return True

    async def _make_place(self) -> None:
        """Have the first newcomer leave, if it had its least time; else wait a while for one that leaves."""
        now = trio.current_time()
        if now >= self._pressed_at + FLOOD_SECONDS:
            self._pressed_since = now
        self._pressed_at = now
        first = next(iter((self._lingering or self._waiting).values()), None)
        if first is None:
            await self._left.park()
        elif now >= min(self._pressed_since + FLOOD_SECONDS, first.since + PATIENCE_SECONDS):
            self._close(first)
        else:
            with trio.move_on_at(first.since + PATIENCE_SECONDS):
                await self._left.park()

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._waiting) + len(self._lingering) + len(self._served)

    def _start_attending(self) -> None:
        if not self._is_attending:
            self._is_attending = True
            self._nursery.start_soon(self._attend)

    async def _attend(self) -> None:
        try:
            while self._waiting or self._lingering:
                first = [next(iter(each.values())) for each in (self._waiting, self._lingering) if each]
                with trio.move_on_at(min(newcomer.deadline for newcomer in first)):
                    await trio.lowlevel.wait_readable(self._epoll.fileno())
                for descriptor, _ in self._epoll.poll(0):
                    newcomer = self._waiting.get(descriptor) or self._lingering.get(descriptor)
                    if newcomer is not None:
                        self._read(newcomer)
                self._end_overdue()
        finally:
            self._is_attending = False

    def _end_overdue(self) -> None:
        now = trio.current_time()
        for among, end in ((self._waiting, self._linger), (self._lingering, self._close)):
            for newcomer in list(among.values()):
                if newcomer.deadline > now:
                    break
                end(newcomer)

    def _read(self, newcomer: _Newcomer) -> None:
        """Read what a newcomer sent, and act on it."""
        try:
            data = os.read(newcomer.descriptor, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        is_waiting = newcomer.descriptor in self._waiting
        is_refused = is_waiting and self._take(newcomer, data)
        if newcomer.is_taken_over:
            return
        if is_waiting and newcomer.status_request is not None:
            self._served[newcomer.descriptor] = self._waiting.pop(newcomer.descriptor)
            self._epoll.unregister(newcomer.descriptor)
            self._nursery.start_soon(self._serve_status, newcomer, newcomer.status_request[1])
        elif not data:
            self._close(newcomer)
        elif is_refused:
            self._linger(newcomer)

    def _take(self, newcomer: _Newcomer, data: bytes) -> bool:
        """Answer what a newcomer sent; return whether it is settled that it is refused.

        A request for the status is kept instead, if it is the first.

        Args:
            newcomer: It.
            data: Bytes that it sent; none at the end of its input.
        """
        if not newcomer.answers:
            newcomer.received += data
        if newcomer.answer is not None:
            return bool(data) and not self._hand_over(newcomer)
        # At the end, a line without its newline is complete.
        newcomer.lines.feed(data or b"\n")
        is_refused = False
        while newcomer.lines.lines:
            line = newcomer.lines.lines.pop()
            if isinstance(line, LongLine):
                return not self._hand_over(newcomer)
            if not line.strip():
                continue
            message = jsonrpc.decode(line, self._limits)
            if not isinstance(message, Request):
                is_refused |= not isinstance(message, Notification)
            elif not newcomer.answers and self._is_status_request(message):
                newcomer.status_request = message, line
                return False
            elif self._hand_over(newcomer):
                return False
            elif newcomer.answers < MAX_ANSWERS:
                self._refuse(newcomer, message.id)
                is_refused |= message.method != TRIED_FIRST
        return is_refused

    def _hand_over(self, newcomer: _Newcomer) -> bool:
        """Have a newcomer served as any client, from its first request on; False if it cannot be."""
        if newcomer.answers or self._has_ended or not newcomer.take_over(bytes(newcomer.received)):
            return False
        newcomer.is_taken_over = True
        if self._waiting.pop(newcomer.descriptor, None) is not None:
            # An OSError: a defect kept it from being opened, and it is closed.
            with contextlib.suppress(OSError):
                self._epoll.unregister(newcomer.descriptor)
        self._left.unpark_all()
        return True

    async def _serve_status(self, newcomer: _Newcomer, line: bytes) -> None:
        """Serve a newcomer with the status that it asked for; it is refused if that takes too long."""
        answer = b""
        try:
            with trio.move_on_after(STATUS_SECONDS):
                async with self._status_turn:
                    answer = await answer_one(
                        self._kernels, self._limits, line, newcomer.principal, self._report
                    )
            if answer:
                newcomer.answers += 1
                with trio.move_on_after(LINGER_SECONDS), contextlib.suppress(trio.BrokenResourceError):
                    await trio.SocketStream(newcomer.connection).send_all(answer)
        except* Exception as crash:  # noqa: BLE001 - any exception is a defect, and touches nobody else
            self.crashed += 1
            self._report(ConnectionCrashed(secrets.token_hex(8), newcomer.principal, crash))
        finally:
            del self._served[newcomer.descriptor]
            self._epoll.register(newcomer.descriptor, select.EPOLLIN)
            self._linger(newcomer)
            self._start_attending()
            # This one may be told to leave now.
            self._left.unpark_all()

    def _refuse(self, newcomer: _Newcomer, request_id: RequestId | None) -> None:
        if not newcomer.answers:
            self.refused += 1
            newcomer.on_refused()
        newcomer.answers += 1
        data = {} if request_id is None else {"data": NOT_EXECUTED}
        if newcomer.answer is not None:
            error = newcomer.answer()
        else:
            error = jsonrpc.error(request_id, NOT_NOW, newcomer.message, **data)
        # An OSError: the client has gone, or reads nothing.
        with contextlib.suppress(OSError):
            os.write(newcomer.descriptor, error)

    def _settle(self, newcomer: _Newcomer) -> None:
        """Refuse a newcomer that was not answered, and send it nothing more."""
        if not newcomer.answers:
            request = newcomer.status_request
            self._refuse(newcomer, None if request is None else request[0].id)
        self._waiting.pop(newcomer.descriptor, None)
        self._lingering.pop(newcomer.descriptor, None)
        with contextlib.suppress(OSError):
            newcomer.connection.shutdown(trio.socket.SHUT_WR)

    def _linger(self, newcomer: _Newcomer) -> None:
        """Settle that a newcomer gets nothing more, and wait until it closes its side."""
        self._settle(newcomer)
        self._attend_to(newcomer, self._lingering, LINGER_SECONDS)

    def _close(self, newcomer: _Newcomer) -> None:
        """Close a connection without waiting."""
        with contextlib.suppress(OSError):
            if not newcomer.answers:
                # It had to leave early; its request may be here already.
                self._take(newcomer, os.read(newcomer.descriptor, _READ_BYTES))
        if newcomer.is_taken_over:
            return
        self._settle(newcomer)
        with contextlib.suppress(OSError):
            for _ in range(_MAX_DISCARDED_READS):
                if not os.read(newcomer.descriptor, _READ_BYTES):
                    break
        newcomer.connection.close()
        self._left.unpark_all()

    @staticmethod
    def _attend_to(newcomer: _Newcomer, among: dict[int, _Newcomer], seconds: float) -> None:
        newcomer.deadline = trio.current_time() + seconds
        among[newcomer.descriptor] = newcomer
