"""What can go wrong between a caller and Redis, in the project's codes.

Owns three things: the errors of the transport, the reading of a server's error reply (which
exception, which code, was the command certainly not executed), and their wording. It does not
know which stream or group a command was about: callers that do catch `ServerReplied` and say more.

The mapping from an error's text to an exception class is redis-py's own.
"""

from __future__ import annotations

from typing import Final

import attrs
from redis._parsers.base import BaseParser
from redis.exceptions import RedisError, ResponseError

from redstreamd.errors import BusError, Code


class RedisUnavailable(BusError):  # noqa: N818 - what happened, as BusError's codes put it
    """The command was not executed: there was no connection, or the server was not serving.

    (Of a command declared safe to repeat, an earlier sending whose reply was lost may have been.)
    """

    def __init__(self, message: str, *, cause: str, next_step: str) -> None:
        """Record why Redis could not be used."""
        super().__init__(Code.CONNECTION_ERROR, message, cause=cause, next_step=next_step)


class OutcomeUnknown(BusError):  # noqa: N818 - what happened, as BusError's codes put it
    """The command was sent and its reply lost or late: it may or may not have been executed."""

    def __init__(self, command: str, *, cause: str) -> None:
        """Record which command (its name only) has no known outcome, and why."""
        super().__init__(
            Code.OUTCOME_UNKNOWN,
            f"{command} was sent to Redis but its reply never arrived",
            cause=cause,
            next_step="Check whether it took effect before repeating it; "
            "a repeat with an idempotency key is safe where the tool offers one.",
        )


class CommandTimedOut(BusError):  # noqa: N818 - what happened, as BusError's codes put it
    """A command that changes nothing, or may be repeated, got no reply in time."""

    def __init__(self, command: str, *, seconds: float, cause: str) -> None:
        """Record which command (its name only) waited for how long."""
        super().__init__(
            Code.TIMEOUT,
            f"{command} got no reply from Redis within {seconds:g} s",
            cause=cause,
            next_step="Repeat it; if it keeps timing out, Redis is overloaded or stuck: look at its SLOWLOG.",
        )


class QueueFull(BusError):  # noqa: N818 - what happened, as BusError's codes put it
    """Too much is already waiting to be sent to Redis; the command was not sent."""

    def __init__(self, *, cause: str) -> None:
        """Record which bound was reached."""
        super().__init__(
            Code.RATE_LIMITED,
            "Too many commands are waiting for Redis",
            cause=cause,
            next_step="Wait a moment and repeat; send fewer requests at once.",
        )


class ReplyTooLarge(BusError):  # noqa: N818 - what happened, as BusError's codes put it
    """A reply exceeded what this process is prepared to hold in memory."""

    def __init__(self, *, limit_bytes: int) -> None:
        """Record the limit."""
        super().__init__(
            Code.TOO_LARGE,
            "The reply of Redis is too large",
            cause=f"it exceeds {limit_bytes} bytes",
            next_step="Ask for fewer entries at once.",
        )


class ServerReplied(BusError):  # noqa: N818 - what happened, as BusError's codes put it
    """The server answered with an error: the command had no effect.

    Attributes:
        reply: The server's error as redis-py names it.
    """

    def __init__(self, code: Code, message: str, *, cause: str, next_step: str, reply: RedisError) -> None:
        """Record the reply beside its reading."""
        super().__init__(code, message, cause=cause, next_step=next_step)
        self.reply = reply


@attrs.frozen
class _Reading:
    code: Code
    message: str
    next_step: str


# Keyed by the error code that opens the reply.
# Sources: "Redis serialization protocol specification" (simple errors) and server.c, `createSharedObjects`.
_BY_REPLY_CODE: Final[dict[str, _Reading]] = {
    "NOPERM": _Reading(
        Code.PERMISSION_DENIED,
        "Redis does not allow this to the user that redstreamd logs in as",
        "Grant the command and the key to that user (ACL SETUSER), or log in as another (REDIS_USERNAME).",
    ),
    "NOAUTH": _Reading(
        Code.CONNECTION_ERROR,
        "Redis asks for a password",
        "Set REDIS_PASSWORD (and REDIS_USERNAME for an ACL user).",
    ),
    "WRONGTYPE": _Reading(
        Code.WRONG_TYPE,
        "The key exists but is not a stream",
        "Use another name; stream_list shows which keys are streams.",
    ),
    "OOM": _Reading(
        Code.BACKEND_OUT_OF_MEMORY,
        "Redis has reached its memory limit and refuses writes",
        "Trim or delete streams, or raise maxmemory; reading and taking work still function.",
    ),
    "READONLY": _Reading(
        Code.BACKEND_READ_ONLY,
        "This Redis is a read-only replica",
        "Point redstreamd at the primary, or wait for the failover to finish.",
    ),
    "MISCONF": _Reading(
        Code.BACKEND_READ_ONLY,
        "Redis refuses writes because it cannot persist to disk",
        "Free disk space or repair the disk of the Redis server; its log names the reason.",
    ),
    "CROSSSLOT": _Reading(
        Code.INVALID_ARGUMENT,
        "The keys lie in different slots of the Redis cluster",
        "Name the streams with one common hash tag, such as {orders}:new and {orders}:done.",
    ),
    "NOGROUP": _Reading(
        Code.GROUP_NOT_FOUND,
        "The consumer group, or the stream it belongs to, does not exist",
        "Create it with group_create.",
    ),
    "BUSYGROUP": _Reading(
        Code.GROUP_EXISTS, "The consumer group exists already", "Use it, or choose another name."
    ),
    "MOVED": _Reading(
        Code.CONNECTION_ERROR,
        "This Redis is a cluster node that does not hold the key",
        "Configure the server as a cluster, or choose a node that serves the key.",
    ),
    "ASK": _Reading(
        Code.CONNECTION_ERROR,
        "The key is moving to another node of the Redis cluster",
        "Repeat in a moment.",
    ),
    "UNBLOCKED": _Reading(
        Code.CONNECTION_ERROR,
        "Redis ended the wait because the server changed its role or the key was deleted",
        "Repeat the call.",
    ),
}

