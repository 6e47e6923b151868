"""What went over the connections of one role so far; the connections count, one after the other."""

from __future__ import annotations

from typing import Final

import msgspec

from redstreamd.histogram import Histogram

#: Upper bounds in seconds: from a server on this host to one that is about to be given up.
ROUND_TRIP_SECONDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5)


class Traffic(msgspec.Struct, eq=False):
    """Counters that outlive the connections.

    Attributes:
        connections: Connections that became usable.
        commands: Commands handed to the sockets.
        sent_bytes: Their bytes.
        received_bytes: The bytes of complete replies and pushes.
        round_trips: Seconds from handing a command to the socket until its reply is read; of the first
            command that a packet answers.
    """

    connections: int = 0
    commands: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    round_trips: Histogram = msgspec.field(default_factory=lambda: Histogram(ROUND_TRIP_SECONDS))
