"""Logs a fresh connection in: RESP3, user, name, database, and the question whether the server serves.

Owns the order of the login commands. It does not know how they travel, and what a refusal means
in words is ``failures``' business.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from redis.exceptions import RedisError

from redstreamd.redisio import Arg
from redstreamd.redisio.connect_errors import ConnectionEnded, no_credentials, refused
from redstreamd.redisio.credentials import CredentialsError, Login, login_for
from redstreamd.redisio.error_replies import reply_code
from redstreamd.redisio.target import Target

# Replies to PING from a server that is alive and answers other commands. MISCONF (it cannot save
# to disk) refuses writes and PING, yet serves reads: degraded, not gone.
_ALIVE: Final = frozenset({"MISCONF"})


async def log_in(
    execute: Callable[..., Awaitable[Any]], target: Target, role: str, greeting: Sequence[tuple[Arg, ...]]
) -> str:
    """Take the connection behind `execute` from connected to usable.

    HELLO answers while the server is still loading its data; PING does not, so PING is the gate
    (https://redis.io/commands/hello).

    Args:
        execute: Sends one command and returns its reply; raises `RedisError` for an error reply.
        target: Login and database.
        role: Appended to the client's name.
        greeting: Commands to send at the end.

    Returns:
        What the server calls itself, such as "redis 7.0.15".

    Raises:
        ConnectionEnded: There are no credentials, or the server refused something.
    """
    try:
        login = await login_for(target)
    except CredentialsError as error:
        raise ConnectionEnded(no_credentials(error.cause, error.next_step)) from None

    async def require(*args: Arg) -> Any:
        try:
            return await execute(*args)
        except RedisError as error:
            raise ConnectionEnded(refused(target, str(args[0]), error, username=login.username)) from None

    hello: tuple[Arg, ...] = ("HELLO", 3)
    if login.username is not None:
        hello += auth_command(login)
    elif login.password is not None:
        # Not HELLO's own AUTH: that accepts any password where the server has none, and nobody
        # would learn that the server stands open. AUTH says so.
        await require(*auth_command(login))
    identity = await require(*hello, "SETNAME", f"{target.client_name}:{role}")
    if target.database:
        await require("SELECT", target.database)
    try:
        await execute("PING")
    except RedisError as error:
        if reply_code(error) not in _ALIVE:
            raise ConnectionEnded(refused(target, "PING", error, username=login.username)) from None
    for command in greeting:
        await require(*command)
    return f"{_word(identity, b'server')} {_word(identity, b'version')}"


def auth_command(login: Login) -> tuple[str, ...]:
    """Return the AUTH command for a login that has a user or a password."""
    if login.username is None:
        return ("AUTH", login.password or "")
    # A user without a password ("nopass") accepts any.
    return ("AUTH", login.username, login.password or "")


def _word(identity: Any, key: bytes) -> str:
    # Proxies answer HELLO with what they please.
    value = identity.get(key) if isinstance(identity, dict) else None
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else "unknown"
