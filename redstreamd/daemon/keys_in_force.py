"""The keys and the rules of encryption that are in force: read at the start and at each reload.

The files of keys may have changed although no setting has, so a reload reads them in any case. A ring that
cannot be read is a `SettingsError`, and leaves the one in force as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from redstreamd.encryption.encryption_rules import EncryptionRules
from redstreamd.encryption.key_events import KeysLoaded
from redstreamd.encryption.key_files import KEY_BYTES
from redstreamd.encryption.key_ring import KeyRing
from redstreamd.encryption.sealing import Series
from redstreamd.encryption.unreadable import UnreadableEntry
from redstreamd.settings import EncryptionSettings, Settings
from redstreamd.settings.configured_keys import key_ring_of
from redstreamd.streams.entry_encryption import Encryption
from redstreamd.streams.names import judged_by


class KeyStatistics(msgspec.Struct, frozen=True):
    """A snapshot, as the health of the daemon shows it.

    Attributes:
        writing_key: The ID of the key that new entries are encrypted with; None if none are.
        keys: The number of keys.
        key_ids: Their IDs.
        rules: The number of rules.
    """

    writing_key: str | None
    keys: int
    key_ids: tuple[str, ...]
    rules: int


class KeysInForce:
    """The keys and the rules in force.

    Attributes:
        encryption: What applies them.
    """

    def __init__(self, settings: Settings, report: Callable[[KeysLoaded | UnreadableEntry], None]) -> None:
        """Read the keys. Blocks.

        Args:
            settings: Where they are, and the rules.
            report: Told when others apply, and what cannot be opened.

        Raises:
            SettingsError: They cannot be used.
        """
        self._report: Final = report
        self._ring = key_ring_of(settings.encryption)
        self._rules = settings.encryption.streams
        self.encryption: Final = Encryption(self._ring, EncryptionRules(self._rules, judged_by), report)
        if len(self._ring) or self._rules:
            self._tell(KeyRing({}))

    def statistics(self) -> KeyStatistics:
        """Return a snapshot."""
        ring = self._ring
        return KeyStatistics(_writing(ring), len(ring), ring.ids, len(self._rules))

    def replace(self, ring: KeyRing, encryption: EncryptionSettings) -> bool:
        """Apply keys and rules from now on, and return whether the keys are others than before.

        What is under way may end by either.
        """
        before = self._ring
        if ring == before and encryption.streams == self._rules:
            return False
        self._ring, self._rules = ring, encryption.streams
        self.encryption.reconfigure(ring, EncryptionRules(self._rules, judged_by))
        self._tell(before)
        return not ring.has_keys_of(before)

    def _tell(self, before: KeyRing) -> None:
        ring = self._ring
        known = [(key_id, before.get(key_id)) for key_id in before.ids]
        self._report(
            KeysLoaded(
                keys=ring.ids,
                writing_key=_writing(ring),
                replaced=tuple(key_id for key_id, key in known if ring.get(key_id) not in (None, key)),
                removed=tuple(key_id for key_id, _ in known if ring.get(key_id) is None),
                rules=len(self._rules),
            )
        )


def _writing(ring: KeyRing) -> str | None:
    return None if ring.writing is None else ring.writing.id


def read_keys(settings: Settings) -> KeyRing:
    """Read the keys that settings name, and load what encrypts with them; on a thread, as it takes 0.1 s.

    Raises:
        SettingsError: They cannot be used.
    """
    ring = key_ring_of(settings.encryption)
    if len(ring):
        load_ciphers()
    return ring


def load_ciphers() -> None:
    """Import what the first entry would otherwise import on the event loop."""
    Series("", bytes(KEY_BYTES))
