"""What happens to a Redis Cluster as a whole; what happens to one node is in ``server_health``."""

from __future__ import annotations

import msgspec

from redstreamd.redisio.redis_errors import Problem


class ClusterKnown(msgspec.Struct, frozen=True):
    """It is known who serves all slots, for the first time or again.

    Attributes:
        primaries: The addresses of the nodes that serve slots.
        down_seconds: How long that was not so; 0 for the first time.
    """

    primaries: tuple[str, ...]
    down_seconds: float


class ClusterChanged(msgspec.Struct, frozen=True):
    """Slots have other primaries than before.

    Attributes:
        slots: How many.
        joined: The addresses of nodes that serve slots now and did not before.
        left: Of those that do no more.
    """

    slots: int
    joined: tuple[str, ...]
    left: tuple[str, ...]


class ClusterDegraded(msgspec.Struct, frozen=True):
    """The cluster does not serve every key, for a reason that was not reported since it did."""

    problem: Problem


ClusterEvent = ClusterKnown | ClusterChanged | ClusterDegraded
