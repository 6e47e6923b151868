"""When a child is restarted, after which pause, and when there have been too many failures.

Pure values and arithmetic: the time is passed in, nothing here waits. Two counts with the
same decay use it: each child's own (how long its next pause is) and the supervisor's
(whether to give up).
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable

import attrs

# 2 ** 1024 overflows a float. No pause between the base and the cap needs more doublings than this.
_MAX_DOUBLINGS = 64.0


class Restart(enum.Enum):
    """When a child is started again; the terms are Erlang/OTP's.

    A permanent child is restarted whenever it ends. A transient child is restarted only
    after a failure. A temporary child is never restarted, and its failures count for
    nothing, not even at the first start.
    """

    PERMANENT = enum.auto()
    TRANSIENT = enum.auto()
    TEMPORARY = enum.auto()


@attrs.frozen
class RestartLimits:
    """How patient a supervisor is.

    The threshold and the decay are suture's defaults. The pauses are short because what
    fails for outside reasons (Redis being away) handles that itself and never gets here:
    a child that fails at once six times running has a defect, and with these values the
    supervisor gives up after about three seconds and leaves the rest to systemd.

    Attributes:
        failure_threshold: More failures than this, decayed, and the supervisor gives up.
        failure_decay_seconds: The time in which a failure's weight halves.
        backoff_base_seconds: The pause after a first failure, before jitter.
        backoff_cap_seconds: The longest pause.
    """

    failure_threshold: float = 5.0
    failure_decay_seconds: float = 30.0
    backoff_base_seconds: float = 0.1
    backoff_cap_seconds: float = 5.0

    def __attrs_post_init__(self) -> None:
        """Refuse limits under which a child that always fails would be restarted for ever.

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
    """A count of failures in which each one's weight halves every `decay_seconds`.

    A decaying count needs no window of time stamps, and treats a burst and a steady trickle
    by one rule (suture v4 does the same; Erlang/OTP counts restarts within a period).
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
        """Return the value at the time `now`, without counting anything."""
        return self._value * math.exp2((self._at - now) / self._decay_seconds)


def backoff_seconds(failures: float, limits: RestartLimits, jitter: Callable[[], float]) -> float:
    """Return the pause before the next start.

    The pause doubles with each of the child's own (decayed) failures up to the cap, and
    then between half of it and all of it is taken, so that children broken by one cause do
    not come back in step.

    Args:
        failures: The child's decayed failure count, the latest failure included.
        limits: Base and cap.
        jitter: A source of numbers in [0, 1).
    """
    doublings = min(max(failures - 1.0, 0.0), _MAX_DOUBLINGS)
    pause = min(limits.backoff_cap_seconds, limits.backoff_base_seconds * math.exp2(doublings))
    return pause * (0.5 + 0.5 * jitter())
