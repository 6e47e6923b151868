"""The keys of encryption as a value: one writes, any can read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from redstreamd.encryption.key_files import Key, KeyPlace, key_files, unusable
from redstreamd.errors import SettingsError

_WRITING: Final = "encryption.writing_key"


class KeyRing:
    """Keys by ID: one writes, any can read.

    Attributes:
        writing: The key that new entries are encrypted with; None if none are.
    """

    def __init__(self, keys: Mapping[str, Key], writing: Key | None = None) -> None:
        """Hold keys; `writing` is one of them."""
        self._keys: Final = dict(keys)
        self.writing: Final = writing

    def __repr__(self) -> str:
        """Return the IDs."""
        writes = None if self.writing is None else self.writing.id
        return f"KeyRing({sorted(self._keys)}, writing={writes!r})"

    def __eq__(self, other: object) -> bool:
        """Return whether it holds the same keys, of which the same one writes."""
        return isinstance(other, KeyRing) and (self._keys, self.writing) == (other._keys, other.writing)

    def has_keys_of(self, other: KeyRing) -> bool:
        """Return whether it holds the same keys, whichever writes."""
        return self._keys == other._keys

    __hash__ = None  # type: ignore[assignment]  # it is not needed, and would need the bytes

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self._keys)

    @property
    def ids(self) -> tuple[str, ...]:
        """The IDs of all keys, sorted."""
        return tuple(sorted(self._keys))

    def get(self, key_id: str) -> Key | None:
        """Return a key; None if the ring has none of this ID."""
        return self._keys.get(key_id)

    @classmethod
    def read(cls, place: KeyPlace, writing_key: str | None) -> KeyRing:
        """Read all keys. Blocks.

        Args:
            place: Where they are.
            writing_key: The ID of the one that writes; None for none.

        Raises:
            SettingsError: A file cannot be used as a key, or the writing key is not there.
        """
        keys: dict[str, Key] = {}
        for file in key_files(place):
            if file.key is None:
                raise unusable(place, f"{file.path}: {file.problem}")
            keys[file.id] = file.key
        writing = None if writing_key is None else keys.get(writing_key)
        if writing_key is not None and writing is None:
            raise missing_writing_key(place, writing_key, keys)
        return cls(keys, writing)


#: Where nothing is encrypted, and nothing can be read that was.
NO_KEYS: Final = KeyRing({})


def missing_writing_key(place: KeyPlace, writing_key: str, there: Mapping[str, object]) -> SettingsError:
    """Return the error of a writing key that is not in the ring."""
    allowed = f"the ID of a key in {place.directory}: {', '.join(sorted(there))}"
    return SettingsError(
        _WRITING,
        value=writing_key,
        source="the settings",
        allowed=allowed,
        text=f"setting {_WRITING}={writing_key!r} cannot be used: there is no {place.path(writing_key)}; "
        f"allowed: {allowed}. `redstreamd keys new {writing_key}` makes it, or copy it from where it is",
    )
