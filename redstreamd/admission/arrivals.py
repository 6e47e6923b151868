"""What is taken up within a pass of trio's scheduler, and does not wait for the next one.

While somebody got little, a pass may be long without keeping them waiting: between two parts of others' work
it is looked whether their next message has arrived, or replies of a server that they may be waiting for.
Owns what is looked at; whether and when, `turns` says.
"""

from __future__ import annotations

import select
from collections.abc import Mapping
from typing import Final, Protocol

from redstreamd.admission.accounts import Account

#: At so many light connections at most it is looked: those that were served last.
_MOST_LIGHT: Final = 16


class Reader(Protocol):
    """Reads the messages of a connection."""

    account: Account

    def is_free(self) -> bool:
        """Whether it would read when something arrives: it does not wait for a turn, and no task has it."""
        ...

    def read(self) -> None:
        """Read what has arrived and serve it; must not block or raise."""
        ...


class Server(Protocol):
    """A connection to a server that clients' requests go to."""

    def send_now(self) -> object:
        """Send what is queued; must not block or raise."""
        ...

    def take_replies(self) -> bool:
        """Handle the replies that have arrived; False if they cannot be now. Must not block or raise."""
        ...


class Arrivals:
    """What may be taken up within a pass.

    Attributes:
        readers: Who reads each descriptor of a client.
        servers: The servers, by descriptor.
        light: Connections of clients that got little.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self.readers: Mapping[int, Reader] = {}
        self.servers: Final[dict[int, Server]] = {}
        self.light: Final[dict[int, None]] = {}
        self._poll = select.poll()

    def watch(self, descriptor: int, server: Server) -> None:
        """Look whether replies have arrived there, until `forget`."""
        # Who had the descriptor may have been light.
        self.light.pop(descriptor, None)
        self.servers[descriptor] = server
        self._poll.register(descriptor, select.POLLIN)

    def forget(self, descriptor: int) -> None:
        """Look there no more; the descriptor is still open."""
        del self.servers[descriptor]
        self._poll.unregister(descriptor)

    def expect(self, descriptor: int) -> None:
        """Look whether a message of somebody light has arrived there, until it has."""
        light = self.light
        if descriptor in light:
            # Those that were served last are kept.
            del light[descriptor]
        else:
            if len(light) >= _MOST_LIGHT:
                oldest = next(iter(light))
                del light[oldest]
                self._poll.unregister(oldest)
            self._poll.register(descriptor, select.POLLIN)
        light[descriptor] = None

    def expect_none(self, descriptor: int) -> None:
        """Look there no more for a message: the connection is closed, or about to be."""
        if descriptor in self.light:
            del self.light[descriptor]
            self._poll.unregister(descriptor)

    def look(self, *, replies: bool) -> list[int]:
        """Return the descriptors at which something has arrived; of servers only if `replies`."""
        arrived = []
        for descriptor, _ in self._poll.poll(0):
            if descriptor not in self.servers:
                # It is expected again once it was read. So one that was closed is found once.
                del self.light[descriptor]
                self._poll.unregister(descriptor)
            elif not replies:
                continue
            arrived.append(descriptor)
        return arrived
