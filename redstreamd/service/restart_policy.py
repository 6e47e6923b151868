"""When a child is restarted, after which pause, and when there were too many failures.

Pure arithmetic; the time is passed in. There are two failure counts: each child's own decides its backoff,
and the supervisor's decides when to give up.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable

import msgspec

# 2 ** 1024 overflows a float. No pause between the base and the cap needs more doublings than this.
_MAX_DOUBLINGS = 64.0


class Restart(enum.Enum):
    """When a child is restarted; the terms are Erlang/OTP's.

    A permanent child is restarted whenever it ends, a transient child only after a failure. A temporary child
    is never restarted, and its failures are not counted, even at the first start.
    """

    PERMANENT = enum.auto()
    TRANSIENT = enum.auto()
    TEMPORARY = enum.auto()


class RestartLimits(msgspec.Struct, frozen=True):
    """When to give up, and the bounds of the backoff.

    The threshold and the decay are suture's defaults. The pauses are short, because parts that depend on
    Redis reconnect by themselves: a child that fails six times in a row has a defect. Then the supervisor
    gives up after about three seconds, and systemd restarts the daemon.

    Attributes:
        failure_threshold: The decayed failure count above which the supervisor gives up.
        failure_decay_seconds: The half-life of a failure's weight.
        backoff_base_seconds: The pause after a first failure, before jitter.
        backoff_cap_seconds: The longest pause.
    """

    failure_threshold: float = 5.0
    failure_decay_seconds: float = 30.0
    backoff_base_seconds: float = 0.1
    backoff_cap_seconds: float = 5.0

    def __post_init__(self) -> None:
        """Raise ValueError for limits under which a child that always fails would be restarted forever.

        At a constant pause p the count tends to 1 / (1 - 2 ** -(p / decay)).
        """
        if min(self.failure_decay_seconds, self.backoff_base_seconds, self.failure_threshold) <= 0:
            raise ValueError("threshold, decay and base must be positive")
        if self.backoff_cap_seconds < self.backoff_base_seconds:
            raise ValueError("the cap must not be below the base")
        kept = math.exp2(-self.backoff_cap_seconds / self.failure_decay_seconds)
        if kept < 1.0 and 1.0 / (1.0 - kept) <= self.failure_threshold:
            raise ValueError("with this cap the failures decay faster than they can reach the threshold")


class FailureCount:
    """A count of failures whose weights halve every `decay_seconds`, as in suture v4.

    Erlang/OTP counts restarts within a period, which needs a list of times.
    """

    __slots__ = ("_at", "_decay_seconds", "_value")

    def __init__(self, decay_seconds: float) -> None:
        """Start at zero."""
        self._decay_seconds = decay_seconds
        self._value = 0.0
        self._at = -math.inf

    def add(self, now: float) -> float:
        """Count one failure at the time `now` and return the new value."""
        self._value = self.at(now) + 1.0
        self._at = now
        return self._value

    def at(self, now: float) -> float:
        """Return the value at the time `now`."""
        return self._value * math.exp2((self._at - now) / self._decay_seconds)


def backoff_seconds(failures: float, limits: RestartLimits, jitter: Callable[[], float]) -> float:
    """Return the pause before the next start.

    The pause doubles with each of the child's own (decayed) failures, up to the cap. Jitter takes between
    half and all of it, so that children that failed together do not restart together.

    Args:
        failures: The child's decayed failure count, the latest failure included.
        limits: Base and cap.
        jitter: A source of numbers in [0, 1).
    """
    doublings = min(max(failures - 1.0, 0.0), _MAX_DOUBLINGS)
    pause = min(limits.backoff_cap_seconds, limits.backoff_base_seconds * math.exp2(doublings))
    return pause * (0.5 + 0.5 * jitter())
