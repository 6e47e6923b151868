"""The exception tree that crosses package borders, and the codes an agent sees.

Owns the vocabulary only. Which Redis reply becomes which code is decided in
``redisio.errors`` and ``streams.errors``; how an error looks on the wire is decided in one
place for tools, ``tools.server``, and in one for everything else, ``refusals``.
"""

from __future__ import annotations

import enum


class Code(enum.StrEnum):
    """Stable identifiers of what went wrong; part of the public interface."""

    STREAM_NOT_FOUND = "STREAM_NOT_FOUND"
    GROUP_NOT_FOUND = "GROUP_NOT_FOUND"
    GROUP_EXISTS = "GROUP_EXISTS"
    INVALID_STREAM = "INVALID_STREAM"
    INVALID_GROUP = "INVALID_GROUP"
    INVALID_START = "INVALID_START"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    LEASE_LOST = "LEASE_LOST"
    CONNECTION_ERROR = "CONNECTION_ERROR"
    OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN"
    TIMEOUT = "TIMEOUT"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    WRONG_TYPE = "WRONG_TYPE"
    RATE_LIMITED = "RATE_LIMITED"
    TOO_LARGE = "TOO_LARGE"
    BACKEND_OUT_OF_MEMORY = "BACKEND_OUT_OF_MEMORY"
    BACKEND_READ_ONLY = "BACKEND_READ_ONLY"
    INTERNAL = "INTERNAL"


class BusError(Exception):
    """Something an agent asked for did not happen, in words it can act on.

    Attributes:
        code: What happened, for programs.
        message: What happened, one sentence.
        cause: Why, as far as it is known.
        next_step: What the caller can do about it.
    """

    def __init__(self, code: Code, message: str, *, cause: str, next_step: str) -> None:
        """Record the four parts; ``str()`` gives the message and the cause."""
        super().__init__(message)
        self.code = code
        self.message = message
        self.cause = cause
        self.next_step = next_step

    def __str__(self) -> str:
        """Return the one-line form used in logs."""
        return f"{self.code}: {self.message.rstrip('.')} ({self.cause.rstrip('.')})"


class SettingsError(Exception):
    """A setting is unreadable, unknown or out of range; the process exits with status 78.

    Attributes:
        key: The setting's dotted name, or the file that could not be read.
        value: What was given, masked if it is a secret.
        source: Where it came from: a file, an environment variable, the command line.
        allowed: What would have been accepted.
    """

    def __init__(self, key: str, *, value: object, source: str, allowed: str, text: str = "") -> None:
        """Record where the setting came from and what would be accepted instead.

        Args:
            key: See the class.
            value: See the class.
            source: See the class.
            allowed: See the class.
            text: What to say where "this value is not valid" would mislead: it is not the value that is
                wrong, but the name, a file, or what is installed.
        """
        super().__init__(text or f"setting {key}={value!r} from {source} is not valid; allowed: {allowed}")
        self.key = key
        self.value = value
        self.source = source
        self.allowed = allowed


class NotNowError(Exception):
    """The daemon cannot start now and may later, by itself; the process exits with status 75."""
