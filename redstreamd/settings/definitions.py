"""The settings as a flat table, dotted key to definition, read off the classes in `groups`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from redstreamd.settings.groups import Settings
from redstreamd.settings.leaves import Leaf
from redstreamd.settings.masking import MASK, masked_url


def _leaves() -> dict[str, Leaf]:
    return {
        f"{group.name}.{leaf.name}": Leaf.of(leaf.type)
        for group in attrs.fields(attrs.resolve_types(Settings))
        if group.type is not None
        for leaf in attrs.fields(attrs.resolve_types(group.type))
    }


LEAVES: Mapping[str, Leaf] = _leaves()
"""Every setting by its dotted key, in the order of definition."""

GROUPS: tuple[str, ...] = tuple(field.name for field in attrs.fields(Settings))
"""The tables of the settings file."""

_SHOWN_LENGTH = 200  # characters; an error has to stay one readable line


def shown(key: str, value: Any) -> Any:
    """Return `value` as it may be printed: secrets masked, and what is too long cut short."""
    if value is None:
        return None
    if LEAVES[key].secret:
        return MASK
    if key == "redis.url":
        return masked_url(value) if isinstance(value, str) else MASK
    text = str(value)
    return value if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]}... ({len(text)} characters)"
