"""Hypothesis strategies for I-JSON values."""

from __future__ import annotations

import json
import re
from typing import Any

from hypothesis import strategies as st

from redstreamd.strict_json import MAX_INTEGER

_NONCHARACTER = re.compile("[\ufdd0-\ufdef]")


def _is_character(character: str) -> bool:
    return ord(character) & 0xFFFE != 0xFFFE and not _NONCHARACTER.match(character)


def text(max_size: int = 20) -> st.SearchStrategy[str]:
    """Return strategies for any I-JSON text."""
    characters = st.characters(exclude_categories=["Cs"]).filter(_is_character)
    # Names and values that matter to the format come up more often than chance would have it.
    special = st.sampled_from(["_rs.v", "_rs.json", "_rs.=", "_rs.sender", "", "null", "0", "[]"])
    return st.text(characters, max_size=max_size) | special


def json_values() -> st.SearchStrategy[Any]:
    """Return any I-JSON value."""
    numbers = st.integers(-MAX_INTEGER, MAX_INTEGER) | st.floats(allow_nan=False, allow_infinity=False)
    leaves = st.none() | st.booleans() | numbers | text()
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text(), inner, max_size=4),
        max_leaves=20,
    )


def json_objects() -> st.SearchStrategy[dict[str, Any]]:
    """Return any I-JSON object."""
    return st.dictionaries(text(), json_values(), max_size=6)


def json_text(value: Any) -> str:
    """Return JSON that is the same for the same JSON value, so that True and 1 differ."""
    return json.dumps(value, sort_keys=True)
