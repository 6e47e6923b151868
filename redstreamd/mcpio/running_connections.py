"""The connections that are open: each runs in a task of its own, and a crash ends no other one."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator

import trio

from redstreamd.mcpio.connection_events import ConnectionCrashed, EventHook
from redstreamd.mcpio.idlest import Idlest
from redstreamd.mcpio.served_connection import ServedConnection
from redstreamd.policy import Principal


class RunningConnections:
    """The open connections of an acceptor, those that are closing included.

    Attributes:
        idlest: Those that may be closed for another client.
        crashed: How many ended so far by an exception that is a defect.
    """

    def __init__(
        self,
        *,
        report: EventHook,
        on_change: Callable[[], None],
        on_closed: Callable[[trio.SocketStream], None],
    ) -> None:
        """Begin without connections.

        Args:
            report: Called with `ConnectionCrashed`.
            on_change: Called when there is one more or one less.
            on_closed: Called with the stream of each that has ended.
        """
        self.idlest = Idlest()
        self.crashed = 0
        self._connections: set[ServedConnection] = set()
        self._report = report
        self._on_change = on_change
        self._on_closed = on_closed

    def __len__(self) -> int:
        """How many there are."""
        return len(self._connections)

    def __iter__(self) -> Iterator[ServedConnection]:
        """Each of them."""
        return iter(self._connections)

    def start(
        self,
        stream: trio.SocketStream,
        principal: Principal,
        open_connection: Callable[[], ServedConnection],
        nursery: trio.Nursery,
    ) -> None:
        """Open a connection and run it in `nursery`; after a defect the stream is closed."""
        try:
            connection = open_connection()
            nursery.start_soon(self._run, connection, stream, principal)
        except Exception as crash:  # noqa: BLE001 - any exception is a defect, and touches nobody else
            self.crashed += 1
            self._report(ConnectionCrashed(secrets.token_hex(8), principal, crash))
            stream.socket.close()
            self._on_closed(stream)
        else:
            self._connections.add(connection)
            self.idlest.add(connection)
        self._on_change()

    async def _run(
        self, connection: ServedConnection, stream: trio.SocketStream, principal: Principal
    ) -> None:
        try:
            await connection.run()
        # A cancellation in the group is raised again.
        except* Exception as crash:  # noqa: BLE001 - any exception is a defect
            self.crashed += 1
            self._report(ConnectionCrashed(connection.id, principal, crash))
        finally:
            self._connections.discard(connection)
            self._on_change()
            self._on_closed(stream)
            self.idlest.remove(connection)

    async def drain(self, timeout_seconds: float) -> bool:
        """Drain each, see `ClientConnection.drain`; return whether every request in flight was answered."""
        outcomes: list[bool] = []

        async def drain_one(connection: ServedConnection) -> None:
            outcomes.append(await connection.drain(timeout_seconds))

        async with trio.open_nursery() as nursery:
            for connection in self._connections:
                nursery.start_soon(drain_one, connection)
        return all(outcomes)
