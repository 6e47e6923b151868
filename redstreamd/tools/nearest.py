"""Which known names a wrong name is closest to, for messages that help to correct it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# The wrong name comes from outside, and difflib takes quadratic time.
_COMPARED = 64


def nearest_names(name: str, known: Iterable[str], limit: int | None = None) -> tuple[str, ...]:
    """Return ``known``, most similar to ``name`` first; what is equally far keeps its order.

    Args:
        name: What was asked for; its first 64 characters are compared, without regard to case.
        known: The names that exist.
        limit: How many to return at most; None for all.
    """
    matcher = difflib.SequenceMatcher(b=name[:_COMPARED].lower(), autojunk=False)

    def distance(candidate: str) -> float:
        matcher.set_seq1(candidate.lower())
        return -matcher.ratio()

    return tuple(sorted(known, key=distance)[:limit])
