"""Finds the known names most similar to an unknown one, for error messages.

The search takes at most about 30 ms, whatever the names are.
"""

from __future__ import annotations

import difflib
import heapq
from collections.abc import Collection
from typing import Final

#: Characters of a name that are compared, half of them at its end: difflib takes more than quadratic time.
_COMPARED: Final = 48
#: Names that are compared fully, selected by the characters that they have in common.
_CANDIDATES: Final = 20
#: Names that are considered.
MAX_KNOWN: Final = 1_000


def nearest_names(
    name: str, known: Collection[str], limit: int = _CANDIDATES, *, least: float = 0.0
) -> tuple[str, ...]:
    """Return names of `known`, most similar to `name` first; equally similar ones keep their order.

    Args:
        name: The unknown name; case is ignored.
        known: The names that exist; only the first `MAX_KNOWN` are considered.
        limit: How many to return, at most 20.
        least: The least similarity, from 0 (any) to 1 (equal).
    """
    matcher = difflib.SequenceMatcher(b=_short(name), autojunk=False)

    def estimate(candidate: str) -> float:
        matcher.set_seq1(_short(candidate))
        return matcher.quick_ratio()

    def similarity(candidate: str) -> float:
        matcher.set_seq1(_short(candidate))
        return matcher.ratio()

    candidates = heapq.nlargest(_CANDIDATES, list(known)[:MAX_KNOWN], key=estimate)
    rated = [(similarity(candidate), candidate) for candidate in candidates]
    rated.sort(key=lambda each: each[0], reverse=True)
    return tuple(candidate for rating, candidate in rated[:limit] if rating >= least)


def _short(name: str) -> str:
    half = _COMPARED // 2
    return (name if len(name) <= _COMPARED else name[:half] + name[-half:]).lower()
