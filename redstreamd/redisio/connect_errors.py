"""Why there is no usable connection to Redis, and what to change about it.

Owns the wording of every way in which connecting, logging in or staying connected can fail, and
the one distinction the reconnecting needs: will waiting help, or only a change of settings. It
knows nothing of sockets, tasks or retries.
"""

from __future__ import annotations

import enum
import os
import socket
import ssl
from collections.abc import Iterable, Iterator

import attrs
from redis.exceptions import RedisError

from redstreamd.errors.remedies import PASSWORD, SETTINGS_FILE, redis_option, setting, unit_setting
from redstreamd.redisio.error_replies import reply_code, reply_text
from redstreamd.redisio.target import Target


class FailureKind(enum.Enum):
    """What kind of obstacle it is; decides how soon another attempt makes sense."""

    UNREACHABLE = "unreachable"
    """Nothing answers, or the connection broke: try again with growing pauses."""
    NOT_SERVING = "not serving"
    """It answers, but serves no commands yet (LOADING, BUSY): ask again soon."""
    SETTINGS = "settings"
    """It refuses this login or these settings: nothing changes until somebody changes them."""


@attrs.frozen
class Failure:
    """One reason for having no connection.

    Attributes:
        kind: How to go on.
        cause: What is known, without secrets.
        next_step: What an operator can change.
    """

    kind: FailureKind
    cause: str
    next_step: str


class ConnectionEnded(Exception):  # noqa: N818 - names an event: it is how every connection ends
    """A connection could not be made, or is over.

    Attributes:
        failure: Why.
    """

    def __init__(self, failure: Failure) -> None:
        """Record why."""
        super().__init__(failure.cause)
        self.failure = failure


class NotSent(ConnectionEnded):
    """The connection ended before a byte of the request was handed to the socket: not executed."""


class ReplyLost(ConnectionEnded):
    """The connection ended after the request was handed to the socket: it may have been executed."""


_WAIT = "Nothing needs to be changed; redstreamd keeps trying."

IDLE_LIMIT = (
    "Look at `CONFIG GET timeout` in Redis: below 10 it closes idle connections before redstreamd asks for a "
    f"sign of life; set {redis_option('timeout')} to 0, or to 30 and more. "
    "Else a proxy, a firewall or somebody ends them."
)

SHUTTING_DOWN = Failure(FailureKind.UNREACHABLE, "redstreamd is shutting down", "Repeat after its restart.")
STILL_CONNECTING = Failure(FailureKind.UNREACHABLE, "there was no connection yet", _WAIT)


def closed_by_server() -> Failure:
    """Redis, or something between, ended the connection."""
    return Failure(FailureKind.UNREACHABLE, "the server closed the connection", _WAIT)


def broken(error: BaseException) -> Failure:
    """The socket reported `error` on an established connection."""
    return Failure(FailureKind.UNREACHABLE, f"the connection broke ({_innermost(error)})", _WAIT)


def unanswered(what: str, seconds: float) -> Failure:
    """The server owed an answer to `what` for `seconds` and did not give it."""
    return Failure(
        FailureKind.UNREACHABLE,
        f"no reply to {what} within {seconds:g} s",
        "Look at the Redis host: it is stopped, overloaded, or cut off from the network.",
    )


def unreadable(detail: str) -> Failure:
    """What arrived is not a reply; nothing after it on this connection can be trusted."""
    return Failure(
        FailureKind.UNREACHABLE,
        f"the server's reply could not be read ({detail})",
        "Check that the address belongs to a Redis server, and the network between.",
    )


def oversized(limit_bytes: int) -> Failure:
    """A reply was given up because of its size."""
    return Failure(
        FailureKind.UNREACHABLE,
        f"a reply was larger than {limit_bytes} bytes",
        "Ask for fewer entries at once.",
    )


def connect_timed_out(target: Target) -> Failure:
    """Connecting took longer than the target allows."""
    return _timed_out(target, "no answer")


def login_timed_out(target: Target, *, asked: bool) -> Failure:
    """Logging in took longer than the target allows.

    Args:
        target: The server.
        asked: Whether the server had been asked anything; else it was the credential provider.
    """
    if asked:
        return _timed_out(target, "the server accepted the connection but did not answer the login")
    return no_credentials(
        f"the credential provider gave no answer within {target.connect_timeout:g} s",
        "Look at what it depends on; it is asked again at each attempt to log in.",
    )


def _timed_out(target: Target, what: str) -> Failure:
    return Failure(
        FailureKind.UNREACHABLE,
        f"{what} within {target.connect_timeout:g} s",
        f"Check that {target.label} is the address of a running Redis and that no firewall is between.",
    )


