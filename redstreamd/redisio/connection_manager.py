"""One Redis server for the whole daemon: its lanes, its scripts, its state.

Owns how many connections there are and what for, and who is told about them. Keeping one connected
is ``role``'s business, getting a command through whatever happens ``delivery``'s, the meaning of
commands ``commands``'.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import trio
from redis.backoff import AbstractBackoff
from redis.exceptions import NoScriptError, RedisError

from redstreamd.redisio import Arg
from redstreamd.redisio.backoff import reconnect_backoff
from redstreamd.redisio.connect_errors import ConnectionEnded, Failure
from redstreamd.redisio.connection import Connection
from redstreamd.redisio.embedded_failures import advise
from redstreamd.redisio.error_replies import bus_error
from redstreamd.redisio.lost_replies import send_with_retries
from redstreamd.redisio.missing_permissions import named
from redstreamd.redisio.reauth import Reauthentication
from redstreamd.redisio.reconnecting import ReconnectingConnection, RoleStatus
from redstreamd.redisio.redis_errors import ServerReplied
from redstreamd.redisio.redis_events import RedisEvent, Role, roles_in_words
from redstreamd.redisio.script import Script
from redstreamd.redisio.target import Target
from redstreamd.redisio.write_availability import Refusal, WriteAvailability
from redstreamd.redisio.write_confirmation import WaitBatch

__all__ = ["Manager", "RedisStatus", "Role"]

_log = logging.getLogger(__name__)


@attrs.frozen
class Trouble:
    """Something that keeps Redis from serving all that is wanted of it.

    Attributes:
        cause: What and why.
        next_step: What an operator can change.
    """

    cause: str
    next_step: str


@attrs.frozen
class RedisStatus:
    """A snapshot of a manager.

    Attributes:
        label: The server's address.
        roles: Each lane's state.
        refusal: Why the server refuses writes; None if it does not, as far as is known.
    """

    label: str
    roles: Mapping[Role, RoleStatus]
    refusal: Refusal | None

    def troubles(self) -> list[Trouble]:
        """Return what is wrong, worst first; a lane that connects for the first time is not wrong yet."""
        away = {
            role: state.failure
            for role, state in self.roles.items()
            if state.wanted and not state.connected and state.failure is not None
        }
        found = []
        for failure in dict.fromkeys(away.values()):
            roles = roles_in_words(role for role, why in away.items() if why == failure)
            found.append(Trouble(f"no connection for {roles}: {failure.cause}", failure.next_step))
        if (refusal := self.refusal) is not None:
            cause = f"Redis refuses writes (for {refusal.seconds:.0f} s now): {refusal.cause}"
            found.append(Trouble(cause, refusal.next_step))
        return found


def _no_push(_message: list[Any]) -> None: ...


def _no_call() -> None: ...


def _no_event(_event: RedisEvent) -> None: ...


class Manager:
    """Commands to one Redis server over at most one connection per lane."""

    def __init__(
        self,
        target: Target,
        *,
        command_timeout: float = 5.0,
        connect_grace: float = 1.0,
        ping_interval: float = 10.0,
        ping_timeout: float = 2.0,
        backoff: AbstractBackoff | None = None,
        on_event: Callable[[RedisEvent], None] = _no_event,
        obstacle: Callable[[], Failure | None] | None = None,
    ) -> None:
        """Prepare a manager; it connects while `run` is running.

        Args:
            target: The server and the login.
            command_timeout: Seconds for one command, everything included.
            connect_grace: Seconds that a command waits for a connection that was just lost.
            ping_interval: Seconds between PINGs on each open lane.
            ping_timeout: Seconds for the PING on an idle lane.
            backoff: Pauses between attempts to connect, as redis-py computes them.
            on_event: Told of each change, synchronously. If it raises, that is logged.
            obstacle: Asked why the server cannot run, where whoever runs it knows; callers are told
                that instead of what connecting found.
        """
        self._target = target
        self._command_timeout = command_timeout
        self._ping_interval = ping_interval
        self._ping_timeout = ping_timeout
        self._on_event = on_event
        self._confirmer = WaitBatch()
        self._on_push: Callable[[list[Any]], None] = _no_push
        self._on_connected: Callable[[], None] = _no_call
        self._roles = {
            role: ReconnectingConnection(
                role,
                target,
                connect=self._connector(role),
                connect_grace=connect_grace,
                backoff=backoff or reconnect_backoff(),
                on_event=self._tell,
                on_connected=self._watch_connected if role is Role.WATCH else _no_call,
                obstacle=obstacle,
            )
            for role in Role
        }
        self._writes = WriteAvailability(target.label, self._ask, on_event=self._tell)
        self._renewal = Reauthentication(target, connections=self._open_connections, on_event=self._tell)

    def set_watch_hooks(
        self, *, on_push: Callable[[list[Any]], None], on_connected: Callable[[], None]
    ) -> None:
        """Install the two hooks of whoever owns the watch lane; each replaces the one before.

        Args:
            on_push: Called with every push notification of the watch lane, in order with its replies.
            on_connected: Called whenever the watch lane has a new connection, before anything is
                sent on it.

        Both are called synchronously; if they raise, that is logged.
        """
        self._on_push = on_push
        self._on_connected = on_connected

    @property
    def command_timeout(self) -> float:
        """Seconds for one command, everything included."""
        return self._command_timeout

    def status(self) -> RedisStatus:
        """Return a snapshot."""
        return RedisStatus(
            label=self._target.label,
            roles={role: keeper.status() for role, keeper in self._roles.items()},
            refusal=self._writes.refusal(),
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the lanes connected until cancelled.

        ``task_status.started()`` is called at once: that Redis is down is a state, not a failure.
        """
        async with trio.open_nursery() as nursery:
            for keeper in self._roles.values():
                await nursery.start(keeper.run)
            await nursery.start(self._renewal.run)
            await nursery.start(self._writes.run)
            # From the start, so that status and records tell about Redis before the first command.
            self._roles[Role.COMMAND].want()
            task_status.started()

    async def wait_connected(self, role: Role = Role.COMMAND) -> None:
        """Return once `role` is connected, opening it if need be; waits as long as that takes."""
        await self._roles[role].wait_connected()

    async def execute(self, *args: Arg, role: Role = Role.COMMAND, retry_safe: bool = False) -> Any:
        """Send one command and return its reply as RESP3 has it, strings as bytes.

        Args:
            args: The command and its arguments. Not for commands that block or subscribe.
            role: Which connection.
            retry_safe: Whether it may be sent again if its reply is lost.

        Raises:
            RedisUnavailable: It was not executed, because Redis could not be used in time. (SAFE: an
                earlier sending of it, whose reply was lost, may have been.)
            OutcomeUnknown: It was sent, and whether it was executed is not known (NEVER only).
            CommandTimedOut: It got no reply within the deadline (SAFE only).
            ServerReplied: The server answered with an error.
            QueueFull: Too much is queued for this lane already.
            ReplyTooLarge: The reply was too large to hold.

        If cancelled, the command is taken back if it was not sent yet; else it may be executed.
        """
        return await self._deliver(args, role, retry_safe, trio.current_time() + self._command_timeout)

    async def run_script(
        self,
        script: Script,
        keys: Sequence[str | bytes],
        args: Sequence[Arg],
        *,
        retry_safe: bool,
        role: Role = Role.COMMAND,
    ) -> Any:
        """Run a script by its digest, or by its text where the server does not know it yet.

        Args:
            script: The script.
            keys: Its KEYS.
            args: Its ARGV.
            retry_safe: As in `execute`.
            role: As in `execute`.

        Raises: as `execute`; the deadline covers both forms together.
        """
        deadline = trio.current_time() + self._command_timeout
        operands = (len(keys), *keys, *args)
        try:
            return await self._deliver(("EVALSHA", script.sha, *operands), role, retry_safe, deadline, script)
        except ServerReplied as answer:
            if not isinstance(answer.reply, NoScriptError):
                raise
        return await self._deliver(("EVAL", script.source, *operands), role, retry_safe, deadline, script)

    async def confirm(self, *command: Arg) -> Any:
        """Send WAIT or WAITAOF behind a write that was just answered on the durable lane.

        To be called without a checkpoint after that answer: only then is the lane's connection the
        one that answered. What another connection says of it would be a guess, and after a failover
        a wrong one. Callers at the same time share one command.

        Args:
            command: With a timeout of its own, well below the manager's for commands.

        Raises:
            RedisUnavailable: The connection has ended; nothing is confirmed.
            ServerReplied: The server answered with an error.
        """
        keeper = self._roles[Role.DURABLE]
        if keeper.connection is None:
            raise keeper.unavailable()
        try:
            return await self._confirmer.confirm(keeper.connection, command)
        except RedisError as error:
            read = bus_error(error)
            if isinstance(read, ServerReplied):
                read = named(read, command, username=self._target.username)
                advise(self._target, read)
            raise read from None
        except ConnectionEnded as ended:
            raise keeper.unavailable(ended.failure) from None

    async def _deliver(
        self,
        args: tuple[Arg, ...],
        role: Role,
        retry_safe: bool,
        deadline: float,
        script: Script | None = None,
    ) -> Any:
        try:
            return await send_with_retries(
                self._roles[role],
                args,
                retry_safe=retry_safe,
                deadline=deadline,
                timeout=self._command_timeout,
            )
        except ServerReplied as answer:
            advise(self._target, answer)
            self._writes.notice(args, answer)
            told = named(answer, args, script=script, username=self._target.username)
            advise(self._target, told)
            raise told from None

    async def _ask(self, *args: Arg) -> Any:
        return await self.execute(*args, retry_safe=True)

    def _ping_refused(self, error: RedisError) -> None:
        if isinstance(answer := bus_error(error), ServerReplied):
            advise(self._target, answer)
            self._writes.notice(("PING",), answer)

    def _connector(self, role: Role) -> Callable[[], Connection]:
        def connect() -> Connection:
            return Connection(
                self._target,
                role=role.value,
                on_push=self._push if role is Role.WATCH else None,
                on_ping_refused=self._ping_refused,
                reply_timeout=self._command_timeout,
                ping_interval=self._ping_interval,
                ping_timeout=self._ping_timeout,
            )

        return connect

    def _open_connections(self) -> dict[Role, Connection]:
        return {
            role: keeper.connection for role, keeper in self._roles.items() if keeper.connection is not None
        }

    def _push(self, message: list[Any]) -> None:
        self._on_push(message)

    def _watch_connected(self) -> None:
        try:
            self._on_connected()
        except Exception:  # noqa: BLE001 - whatever it is, the connection serves on
            _log.exception("the hook for a new watch connection failed")

    def _tell(self, event: RedisEvent) -> None:
        try:
            self._on_event(event)
        except Exception:  # noqa: BLE001 - a record that cannot be written must not cost the connection
            _log.exception("the hook for Redis events failed")
