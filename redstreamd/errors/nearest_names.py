"""Finds the known names most similar to an unknown one, for error messages.

The search takes at most about 1 ms, whatever the names are, because everybody else waits for it.
"""

from __future__ import annotations

import difflib
import heapq
from collections.abc import Collection
from functools import lru_cache
from itertools import islice
from typing import Final

#: Characters of a name that are compared, half of them at its end: difflib takes more than quadratic time.
_COMPARED: Final = 32
#: Names that are compared fully, selected by the pairs of characters that they have in common.
_CANDIDATES: Final = 4
#: Names that are considered.
MAX_KNOWN: Final = 200
#: Names that are returned at most.
_MOST: Final = 20


def nearest_names(
    name: str, known: Collection[str], limit: int = _MOST, *, least: float = 0.0
) -> tuple[str, ...]:
    """Return names of `known`, most similar to `name` first; equally similar ones keep their order.

    The first four are ordered by the edits between the names, the others by a coarser measure.

    Args:
        name: The unknown name; case is ignored.
        known: The names that exist; only the first `MAX_KNOWN` are considered.
        limit: How many to return, at most 20.
        least: The least similarity, from 0 (any) to 1 (equal). With it at most four are returned.
    """
    wanted = _short(name)
    pairs = _pairs(name)

    def common(candidate: str) -> float:
        others = _pairs(candidate)
        return len(pairs & others) / (len(pairs) + len(others))

    ordered = heapq.nlargest(_MOST, islice(known, MAX_KNOWN), key=common)
    matcher = difflib.SequenceMatcher(b=wanted, autojunk=False)
    rated: list[tuple[float, str]] = []
    for candidate in ordered[:_CANDIDATES]:
        matcher.set_seq1(_short(candidate))
        rated.append((matcher.ratio(), candidate))
    rated.sort(key=lambda each: each[0], reverse=True)
    nearest = [candidate for rating, candidate in rated if rating >= least]
    if least <= 0:
        nearest += ordered[_CANDIDATES:]
    return tuple(nearest[:limit])


@lru_cache(maxsize=2 * MAX_KNOWN)
def _pairs(name: str) -> frozenset[str]:
    """Return the pairs of characters of a name. Those of the same names are asked for again and again."""
    shortened = _short(name)
    return frozenset([shortened[at : at + 2] for at in range(max(1, len(shortened) - 1))])


def _short(name: str) -> str:
    half = _COMPARED // 2
    return (name if len(name) <= _COMPARED else name[:half] + name[-half:]).lower()
