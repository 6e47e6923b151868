"""Takes in peers from listeners and runs a connection for each; knows nothing of what peers say.

Owns how many there may be, what happens when the system runs out of descriptors, that a defect in one
connection costs that connection only, and the orderly end of them all.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from typing import Final

import attrs
import trio
from mcp.server.lowlevel import Server

from redstreamd.errors.remedies import setting
from redstreamd.mcpio import jsonrpc
from redstreamd.mcpio.client_connection import ClientConnection
from redstreamd.mcpio.connection_events import (
    AcceptPaused,
    AcceptResumed,
    ConnectionCrashed,
    EventHook,
    TurnedAway,
    contained,
    ignore,
)
from redstreamd.mcpio.limits import Limits
from redstreamd.policy import Principal

# Between attempts to accept while the system refuses: long enough not to burn a core, short enough that the
# first descriptor that comes free is used within a second.
PAUSE_SECONDS: Final = 0.05
MAX_PAUSE_SECONDS: Final = 1.0
# One line into the empty buffer of a new socket: it fits, unless the peer is broken.
REFUSAL_SECONDS: Final = 0.1
# How soon a peer is given up whose machine vanished without a word (tcp(7)): after 30 s of silence three
# probes at 5 s intervals, and 15 s where something that we sent is not acknowledged.
KEEPALIVE_OPTIONS: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 15_000),
)


@attrs.frozen
class ServedListener:
    """Where peers come in, and who they are by coming in there.

    Attributes:
        listener: Accepts them.
        principal: On whose behalf they call.
    """

    listener: trio.abc.Listener[trio.SocketStream]
    principal: Principal


@attrs.frozen
class AcceptorStatistics:
    """A snapshot of an acceptor.

    Attributes:
        connections: Open now.
        accepted: Let in so far.
        refused: Turned away so far, because there were too many.
        crashed: Ended by a defect of ours so far.
        requests_in_flight: Being served now, over all connections.
    """

    connections: int
    accepted: int
    refused: int
    crashed: int
    requests_in_flight: int


class Acceptor:
    """Serves everyone who comes in by one of its doors.

    Behaviour:
        Errors of `accept` are retried with a growing pause, forever: a system out of descriptors recovers
        by itself, and the peers who are in already must not pay for it.

    Resource handling:
        Listeners stay the caller's, to close or to accept on again; only `drain` closes them.
    """

    def __init__(
        self,
        listeners: Sequence[ServedListener],
        server: Server[Principal],
        *,
        limits: Limits | None = None,
        on_event: EventHook = ignore,
    ) -> None:
        """Serve with the handlers of `server`.

        Args:
            listeners: Where peers come in.
            server: What is served; handlers find the door's principal as their lifespan context.
            limits: Bounds; the defaults if None.
            on_event: Told what happens.
        """
        self._listeners = tuple(listeners)
        self._server = server
        self._limits = limits or Limits()
        self._report = contained(on_event)
        self._accepting = trio.CancelScope()
        self._connections: set[ClientConnection] = set()
        self._draining = False
        self._accepted = 0
        self._refused = 0
        self._crashed = 0

    def statistics(self) -> AcceptorStatistics:
        """Return a snapshot."""
        return AcceptorStatistics(
            connections=len(self._connections),
            accepted=self._accepted,
            refused=self._refused,
            crashed=self._crashed,
            requests_in_flight=sum(each.statistics().requests_in_flight for each in self._connections),
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept and serve until drained; started once every door accepts.

        Cancellation closes all connections at once. May be run again after it failed.
        """
        self._accepting = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            if self._draining:
                self._accepting.cancel()
            with self._accepting:
                async with trio.open_nursery() as accepting:
                    for served in self._listeners:
                        accepting.start_soon(self._accept, served, nursery)
                    task_status.started()

    async def drain(self, timeout_seconds: float) -> bool:
        """Let nobody in any more, let requests in flight be answered, then close; returns once closed.

        Closes the listeners. See `ClientConnection.drain` for what peers notice. `run` returns afterwards.

        Returns:
            Whether every request in flight was answered by its handler.
        """
        self._draining = True
        self._accepting.cancel()
        for served in self._listeners:
            await served.listener.aclose()
        outcomes: list[bool] = []

        async def drain_one(connection: ClientConnection) -> None:
            outcomes.append(await connection.drain(timeout_seconds))

        # To close a listener is a checkpoint, so whoever was being let in at that moment is among these.
        async with trio.open_nursery() as nursery:
            for connection in self._connections:
                nursery.start_soon(drain_one, connection)
        return all(outcomes)

    async def _accept(self, served: ServedListener, nursery: trio.Nursery) -> None:
        pause = PAUSE_SECONDS
        paused_since: float | None = None
        while True:
            try:
                stream = await served.listener.accept()
            except OSError as exc:
                if paused_since is None:
                    paused_since = trio.current_time()
                    self._report(AcceptPaused(served.principal, exc))
                await trio.sleep(pause)
                pause = min(2 * pause, MAX_PAUSE_SECONDS)
                continue
            if paused_since is not None:
                self._report(AcceptResumed(served.principal, trio.current_time() - paused_since))
                paused_since = None
                pause = PAUSE_SECONDS
            if len(self._connections) >= self._limits.max_connections:
                await self._turn_away(stream, served.principal)
            else:
                self._let_in(stream, served.principal, nursery)

    def _let_in(self, stream: trio.SocketStream, principal: Principal, nursery: trio.Nursery) -> None:
        self._accepted += 1
        if stream.socket.family in (socket.AF_INET, socket.AF_INET6):
            # A peer that is gone already is noticed by its connection.
            with contextlib.suppress(OSError):
                for level, option, value in KEEPALIVE_OPTIONS:
                    stream.setsockopt(level, option, value)
        connection = ClientConnection(
            stream, self._server, principal=principal, limits=self._limits, on_event=self._report
        )
        self._connections.add(connection)
        nursery.start_soon(self._serve, connection, principal)

    async def _serve(self, connection: ClientConnection, principal: Principal) -> None:
        try:
            await connection.run()
        except* Exception as crash:  # noqa: BLE001 - whatever the defect is
            # Only what is ours: a cancellation among them goes on its way.
            self._crashed += 1
            self._report(ConnectionCrashed(connection.id, principal, crash))
        finally:
            self._connections.discard(connection)

    async def _turn_away(self, stream: trio.SocketStream, principal: Principal) -> None:
        self._refused += 1
        limit = self._limits.max_connections
        self._report(TurnedAway(principal, limit))
        bound = setting("limits.max_connections")
        message = f"{limit} connections are open, the most there may be ({bound}); try later"
        try:
            with trio.move_on_after(REFUSAL_SECONDS), contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(jsonrpc.error(None, jsonrpc.NOT_NOW, message))
        finally:
            await trio.aclose_forcefully(stream)
