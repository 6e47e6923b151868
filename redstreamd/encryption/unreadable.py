"""What is said of an entry that is encrypted and cannot be read."""

from __future__ import annotations

import enum

import msgspec

from redstreamd.errors.remedies import setting


class Why(enum.StrEnum):
    """Why an entry cannot be read."""

    NO_KEY = "no key"
    DAMAGED = "damaged"
    FORMAT = "format"


class Unreadable(msgspec.Struct, frozen=True):
    """What a caller is told in the place of what an entry holds.

    Attributes:
        key: The ID of the key that it was encrypted with; empty if that cannot be told.
        cause: Why it cannot be read.
        next_step: What to do.
    """

    key: str
    cause: str
    next_step: str


class UnreadableEntry(msgspec.Struct, frozen=True):
    """An event: somebody wanted to read what cannot be opened.

    Attributes:
        stream: The stream.
        entry_id: The entry.
        key: The ID of the key that it was encrypted with; empty if that cannot be told.
        why: Why it cannot be read.
    """

    stream: str
    entry_id: str
    key: str
    why: Why


def unreadable(why: Why, key: str) -> Unreadable:
    """Return what a caller is told."""
    if why is Why.NO_KEY:
        return Unreadable(
            key,
            f"It is encrypted with the key {key!r}, which this daemon does not have.",
            f"Ask the operator to put {key}.key where {setting('encryption.keys')} says, and to reload. "
            "Until then it can be acknowledged, released and dead-lettered.",
        )
    if why is Why.DAMAGED:
        return Unreadable(
            key,
            "It is not what was encrypted: it was changed or moved here, or this daemon has another key of "
            "the same ID.",
            "Do not trust what is shown of it. Ask the operator to compare the keys of all hosts with "
            "`redstreamd keys list`.",
        )
    return Unreadable(
        key,
        "It is encrypted in a form that this daemon does not know.",
        "Ask the operator whether a newer redstreamd wrote it; else another program did.",
    )
