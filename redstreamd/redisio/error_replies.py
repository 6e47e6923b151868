"""The error replies of Redis in one table: the code, the message, the next step, and what is done about each.

Owns how a reply is recognised: by the code that opens it, and by its text only where the server sends no
code, or one code for several things. Others ask for `ServerReplied.kind` and never look into the text. The
mapping to an exception class is redis-py's own. Which stream or group a command was about is not known
here: callers that know catch `ServerReplied` and say more.

Sources: "Redis serialization protocol specification" (simple errors) and server.c, `createSharedObjects`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, Final

import attrs
from redis.exceptions import RedisError, ResponseError

from redstreamd.errors import Code
from redstreamd.errors.remedies import password, redis_option, setting
from redstreamd.redisio.redis_errors import Recovery, RedisUnavailable, ServerReplied

# Kinds of replies for which the server has no code of their own.
COMMAND_DENIED: Final = "NOPERM COMMAND"
KEY_DENIED: Final = "NOPERM KEY"
NO_SUCH_KEY: Final = "NO SUCH KEY"
UNKNOWN_COMMAND: Final = "UNKNOWN COMMAND"
MAX_CLIENTS: Final = "MAXCLIENTS"
LOGIN_NOT_NEEDED: Final = "LOGIN NOT NEEDED"


@attrs.frozen
class Row:
    """One kind of error reply.

    Attributes:
        kind: Its name: the server's code where that tells it, else a name of ours.
        code: The code of the tool error.
        message: What happened.
        step: What the caller or an operator can do, or a function that returns it: the places of settings are
            known only when they have been read.
        recovery: What is done about it.
        reply_code: The code that opens the reply; empty for replies without a code of their own ("ERR").
        texts: Parts of the text, one of which the reply contains; empty where the code is enough.
    """

    kind: str
    code: Code
    message: str
    step: str | Callable[[], str]
    recovery: Recovery = Recovery.PERMANENT
    reply_code: str = attrs.field(kw_only=True, default=attrs.Factory(lambda row: row.kind, takes_self=True))
    texts: tuple[str, ...] = attrs.field(kw_only=True, default=())

    @property
    def next_step(self) -> str:
        """What the caller or an operator can do."""
        return self.step if isinstance(self.step, str) else self.step()


def _not_executed(code: str, why: str) -> Row:
    # The server checks these before it runs a command, and inside a script before the script's first
    # write (script.c, `scriptVerifyWriteCommandAllow`), so such a command had no effect at all.
    step = "Wait until Redis serves commands again."
    return Row(code, Code.CONNECTION_ERROR, why, step, Recovery.NOT_EXECUTED)


def _denied(kind: str, *texts: str, reply_code: str = "") -> Row:
    return Row(
        kind,
        Code.PERMISSION_DENIED,
        "Redis does not allow this to the user that redstreamd logs in as",
        lambda: (
            "Grant the command and the key to that user (ACL SETUSER in Redis), or log in as another: "
            f"set {setting('redis.username')}."
        ),
        reply_code=reply_code,
        texts=texts,
    )


def _uncoded(
    kind: str,
    code: Code,
    message: str,
    step: str | Callable[[], str],
    *texts: str,
    recovery: Recovery = Recovery.PERMANENT,
) -> Row:
    return Row(kind, code, message, step, recovery, reply_code="", texts=texts)


#: The first row that fits is the one. Rows for a code come before rows for replies that have none.
TABLE: Final = (
    _not_executed("LOADING", "Redis is loading its data into memory"),
    _not_executed("BUSY", "Redis is running a long script"),
    _not_executed("TRYAGAIN", "the keys are moving between nodes of the Redis cluster"),
    _not_executed("CLUSTERDOWN", "the Redis cluster does not serve all slots"),
    _not_executed("MASTERDOWN", "this replica has lost its primary"),
    _not_executed(
        "NOREPLICAS", "Redis demands more connected replicas than there are (min-replicas-to-write)"
    ),
    _denied(COMMAND_DENIED, "permissions to run the", reply_code="NOPERM"),
    _denied(
        KEY_DENIED,
        "permissions to access one of the keys",
        "permissions to access a key",
        reply_code="NOPERM",
    ),
    _denied("NOPERM", reply_code="NOPERM"),
    Row(
        "NOAUTH",
        Code.CONNECTION_ERROR,
        "Redis asks for a password",
        lambda: f"Set {password()}; for an ACL user also {setting('redis.username')}.",
        Recovery.SETTINGS,
    ),
    Row(
        "WRONGPASS",
        Code.CONNECTION_ERROR,
        "Redis does not accept the user or the password",
        lambda: f"Correct {password()}; for an ACL user set {setting('redis.username')}.",
        Recovery.SETTINGS,
    ),
    Row(
        "DENIED",
        Code.CONNECTION_ERROR,
        "Redis runs in protected mode and refuses clients from other hosts",
        lambda: (
            f"Set a password in Redis ({redis_option('requirepass')}) and here ({password()}), or bind Redis "
            "to this host only."
        ),
        Recovery.SETTINGS,
    ),
    Row(
        "WRONGTYPE",
        Code.WRONG_TYPE,
        "The key exists but is not a stream",
        "Use another name; stream_list shows which keys are streams.",
    ),
    Row(
        "OOM",
        Code.BACKEND_OUT_OF_MEMORY,
        "Redis has reached its memory limit and refuses writes",
        f"Trim or delete entries (stream_manage), or raise {redis_option('maxmemory')}. "
        "Meanwhile adding, taking, extending and failing work and creating groups are refused; reading, "
        "finishing work (work_done) and trimming are served.",
    ),
    Row(
        "READONLY",
        Code.BACKEND_READ_ONLY,
        "This Redis is a read-only replica",
        lambda: (
            "Repeat the call in a moment if Redis is set by a name: redstreamd looks that up anew, and "
            "finds the primary once the name leads to it. An address stays what it is: point redstreamd at "
            f"the primary ({setting('redis.host', 'redis.port')}); where sentinels watch over it, set "
            f'{setting("redis.topology")} to "sentinel".'
        ),
    ),
    Row(
        "MISCONF",
        Code.BACKEND_READ_ONLY,
        "Redis refuses writes because it cannot persist to disk",
        "Free disk space or repair the disk of the Redis server; its log names the reason.",
    ),
    Row(
        "CROSSSLOT",
        Code.INVALID_ARGUMENT,
        "The keys lie in different slots of the Redis cluster",
        "Name the streams with one common hash tag, such as {orders}:new and {orders}:done.",
    ),
    Row(
        "NOGROUP",
        Code.GROUP_NOT_FOUND,
        "The consumer group, or the stream it belongs to, does not exist",
        "Create it with group_create.",
    ),
    Row(
        "BUSYGROUP", Code.GROUP_EXISTS, "The consumer group exists already", "Use it, or choose another name."
    ),
    Row(
        "MOVED",
        Code.CONNECTION_ERROR,
        "This Redis is a cluster node that does not hold the key",
        lambda: f'This needs a connection to each node: set {setting("redis.topology")} to "cluster".',
    ),
    Row(
        "ASK",
        Code.CONNECTION_ERROR,
        "The key is moving to another node of the Redis cluster",
        "Repeat in a moment.",
    ),
    Row(
        "UNBLOCKED",
        Code.CONNECTION_ERROR,
        "Redis ended the wait because the server changed its role or the key was deleted",
        "Repeat the call.",
    ),
    _uncoded(
        UNKNOWN_COMMAND,
        Code.INTERNAL,
        "This Redis does not know a command that redstreamd needs",
        "Use Redis 6.2 or later, or Valkey 7.2 or later, and check that the command is not renamed.",
        # The first row without a code, because it quotes arguments. The second text is what a script is told.
        "unknown command",
        "command called from",
        "nknown subcommand",
    ),
    # What a script was not allowed to call is reported without NOPERM: as Valkey and Redis from 7.2 on
    # put it, and before that.
    _denied(KEY_DENIED, "permissions to access a key", "can't access at least one of the keys"),
    _denied(COMMAND_DENIED, "permissions to run the", "can't run this command or subcommand"),
    _denied("NOPERM", "ACL failure in script", "The user executing the script can't"),
    _uncoded(
        NO_SUCH_KEY,
        Code.STREAM_NOT_FOUND,
        "The stream does not exist",
        "stream_list shows the streams there are.",
        "no such key",
    ),
    _uncoded(
        NO_SUCH_KEY,
        Code.STREAM_NOT_FOUND,
        "The stream does not exist",
        "Create the stream together with the group.",
        "requires the key to exist",
    ),
    _uncoded(
        "INVALID ID",
        Code.INVALID_ARGUMENT,
        "An entry ID is not valid",
        "Entry IDs look like 1526919030474-55: milliseconds, a dash, a sequence number.",
        "Invalid stream ID",
    ),
    _uncoded(
        "ID TOO SMALL",
        Code.INVALID_ARGUMENT,
        "The entry ID is not above the stream's last one",
        "Let Redis choose it.",
        "equal or smaller than the target stream top item",
    ),
    _uncoded(
        "LAST ID",
        Code.INVALID_STREAM,
        "The stream takes no more entries: its last one has the greatest entry ID there is",
        "Add to another stream, or delete this one (stream_manage) and begin it anew; "
        "IDs given by hand must leave room for those that follow.",
        "exhausted the last possible ID",
    ),
    _uncoded(
        MAX_CLIENTS,
        Code.CONNECTION_ERROR,
        "Redis has as many clients as it allows (maxclients)",
        f"Close other clients of this Redis, or raise {redis_option('maxclients')}.",
        "max number of clients",
        recovery=Recovery.NOT_EXECUTED,
    ),
    _uncoded(
        LOGIN_NOT_NEEDED,
        Code.CONNECTION_ERROR,
        "A password is configured here, but this Redis has none",
        lambda: (
            f"Remove {password()}, or give Redis a password too: set {redis_option('requirepass')}; "
            f"for an ACL user set {setting('redis.username')}."
        ),
        "without any password configured",
        recovery=Recovery.SETTINGS,
    ),
)

#: Any other reply.
UNEXPECTED: Final = Row(
    "ERR", Code.INTERNAL, "Redis refused the command", "If this repeats, report it together with the cause."
)

# Redis 6.2 wraps the error of a command inside a script; later servers put it first.
_WRAPPED_IN_SCRIPT: Final = re.compile(
    r"ERR Error running script \(call to f_[0-9a-f]{40}\): @user_script:\d+: (?:@user_script: \d+: )?-?"
    r"(?P<inner>[A-Z]{2,} .*)",
    re.DOTALL,
)


@functools.cache
def load_parser() -> Callable[[str], Any]:
    """Return redis-py's function for the text of an error reply.

    Imported at the first call: its module imports asyncio, and the first plain calls need neither. The daemon
    calls this while it starts.
    """
    from redis._parsers.base import BaseParser

    parse: Callable[[str], Any] = BaseParser.parse_error
    return parse


def reply_error(text: str) -> RedisError:
    """Turn the text of an error reply into redis-py's exception; never raises."""
    if (wrapped := _WRAPPED_IN_SCRIPT.fullmatch(text)) is not None:
        text = wrapped["inner"]
    try:
        error: RedisError = load_parser()(text)
    except ValueError:  # MOVED and ASK in a shape that redis-py cannot take apart
        return ResponseError(text)
    return error


