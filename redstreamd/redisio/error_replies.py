"""Reads the server's error replies: which exception, which code, and was the command executed at all.

The mapping from an error's text to an exception class is redis-py's own. Which stream or group a
command was about is not known here: callers that know catch `ServerReplied` and say more.
"""

from __future__ import annotations

import re
from typing import Final

import attrs
from redis._parsers.base import BaseParser
from redis.exceptions import RedisError, ResponseError

from redstreamd.errors import BusError, Code
from redstreamd.errors.remedies import PASSWORD, redis_option, setting
from redstreamd.redisio.redis_errors import Recovery, RedisUnavailable, ServerReplied


@attrs.frozen
class Reading:
    """What an error reply means.

    Attributes:
        code: The code of the tool error.
        message: What happened.
        next_step: What the caller or an operator can do.
        recovery: What is done about it.
    """

    code: Code
    message: str
    next_step: str
    recovery: Recovery = Recovery.PERMANENT


# Keyed by the error code that opens the reply.
# Sources: "Redis serialization protocol specification" (simple errors) and server.c, `createSharedObjects`.
BY_REPLY_CODE: Final[dict[str, Reading]] = {
    "NOPERM": Reading(
        Code.PERMISSION_DENIED,
        "Redis does not allow this to the user that redstreamd logs in as",
        "Grant the command and the key to that user (ACL SETUSER in Redis), or log in as another: "
        f"set {setting('redis.username')}.",
    ),
    "NOAUTH": Reading(
        Code.CONNECTION_ERROR,
        "Redis asks for a password",
        f"Set {PASSWORD}; for an ACL user also {setting('redis.username')}.",
        Recovery.SETTINGS,
    ),
    "WRONGTYPE": Reading(
        Code.WRONG_TYPE,
        "The key exists but is not a stream",
        "Use another name; stream_list shows which keys are streams.",
    ),
    "OOM": Reading(
        Code.BACKEND_OUT_OF_MEMORY,
        "Redis has reached its memory limit and refuses writes",
        f"Trim or delete entries (stream_manage), or raise {redis_option('maxmemory')}. "
        "Meanwhile adding, taking, extending and failing work and creating groups are refused; reading, "
        "finishing work (work_done) and trimming are served.",
    ),
    "READONLY": Reading(
        Code.BACKEND_READ_ONLY,
        "This Redis is a read-only replica",
        f"Point redstreamd at the primary ({setting('redis.host', 'redis.port')}), or wait for the "
        "failover to finish.",
    ),
    "MISCONF": Reading(
        Code.BACKEND_READ_ONLY,
        "Redis refuses writes because it cannot persist to disk",
        "Free disk space or repair the disk of the Redis server; its log names the reason.",
    ),
    "CROSSSLOT": Reading(
        Code.INVALID_ARGUMENT,
        "The keys lie in different slots of the Redis cluster",
        "Name the streams with one common hash tag, such as {orders}:new and {orders}:done.",
    ),
    "NOGROUP": Reading(
        Code.GROUP_NOT_FOUND,
        "The consumer group, or the stream it belongs to, does not exist",
        "Create it with group_create.",
    ),
    "BUSYGROUP": Reading(
        Code.GROUP_EXISTS, "The consumer group exists already", "Use it, or choose another name."
    ),
    "MOVED": Reading(
        Code.CONNECTION_ERROR,
        "This Redis is a cluster node that does not hold the key",
        f"Choose a node that serves the key: set {setting('redis.host', 'redis.port')}.",
    ),
    "ASK": Reading(
        Code.CONNECTION_ERROR,
        "The key is moving to another node of the Redis cluster",
        "Repeat in a moment.",
    ),
    "UNBLOCKED": Reading(
        Code.CONNECTION_ERROR,
        "Redis ended the wait because the server changed its role or the key was deleted",
        "Repeat the call.",
    ),
}

