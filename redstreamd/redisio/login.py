"""From a connected stream to a usable connection: the login.

Owns the order of the login commands, and what a refused login means. It does not know how commands travel.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from redis.exceptions import RedisError

from redstreamd.errors import Code
from redstreamd.errors.remedies import setting, settings_file
from redstreamd.redisio import Arg, error_replies
from redstreamd.redisio.connect_errors import timed_out
from redstreamd.redisio.credentials import CredentialsError, Login, login_for
from redstreamd.redisio.error_replies import reply_code, reply_text, row_of
from redstreamd.redisio.redis_errors import ConnectionEnded, Problem, ProblemKind, Recovery
from redstreamd.redisio.setting_names import NAMED, SENTINELS
from redstreamd.redisio.target import Target

# Replies to PING from a server that is alive and answers other commands. MISCONF (it cannot save
# to disk) refuses writes and PING, yet serves reads: degraded, not gone.
_ALIVE: Final = frozenset({"MISCONF"})
#: Replies that a change at the server ends, as well as one here; with those about permissions.
_SERVER_CAN_HELP: Final = frozenset({"WRONGPASS", "DENIED", error_replies.LOGIN_NOT_NEEDED})


async def log_in(execute: Callable[..., Awaitable[Any]], target: Target, role: str) -> str:
    """Take the connection behind `execute` from connected to usable: RESP3, user, name, database.

    HELLO answers while the server is still loading its data; PING does not, so PING decides
    (https://redis.io/commands/hello).

    Args:
        execute: Sends one command and returns its reply; raises `RedisError` for an error reply.
        target: Login and database.
        role: Appended to the client's name.

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
    if (wrong := _other_server(target, identity)) is not None:
        raise ConnectionEnded(wrong)
    if target.database:
        await require("SELECT", target.database)
    try:
        await execute("PING")
    except RedisError as error:
        if reply_code(error) not in _ALIVE:
            raise ConnectionEnded(refused(target, "PING", error, username=login.username)) from None
    if target.must_be_primary and (problem := not_the_primary(await require("ROLE"))) is not None:
        raise ConnectionEnded(problem)
    return f"{_word(identity, b'server')} {_word(identity, b'version')}"


def _other_server(target: Target, identity: Any) -> Problem | None:
    """Return the problem of a sentinel in the place of a server, or of a server in that of a sentinel."""
    is_sentinel = _word(identity, b"mode") == "sentinel"
    if is_sentinel is (target.settings is SENTINELS):
        return None
    if is_sentinel:
        cause = "this is a sentinel, which keeps no streams"
        step = (
            f'Set {setting("redis.topology", "redis.nodes")}: "sentinel", and the addresses of the sentinels.'
        )
    else:
        cause = "this is no sentinel"
        step = f"Give the addresses of the sentinels: correct {setting('redis.nodes')}."
    return Problem(ProblemKind.SETTINGS, cause, step)


def not_the_primary(role: Any) -> Problem | None:
    """Read the reply to ROLE (https://redis.io/commands/role); None if the server is a primary."""
    kind = role[0] if isinstance(role, list) and role else None
    if kind == b"master":
        return None
    cause = "the server is a replica" if kind == b"slave" else "the server does not say that it is a primary"
    # Not UNREACHABLE: it may be promoted at any moment.
    return Problem(
        ProblemKind.NOT_SERVING,
        cause,
        "Wait until the sentinels have named the primary; `SENTINEL CKQUORUM` says whether they can.",
    )


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


def no_credentials(cause: str, next_step: str) -> Problem:
    """Return the problem of a login without credentials: a password file or a provider failed."""
    # Not SETTINGS: a file that is just being replaced is there again in a moment.
    return Problem(ProblemKind.UNREACHABLE, cause, next_step)


def login_timed_out(target: Target, *, asked: bool) -> Problem:
    """Return the problem of a login that took longer than the target allows.

    Args:
        target: The server.
        asked: Whether the server had been asked anything; else it was the credential provider.
    """
    if asked:
        return timed_out(target, "the server accepted the connection but did not answer the login")
    return no_credentials(
        f"the credential provider gave no answer within {target.connect_timeout:g} s",
        "Look at what it depends on; it is asked again at each attempt to log in.",
    )


def refused(target: Target, command: str, error: RedisError, *, username: str | None) -> Problem:
    """Read an error reply to a command of the login: the table's row, with what this login was made with.

    Args:
        target: Whose settings were used.
        command: The command's name, such as "HELLO".
        error: The reply. Error replies never repeat a password.
        username: The user that was logged in as; None for the default user.
    """
    row, text = row_of(error), reply_text(error)
    login = "the default user" if username is None else f"user {username!r}"
    names = target.settings
    password = names.password if target.credentials is None else "the password that the login is made with"
    step = row.next_step
    server_can_help = row.kind in _SERVER_CAN_HELP or row.code is Code.PERMISSION_DENIED
    if row.recovery is Recovery.NOT_EXECUTED:
        # A server that has no room for another client is not to be asked twice a second.
        full = row.kind == error_replies.MAX_CLIENTS
        return Problem(ProblemKind.UNREACHABLE if full else ProblemKind.NOT_SERVING, text, step)
    match row.kind:
        case "WRONGPASS":
            cause = f"{text} (logging in as {login})"
            step = f"Correct {password}; for an ACL user set {setting(names.username)}."
            if username is not None:
                step = (
                    f"Check that user {username!r} exists and is on (ACL LIST in Redis), and correct "
                    f"{setting(names.username)}, or {password}."
                )
            if target.password is not None and target.password[:1] + target.password[-1:] in ('""', "''"):
                step += " It begins and ends with a quote, as `docker run --env-file` hands it over."
        case "NOAUTH":
            cause = f"{text} (no password is configured here)"
            step = step.replace(NAMED.password, password).replace(
                setting(NAMED.username), setting(names.username)
            )
        case "DENIED":
            cause = row.message
        case error_replies.LOGIN_NOT_NEEDED:
            cause = f"{text} (a password is configured here, but this Redis has none)"
            step = step.replace(NAMED.password, password).replace(
                setting(NAMED.username), setting(names.username)
            )
        case _ if row.code is Code.PERMISSION_DENIED:
            cause = f"{text} ({login} may not run {command})"
            step = (
                f"Allow it: ACL SETUSER {username or 'default'} +{command.lower()} (a login needs +hello "
                "and +ping, with sentinels +role, for a database other than 0 +select), or log in as another "
                f"user: set {setting(names.username)}."
            )
        case error_replies.UNKNOWN_COMMAND if command != "HELLO":
            cause = f"{text} (the server does not have {command}, which each login needs)"
            step = (
                f"Give {command} its name back (`rename-command` in the server's settings), or connect to "
                "the server directly."
            )
        case _ if command == "SELECT":
            cause = f"{text} (database {target.database})"
            step = f"Correct {setting('redis.database')}, or raise `databases` in redis.conf."
        case _ if command == "HELLO":
            cause = f"{text} (the server does not accept HELLO 3)"
            step = "Use Redis 6.2 or later or Valkey 7.2 or later, and connect to it directly."
        case _:
            cause = f"{text} (in reply to {command})"
            step = (
                f"Correct the settings of this connection: the table [redis] in {settings_file()}, or "
                "REDIS_* in the environment."
            )
    return Problem(ProblemKind.SETTINGS, cause, step, server_can_help=server_can_help)
