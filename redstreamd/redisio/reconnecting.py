"""Keeps the connection of one role, connection after connection.

Owns when to connect, when to try again, and what is known while there is no connection. What to do with a
command in the meantime is decided in ``lost_replies``, what an outage amounts to in ``server_health``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import trio
from redis.backoff import AbstractBackoff, EqualJitterBackoff

from redstreamd.errors.remedies import sentences
from redstreamd.redisio import Role, connect_errors
from redstreamd.redisio.connection import Connection
from redstreamd.redisio.pipeline import Pipeline
from redstreamd.redisio.redis_errors import ConnectionEnded, Problem, ProblemKind, RedisUnavailable
from redstreamd.redisio.server_health import (
    Connected,
    ConnectFailed,
    ConnectionLost,
    RoleEvent,
    RoleStatus,
)
from redstreamd.redisio.target import Target

#: Seconds after which a connection counts as having worked. One that ends sooner counts as a failed
#: attempt, or a server that accepts and hangs up would be called upon in a tight loop.
_STABLE_SECONDS: Final = 1.0

#: Seconds between attempts while only a change of settings can help: soon enough for the person who
#: just corrected the password, rare enough not to fill the server's log or lock the account.
SETTINGS_RETRY: Final = 30.0

#: Seconds between attempts while the server answers that it does not serve yet. It bounds how late
#: its readiness is noticed, and a server that answers is not hurt by being asked.
NOT_SERVING_RETRY: Final = 0.5

#: Seconds that requests in flight have when the settings name another server.
RETIRE_SECONDS: Final = 1.0

# 2**1024 is no float; from 2**16 on every sensible cap is reached anyway.
_MAX_EXPONENT: Final = 16


def reconnect_backoff() -> AbstractBackoff:
    """Return the pauses between connection attempts: from 0.05 s, doubling, up to 2 s, half of it random."""
    return EqualJitterBackoff(cap=2.0, base=0.05)


def pause(backoff: AbstractBackoff, failures: int) -> float:
    """Return the seconds to wait after `failures` failures in a row, however many those are."""
    return backoff.compute(min(failures, _MAX_EXPONENT))


def reconnect_pause(backoff: AbstractBackoff, problem: Problem, failures: int) -> float:
    """Return the seconds until the next attempt to connect.

    Args:
        backoff: Pauses for what waiting may cure.
        problem: Why the last attempt failed.
        failures: How many attempts in a row failed before that one.
    """
    match problem.kind:
        case ProblemKind.SETTINGS:
            return SETTINGS_RETRY
        case ProblemKind.NOT_SERVING:
            return NOT_SERVING_RETRY
    return pause(backoff, failures)


_NO_PIPELINE: Final = Pipeline(lambda: None)
_NO_PIPELINE.close(connect_errors.STILL_CONNECTING)


class _Adoption(trio.TaskStatus[None]):
    """Tells the owner of a connection that it is usable, in the very step in which it becomes so."""

    def __init__(self, owner: ReconnectingConnection, connection: Connection) -> None:
        self._owner = owner
        self._connection = connection

    def started(self, value: None = None) -> None:
        self._owner.adopt(self._connection)


class ReconnectingConnection:
    """The connections of one role, one at a time, forever."""

    def __init__(
        self,
        role: Role,
        target: Target,
        *,
        connect: Callable[[], Connection],
        queues: dict[Role, Pipeline],
        connect_grace: float,
        backoff: AbstractBackoff,
        on_event: Callable[[RoleEvent], None],
        on_connected: Callable[[], None],
    ) -> None:
        """Prepare; it connects once a connection is wanted and `run` is running.

        Args:
            role: What the connections are for.
            target: For messages, and for what its operator knows.
            connect: Makes a fresh connection object.
            queues: Gets the pipeline of the connection, by the role; a closed one while there is none.
            connect_grace: Seconds that `wait_open` waits after the connection was lost.
            backoff: Pauses between attempts.
            on_event: Called with every failed attempt and every change; must not raise.
            on_connected: Called when a connection is usable, before anything is sent on it; must not
                raise.
        """
        self._role = role
        self._target = target
        self._connect = connect
        self._connect_grace = connect_grace
        self._backoff = backoff
        self._on_event = on_event
        self._on_connected = on_connected
        self._wanted = trio.Event()
        self._waiters = trio.lowlevel.ParkingLot()
        self._connection: Connection | None = None
        self._queues = queues
        queues[role] = _NO_PIPELINE
        self._problem: Problem | None = None
        self._failed_attempts = 0
        self._stopped = False
        # Why there will be no other connection; None while there may be.
        self._retired: Problem | None = None
        # When a connection became wanted, was made or was lost last.
        self._since = math.inf
        # The address of the server of the connection.
        self._label = target.label
        # Whether the target has changed since the connection was begun.
        self._is_moving = False
        # Cancels an attempt to connect, and the pause after it.
        self._attempt = trio.CancelScope()

    @property
    def connection(self) -> Connection | None:
        """The connection that takes requests now, if there is one."""
        connection = self._connection
        return connection if connection is not None and connection.is_open else None

    def want(self) -> None:
        """Have a connection made if there is none."""
        if not self._wanted.is_set():
            self._since = trio.current_time()
            self._wanted.set()

    async def wait_open(self, deadline: float = math.inf) -> Connection:
        """Return an open connection; wait for one while it can be expected soon.

        That is for the grace time after the connection was lost: a reconnect usually takes milliseconds.
        After that Redis is known to be down, and callers fail at once. Before the first attempt of a role
        has failed, callers wait for it until their deadline, unless the server's operator knows why the
        server does not serve.

        Args:
            deadline: On trio's clock; not waited beyond.

        Raises:
            RedisUnavailable: There is none; says why.
        """
        self.want()
        while (connection := self.connection) is None:
            wait_until = deadline
            if self._connection is None:
                problem = self._problem
                if self._stopped or (problem is not None and problem.kind is ProblemKind.SETTINGS):
                    wait_until = -math.inf
                elif problem is not None or self._operators_problem() is not None:
                    wait_until = min(deadline, self._since + self._connect_grace)
            if trio.current_time() >= wait_until:
                raise self.unavailable()
            with trio.CancelScope(deadline=wait_until):
                await self._waiters.park()
        return connection

    def _operators_problem(self) -> Problem | None:
        operator = self._target.operator
        return None if operator is None else operator.problem()

    async def wait_connected(self) -> None:
        """Return once there is a connection, however long that takes."""
        self.want()
        while self.connection is None:
            await self._waiters.park()

    def unavailable(self, problem: Problem | None = None) -> RedisUnavailable:
        """Return the error for a command that could not be sent, because of `problem` or what is known."""
        known = self._operators_problem() or problem or self._problem or connect_errors.STILL_CONNECTING
        step = known.next_step
        if known.server_can_help:
            step = sentences(step, f"Changes in Redis are noticed within {SETTINGS_RETRY:g} s.")
        return RedisUnavailable(f"{self._target.name} is not available", cause=known.cause, next_step=step)

    def status(self) -> RoleStatus:
        """Return a snapshot."""
        connection = self.connection
        problem = self._operators_problem() if connection is None else None
        return RoleStatus(
            wanted=self._wanted.is_set(),
            connected=connection is not None,
            seconds=max(0.0, trio.current_time() - self._since),
            server=connection.server if connection is not None else "",
            problem=problem or self._problem,
            failed_attempts=0 if connection is not None else self._failed_attempts,
            statistics=connection.statistics() if connection is not None else None,
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Stay connected until cancelled; there is no last attempt. May be run again after that.

        ``task_status.started()`` is called at once. Returns once it is retired and the connection is over.
        """
        if self._stopped:
            self._stopped = False
            self._problem = None
            self._since = trio.current_time()
        try:
            task_status.started()
            await self._wanted.wait()
            while self._retired is None:
                with trio.CancelScope() as self._attempt:
                    self._label = self._target.label
                    self._is_moving = False
                    connection = self._connect()
                    try:
                        await connection.run(task_status=_Adoption(self, connection))
                    except ConnectionEnded as ended:
                        seconds = self._release(ended.problem)
                    await trio.sleep(seconds)
        finally:
            self._use(None)
            self._stopped = True
            self._problem = connect_errors.SHUTTING_DOWN if self._retired is None else self._retired
            self._waiters.unpark_all()

    def retarget(
        self,
        target: Target,
        because: Problem = connect_errors.TARGET_CHANGED,
        answers_within: float = RETIRE_SECONDS,
    ) -> None:
        """Connect to `target` from now on, once requests in flight are answered, or time has run out.

        Commands wait for the new connection as for the first one.

        Args:
            target: The server and the login.
            because: Why the connection ends.
            answers_within: Seconds for requests in flight.
        """
        self._target = target
        if self._stopped or not self._wanted.is_set():
            return
        self._problem = None
        self._failed_attempts = 0
        self._since = trio.current_time()
        self._let_go(because, answers_within)

    def retire(self, problem: Problem) -> None:
        """Make no other connection, because of `problem`; requests in flight may be answered for a second.

        Commands that wait for one fail at once.
        """
        self._retired = self._problem = problem
        self._stopped = True
        self._wanted.set()
        self._let_go(problem)

    def _let_go(self, problem: Problem, answers_within: float = RETIRE_SECONDS) -> None:
        """Use the connection, or the attempt to make one, no more."""
        connection = self.connection
        self._use(None)
        if connection is not None:
            self._is_moving = True
            connection.retire(problem, answers_within)
        elif not self._is_moving:
            self._attempt.cancel()
        # What they wait for, and how long, may be another.
        self._waiters.unpark_all()

    def adopt(self, connection: Connection) -> None:
        """Use `connection`, which has just become usable."""
        now = trio.current_time()
        self._use(connection)
        down_seconds, self._since = now - self._since, now
        self._on_connected()
        self._on_event(
            Connected(self._role, self._label, connection.server, self._failed_attempts, down_seconds)
        )
        self._waiters.unpark_all()

    def _use(self, connection: Connection | None) -> None:
        self._connection = connection
        self._queues[self._role] = _NO_PIPELINE if connection is None else connection.pipeline

    def _release(self, problem: Problem) -> float:
        """Take note of a connection's end, or of an attempt's; return the seconds until the next."""
        if self._is_moving:
            return 0.0
        self._problem = problem
        seconds = reconnect_pause(self._backoff, problem, self._failed_attempts)
        self._failed_attempts += 1
        if self._connection is not None:
            now = trio.current_time()
            self._use(None)
            up_seconds, self._since = now - self._since, now
            if up_seconds >= _STABLE_SECONDS:
                seconds = 0.0
                self._failed_attempts = 0
            self._on_event(ConnectionLost(self._role, self._label, problem, up_seconds))
        else:
            self._on_event(ConnectFailed(self._role, self._label, problem))
        self._waiters.unpark_all()
        return seconds
