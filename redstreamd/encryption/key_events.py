"""What there is to record about keys; never a key itself."""

from __future__ import annotations

import msgspec


class KeysLoaded(msgspec.Struct, frozen=True):
    """Keys or rules of encryption apply that did not apply before.

    Attributes:
        keys: The IDs of all keys.
        writing_key: The ID of the one that new entries are encrypted with; None if none are.
        replaced: The IDs of those whose bytes are other ones than before.
        removed: The IDs of those that are no longer there.
        rules: The number of rules.
    """

    keys: tuple[str, ...]
    writing_key: str | None
    replaced: tuple[str, ...]
    removed: tuple[str, ...]
    rules: int
