"""Durations as Redis takes them."""

from __future__ import annotations

import math
from functools import lru_cache


@lru_cache(maxsize=1_024)
def milliseconds(seconds: float) -> int:
    """Return a duration in whole milliseconds, rounded up: a lease or a delay is never shortened.

    Errors of binary fractions, below a thousandth of a millisecond, are dropped first: 1.001 s are
    1000.9999999999999 ms.
    """
    return math.ceil(round(seconds * 1000, 3))