# Errors without a code of their own, by a part of their text.
_BY_TEXT: Final[tuple[tuple[str, _Reading], ...]] = (
    (
        "no such key",
        _Reading(
            Code.STREAM_NOT_FOUND, "The stream does not exist", "stream_list shows the streams there are."
        ),
    ),
    (
        "requires the key to exist",
        _Reading(
            Code.STREAM_NOT_FOUND, "The stream does not exist", "Create the stream together with the group."
        ),
    ),
    (
        "Invalid stream ID",
        _Reading(
            Code.INVALID_ARGUMENT,
            "An entry ID is not valid",
            "Entry IDs look like 1526919030474-55: milliseconds, a dash, a sequence number.",
        ),
    ),
    (
        "equal or smaller than the target stream top item",
        _Reading(
            Code.INVALID_ARGUMENT, "The entry ID is not above the stream's last one", "Let Redis choose it."
        ),
    ),
    (
        "unknown command",
        _Reading(
            Code.INTERNAL,
            "This Redis does not know a command that redstreamd needs",
            "Use Redis 6.2 or later, or Valkey 7.2 or later, and check that the command is not renamed.",
        ),
    ),
)

_UNEXPECTED: Final = _Reading(
    Code.INTERNAL, "Redis refused the command", "If this repeats, report it together with the cause."
)

# The server checks these before it runs a command, and inside a script before the script's first
# write (script.c, `scriptVerifyWriteCommandAllow`), so such a command had no effect at all.
_NOT_EXECUTED: Final[dict[str, str]] = {
    "LOADING": "Redis is loading its data into memory",
    "BUSY": "Redis is running a long script",
    "TRYAGAIN": "the keys are moving between nodes of the Redis cluster",
    "CLUSTERDOWN": "the Redis cluster does not serve all slots",
    "MASTERDOWN": "this replica has lost its primary",
    "NOREPLICAS": "Redis demands more connected replicas than there are (min-replicas-to-write)",
}


def reply_error(text: str) -> RedisError:
    """Turn the text of an error reply into redis-py's exception; never raises."""
    try:
        error: RedisError = BaseParser.parse_error(text)  # type: ignore[no-untyped-call]
    except ValueError:  # MOVED and ASK in a shape that redis-py cannot take apart
        return ResponseError(text)
    return error


def reply_code(error: RedisError) -> str:
    """Return the word that opened the reply ("ERR", "NOPERM"), which redis-py cuts off where it knows it."""
    if error.status_code is not None:
        return error.status_code
    return str(error).partition(" ")[0]


def reply_text(error: RedisError) -> str:
    """Return the reply as the server sent it, on one line."""
    text = str(error)
    if error.status_code is not None:
        text = f"{error.status_code} {text}"
    return " ".join(text.split())


def not_executed(error: RedisError) -> str | None:
    """Return why the command was certainly not executed and may be sent again, or None if it may not."""
    return _NOT_EXECUTED.get(reply_code(error))


def bus_error(error: RedisError) -> BusError:
    """Read a server's error reply: code, cause and next step.

    Returns:
        `RedisUnavailable` for a command that the server did not execute because of its own state,
        else `ServerReplied`.
    """
    code, text = reply_code(error), reply_text(error)
    if (why := _NOT_EXECUTED.get(code)) is not None:
        return RedisUnavailable(
            "Redis is not serving commands at the moment",
            cause=f"{why} ({text})",
            next_step="Nothing was changed; repeat in a moment.",
        )
    reading = _BY_REPLY_CODE.get(code)
    if reading is None:
        reading = next((known for part, known in _BY_TEXT if part in text), _UNEXPECTED)
    return ServerReplied(
        reading.code,
        reading.message,
        cause=f"Redis replied: {text}",
        next_step=reading.next_step,
        reply=error,
    )
