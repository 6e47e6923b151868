"""How many groups streams have, as their replies say: what a script may ask without counting first."""

from __future__ import annotations

import time
from typing import Any, Final

from redstreamd.errors import BusError, Code
from redstreamd.errors.remedies import setting
from redstreamd.redisio.client import Redis

#: Groups of a stream up to which they are few (as in ``lua/take_work.lua``); and seconds for which it is
#: remembered that there are more.
FEW: Final = 8
_RECOUNT_SECONDS: Final = 60.0
#: Streams that are remembered; the oldest is forgotten first.
_MAX_STREAMS: Final = 10_000


class GroupCounts:
    """Remembers which streams have few groups; to forget it costs only time.

    One for each `Redis`, by `Redis.shared`.
    """

    def __init__(self, _redis: Redis) -> None:
        """Begin with nothing."""
        # 0.0 for few; else when to count again, in seconds by time.monotonic.
        self._recount_at: dict[str, float] = {}

    def note(self, stream: str, groups: int | None) -> None:
        """Remember how many groups a stream has; None: a reply that did not say it."""
        if groups is None:
            return
        if len(self._recount_at) >= _MAX_STREAMS and stream not in self._recount_at:
            del self._recount_at[next(iter(self._recount_at))]
        self._recount_at[stream] = 0.0 if groups <= FEW else time.monotonic() + _RECOUNT_SECONDS

    def forget(self) -> None:
        """Forget all of it."""
        self._recount_at.clear()

    def has_few(self, stream: str) -> bool:
        """Return whether a stream is known to have few groups."""
        return self._recount_at.get(stream) == 0.0

    def has_many(self, stream: str) -> bool:
        """Return whether a stream is known to have more."""
        return self._recount_at.get(stream, 0.0) > time.monotonic()

    def operands(self, stream: str, max_groups: int) -> dict[str, Any]:
        """Return the operands of ``group_count.lua``."""
        return {"few_groups": int(self.has_few(stream)), "max_groups": max_groups}


def no_more_groups(stream: str, groups: int) -> BusError:
    """Return the error for a group that was not created because its stream has too many."""
    return BusError(
        Code.TOO_LARGE,
        f"Stream {stream!r} has {groups} consumer groups, and no more are created.",
        cause=f"Redis has to be asked for all groups where entries are trimmed; "
        f"{setting('limits.max_groups_per_stream')} says how many there may be.",
        next_step="Use one of its groups, destroy groups that nobody uses with group_manage, or raise it.",
    )


def one_of_too_many(groups: int | None) -> str | None:
    """Return what stands for the group that needs entries where there are too many to be asked."""
    return None if groups is None else f"one of {groups} groups, which are too many to be asked"
