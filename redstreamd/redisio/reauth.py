"""Carries credentials that a provider renews to the connections that live on the old ones.

Owns the wire between the provider's thread and the event loop, and the AUTH on each live connection.
New connections need none of it: each login asks the provider.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

import msgspec
import trio
from redis.exceptions import RedisError

from redstreamd.redisio import Role
from redstreamd.redisio.connection import Connection
from redstreamd.redisio.credentials import CredentialsError, renewed_login, streaming
from redstreamd.redisio.login import auth_command, refused
from redstreamd.redisio.redis_errors import ConnectionEnded, QueueFull
from redstreamd.redisio.target import Target


class LoginRenewed(msgspec.Struct, frozen=True):
    """A live connection has logged in again, with renewed credentials.

    Attributes:
        role: What it is for.
        label: The server's address.
    """

    role: Role
    label: str


class RenewalFailed(msgspec.Struct, frozen=True):
    """Credentials could not be renewed; connections go on with the old ones while Redis lets them.

    Attributes:
        label: The server's address.
        cause: Why, without secrets.
    """

    label: str
    cause: str


LoginEvent = LoginRenewed | RenewalFailed


class Reauthentication:
    """Has the live connections of one server log in again whenever their provider says so.

    A connection that Redis refuses to renew goes on with its old login for as long as Redis lets it;
    the next one asks the provider anew.
    """

    def __init__(
        self,
        target: Target,
        *,
        connections: Callable[[], Mapping[Role, Connection]],
        on_event: Callable[[LoginEvent], None],
    ) -> None:
        """Prepare; nothing happens before `run`.

        Args:
            target: The server and its provider.
            connections: Returns the connections that are open now.
            on_event: Called with each renewal; must not raise.
        """
        self._target = target
        self._connections = connections
        self._on_event = on_event
        self._subscribed = False
        # Set while run() runs; the provider may call from any thread, at any time.
        self._loop: trio.lowlevel.TrioToken | None = None
        self._announced = trio.Event()
        # Only the newest counts.
        self._newest: object = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve renewals until cancelled; returns at once if the provider never announces any.

        ``task_status.started()`` is called once announcements are heard.
        """
        provider = streaming(self._target)
        if provider is None:
            task_status.started()
            return
        self._loop = trio.lowlevel.current_trio_token()
        try:
            if not self._subscribed:
                # redis-py's interface has no way to unsubscribe, so once per life of this object.
                self._subscribed = True
                provider.on_next(self._hear)
                provider.on_error(self._hear_failure)
            task_status.started()
            while True:
                await self._announced.wait()
                self._announced = trio.Event()
                await self._renew(self._newest)
        finally:
            self._loop = None

    def _hear(self, renewed: object) -> None:
        self._in_loop(self._announce, renewed)

    def _hear_failure(self, error: Exception) -> None:
        # Its text may hold what could not be renewed.
        cause = f"the credential provider failed ({type(error).__name__})"
        self._in_loop(self._on_event, RenewalFailed(self._target.label, cause))

    def _in_loop(self, act: Callable[..., object], value: object) -> None:
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(trio.RunFinishedError):
                loop.run_sync_soon(act, value)

    def _announce(self, renewed: object) -> None:
        self._newest = renewed
        self._announced.set()

    async def _renew(self, renewed: object) -> None:
        try:
            login = await renewed_login(self._target, renewed)
        except CredentialsError as error:
            self._on_event(RenewalFailed(self._target.label, error.cause))
            return
        for role, connection in self._connections().items():
            try:
                await connection.execute(*auth_command(login))
            except (ConnectionEnded, QueueFull):
                # A connection that is gone needs nothing; of one that takes no commands others tell.
                continue
            except RedisError as error:
                problem = refused(self._target, "AUTH", error, username=login.username)
                self._on_event(RenewalFailed(self._target.label, problem.cause))
            else:
                self._on_event(LoginRenewed(role, self._target.label))
