"""Clients of listeners that demand TLS or a token, until they have shown what is demanded.

They hold no place of a client: their number is bounded, and beyond it the oldest of the address that has most
is closed. Each has `AUTHENTICATION_SECONDS`. What follows sees a socket like any other, with the principal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import trio

from redstreamd.admission.accounts import Peer
from redstreamd.mcpio.authentication import Stream, authenticate
from redstreamd.mcpio.connection_events import ClientRefused, ConnectionCrashed, EventHook
from redstreamd.mcpio.limits import Limits
from redstreamd.mcpio.served_connection import OpenConnection
from redstreamd.mcpio.tls_relay import LINGER_SECONDS, relay, socket_pair
from redstreamd.policy import Principal
from redstreamd.protection.listener_protection import Protection

#: For the handshake of TLS and the token together.
AUTHENTICATION_SECONDS: Final = 5.0
#: Clients at a time that have not shown yet what is demanded.
MAX_PENDING: Final = 64

Admit = Callable[[trio.SocketStream, Principal, Peer], Awaitable[None]]


class _Pending(msgspec.Struct, eq=False):
    address: str
    scope: trio.CancelScope
    opens: OpenConnection | None
    is_admitted: bool = False


class UnauthenticatedClients:
    """Asks clients for what a listener demands, each in a task.

    Resource handling:
        Owns the streams until they are passed on; over TLS for as long as the connection lasts.

    Attributes:
        crashed: How many ended by an exception that is a defect.
    """

    def __init__(self, limits: Limits, *, report: EventHook) -> None:
        """Begin without clients.

        Args:
            limits: The bounds of a message, and of newcomers.
            report: Called with events.
        """
        self.crashed = 0
        self._limits = limits
        self._report = report
        self._most = min(MAX_PENDING, limits.max_newcomers)
        # In the order in which they came.
        self._pending: list[_Pending] = []
        self._left = trio.lowlevel.ParkingLot()
        # By the end that is served.
        self._relays: dict[trio.SocketStream, trio.CancelScope] = {}

    @property
    def relays(self) -> int:
        """How many connections are carried; each takes two descriptors more than another one."""
        return len(self._relays)

    @property
    def reserved(self) -> int:
        """How many descriptors are kept for clients that are asked."""
        return self._most

    async def begin(
        self,
        stream: trio.SocketStream,
        principal: Principal,
        protection: Protection,
        peer: Peer,
        nursery: trio.Nursery,
        admit: Admit,
        opens: OpenConnection | None = None,
    ) -> None:
        """Ask a client, in a task of its own; returns once there is a place for it.

        Args:
            stream: Its connection.
            principal: Of the listener.
            protection: What it demands.
            peer: Who connected.
            nursery: Where to run the task.
            admit: Called with a stream as of any other client, and the client's principal.
            opens: What its connection is opened by, which says how it is told that it is refused; None: the
                line transport.
        """
        pending = _Pending(peer.address, trio.CancelScope(), opens)
        try:
            while len(self._pending) >= self._most and not self._evict():
                await self._left.park()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        self._pending.append(pending)
        nursery.start_soon(self._ask, stream, principal, protection, peer, pending, nursery, admit)

    def closed(self, stream: trio.SocketStream) -> None:
        """Note that a stream that was passed on is closed: its client has a moment to read the rest."""
        if (scope := self._relays.get(stream)) is not None:
            scope.deadline = trio.current_time() + 2 * LINGER_SECONDS

    async def settle(self, seconds: float) -> None:
        """Wait until all that are asked have shown what is demanded; after so many seconds, close them."""
        with trio.move_on_after(seconds):
            while self._pending:
                await self._left.park()
        for pending in self._pending:
            pending.scope.cancel()
        while self._pending:
            await self._left.park()

    def _evict(self) -> bool:
        """Close the oldest client of the address that has most; False if all are shown in already."""
        waiting = [each for each in self._pending if not each.is_admitted]
        if not waiting:
            return False
        [(address, _)] = Counter(each.address for each in waiting).most_common(1)
        self._leave(first := next(each for each in waiting if each.address == address))
        first.scope.cancel()
        return True

    def _leave(self, pending: _Pending) -> None:
        if pending in self._pending:
            self._pending.remove(pending)
            self._left.unpark_all()

    async def _ask(
        self,
        stream: trio.SocketStream,
        principal: Principal,
        protection: Protection,
        peer: Peer,
        pending: _Pending,
        nursery: trio.Nursery,
        admit: Admit,
    ) -> None:
        passed_on = False
        why = ""
        try:
            with pending.scope:
                with trio.move_on_after(AUTHENTICATION_SECONDS) as asking:
                    demanded = await protection.current()
                    shown = await authenticate(stream, principal, demanded, self._limits, pending.opens)
                if asking.cancelled_caught:
                    why = f"it did not show what is demanded within {AUTHENTICATION_SECONDS:.0f} s"
                elif isinstance(shown, str):
                    why = shown
                else:
                    pending.is_admitted = passed_on = True
                    await self._pass_on(*shown, peer, nursery, admit)
            if pending.scope.cancelled_caught and not passed_on:
                why = "it had not shown yet what is demanded when its place was needed"
            if why:
                self._report(ClientRefused(principal, why, peer))
        except* Exception as crash:  # noqa: BLE001 - any exception is a defect, and touches nobody else
            self.crashed += 1
            self._report(ConnectionCrashed("", principal, crash))
        finally:
            self._leave(pending)
            if not passed_on:
                with trio.CancelScope(shield=True):
                    await trio.aclose_forcefully(stream)

    async def _pass_on(
        self,
        stream: Stream,
        received: bytes,
        principal: Principal,
        peer: Peer,
        nursery: trio.Nursery,
        admit: Admit,
    ) -> None:
        if isinstance(stream, trio.SocketStream):
            await admit(stream, principal, peer)
            return
        try:
            served, inner = socket_pair()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        self._relays[served] = trio.CancelScope()
        nursery.start_soon(self._relay, stream, inner, received, served)
        await admit(served, principal, peer)

    async def _relay(
        self,
        tls: trio.SSLStream[trio.SocketStream],
        inner: trio.SocketStream,
        received: bytes,
        served: trio.SocketStream,
    ) -> None:
        try:
            with self._relays[served]:
                await relay(tls, inner, received)
        finally:
            del self._relays[served]
