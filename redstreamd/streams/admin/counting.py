"""Counting a range of entries, for which Redis has no command."""

from __future__ import annotations

import msgspec

from redstreamd.redisio import Role
from redstreamd.redisio.client import Redis
from redstreamd.streams.bounds import DEFAULT_BOUNDS, Bounds
from redstreamd.streams.scripts import load

_COUNT = load("ids", "count_entries")


class Count(msgspec.Struct, frozen=True):
    """A number of entries.

    Attributes:
        entries: Their number, or at least so many.
        exact: Whether that is all.
    """

    entries: int
    exact: bool

    def json(self, name: str) -> dict[str, int]:
        """Return the count as a member `name`, or ``<name>_at_least``."""
        return {name if self.exact else f"{name}_at_least": self.entries}


class Counter(msgspec.Struct, frozen=True):
    """Counts entries.

    Attributes:
        redis: Reaches Redis.
        limits: How many are counted at once and in all.
    """

    redis: Redis
    limits: Bounds = DEFAULT_BOUNDS

    async def count(self, stream: str, first: str, last: str) -> Count:
        """Count the entries from `first` to `last`, positions as XRANGE takes them.

        This takes several scripts, so entries that are added or removed meanwhile may or may not be counted.
        """
        counted = 0
        while counted < self.limits.counted:
            found, reached, more = await self.step(stream, first, last, self.limits.counted_at_once)
            counted += found
            if not more:
                return Count(counted, exact=True)
            first = f"({reached}"
        return Count(counted, exact=False)

    async def step(
        self, stream: str, first: str, last: str, max_entries: int
    ) -> tuple[int, str | None, bool]:
        """Count at most `max_entries`, fewer if they are large.

        Returns: their number, the ID of the last of them, and whether there may be more.
        """
        reply = await _COUNT.run(
            self.redis,
            stream=stream,
            first=first,
            last=last,
            max_entries=max_entries,
            retry_safe=True,
            # One at a time: each takes the server milliseconds.
            role=Role.LARGE,
        )
        return reply.counted, reply.reached, reply.more
