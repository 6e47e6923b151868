"""Which known names a wrong name is closest to, for messages that help to correct it.

The names come from outside and there may be many; the search takes no more than some 30 ms whatever they are.
"""

from __future__ import annotations

import difflib
import heapq
from collections.abc import Collection
from typing import Final

#: Characters of a name that are compared, half of them from its end: difflib takes more than quadratic time.
_COMPARED: Final = 48
#: Names that are compared in earnest, after a first sight of the letters that they are made of.
_CANDIDATES: Final = 20
#: Names that are looked at; a suggestion is not worth a longer search.
MAX_KNOWN: Final = 1_000


def nearest_names(
    name: str, known: Collection[str], limit: int = _CANDIDATES, *, least: float = 0.0
) -> tuple[str, ...]:
    """Return ``known``, most similar to ``name`` first; what is equally far keeps its order.

    Args:
        name: What was asked for; compared without regard to case.
        known: The names that exist; the first `MAX_KNOWN` are looked at.
        limit: How many to return at most, of the 20 that look most alike.
        least: How similar a name has to be, from 0 (any) to 1 (equal).
    """
    matcher = difflib.SequenceMatcher(b=_short(name), autojunk=False)

    def at_sight(candidate: str) -> float:
        matcher.set_seq1(_short(candidate))
        return matcher.quick_ratio()

    def similarity(candidate: str) -> float:
        matcher.set_seq1(_short(candidate))
        return matcher.ratio()

    candidates = heapq.nlargest(_CANDIDATES, list(known)[:MAX_KNOWN], key=at_sight)
    rated = [(similarity(candidate), candidate) for candidate in candidates]
    rated.sort(key=lambda each: each[0], reverse=True)
    return tuple(candidate for rating, candidate in rated[:limit] if rating >= least)


def _short(name: str) -> str:
    half = _COMPARED // 2
    return (name if len(name) <= _COMPARED else name[:half] + name[-half:]).lower()
