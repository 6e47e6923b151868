"""Accepts connections and runs a `ClientConnection`, or what a listener opens, for each.

Knows nothing of messages. Owns how a client gets from a listener to a connection, and draining.
`connection_bounds` says whether a client can be served; those beyond a bound are left to `newcomers`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import msgspec
import trio

from redstreamd.admission.accounts import Accounts, Held, Peer
from redstreamd.admission.memory import Memory
from redstreamd.admission.usage import Usage, usage
from redstreamd.errors.remedies import setting
from redstreamd.mcpio import jsonrpc
from redstreamd.mcpio.accept_loop import accept_clients, accept_waiting
from redstreamd.mcpio.client_connection import ClientConnection
from redstreamd.mcpio.connection_bounds import ConnectionBounds
from redstreamd.mcpio.connection_events import Bound, ConnectionRejected, EventHook, contained, ignore
from redstreamd.mcpio.connection_state import ConnectionState
from redstreamd.mcpio.kernels import Kernels, TakeCall
from redstreamd.mcpio.limits import Limits
from redstreamd.mcpio.newcomers import MAX_MESSAGE_BYTES, IsStatusRequest, Newcomers
from redstreamd.mcpio.peers import Holder, described, peer_of, top_holders, user_principal
from redstreamd.mcpio.running_connections import RunningConnections
from redstreamd.mcpio.served_connection import ServedConnection
from redstreamd.mcpio.served_listener import ServedListener, notice_vanishing
from redstreamd.mcpio.spare_descriptors import SPARE_DESCRIPTORS, SpareDescriptors
from redstreamd.mcpio.unauthenticated_clients import UnauthenticatedClients
from redstreamd.mcpio.unopened_clients import UnopenedClients
from redstreamd.policy import Principal
from redstreamd.policy.quotas import Quotas

# Those who hold most connections are looked for at most once in so many seconds.
HOLDERS_SECONDS: Final = 1.0
# For clients that are being asked for a certificate or a token when the daemon stops.
ASKED_SECONDS: Final = 1.0


class AcceptorStatistics(msgspec.Struct, frozen=True):
    """A snapshot of an acceptor.

    Attributes:
        connections: Connections that are open now, or wait to be opened.
        accepted: Connections that got a place so far, also if it was taken back before they were opened.
        refused: Connections rejected so far, because as many were open as may be.
        crashed: Connections ended so far by an exception that is a defect.
        requests_in_flight: Requests in flight now, over all connections.
        limit: How many connections may be open now.
        max_connections: `Limits.max_connections`; `limit` is lower if there are too few descriptors.
        full: The bound that was reached, so that the next client is rejected, or another gives way to it;
            None if it is not.
        holders: Those who hold most connections, the greatest first; a few.
        held_bytes: What clients make the daemon hold.
        max_held_bytes: `Limits.max_memory_bytes`.
        max_connections_set: Where `max_connections` is set, for those who do not know this daemon's settings.
    """

    connections: int
    accepted: int
    refused: int
    crashed: int
    requests_in_flight: int
    limit: int
    max_connections: int
    full: Bound | None
    holders: Sequence[Holder]
    held_bytes: int
    max_held_bytes: int
    max_connections_set: str = ""


class Acceptor:
    """Serves the clients of several listeners.

    Behaviour:
        A failed `accept` is retried forever, with growing pauses. Open connections are not affected. Clients
        beyond a bound are told so, also where the process has no descriptor left: some are kept for that.
        For a client whose process has fewer connections than another, the idlest of the process that has
        most is closed, see `gives_way`; one with requests in flight only if all have some.

    Resource handling:
        The caller owns the listeners; only `drain` closes them.
    """

    def __init__(
        self,
        listeners: Sequence[ServedListener],
        kernels: Kernels,
        *,
        direct_path: TakeCall | None = None,
        limits: Limits | None = None,
        accounts: Accounts | None = None,
        memory: Memory | None = None,
        room: Callable[[], int] | None = None,
        quotas: Quotas | None = None,
        is_status_request: IsStatusRequest | None = None,
        spare_descriptors: int = SPARE_DESCRIPTORS,
        on_event: EventHook = ignore,
        on_connections: Callable[[int, bool], None] | None = None,
    ) -> None:
        """Serve the clients of `listeners`.

        Args:
            listeners: Where to accept.
            kernels: What is served.
            direct_path: Serves plain calls of tools; None: `kernels` serves them, too.
            limits: Bounds; the defaults if None.
            accounts: Where connections are counted, and what clients hold and use; None for its own.
            memory: The budget of these accounts; None for one of its own.
            room: Returns for how many connections there are descriptors; None for any number.
            quotas: How many connections a principal may have; None: as many as there may be.
            is_status_request: Whether a request asks for the daemon's status, which is answered beyond the
                bounds, too; None for no request.
            spare_descriptors: How many are kept, to tell clients that there are no more.
            on_event: Called with each event.
            on_connections: Called with the number of connections, see `AcceptorStatistics`, when it changes,
                and whether these are as many as may be.
        """
        self._listeners = tuple(listeners)
        self._kernels = kernels
        self._direct_path = direct_path
        self._limits = limits or Limits()
        self._report = contained(on_event)
        self._accepting = trio.CancelScope()
        # Set while nothing is accepted.
        self._stopped = trio.Event()
        self._stopped.set()
        self._on_connections = on_connections
        self._accounts = accounts or Accounts()
        self._memory = memory or Memory(self._accounts, self._limits.max_memory_bytes)
        self._holders: tuple[tuple[Peer, int], ...] = ()
        self._holders_at = -HOLDERS_SECONDS
        self._unopened = UnopenedClients(self._accounts, on_change=self._tell_connections)
        self._spares = SpareDescriptors(spare_descriptors)
        self._unauthenticated = UnauthenticatedClients(self._limits, report=self._report)
        self._connections = RunningConnections(
            report=self._report, on_change=self._tell_connections, on_closed=self._unauthenticated.closed
        )
        self._room = room or (lambda: sys.maxsize)
        self._is_protected = any(each.protection is not None for each in self._listeners)
        self._bounds = ConnectionBounds(
            self._limits,
            self._accounts,
            self._connections,
            self._unopened,
            room=self._room_left if self._is_protected else self._room,
            spares=self._spares,
            quotas=quotas,
        )
        self._newcomers = Newcomers(
            kernels,
            self._limits,
            is_status_request=is_status_request or (lambda _request: False),
            report=self._report,
        )
        self._draining = False
        self._accepted = self._refused = 0

    def reconfigure(self, limits: Limits) -> None:
        """Apply other limits, from the next message and connection on; open connections stay open."""
        self._limits.become(limits)
        self._memory.max_bytes = limits.max_memory_bytes
        for connection in self._connections:
            connection.apply_limits()

    def statistics(self) -> AcceptorStatistics:
        """Return a snapshot."""
        return AcceptorStatistics(
            connections=self._count,
            accepted=self._accepted,
            refused=self._refused + self._newcomers.refused,
            crashed=self._connections.crashed + self._newcomers.crashed + self._unauthenticated.crashed,
            requests_in_flight=sum(each.statistics().requests_in_flight for each in self._connections),
            limit=self._bounds.limit,
            max_connections=self._limits.max_connections,
            max_connections_set=setting("limits.max_connections"),
            full=self._bounds.reached(),
            holders=described(top_holders(self._accounts)),
            held_bytes=self._accounts.all.held[Held.BYTES],
            max_held_bytes=self._memory.max_bytes,
        )

    @property
    def _count(self) -> int:
        return len(self._connections) + len(self._unopened)

    def _room_left(self) -> int:
        """Return for how many connections there are descriptors; over TLS one takes two more."""
        asking = self._unauthenticated
        return self._room() - asking.reserved - 2 * asking.relays

    def usage(self) -> Usage:
        """Return who uses most of the daemon's time and of Redis's."""
        return usage(self._accounts)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept and serve until drained; started once every listener accepts.

        Cancellation closes all connections at once. May be called again after it failed.
        """
        self._accepting = trio.CancelScope()
        self._stopped = trio.Event()
        try:
            with self._newcomers, self._spares:
                async with trio.open_nursery() as nursery:
                    try:
                        if self._draining:
                            self._accepting.cancel()
                        with self._accepting:
                            async with trio.open_nursery() as accepting:
                                for served in self._listeners:
                                    accepting.start_soon(self._accept, served, nursery)
                                task_status.started()
                        self._unopened.begin_all()
                        if self._draining:
                            for served in self._listeners:
                                await accept_waiting(served, partial(self._admit, served, nursery))
                        self._stopped.set()
                    finally:
                        # Once `nursery` has ended none could be opened.
                        self._unopened.close()
        finally:
            self._stopped.set()

    async def drain(self, timeout_seconds: float) -> bool:
        """Close the listeners, let requests in flight be answered, then close the connections.

        Clients that are connected and not accepted yet are served, too, unless the listener outlives us. See
        `ClientConnection.drain` for what clients notice. `run` returns afterwards.

        Args:
            timeout_seconds: After this, requests in flight are cancelled and answered with an error.

        Returns:
            Whether every request in flight was answered by its handler.
        """
        self._draining = True
        self._accepting.cancel()
        await self._stopped.wait()
        for served in self._listeners:
            await served.listener.aclose()
        await self._unauthenticated.settle(ASKED_SECONDS)
        # Closing a listener is a checkpoint, so a connection accepted at that moment is included.
        return await self._connections.drain(timeout_seconds)

    async def _accept(self, served: ServedListener, nursery: trio.Nursery) -> None:
        await accept_clients(
            served,
            partial(self._admit, served, nursery),
            free_descriptor=self._free_descriptor,
            # Beyond a bound there is time between two, in which the first is attended to.
            may_go_on=lambda: not self._newcomers.count,
            report=self._report,
        )

    async def _free_descriptor(self) -> bool:
        return self._spares.release() or await self._newcomers.free_descriptor()

    async def _admit(self, served: ServedListener, nursery: trio.Nursery, stream: trio.SocketStream) -> None:
        principal, peer = served.principal, peer_of(stream)
        if served.tells_users:
            principal = user_principal(principal, peer)
        notice_vanishing(stream)
        if served.protection is None:
            await self._serve_or_refuse(stream, served, principal, peer, nursery)
            return

        async def admit(shown: trio.SocketStream, principal: Principal, peer: Peer) -> None:
            await self._serve_or_refuse(shown, served, principal, peer, nursery)

        await self._unauthenticated.begin(
            stream, principal, served.protection, peer, nursery, admit, served.opens
        )

    async def _serve_or_refuse(
        self,
        stream: trio.SocketStream,
        served: ServedListener,
        principal: Principal,
        peer: Peer,
        nursery: trio.Nursery,
    ) -> None:
        opens = served.opens
        most_of_peer = None if opens is None else opens.max_connections_per_peer
        bound = self._bounds.first_reached(principal, peer, most_of_peer)
        if bound is None:
            begin = partial(self._start_connection, stream, served, principal, peer, nursery)
            refuse = partial(self._turn_away, stream, served, principal)
            self._accepted += 1
            self._unopened.add(stream, principal, peer, begin, refuse=refuse, at_once=self._draining)
            return

        def take_over(received: bytes) -> bool:
            # A connection that is opened now would not be drained.
            if self._draining or not self._bounds.find_place(principal, peer, most_of_peer):
                return False
            self._accepted += 1
            self._start_connection(stream, served, principal, peer, nursery, received)
            return True

        def refused() -> None:
            self._report_rejected(principal, bound, most_of_peer)

        message = self._bounds.refusal(bound, principal)
        answer = None if opens is None else partial(opens.refusal, message, is_temporary=True)
        await self._newcomers.admit(
            stream, principal, message, nursery, take_over=take_over, on_refused=refused, answer=answer
        )

    def _turn_away(
        self, stream: trio.SocketStream, served: ServedListener, principal: Principal, bound: Bound, why: str
    ) -> None:
        """Tell a client that was not opened that another one has its place, and close it."""
        self._refused += 1
        self._report_rejected(principal, bound)
        if served.opens is None:
            error = jsonrpc.error(None, jsonrpc.NOT_NOW, why)
        else:
            error = served.opens.refusal(why, is_temporary=True)
        # An OSError: the client has gone. Unread input would reset the connection.
        with contextlib.suppress(OSError):
            os.write(stream.socket.fileno(), error)
            os.read(stream.socket.fileno(), MAX_MESSAGE_BYTES)
        stream.socket.close()
        self._unauthenticated.closed(stream)

    def _report_rejected(self, principal: Principal, bound: Bound, most_of_peer: int | None = None) -> None:
        limit = self._bounds.limit_of(bound, principal, most_of_peer)
        self._report(ConnectionRejected(principal, limit, bound, self._most_holders()))

    def _most_holders(self) -> tuple[tuple[Peer, int], ...]:
        now = trio.current_time()
        if now >= self._holders_at + HOLDERS_SECONDS:
            self._holders, self._holders_at = top_holders(self._accounts), now
        return self._holders

    def _start_connection(
        self,
        stream: trio.SocketStream,
        served: ServedListener,
        principal: Principal,
        peer: Peer,
        nursery: trio.Nursery,
        received: bytes = b"",
    ) -> None:
        open_connection = partial(self._opened, stream, served, principal, peer, received)
        self._connections.start(stream, principal, open_connection, nursery)

    def _opened(
        self,
        stream: trio.SocketStream,
        served: ServedListener,
        principal: Principal,
        peer: Peer,
        received: bytes,
    ) -> ServedConnection:
        if served.opens is not None:
            return served.opens(
                stream, principal=principal, socket=served.address, peer=peer, received=received
            )
        return ClientConnection(
            stream,
            self._kernels,
            principal=principal,
            socket=served.address,
            direct_path=self._direct_path,
            limits=self._limits,
            state=ConnectionState(secrets.token_hex(8), unread=received) if received else None,
            peer=peer,
            accounts=self._accounts,
            memory=self._memory,
            on_event=self._report,
        )

    def _tell_connections(self) -> None:
        if self._on_connections is not None:
            count = self._count
            self._on_connections(count, count >= self._bounds.limit)
