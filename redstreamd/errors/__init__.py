"""The exceptions that cross package borders, and the error codes of tools.

`redisio` and `streams` decide which Redis reply becomes which code; `mcp_server` decides how an error is
sent.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet

from redstreamd.visible_text import visible


class Code(enum.StrEnum):
    """Stable error codes; part of the public interface."""

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
    TOO_MANY_SUBSCRIPTIONS = "TOO_MANY_SUBSCRIPTIONS"
    TOO_LARGE = "TOO_LARGE"
    QUARANTINE_FULL = "QUARANTINE_FULL"
    NO_ENCRYPTION_KEY = "NO_ENCRYPTION_KEY"
    BACKEND_OUT_OF_MEMORY = "BACKEND_OUT_OF_MEMORY"
    BACKEND_READ_ONLY = "BACKEND_READ_ONLY"
    INTERNAL = "INTERNAL"


class BusError(Exception):
    """An operation of a client failed.

    Its texts may name what others wrote: hidden characters in them are made visible.

    Attributes:
        code: What happened, for programs.
        message: What happened, one sentence.
        cause: Why, as far as known.
        next_step: What the client can do.
        retry_after_seconds: When it may try again; None if no time is known, or trying again does not help.
        similar: Names of streams that exist and are similar to the one that was asked for. They are no part
            of the texts, because it depends on the caller which may be named; see `with_hint`.
    """

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        cause: str,
        next_step: str,
        retry_after_seconds: float | None = None,
        similar: Sequence[str] = (),
    ) -> None:
        """Store the parts."""
        self.code = code
        self.message = visible(message)
        self.cause = visible(cause)
        self.next_step = visible(next_step)
        super().__init__(self.message)
        self.retry_after_seconds = retry_after_seconds
        self.similar = similar

    def __str__(self) -> str:
        """Return one line of code, message and cause, for logs."""
        return f"{self.code}: {self.message.rstrip('.')} ({self.cause.rstrip('.')})"

    def with_hint(self, may_name: Callable[[str], bool] | None) -> BusError:
        """Return the error as one caller gets it: with the similar names that may be named to it.

        A new error if there are any, because callers that wait for the same share one.

        Args:
            may_name: Says which; None for all.
        """
        names = [name for name in self.similar if may_name is None or may_name(name)]
        if not names:
            return self
        return BusError(
            self.code,
            self.message,
            # In quotes, because a name may read like an instruction.
            cause=f"{self.cause} The nearest names are: {', '.join(map(repr, names))}.",
            next_step=self.next_step,
            retry_after_seconds=self.retry_after_seconds,
        )

    def without(self, hidden: AbstractSet[str]) -> BusError:
        """Return the error as a caller gets it to whom some tools do not exist: no next step names them.

        Args:
            hidden: The names of these tools.
        """
        if not any(name in self.next_step for name in hidden):
            return self
        parts = re.split(r"(?<=[.;:])\s+", self.next_step)
        left = " ".join(part for part in parts if hidden.isdisjoint(re.findall(r"\w+", part)))
        left = left.rstrip(" ;:") or "Ask the operator: you may use no tool that helps here."
        return BusError(
            self.code,
            self.message,
            cause=self.cause,
            next_step=left,
            retry_after_seconds=self.retry_after_seconds,
            similar=self.similar,
        )


class SettingsError(Exception):
    """A setting or the settings file is invalid; the process exits with status 78.

    Attributes:
        key: The setting's dotted key, or the file.
        value: The given value, masked if it is a secret.
        source: The file, environment variable or option that it came from.
        allowed: What is accepted.
    """

    def __init__(self, key: str, *, value: object, source: str, allowed: str, text: str = "") -> None:
        """Store the parts.

        Args:
            key: See the class.
            value: See the class.
            source: See the class.
            allowed: See the class.
            text: The error text if "setting ... is not valid" does not fit.
        """
        super().__init__(
            visible(text or f"setting {key}={value!r} from {source} is not valid; allowed: {allowed}")
        )
        self.key = key
        self.value = value
        self.source = source
        self.allowed = allowed


class NotNowError(Exception):
    """The daemon cannot start now, but may later; the process exits with status 75."""
