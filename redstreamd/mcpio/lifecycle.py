"""The phases of a client connection, and what ends each, as a table without I/O.

OPEN ──▶ DRAINING ──▶ FINISHING ──▶ CLOSED
└──────────────────────▲   any phase ──▶ CLOSED
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from redstreamd.mcpio.connection_events import FOREIGN, Ending


class Phase(enum.Enum):
    """What a connection does."""

    OPEN = enum.auto()
    """It reads, and requests are served."""
    DRAINING = enum.auto()
    """It reads, and rejects requests, until those in flight are answered."""
    FINISHING = enum.auto()
    """It reads nothing more; what is in flight is answered, and what is queued is written."""
    CLOSED = enum.auto()
    """Its stream is closed, or left to a successor."""


#: Events that end a connection in order. What is in flight may still be answered.
_ORDERLY: Final[Mapping[Ending, Phase]] = {
    Ending.DRAINED: Phase.DRAINING,
    Ending.EOF: Phase.FINISHING,
    **dict.fromkeys(FOREIGN, Phase.FINISHING),
    Ending.HANDED_OVER: Phase.FINISHING,
    Ending.GAVE_WAY: Phase.FINISHING,
    Ending.ANSWERED: Phase.FINISHING,
    Ending.BAD_REQUEST: Phase.FINISHING,
    Ending.SLOW: Phase.FINISHING,
    Ending.IDLE: Phase.FINISHING,
}
#: Events after which nothing can be answered.
_AT_ONCE: Final[Mapping[Ending, Phase]] = {
    Ending.BROKEN: Phase.CLOSED,
    Ending.OVERFLOW: Phase.CLOSED,
    Ending.UNREAD: Phase.CLOSED,
    Ending.MEMORY: Phase.CLOSED,
    Ending.CANCELLED: Phase.CLOSED,
}
_STAY_FINISHING: Final = dict.fromkeys(_ORDERLY, Phase.FINISHING)

TRANSITIONS: Final[Mapping[Phase, Mapping[Ending, Phase]]] = {
    Phase.OPEN: {**_ORDERLY, **_AT_ONCE},
    Phase.DRAINING: {**_ORDERLY, **_AT_ONCE},
    # That the client stops sending, or that the daemon stops, changes nothing for what is finishing.
    Phase.FINISHING: {**_STAY_FINISHING, **_AT_ONCE},
    Phase.CLOSED: dict.fromkeys((*_ORDERLY, *_AT_ONCE), Phase.CLOSED),
}


class Lifecycle:
    """The phase of one connection.

    Attributes:
        phase: The phase.
        ending: Why it left OPEN; None while it has not. The first reason counts, but for one after which
            nothing can be answered.
    """

    __slots__ = ("ending", "phase")

    def __init__(self) -> None:
        """Begin open."""
        self.phase = Phase.OPEN
        self.ending: Ending | None = None

    def on(self, event: Ending) -> Phase:
        """Note an event, and return the phase that follows."""
        if self.phase is not Phase.CLOSED and (self.ending is None or event in _AT_ONCE):
            self.ending = event
        self.phase = TRANSITIONS[self.phase][event]
        return self.phase

    def stop_reading(self) -> None:
        """Note that nothing more is read."""
        if self.phase is not Phase.CLOSED:
            self.phase = Phase.FINISHING

    def close(self) -> Ending:
        """Note that the stream is closed, and return why."""
        self.phase = Phase.CLOSED
        if self.ending is None:
            self.ending = Ending.CANCELLED
        return self.ending
