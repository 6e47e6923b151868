"""The calls between two looks at the counts, for rates and latencies of late."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import accumulate, pairwise

import msgspec

from redstreamd.metrics.call_counts import CallCounts
from redstreamd.metrics.metric_definitions import CALL_SECONDS
from redstreamd.tools.invocation import CANCELLED, OK


class CallsSince(msgspec.Struct, frozen=True):
    """The calls that ended between two looks.

    Attributes:
        total: How many.
        failed: Those that were answered with an error.
        counts: How many of those that cannot wait were within each of `CALL_SECONDS` and no bound before it;
            the last is of those beyond all bounds.
    """

    total: int
    failed: int
    counts: Sequence[int]

    def quantile(self, share: float) -> float | None:
        """Return the seconds that so large a share did not exceed, of the calls that cannot wait.

        Within a bucket calls are taken as evenly spread, as Prometheus's histogram_quantile does; beyond all
        bounds it is the last bound. None without calls.
        """
        wanted = share * sum(self.counts)
        if not wanted:
            return None
        bounds = pairwise((0.0, *CALL_SECONDS))
        for (least, most), count, reached in zip(bounds, self.counts, accumulate(self.counts), strict=False):
            if reached >= wanted:
                return most - (most - least) * (reached - wanted) / count
        return CALL_SECONDS[-1]


class RecentCalls:
    """Looks at the counts of calls; each who looks has one of these."""

    def __init__(self, counts: CallCounts, waiting: Collection[str]) -> None:
        """Look at `counts`.

        Args:
            counts: Of all calls.
            waiting: Tools that wait when asked to: how long that takes says nothing of the daemon.
        """
        self._counts = counts
        self._waiting = frozenset(waiting)
        self._seen = self._sums()

    @property
    def total(self) -> int:
        """The calls that had ended at the last look, since the start."""
        return self._seen[0]

    @property
    def failed(self) -> int:
        """Those of them that were answered with an error."""
        return self._seen[1]

    def take(self) -> CallsSince:
        """Return the calls since the last look."""
        before, self._seen = self._seen, self._sums()
        counts = [now - then for now, then in zip(self._seen[2], before[2], strict=True)]
        return CallsSince(self._seen[0] - before[0], self._seen[1] - before[1], counts)

    def _sums(self) -> tuple[int, int, list[int]]:
        total = failed = 0
        counts = [0] * (len(CALL_SECONDS) + 1)
        for (tool, outcome), calls in self._counts.pairs.items():
            count = calls.count
            total += count
            if outcome not in (OK, CANCELLED):
                failed += count
            if tool not in self._waiting:
                counts = [sum(each) for each in zip(counts, calls.counts, strict=True)]
        return total, failed, counts
