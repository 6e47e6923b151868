"""Whether one Redis server serves all that is wanted of it, and why not.

The one place where that is computed. Connections report what happens to them, and every error reply is
reported. The results are events, which the journal records, and snapshots (`RedisStatus`), which the status
line and the resource redstream://health show; ``redstreamd status`` reads that resource.

An outage is one, however many connections notice it. Each reason and the end are reported once. Connections
that end soon and are replaced at once, again and again, are reported once. A lost connection is not reported
before an attempt to connect has found the reason: "the server closed the connection" is rarely the cause.
Has no clock and no tasks, except in ``write_availability``, which asks whether writes are accepted again.
"""

from __future__ import annotations

import enum
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
import trio

from redstreamd.redisio import Arg, Role, connect_errors
from redstreamd.redisio.connection import ConnectionStatistics
from redstreamd.redisio.redis_errors import Problem, ProblemKind, ServerReplied
from redstreamd.redisio.write_availability import Execute, WriteAvailability

#: A connection that lived for fewer seconds was short-lived, and so many of one role in a row are a pattern.
#: Redis closes an idle connection after its `timeout`; where that is beyond our PING's 10 s none is idle.
_SHORT_LIVED_SECONDS: Final = 60.0
_A_PATTERN: Final = 3

#: Reasons reported in one outage. There are few, unless an error text contains a counter or a port, which
#: must not fill the journal.
_MAX_REASONS: Final = 16


class Connected(msgspec.Struct, frozen=True):
    """A connection is usable.

    Attributes:
        role: What it is for.
        label: The server's address.
        server: What it calls itself, such as "redis 7.0.15".
        attempts: How many attempts failed before this one.
        down_seconds: How long the role was without a connection.
    """

    role: Role
    label: str
    server: str
    attempts: int
    down_seconds: float


class ConnectionLost(msgspec.Struct, frozen=True):
    """A connection was usable for `up_seconds`, and ended because of `problem`."""

    role: Role
    label: str
    problem: Problem
    up_seconds: float


class ConnectFailed(msgspec.Struct, frozen=True):
    """An attempt to connect failed."""

    role: Role
    label: str
    problem: Problem


class Degraded(msgspec.Struct, frozen=True):
    """There is a problem that was not reported since the server was usable last.

    Attributes:
        label: The server's address.
        problem: What does not work, and why.
    """

    label: str
    problem: Problem


class Usable(msgspec.Struct, frozen=True):
    """All connections that are wanted are there, for the first time or again.

    Attributes:
        label: The server's address.
        server: What it calls itself.
        roles: Those connected since the last such event.
        lost: Why the first of their connections ended; None if there was none before.
        down_seconds: How long the longest of them was without a connection.
        attempts: How many attempts failed for it.
    """

    label: str
    server: str
    roles: tuple[Role, ...]
    lost: Problem | None
    down_seconds: float
    attempts: int


class KeepsEnding(msgspec.Struct, frozen=True):
    """Connections are made again at once, and end again and again soon after.

    Attributes:
        label: The server's address.
        times: How often in a row.
        problem: How the last one ended, with the roles to which that happened first.
    """

    label: str
    times: int
    problem: Problem


class WritesAccepted(msgspec.Struct, frozen=True):
    """The server accepts writes again, after it refused them for `refused_seconds`."""

    label: str
    refused_seconds: float


RoleEvent = Connected | ConnectionLost | ConnectFailed
HealthEvent = RoleEvent | Degraded | Usable | KeepsEnding | WritesAccepted


class RoleStatus(msgspec.Struct, frozen=True):
    """A snapshot of the connection of one role.

    Attributes:
        wanted: Whether anybody has needed it yet.
        connected: Whether it is usable.
        seconds: How long it has been so; 0 if it was never wanted.
        server: What the server calls itself, empty while not connected.
        problem: Why it is not connected, or why it last was not; None if nothing has failed.
        failed_attempts: Attempts in a row that failed.
        statistics: Of the connection, if there is one.
    """

    wanted: bool
    connected: bool
    seconds: float
    server: str
    problem: Problem | None
    failed_attempts: int
    statistics: ConnectionStatistics | None


class State(enum.Enum):
    """How a server is, in one word."""

    UNUSED = "not used yet"
    LOADING = "loading"
    USABLE = "usable"
    DEGRADED = "degraded"


class RedisStatus(msgspec.Struct, frozen=True):
    """A snapshot of one server.

    Attributes:
        label: The server's address.
        roles: The state of each connection.
        problems: Why it does not serve all that is wanted of it, worst first; empty if it does, as far as
            is known.
    """

    label: str
    roles: Mapping[Role, RoleStatus]
    problems: tuple[Problem, ...]

    @property
    def state(self) -> State:
        """The state in one word."""
        if self.problems:
            loading = any(problem.kind is ProblemKind.LOADING for problem in self.problems)
            return State.LOADING if loading else State.DEGRADED
        return State.USABLE if self.roles[Role.COMMAND].connected else State.UNUSED


