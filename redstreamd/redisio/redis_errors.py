"""What can go wrong between a caller and Redis, in the project's codes.

Owns the errors of the transport and their wording. Which of the server's error replies becomes
which error is decided in ``error_replies``.
"""

from __future__ import annotations

import enum
from typing import ClassVar

from redis.exceptions import RedisError

from redstreamd.errors import BusError, Code


class Recovery(enum.StrEnum):
    """What is done about an error, by us or by whoever gets it."""

    NOT_EXECUTED = "certainly not executed: sent again within the deadline of the command"
    UNKNOWN = "may have been executed: sent again only where a repetition is recognised or harmless"
    PERMANENT = "the same command fails again: never repeated"
    SETTINGS = "only a change of settings helps: tried again every 30 seconds"


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
        """Record which command (its name only) waited for how long."""
        super().__init__(
            Code.TIMEOUT,
            f"{command} got no reply from Redis within {seconds:g} s",
            cause=cause,
            next_step="Repeat it; if it keeps timing out, Redis is overloaded or stuck: look at its SLOWLOG.",
        )


class QueueFull(BusError):  # noqa: N818 - what happened, as BusError's codes put it
    """Too much is already waiting to be sent to Redis; the command was not sent."""

    recovery: ClassVar = Recovery.NOT_EXECUTED

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
        reply: The server's error as redis-py names it.
    """

    recovery: ClassVar = Recovery.PERMANENT

    def __init__(self, code: Code, message: str, *, cause: str, next_step: str, reply: RedisError) -> None:
        """Record the reply beside its reading."""
        super().__init__(code, message, cause=cause, next_step=next_step)
        self.reply = reply
