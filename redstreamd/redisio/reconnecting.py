"""Keeps one lane connected, connection after connection.

Owns when to connect, when to try again, and what is known while there is no connection. What
to do with a command in the meantime is ``manager``'s decision.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import attrs
import trio
from redis.backoff import AbstractBackoff

from redstreamd.redisio import connect_errors
from redstreamd.redisio.backoff import reconnect_pause
from redstreamd.redisio.connect_errors import ConnectionEnded, Failure, FailureKind
from redstreamd.redisio.connection import Connection, ConnectionStatistics
from redstreamd.redisio.redis_errors import RedisUnavailable
from redstreamd.redisio.redis_events import Connected, ConnectFailed, ConnectionLost, RedisEvent, Role
from redstreamd.redisio.target import Target

#: Seconds after which a connection counts as having worked. One that ends sooner counts as a failed
#: attempt, or a server that accepts and hangs up would be called upon in a tight loop.
_STABLE_SECONDS: Final = 1.0

#: Reasons for not being connected that are told in one outage. There are only a handful, unless
#: something puts a counter or a port into its error text.
_MAX_REASONS: Final = 16


@attrs.frozen
class RoleStatus:
    """A snapshot of one lane.

    Attributes:
        wanted: Whether anybody has needed it yet.
        connected: Whether it is usable.
        seconds: How long it has been so; 0 if it was never wanted.
        server: What the server calls itself, empty while not connected.
        failure: Why it is not connected, or why it last was not; None if nothing has failed.
        failed_attempts: Attempts in a row that failed.
        statistics: Of the connection, if there is one.
    """

    wanted: bool
    connected: bool
    seconds: float
    server: str
    failure: Failure | None
    failed_attempts: int
    statistics: ConnectionStatistics | None


class _Adoption(trio.TaskStatus[None]):
    """Tells a keeper that its connection is usable, in the very step in which it becomes so."""

    def __init__(self, keeper: ReconnectingConnection, connection: Connection) -> None:
        self._keeper = keeper
        self._connection = connection

    def started(self, value: None = None) -> None:
        self._keeper.adopt(self._connection)


class ReconnectingConnection:
    """The connections of one lane, one at a time, forever."""

    def __init__(
        self,
        role: Role,
        target: Target,
        *,
        connect: Callable[[], Connection],
        connect_grace: float,
        backoff: AbstractBackoff,
        on_event: Callable[[RedisEvent], None],
        on_connected: Callable[[], None],
        obstacle: Callable[[], Failure | None] | None = None,
    ) -> None:
        """Prepare a lane; it connects once it is wanted and `run` is running.

        Args:
            role: Which one.
            target: For messages.
            connect: Makes a fresh connection object.
            connect_grace: Seconds that `wait_open` waits after the connection was lost.
            backoff: Pauses between attempts.
            on_event: Told of every change; must not raise.
            on_connected: Called when a connection is usable, before anything is sent on it; must not
                raise.
            obstacle: Asked, when a command cannot be sent, whether a better reason is known than
                connecting could find out.
        """
        self._role = role
        self._target = target
        self._connect = connect
        self._connect_grace = connect_grace
        self._backoff = backoff
        self._on_event = on_event
        self._on_connected = on_connected
        self._obstacle = obstacle
        self._wanted = trio.Event()
        self._waiters = trio.lowlevel.ParkingLot()
        self._connection: Connection | None = None
        self._failure: Failure | None = None
        self._failed_attempts = 0
        self._stopped = False
        # Reasons told since the lane was last connected.
        self._told: set[Failure] = set()
        # When the lane became wanted, connected or disconnected last.
        self._since = math.inf

    @property
    def connection(self) -> Connection | None:
        """The connection that takes requests now, if there is one."""
        connection = self._connection
        return connection if connection is not None and connection.is_open else None

    def want(self) -> None:
        """Have the lane opened if it is not."""
        if not self._wanted.is_set():
            self._since = trio.current_time()
            self._wanted.set()

    async def wait_open(self, deadline: float = math.inf) -> Connection:
        """Return an open connection, waiting for one if there is hope.

        Hope lasts for the grace time after the connection was lost: a reconnect usually takes
        milliseconds. After that Redis is known to be down and callers are told at once. Of a lane that
        was just opened for the first time nothing bad is known until an attempt has failed, unless
        whoever runs the server knows why it does not serve.

        Args:
            deadline: On trio's clock; not waited beyond.

        Raises:
            RedisUnavailable: There is none; says why.
        """
        self.want()
        while (connection := self.connection) is None:
            patience = deadline
            if self._connection is None:
                if self._hopeless():
                    patience = -math.inf
                elif self._failure is not None or self._known_obstacle() is not None:
                    patience = min(deadline, self._since + self._connect_grace)
            if trio.current_time() >= patience:
                raise self.unavailable()
            with trio.CancelScope(deadline=patience):
                await self._waiters.park()
        return connection

    def _hopeless(self) -> bool:
        failure = self._failure
        return self._stopped or (failure is not None and failure.kind is FailureKind.SETTINGS)

    def _known_obstacle(self) -> Failure | None:
        return None if self._obstacle is None else self._obstacle()

    async def wait_connected(self) -> None:
        """Return once the lane is open, however long that takes."""
        self.want()
        while self.connection is None:
            await self._waiters.park()

    def unavailable(self, failure: Failure | None = None) -> RedisUnavailable:
        """Return the error for a command that could not be sent, because of `failure` or what is known."""
        failure = self._known_obstacle() or failure or self._failure or connect_errors.STILL_CONNECTING
        embedded = self._target.embedded_log is not None
        server = "The embedded server" if embedded else f"Redis at {self._target.label}"
        return RedisUnavailable(
            f"{server} is not available",
            cause=failure.cause,
            next_step=failure.next_step,
        )

    def status(self) -> RoleStatus:
        """Return a snapshot."""
        connection = self.connection
        obstacle = self._known_obstacle() if connection is None else None
        return RoleStatus(
            wanted=self._wanted.is_set(),
            connected=connection is not None,
            seconds=max(0.0, trio.current_time() - self._since),
            server=connection.server if connection is not None else "",
            failure=obstacle or self._failure,
            failed_attempts=0 if connection is not None else self._failed_attempts,
            statistics=connection.statistics() if connection is not None else None,
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Stay connected until cancelled; there is no last attempt. May be run again after that.

        ``task_status.started()`` is called at once.
        """
        if self._stopped:
            self._stopped = False
            self._failure = None
            self._since = trio.current_time()
        try:
            task_status.started()
            await self._wanted.wait()
            while True:
                connection = self._connect()
                try:
                    await connection.run(task_status=_Adoption(self, connection))
                except ConnectionEnded as ended:
                    pause = self._release(ended.failure)
                await trio.sleep(pause)
        finally:
            self._connection = None
            self._stopped = True
            self._failure = connect_errors.SHUTTING_DOWN
            self._waiters.unpark_all()

    def adopt(self, connection: Connection) -> None:
        """Use `connection`, which has just become usable."""
        now = trio.current_time()
        self._connection = connection
        down_seconds, self._since = now - self._since, now
        self._told.clear()
        self._on_connected()
        self._on_event(
            Connected(self._role, self._target.label, connection.server, self._failed_attempts, down_seconds)
        )
        self._waiters.unpark_all()

    def _release(self, failure: Failure) -> float:
        """Take note of a connection's end, or of an attempt's; return the seconds until the next."""
        self._failure = failure
        pause = reconnect_pause(self._backoff, failure, self._failed_attempts)
        self._failed_attempts += 1
        if self._connection is not None:
            now = trio.current_time()
            self._connection = None
            up_seconds, self._since = now - self._since, now
            if up_seconds >= _STABLE_SECONDS:
                pause = 0.0
                self._failed_attempts = 0
            self._on_event(ConnectionLost(self._role, self._target.label, failure, up_seconds))
        elif failure not in self._told and len(self._told) < _MAX_REASONS:
            self._told.add(failure)
            self._on_event(ConnectFailed(self._role, self._target.label, failure))
        self._waiters.unpark_all()
        return pause