def not_connected(target: Target, error: OSError) -> Failure:
    """Read the error of a connection attempt; happy eyeballs reports one for each address."""
    causes = list(leaves(error))
    cause = _joined(causes)
    if target.path is not None:
        steps = {
            FileNotFoundError: f"Start Redis, or have it listen on {target.path} (`unixsocket` in "
            f"redis.conf), or correct {setting('redis.path')}.",
            PermissionError: "Let redstreamd's user write to the socket (`unixsocketperm` in redis.conf, and "
            "its group).",
        }
        fallback = f"Start Redis, or correct the socket's path: {setting('redis.path')}."
    else:
        steps = {
            socket.gaierror: f"Correct the host name {target.host!r}: {setting('redis.host')}.",
            PermissionError: "This host forbids it: allow the address in "
            f"{unit_setting('IPAddressAllow=')}, as the drop-in remote-redis.conf does, or in its firewall.",
        }
        fallback = f"Start Redis, or correct its address: {setting('redis.host', 'redis.port')}."
    step = next((text for leaf in causes for kind, text in steps.items() if isinstance(leaf, kind)), fallback)
    return Failure(FailureKind.UNREACHABLE, cause, step)


def no_credentials(cause: str, next_step: str) -> Failure:
    """There is nothing to log in with: a password file or a credential provider failed."""
    # Not SETTINGS: a file that is just being replaced is there again in a moment.
    return Failure(FailureKind.UNREACHABLE, cause, next_step)


def refused(target: Target, command: str, error: RedisError, *, username: str | None) -> Failure:
    """Read an error reply to a command of the login.

    Args:
        target: Whose settings were used.
        command: The command's name, such as "HELLO".
        error: The reply. Error replies never repeat a password.
        username: The user that was logged in as; None for the default user.
    """
    code, text = reply_code(error), reply_text(error)
    settings = FailureKind.SETTINGS
    login = "the default user" if username is None else f"user {username!r}"
    if code in ("LOADING", "BUSY", "MASTERDOWN"):
        return Failure(FailureKind.NOT_SERVING, text, "Wait until Redis serves commands again.")
    if "max number of clients" in text:
        return Failure(
            FailureKind.UNREACHABLE,
            text,
            f"Close other clients of this Redis, or raise {redis_option('maxclients')}.",
        )
    password = PASSWORD if target.credentials is None else "the password that the login is made with"
    if code == "WRONGPASS":
        step = f"Correct {password}; for an ACL user set {setting('redis.username')}."
        if username is not None:
            step = (
                f"Check that user {username!r} exists and is on (ACL LIST in Redis), and correct "
                f"{setting('redis.username')}, or {password}."
            )
        if target.password is not None and target.password[:1] + target.password[-1:] in ('""', "''"):
            step += " It begins and ends with a quote, as `docker run --env-file` hands it over."
        return Failure(settings, f"{text} (logging in as {login})", step)
    if code == "NOAUTH":
        return Failure(
            settings,
            f"{text} (no password is configured here)",
            f"Set {PASSWORD}; for an ACL user also {setting('redis.username')}.",
        )
    if "without any password configured" in text:
        return Failure(
            settings,
            f"{text} (a password is configured here, but this Redis has none)",
            f"Remove {password}, or give Redis a password too: set {redis_option('requirepass')}; "
            f"for an ACL user set {setting('redis.username')}.",
        )
    if code == "NOPERM":
        return Failure(
            settings,
            f"{text} ({login} may not run {command})",
            f"Allow it: ACL SETUSER {username or 'default'} +{command.lower()} (a login needs +hello, +ping "
            "and, for a database other than 0, +select), or log in as another user: set "
            f"{setting('redis.username')}.",
        )
    if code == "DENIED":
        return Failure(
            settings,
            "Redis runs in protected mode and refuses clients from other hosts",
            f"Set a password in Redis ({redis_option('requirepass')}) and here ({PASSWORD}), or bind Redis "
            "to this host only.",
        )
    if "unknown command" in text and command != "HELLO":
        return Failure(
            settings,
            f"{text} (the server does not have {command}, which each login needs)",
            f"Give {command} its name back (`rename-command` in the server's settings), or connect to "
            "the server directly.",
        )
    if command == "SELECT":
        return Failure(
            settings,
            f"{text} (database {target.database})",
            f"Correct {setting('redis.database')}, or raise `databases` in redis.conf.",
        )
    if command == "HELLO":
        return Failure(
            settings,
            f"{text} (the server does not accept HELLO 3)",
            "Use Redis 6.2 or later or Valkey 7.2 or later, and connect to it directly.",
        )
    return Failure(
        settings,
        f"{text} (in reply to {command})",
        f"Correct the settings of this connection: the table [redis] in {SETTINGS_FILE}, or REDIS_* in the "
        "environment.",
    )


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield what is behind `error`: its causes, and those of each member of a group."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from leaves(each)
    elif error.__cause__ is not None:
        yield from leaves(error.__cause__)
    else:
        yield error


def _text(error: BaseException) -> str:
    if isinstance(error, ssl.SSLError):
        # Its number is OpenSSL's, not the system's.
        return (error.reason or str(error)).replace("_", " ").lower()
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        # Not the error's own text: that repeats the address.
        return os.strerror(error.errno)
    if isinstance(error, socket.gaierror) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _innermost(error: BaseException) -> str:
    return _joined(leaves(error))


def _joined(causes: Iterable[BaseException]) -> str:
    return "; ".join(dict.fromkeys(_text(cause) for cause in causes))
