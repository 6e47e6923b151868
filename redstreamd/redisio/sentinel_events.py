"""What happens between the daemon and the sentinels, as events for the journal."""

from __future__ import annotations

import msgspec

from redstreamd.redisio.redis_errors import Problem


class PrimaryNamed(msgspec.Struct, frozen=True):
    """The sentinels name a primary that is used from now on.

    Attributes:
        primary: What they call it.
        label: Its address.
        former: The address of the one before; empty for the first.
        epoch: Their configuration epoch, which grows with each failover.
        votes: How many sentinels name it by now.
    """

    primary: str
    label: str
    former: str
    epoch: int
    votes: int


class SentinelUnusable(msgspec.Struct, frozen=True):
    """A sentinel is of no use, and that was not reported since it was of use last.

    Attributes:
        sentinel: The sentinel's address.
        problem: Why.
    """

    sentinel: str
    problem: Problem


class SentinelUsable(msgspec.Struct, frozen=True):
    """A sentinel names the primary again.

    Attributes:
        sentinel: The sentinel's address.
        down_seconds: For how long it was of no use.
    """

    sentinel: str
    down_seconds: float


SentinelEvent = PrimaryNamed | SentinelUnusable | SentinelUsable
