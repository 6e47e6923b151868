"""What can go wrong between a caller and Redis: a `Problem` of the server, or an exception for a command.

Owns these values and what is done about each (`Recovery`). Which error reply becomes which exception is
decided in ``error_replies``, how a connection failed in ``connect_errors``.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import ClassVar, Final

import msgspec
from msgspec.structs import force_setattr
from redis.exceptions import RedisError

from redstreamd.errors import BusError, Code
from redstreamd.redisio import Role
from redstreamd.visible_text import visible


class Recovery(enum.StrEnum):
    """What is done about an error. ``lost_replies`` acts on it, and docs/errors.md prints it."""

    NOT_EXECUTED = "certainly not executed: sent again within the deadline of the command"
    UNKNOWN = "may have been executed: sent again only where a repetition is recognised or harmless"
    OVERLOAD = "certainly not executed: not sent again, because too much is waiting already"
    PERMANENT = "the same command fails again: never repeated"
    SETTINGS = "only a change of settings helps: never repeated; a login is tried again every 30 seconds"


class ProblemKind(enum.Enum):
    """What sort of problem it is; decides how soon another attempt to connect makes sense."""

    UNREACHABLE = "unreachable"
    """Nothing answers, or the connection broke: try again with growing pauses."""
    NOT_SERVING = "not serving"
    """It answers, but serves no commands yet (LOADING, BUSY): ask again soon."""
    LOADING = "loading"
    """The daemon's own server loads its data: the daemon is still starting."""
    SETTINGS = "settings"
    """It refuses this login or these settings: nothing changes until somebody changes them."""
    WRITES_REFUSED = "writes refused"
    """It serves reads and refuses writes (OOM, READONLY, MISCONF)."""


#: What connections are for, in records, the status line and errors.
ROLE_NAMES: Final = {
    Role.COMMAND: "short commands",
    Role.WATCH: "waiting calls",
    Role.BULK: "large reads",
    Role.LARGE: "very large reads",
    Role.DURABLE: "confirmed writes",
}


def role_names(roles: Iterable[Role]) -> str:
    """Return what connections are for, such as "short commands, large reads"."""
    return ", ".join(ROLE_NAMES[role] for role in roles)


class Problem(msgspec.Struct, frozen=True):
    """A reason why a Redis server does not serve all that is wanted of it.

    Attributes:
        kind: What sort of reason.
        cause: What is known, without secrets.
        next_step: What an operator can change.
        roles: The connections that are missing because of it; empty where that is not known, or none is.
        seconds: For how long; 0 where that is not known.
        server_can_help: Of a refused login, whether a change of its user, password or permissions at the
            server alone may end it.
    """

    kind: ProblemKind
    # Either may quote a server, or whatever answered in its place.
    cause: str
    next_step: str
    roles: tuple[Role, ...] = ()
    seconds: float = 0.0
    server_can_help: bool = False

    def __post_init__(self) -> None:
        """Make control characters in both texts visible."""
        force_setattr(self, "cause", visible(self.cause))
        force_setattr(self, "next_step", visible(self.next_step))

    @property
    def effect(self) -> str:
        """The cause, with what does not work because of it."""
        if self.kind is ProblemKind.WRITES_REFUSED:
            return f"Redis refuses writes (for {self.seconds:.0f} s now): {self.cause}"
        return f"no connection for {role_names(self.roles)}: {self.cause}" if self.roles else self.cause


class ConnectionEnded(Exception):  # noqa: N818 - names an event: it is how every connection ends
    """A connection could not be made, or is over.

    Attributes:
        problem: Why.
    """

    recovery: ClassVar = Recovery.NOT_EXECUTED

    def __init__(self, problem: Problem) -> None:
        """Record why."""
        super().__init__(problem.cause)
        self.problem = problem


class NotSent(ConnectionEnded):
    """The connection ended before a byte of the request was handed to the socket: not executed."""


class ReplyLost(ConnectionEnded):
    """The connection ended after the request was handed to the socket: it may have been executed."""

    recovery: ClassVar = Recovery.UNKNOWN


class RedisUnavailable(BusError):  # noqa: N818 - what happened, as BusError's codes put it
    """The command was not executed: there was no connection, or the server was not serving.

    (Of a command declared safe to repeat, an earlier sending whose reply was lost may have been.)
    """

    recovery: ClassVar = Recovery.NOT_EXECUTED

    def __init__(self, message: str, *, cause: str, next_step: str) -> None:
        """Record why Redis could not be used."""
        super().__init__(Code.CONNECTION_ERROR, message, cause=cause, next_step=next_step)


class OutcomeUnknown(BusError):  # noqa: N818 - what happened, as BusError's codes put it
    """The command was sent and its reply lost or late: it may or may not have been executed."""

    recovery: ClassVar = Recovery.UNKNOWN

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

    recovery: ClassVar = Recovery.UNKNOWN

    def __init__(self, command: str, *, seconds: float, cause: str) -> None:
        """Record which command (its name only) waited for how many seconds."""
        super().__init__(
            Code.TIMEOUT,
            f"{command} got no reply from Redis within {seconds:g} s",
            cause=cause,
            next_step="Repeat it; if it keeps timing out, Redis is overloaded or stuck: look at its SLOWLOG.",
        )


class QueueFull(BusError):  # noqa: N818 - what happened, as BusError's codes put it
    """Too much is already waiting to be sent to Redis; the command was not sent."""

    recovery: ClassVar = Recovery.OVERLOAD

    def __init__(self, *, cause: str) -> None:
        """Record which limit was reached."""
        super().__init__(
            Code.RATE_LIMITED,
            "Too many commands are waiting for Redis",
            cause=cause,
            next_step="Repeat it in a second; send fewer requests at once.",
            retry_after_seconds=1,
        )


class ReplyTooLarge(BusError):  # noqa: N818 - what happened, as BusError's codes put it
    """A reply exceeded what this process is prepared to hold in memory."""

    recovery: ClassVar = Recovery.PERMANENT

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

    (Of a script that failed half-way, what it did before remains.)

    Attributes:
        kind: Which row of the table of error replies it is: "NOPERM", "NOGROUP", "UNKNOWN COMMAND".
        recovery: What is done about it.
        reply: The server's error as redis-py names it.
    """

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        cause: str,
        next_step: str,
        reply: RedisError,
        kind: str,
        recovery: Recovery,
    ) -> None:
        """Record the reply beside its reading."""
        super().__init__(code, message, cause=cause, next_step=next_step)
        self.reply = reply
        self.kind = kind
        self.recovery = recovery
