"""One outage of Redis, however many lanes notice it.

Owns what is told of the lanes' connections together: each reason once, the end once, and nothing about a
connection that is replaced at once over and over, once that is known. Pure: no clock, no tasks.

What was lost is not told before an attempt to connect has decided what it was: the first sight ("the server
closed the connection") is rarely the cause, and next to the cause it contradicts it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from redstreamd.redisio import connect_errors
from redstreamd.redisio.connect_errors import Failure
from redstreamd.redisio.redis_events import (
    Connected,
    ConnectFailed,
    ConnectionLost,
    KeepsEnding,
    OutageEvent,
    Role,
    RoleEvent,
    Unusable,
    Usable,
)

#: A connection that lived for fewer seconds was short-lived, and so many of one lane in a row are a pattern.
#: Redis closes an idle connection after its `timeout`; where that is beyond our PING's 10 s none is idle.
_SHORT_LIVED_SECONDS: Final = 60.0
_A_PATTERN: Final = 3

#: Reasons told in one outage; as for one lane, a counter in an error text must not fill the journal.
_MAX_REASONS: Final = 16


class Outages:
    """Listens to the lanes of a manager and tells what it amounts to."""

    def __init__(self, tell: Callable[[OutageEvent], None]) -> None:
        """Begin with no lane; `tell` is called synchronously."""
        self._tell = tell
        # Dicts, for their order. Invariant: _down is a subset of _lanes.
        self._down: dict[Role, None] = {}
        self._roles: dict[Role, None] = {}
        # All since every wanted lane was connected last.
        self._told: set[Failure] = set()
        self._lost: Failure | None = None
        self._down_seconds = 0.0
        self._attempts = 0
        # How many short-lived connections of a lane have ended in a row.
        self._short_lived: Counter[Role] = Counter()

    def __call__(self, event: RoleEvent) -> None:
        """Take note of what happened to a lane."""
        self._roles[event.role] = None
        match event:
            case ConnectionLost():
                self._down[event.role] = None
                self._lost = self._lost or event.failure
                before = self._short_lived[event.role] if event.up_seconds < _SHORT_LIVED_SECONDS else 0
                self._short_lived[event.role] = before + 1
            case ConnectFailed():
                self._down[event.role] = None
                if event.failure not in self._told and len(self._told) < _MAX_REASONS:
                    self._told.add(event.failure)
                    self._tell(Unusable(event.label, tuple(self._down), event.failure))
            case Connected():
                self._down.pop(event.role, None)
                self._down_seconds = max(self._down_seconds, event.down_seconds)
                self._attempts = max(self._attempts, event.attempts)
                if not self._down:
                    self._end(event)

    def _end(self, event: Connected) -> None:
        """Tell that all is well again, unless that is known to last no minute."""
        restless = {role: times for role, times in self._short_lived.items() if times >= _A_PATTERN}
        if self._told or self._lost is None or restless.keys().isdisjoint(self._roles):
            roles = tuple(self._roles)
            self._tell(
                Usable(event.label, event.server, roles, self._lost, self._down_seconds, self._attempts)
            )
        elif restless.keys() <= self._roles.keys() and max(restless.values()) == _A_PATTERN:
            # The first to become so, alone or together.
            closed = self._lost == connect_errors.closed_by_server()
            step = connect_errors.IDLE_LIMIT if closed else self._lost.next_step
            self._tell(KeepsEnding(event.label, tuple(restless), _A_PATTERN, self._lost, step))
        self._roles.clear()
        self._told.clear()
        self._lost = None
        self._down_seconds, self._attempts = 0.0, 0
