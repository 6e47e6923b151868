"""Which connection of a process is closed first, when the process has to give one to another client."""

from __future__ import annotations

import sys

from redstreamd.admission.accounts import Account
from redstreamd.mcpio.served_connection import ServedConnection


class Idlest:
    """The connections of each process that may be closed."""

    def __init__(self) -> None:
        """Begin without connections."""
        # With how many requests each had received when it was looked at last. Invariant: no empty ones.
        self._of: dict[Account, dict[ServedConnection, int]] = {}

    def add(self, connection: ServedConnection) -> None:
        """Take note of a new connection."""
        self._of.setdefault(connection.process, {})[connection] = 0

    def remove(self, connection: ServedConnection) -> None:
        """Forget a connection. Idempotent."""
        connections = self._of.get(connection.process)
        if connections is not None:
            connections.pop(connection, None)
            if not connections:
                del self._of[connection.process]

    def take(self, process: Account) -> ServedConnection | None:
        """Remove and return the connection of a process that is to be closed; None if it has none.

        Of those with nothing in flight it is the one that has sent nothing since all of them were looked at:
        each that has is moved to the end instead (the second chance of page replacement), so that no time has
        to be noted for each message. Where all are in use, it is the one with the fewest requests.
        """
        connections = self._of.get(process, {})
        idlest: ServedConnection | None = None
        least = sys.maxsize
        for connection, requests in list(connections.items()):
            load = connection.load
            if load == 0:
                if connection.requests == requests:
                    idlest = connection
                    break
                del connections[connection]
                connections[connection] = connection.requests
            if load < least:
                idlest, least = connection, load
        if idlest is not None:
            self.remove(idlest)
        return idlest
