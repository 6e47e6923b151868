"""What a connection waits for, and until when; one cancel scope for all of it.

Most deadlines are moved before they pass, several times for each request, and to move that of a scope costs
more than an assignment. So the scope keeps the earliest that it was given, and whoever is woken by it looks
whether something is overdue.
"""

from __future__ import annotations

import enum
import math

import trio


class Waits(enum.Enum):
    """What a connection waits for."""

    FIRST = enum.auto()
    """The first byte of its first request."""
    HEAD = enum.auto()
    """The rest of a head."""
    BODY = enum.auto()
    """The rest of a body."""
    REST = enum.auto()
    """The rest of a body that is dropped, because its request is answered already."""
    RESPONSE = enum.auto()
    """The end of a response, or its own work; for as long as that takes."""
    GRACE = enum.auto()
    """The end of a response, and the client sends nothing more."""
    NEXT = enum.auto()
    """The next request."""


class Deadlines:
    """The deadlines of one connection.

    Attributes:
        waits: What it waits for.
        end: When it is to end whatever it waits for, in trio's time.
    """

    __slots__ = ("_due", "_scope", "end", "waits")

    def __init__(self) -> None:
        """Begin without deadlines."""
        self.waits = Waits.FIRST
        self.end = math.inf
        # Invariant: not later than `end`; the scope's deadline is not later than this one.
        self._due = math.inf
        self._scope = trio.CancelScope()

    def wait_for(self, what: Waits, seconds: float) -> None:
        """Wait for something that is overdue after so many seconds."""
        self.waits = what
        self._due = self.end
        self.no_later_than(trio.current_time() + seconds)

    def wait_without_end(self, what: Waits) -> None:
        """Wait for something that may take as long as the connection lasts."""
        self.waits = what
        self._due = self.end

    def no_later_than(self, time: float) -> None:
        """Have what is waited for be overdue at a time, if it is not before."""
        if time < self._due:
            self._due = time
            if time < self._scope.deadline:
                self._scope.deadline = time

    def end_by(self, time: float) -> None:
        """Have the connection end at a time, if it does not before."""
        self.end = min(self.end, time)
        self.no_later_than(self.end)

    def is_overdue(self) -> bool:
        """Return whether what is waited for has not come in time."""
        return trio.current_time() >= self._due

    def scope(self) -> trio.CancelScope:
        """Return a new scope for waiting; it is left when something may be overdue, and by `look_again`."""
        self._scope = scope = trio.CancelScope(deadline=self._due)
        return scope

    def look_again(self) -> None:
        """Have whoever waits look at the state of the connection."""
        self._scope.cancel()
