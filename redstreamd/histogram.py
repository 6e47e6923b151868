"""Counts of durations by their size, at a cost that a hot path can bear.

Owns only the counting: what is counted, and how it is shown, is known elsewhere.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate


class Histogram:
    """Durations in buckets, as Prometheus counts them: one that equals a bound is within it.

    Attributes:
        bounds: The upper bounds of the buckets, ascending, in the unit of what is observed.
        counts: How many were in each bucket and in none before it; the last is of those beyond all bounds.
        total: The sum of all.
    """

    # Invariant: there is one count more than bounds.
    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        """Begin with nothing observed."""
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def add(self, other: Histogram) -> None:
        """Count all that another one with the same bounds has counted."""
        self.counts = [mine + others for mine, others in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    @property
    def count(self) -> int:
        """How many were observed."""
        return sum(self.counts)

    def cumulative(self) -> Iterator[int]:
        """Yield for each bound, and last for infinity, how many were not greater."""
        return accumulate(self.counts)

    def quantile(self, share: float) -> float | None:
        """Return a value that so large a share did not exceed: the bound of its bucket, so an upper estimate.

        Returns:
            None if nothing was observed, or if it lies beyond all bounds.
        """
        wanted = share * self.count
        if not wanted:
            return None
        for bound, reached in zip(self.bounds, self.cumulative(), strict=False):
            if reached >= wanted:
                return bound
        return None
