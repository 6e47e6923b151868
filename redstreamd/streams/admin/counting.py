"""Counting a stretch of a stream, which Redis has no command for."""

from __future__ import annotations

import attrs

from redstreamd.redisio.connection_manager import Manager, Role
from redstreamd.streams.scripts import load

_COUNT = load("count_entries")

#: Entries counted by one script, fewer if they are large: 1 to 3 ms of the server's time if they are small.
_AT_ONCE = 1_000
#: Entries counted in all before the answer is "at least": about 0.2 s, in pieces.
MAX_COUNTED = 100_000


@attrs.frozen
class Count:
    """A number of entries.

    Attributes:
        entries: How many there are, or at least how many.
        exact: Whether there are no more.
    """

    entries: int
    exact: bool

    def json(self, name: str) -> dict[str, int]:
        """Return the count as a member `name`, or ``<name>_at_least``."""
        return {name if self.exact else f"{name}_at_least": self.entries}


async def count_between(manager: Manager, stream: str, first: str, last: str) -> Count:
    """Count the entries from `first` to `last`, positions as XRANGE takes them; up to `MAX_COUNTED`.

    Others are served in between, so entries that come or go meanwhile may or may not be counted.
    """
    counted = 0
    while counted < MAX_COUNTED:
        found, reached, more = await manager.run_script(
            _COUNT, keys=[stream], args=[first, last, _AT_ONCE], retry_safe=True, role=Role.BULK
        )
        counted += found
        if not more:
            return Count(counted, exact=True)
        first = f"({reached.decode()}"
    return Count(counted, exact=False)