def reply_code(error: RedisError) -> str:
    """Return the word that opened the reply ("ERR", "NOPERM"), which redis-py cuts off where it knows it."""
    if error.status_code is not None:
        return error.status_code
    return str(error).partition(" ")[0]


def reply_text(error: RedisError) -> str:
    """Return the reply as the server sent it, on one line; for people, not to be searched."""
    text = str(error)
    if error.status_code is not None:
        text = f"{error.status_code} {text}"
    return " ".join(text.split())


def row_of(error: RedisError) -> Row:
    """Return the row of the table that an error reply belongs to."""
    code, text = reply_code(error), reply_text(error)
    for row in TABLE:
        if row.reply_code in ("", code) and (not row.texts or any(part in text for part in row.texts)):
            return row
    return UNEXPECTED


def bus_error(error: RedisError) -> RedisUnavailable | ServerReplied:
    """Read a server's error reply: code, cause and next step.

    Returns:
        `RedisUnavailable` for a command that the server did not execute because of its own state,
        else `ServerReplied`.
    """
    row, text = row_of(error), reply_text(error)
    if row.recovery is Recovery.NOT_EXECUTED:
        return RedisUnavailable(
            "Redis is not serving commands at the moment",
            cause=f"{row.message} ({text})",
            next_step="Nothing was changed; repeat in a moment.",
        )
    return ServerReplied(
        row.code,
        row.message,
        cause=f"Redis replied: {text}",
        next_step=row.next_step,
        reply=error,
        kind=row.kind,
        recovery=row.recovery,
    )