class ServerHealth:
    """The health of one server."""

    def __init__(self, label: str, execute: Execute, *, on_event: Callable[[HealthEvent], None]) -> None:
        """Begin without any knowledge of the server.

        Args:
            label: Its address.
            execute: Asks it whether it accepts writes. Whatever it refuses must come to `notice`.
            on_event: Called with every change, synchronously; must not raise.
        """
        self._label = label
        self._tell = on_event
        self._writes = WriteAvailability(
            execute,
            on_refused=lambda problem: on_event(Degraded(self._label, problem)),
            on_accepted=lambda seconds: on_event(WritesAccepted(self._label, seconds)),
        )
        # Dicts, for their order. Invariant: _down is a subset of _roles.
        self._down: dict[Role, None] = {}
        self._roles: dict[Role, None] = {}
        # Reasons reported of each role since it was connected last.
        self._told_of: defaultdict[Role, set[Problem]] = defaultdict(set)
        # All of these since every wanted role was connected last.
        self._told: set[Problem] = set()
        self._lost: Problem | None = None
        self._down_seconds = 0.0
        self._attempts = 0
        # How many short-lived connections of a role have ended in a row.
        self._short_lived: Counter[Role] = Counter()

    def retarget(self, label: str) -> None:
        """Begin anew with another server; whether it accepts writes is asked if the one before did not."""
        self._label = label
        self._down.clear()
        self._roles.clear()
        self._told_of.clear()
        self._told.clear()
        self._short_lived.clear()
        self._lost = None
        self._down_seconds, self._attempts = 0.0, 0

    def notice(self, command: tuple[Arg, ...], answer: ServerReplied) -> None:
        """Take note of the error reply to a command: it may say that writes are refused."""
        self._writes.notice(command, answer)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Find out when writes are accepted again, until cancelled."""
        await self._writes.run(task_status=task_status)

    def status(self, roles: Mapping[Role, RoleStatus]) -> RedisStatus:
        """Return a snapshot; a role that connects for the first time is no problem yet."""
        missing: dict[Problem, list[Role]] = {}
        for role, state in roles.items():
            if state.wanted and not state.connected and state.problem is not None:
                missing.setdefault(state.problem, []).append(role)
        problems = [
            msgspec.structs.replace(problem, roles=tuple(of), seconds=max(roles[role].seconds for role in of))
            for problem, of in missing.items()
        ]
        if (refused := self._writes.problem()) is not None:
            problems.append(refused)
        return RedisStatus(self._label, roles, tuple(problems))

    def __call__(self, event: RoleEvent) -> None:
        """Take note of what happened to a connection."""
        self._roles[event.role] = None
        match event:
            case ConnectionLost():
                self._down[event.role] = None
                self._lost = self._lost or event.problem
                before = self._short_lived[event.role] if event.up_seconds < _SHORT_LIVED_SECONDS else 0
                self._short_lived[event.role] = before + 1
                self._tell(event)
            case ConnectFailed():
                self._down[event.role] = None
                if _is_news(event.problem, self._told_of[event.role]):
                    self._tell(event)
                if _is_news(event.problem, self._told):
                    self._tell(
                        Degraded(event.label, msgspec.structs.replace(event.problem, roles=tuple(self._down)))
                    )
            case Connected():
                self._down.pop(event.role, None)
                self._told_of[event.role].clear()
                self._down_seconds = max(self._down_seconds, event.down_seconds)
                self._attempts = max(self._attempts, event.attempts)
                self._tell(event)
                if not self._down:
                    self._end(event)

    def _end(self, event: Connected) -> None:
        """Report that the server is usable again, unless connections are known to end within a minute."""
        restless = {role: times for role, times in self._short_lived.items() if times >= _A_PATTERN}
        if self._told or self._lost is None or restless.keys().isdisjoint(self._roles):
            roles = tuple(self._roles)
            self._tell(
                Usable(event.label, event.server, roles, self._lost, self._down_seconds, self._attempts)
            )
        elif restless.keys() <= self._roles.keys() and max(restless.values()) == _A_PATTERN:
            # Once, when the pattern is first seen; roles that end together are reported together.
            closed = self._lost == connect_errors.CLOSED_BY_SERVER
            step = connect_errors.IDLE_LIMIT if closed else self._lost.next_step
            problem = msgspec.structs.replace(self._lost, roles=tuple(restless), next_step=step)
            self._tell(KeepsEnding(event.label, _A_PATTERN, problem))
        self._roles.clear()
        self._told.clear()
        self._lost = None
        self._down_seconds, self._attempts = 0.0, 0


def _is_news(problem: Problem, told: set[Problem]) -> bool:
    """Return whether `problem` is to be reported, and remember it."""
    if problem in told or len(told) >= _MAX_REASONS:
        return False
    told.add(problem)
    return True