# Errors without a code of their own, by a part of their text.
BY_TEXT: Final[tuple[tuple[str, Reading], ...]] = (
    # What a script was not allowed to call is reported without NOPERM: as Valkey and Redis from 7.2 on
    # put it, and before that.
    ("ACL failure in script", BY_REPLY_CODE["NOPERM"]),
    ("The user executing the script can't", BY_REPLY_CODE["NOPERM"]),
    (
        "no such key",
        Reading(
            Code.STREAM_NOT_FOUND, "The stream does not exist", "stream_list shows the streams there are."
        ),
    ),
    (
        "requires the key to exist",
        Reading(
            Code.STREAM_NOT_FOUND, "The stream does not exist", "Create the stream together with the group."
        ),
    ),
    (
        "Invalid stream ID",
        Reading(
            Code.INVALID_ARGUMENT,
            "An entry ID is not valid",
            "Entry IDs look like 1526919030474-55: milliseconds, a dash, a sequence number.",
        ),
    ),
    (
        "equal or smaller than the target stream top item",
        Reading(
            Code.INVALID_ARGUMENT, "The entry ID is not above the stream's last one", "Let Redis choose it."
        ),
    ),
    (
        "exhausted the last possible ID",
        Reading(
            Code.INVALID_STREAM,
            "The stream takes no more entries: its last one has the greatest entry ID there is",
            "Add to another stream, or delete this one (stream_manage) and begin it anew; "
            "IDs given by hand must leave room for those that follow.",
        ),
    ),
    *(
        # The second is what a script is told.
        (
            part,
            Reading(
                Code.INTERNAL,
                "This Redis does not know a command that redstreamd needs",
                "Use Redis 6.2 or later, or Valkey 7.2 or later, and check that the command is not renamed.",
            ),
        )
        for part in ("unknown command", "command called from", "nknown subcommand")
    ),
)

UNEXPECTED: Final = Reading(
    Code.INTERNAL, "Redis refused the command", "If this repeats, report it together with the cause."
)

# The server checks these before it runs a command, and inside a script before the script's first
# write (script.c, `scriptVerifyWriteCommandAllow`), so such a command had no effect at all.
NOT_EXECUTED: Final[dict[str, str]] = {
    "LOADING": "Redis is loading its data into memory",
    "BUSY": "Redis is running a long script",
    "TRYAGAIN": "the keys are moving between nodes of the Redis cluster",
    "CLUSTERDOWN": "the Redis cluster does not serve all slots",
    "MASTERDOWN": "this replica has lost its primary",
    "NOREPLICAS": "Redis demands more connected replicas than there are (min-replicas-to-write)",
}


# Redis 6.2 wraps the error of a command inside a script; later servers put it first.
_WRAPPED_IN_SCRIPT: Final = re.compile(
    r"ERR Error running script \(call to f_[0-9a-f]{40}\): @user_script:\d+: (?:@user_script: \d+: )?-?"
    r"(?P<inner>[A-Z]{2,} .*)",
    re.DOTALL,
)


def reply_error(text: str) -> RedisError:
    """Turn the text of an error reply into redis-py's exception; never raises."""
    if (wrapped := _WRAPPED_IN_SCRIPT.fullmatch(text)) is not None:
        text = wrapped["inner"]
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
    return NOT_EXECUTED.get(reply_code(error))


def bus_error(error: RedisError) -> BusError:
    """Read a server's error reply: code, cause and next step.

    Returns:
        `RedisUnavailable` for a command that the server did not execute because of its own state,
        else `ServerReplied`.
    """
    code, text = reply_code(error), reply_text(error)
    if (why := NOT_EXECUTED.get(code)) is not None:
        return RedisUnavailable(
            "Redis is not serving commands at the moment",
            cause=f"{why} ({text})",
            next_step="Nothing was changed; repeat in a moment.",
        )
    reading = BY_REPLY_CODE.get(code)
    if reading is None:
        reading = next((known for part, known in BY_TEXT if part in text), UNEXPECTED)
    return ServerReplied(
        reading.code,
        reading.message,
        cause=f"Redis replied: {text}",
        next_step=reading.next_step,
        reply=error,
    )
