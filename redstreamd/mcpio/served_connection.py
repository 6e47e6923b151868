"""What an acceptor asks of a connection, whatever the client speaks, and of those who open one."""

from __future__ import annotations

from typing import Protocol

import trio

from redstreamd.admission.accounts import Account, Peer
from redstreamd.mcpio.connection_state import ConnectionStatistics
from redstreamd.policy import Principal


class ServedConnection(Protocol):
    """A connection of a client; see `client_connection.ClientConnection` for what each member does."""

    @property
    def id(self) -> str:
        """Its name in events."""
        ...

    @property
    def process(self) -> Account:
        """The account of the client's process."""
        ...

    @property
    def requests(self) -> int:
        """How many requests it has received so far."""
        ...

    @property
    def load(self) -> int:
        """How much would be cut off if it were closed now; 0 if nothing."""
        ...

    def apply_limits(self) -> None:
        """Apply limits that have changed."""
        ...

    def statistics(self) -> ConnectionStatistics:
        """Return a snapshot."""
        ...

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the client until it disconnects or we close; owns the stream."""
        ...

    async def drain(self, timeout_seconds: float) -> bool:
        """Let requests in flight be answered, then close; return whether each was answered."""
        ...

    def give_way(self, why: str) -> None:
        """Give its place to another client."""
        ...


class OpenConnection(Protocol):
    """Opens the connections of a listener whose clients do not speak the line transport.

    What the acceptor opens and what this opens count in the same accounts and budget, which this was given.
    """

    def __call__(
        self,
        stream: trio.SocketStream,
        *,
        principal: Principal,
        socket: str,
        peer: Peer,
        received: bytes,
    ) -> ServedConnection:
        """Return a connection that is to be run.

        Args:
            stream: Both directions, decrypted.
            principal: Of the listener, or by the client's certificate.
            socket: The address of the listener, for people.
            peer: Who connected.
            received: What was read of the stream already.
        """
        ...

    @property
    def max_connections_per_peer(self) -> int:
        """Most connections of one address or process."""
        ...

    def refusal(self, why: str, *, is_temporary: bool) -> bytes:
        """Return all that a client is sent that is not served.

        Args:
            why: One sentence.
            is_temporary: Whether it may come again as it is.
        """
        ...
