"""Directories of keys, and settings that use them."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterable
from pathlib import Path

from redstreamd.encryption.encryption_rules import EncryptionRule, EncryptionRules
from redstreamd.encryption.key_ring import KeyPlace, KeyRing
from redstreamd.streams.bus import Bus
from redstreamd.streams.entry_encryption import Encryption
from redstreamd.streams.names import judged_by


class KeyDirectory:
    """A directory with the keys of one host.

    Attributes:
        path: Where it is.
        known: All keys that were ever made here, as files hold them.
    """

    def __init__(self, path: Path, *key_ids: str) -> None:
        """Make the directory and keys in it."""
        self.path = path
        self.path.mkdir(mode=0o700)
        self.known: dict[str, bytes] = {}
        for key_id in key_ids:
            self.make(key_id)

    def make(self, key_id: str) -> None:
        """Make another key."""
        self.known[key_id] = base64.b64encode(secrets.token_bytes(32))
        self.put(key_id)

    def put(self, key_id: str) -> None:
        """Put a key that is known there."""
        file = self.path / f"{key_id}.key"
        file.touch(0o600)
        file.write_bytes(self.known[key_id])

    def copy_to(self, other: KeyDirectory, *key_ids: str) -> None:
        """Give another host some of the keys."""
        for key_id in key_ids:
            other.known[key_id] = self.known[key_id]
            other.put(key_id)

    def remove(self, key_id: str) -> None:
        """Take a key away; `put` brings it back."""
        (self.path / f"{key_id}.key").unlink()

    def secret(self, key_id: str) -> bytes:
        """Return the 32 bytes of a key."""
        return base64.b64decode(self.known[key_id])

    def section(self, writing_key: str | None, *rules: str) -> str:
        """Return the section of a settings file."""
        return section(self.path, writing_key, rules)


def section(keys: Path, writing_key: str | None, rules: Iterable[str]) -> str:
    """Return the section of a settings file that encrypts by these rules."""
    lines = ["[encryption]", f"keys = {json.dumps(str(keys))}", f"streams = {json.dumps(list(rules))}"]
    if writing_key is not None:
        lines.append(f"writing_key = {json.dumps(writing_key)}")
    return "\n".join(lines) + "\n"


class InForce:
    """Keys and rules as a reload hands them to a domain.

    Attributes:
        keys: The directory.
    """

    def __init__(self, keys: KeyDirectory, writing_key: str | None, *rules: str) -> None:
        """Read the keys."""
        self.keys = keys
        self._ring = KeyRing.read(KeyPlace(str(keys.path)), writing_key)
        self._rules = [EncryptionRule.parse(each) for each in rules]

    def encryption(self) -> Encryption:
        """Return what a daemon that starts with them encrypts by."""
        return Encryption(self._ring, EncryptionRules(self._rules, judged_by))

    async def reload(self, bus: Bus) -> None:
        """Have a domain use them from now on."""
        bus.encryption.reconfigure(self._ring, EncryptionRules(self._rules, judged_by))
