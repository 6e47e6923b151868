"""How long to wait before trying again.

Owns the pauses between connection attempts and between repeats of a command that the server did
not execute. Pure: no clock, no tasks. The jitter is redis-py's.
"""

from __future__ import annotations

from typing import Final

from redis.backoff import AbstractBackoff, EqualJitterBackoff

from redstreamd.redisio.connect_errors import Failure, FailureKind

#: Seconds between attempts while only a change of settings can help: soon enough for the person who
#: just corrected the password, rare enough not to fill the server's log or lock the account.
SETTINGS_RETRY: Final = 30.0

#: Seconds between attempts while the server answers that it does not serve yet. It bounds how late
#: its readiness is noticed, and a server that answers is not hurt by being asked.
NOT_SERVING_RETRY: Final = 0.5

# 2**1024 is no float; from 2**16 on every sensible cap is reached anyway.
_MAX_EXPONENT: Final = 16


def reconnect_backoff() -> AbstractBackoff:
    """Return the pauses between connection attempts: from 0.05 s, doubling, up to 2 s, half of it random."""
    return EqualJitterBackoff(cap=2.0, base=0.05)


def repeat_backoff() -> AbstractBackoff:
    """Return the pauses before repeating a command that was not executed: up to 0.5 s."""
    return EqualJitterBackoff(cap=0.5, base=0.02)


def pause(backoff: AbstractBackoff, failures: int) -> float:
    """Return the seconds to wait after `failures` failures in a row, however many those are."""
    return backoff.compute(min(failures, _MAX_EXPONENT))


def reconnect_pause(backoff: AbstractBackoff, failure: Failure, failures: int) -> float:
    """Return the seconds until the next attempt to connect.

    Args:
        backoff: Pauses for what waiting may cure.
        failure: What went wrong last.
        failures: How many attempts in a row went wrong before this one.
    """
    match failure.kind:
        case FailureKind.SETTINGS:
            return SETTINGS_RETRY
        case FailureKind.NOT_SERVING:
            return NOT_SERVING_RETRY
        case FailureKind.UNREACHABLE:
            return pause(backoff, failures)
