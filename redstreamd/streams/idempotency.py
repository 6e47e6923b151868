"""Records of calls with an idempotency key: their names, and the hash of what a call added.

A key belongs to the principal that used it: another one's call with the same key is neither answered by its
record nor refused because of it (``lua/idempotency.lua`` compares them). A record is::

    k1.<id of the hash's key>.<hash of the body>.<owner> <entry ID> ...

The hash is keyed, because with a plain one whoever reads the record could try out what was added. Its key
follows from that of the lease tokens. A hash of another daemon's key cannot be compared: then the idempotency
key alone decides. Release 0.1 wrote a plain hash in the place of what is before the first space; then the
sender of the entries is the owner. Such a record is read, and written where a setting asks for it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, Final

from redstreamd.policy import Principal
from redstreamd.streams.entry_encoding import SENDER
from redstreamd.streams.names import Kind, companion_key

#: Stands for the owner of redstreamd's own records, whose keys no caller can choose.
_NOBODY: Final = "-"


class IdempotencyRecords:
    """Makes the operands of ``lua/idempotency.lua``, which are about the record of a call."""

    def __init__(self, key: bytes, *, plain_hashes: bool = False) -> None:
        """Hash with `key`.

        Args:
            key: Of 32 bytes; the same for all daemons that are to compare bodies.
            plain_hashes: Write records that release 0.1 can read.
        """
        self._key = key
        self._key_id = hmac.digest(key, b"", "sha256").hex()[:8]
        self._plain_hashes = plain_hashes

    def reconfigure(self, *, plain_hashes: bool) -> None:
        """Write records in the other form from now on, or no more; both are read."""
        self._plain_hashes = plain_hashes

    def operands(
        self,
        stream: str,
        key: str | None,
        owner: Principal | None,
        space: str | None,
        encoded: Sequence[Mapping[str, str]],
        *,
        is_secret: bool = False,
    ) -> dict[str, Any]:
        """Return the operands for entries that are added with a key.

        Args:
            stream: The stream.
            key: The key; None: nothing is recorded.
            owner: Whose the key is; None: redstreamd's own.
            space: See `shared_record`.
            encoded: The fields of each entry, not encrypted.
            is_secret: No plain hash leaves the daemon, because whoever sees it could try out what was added.
                Then a record of release 0.1 is not recognised.
        """
        if key is None:
            return _unrecorded(stream)
        name, *others = (_NOBODY,) if owner is None else owner.names
        former = others[0] if others else ""
        plain, body = self._hashes(encoded, name)
        former_plain = former_body = ""
        if former:
            renamed = [{**fields, SENDER: former} if SENDER in fields else fields for fields in encoded]
            former_plain, former_body = self._hashes(renamed, former)
        parts = _parts(key, space)
        shared = companion_key(stream, Kind.IDEMPOTENCY, *parts)
        own = shared if owner is None else companion_key(stream, Kind.IDEMPOTENCY, *parts, "of", name)
        return {
            "record": shared,
            "own_record": own,
            "former_record": companion_key(stream, Kind.IDEMPOTENCY, *parts, "of", former) if former else own,
            "owner": name,
            "former": former,
            "key_id": self._key_id,
            "body_hash": body,
            "former_hash": former_body,
            "plain_hash": "" if is_secret else plain,
            "former_plain_hash": "" if is_secret else former_plain,
            "kept_hash": plain if self._plain_hashes and not is_secret else body,
        }

    def _hashes(self, encoded: Sequence[Mapping[str, str]], owner: str) -> tuple[str, str]:
        """Return the hash of release 0.1, and the beginning of a record."""
        digest = _digest(encoded)
        keyed = hmac.digest(self._key, digest, "sha256").hex()[:32]
        return digest.hex()[:32], f"k1.{self._key_id}.{keyed}.{owner}"


def shared_record(stream: str, key: str, space: str | None) -> str:
    """Return the name of the record of whoever used a key first, which all of them look into.

    Args:
        stream: The stream.
        key: Any text; its digest is short and has no braces.
        space: Separates redstreamd's own keys from those of callers.
    """
    return companion_key(stream, Kind.IDEMPOTENCY, *_parts(key, space))


def _parts(key: str, space: str | None) -> tuple[str, ...]:
    digest = hashlib.sha256(key.encode()).hexdigest()[:32]
    return (digest,) if space is None else (space, digest)


@lru_cache(maxsize=1_024)
def _unrecorded(stream: str) -> dict[str, Any]:
    """Return the operands of a call without a key; the records are names of keys that do not exist."""
    record = companion_key(stream, Kind.IDEMPOTENCY, "")
    names = dict.fromkeys(("record", "own_record", "former_record"), record)
    hashes = ("body_hash", "former_hash", "plain_hash", "former_plain_hash", "kept_hash")
    return names | dict.fromkeys(("owner", "former", "key_id", *hashes), "")


def _digest(encoded: Sequence[Mapping[str, str]]) -> bytes:
    """Return a digest of entries: of each, how many names and values it has, and these, each with its length.

    Records of release 0.1 hold it, so it may not change.
    """
    parts = []
    for fields in encoded:
        for word in (str(2 * len(fields)), *chain.from_iterable(fields.items())):
            part = word.encode()
            parts.append(b"%d:%b" % (len(part), part))
    return hashlib.sha256(b"".join(parts)).digest()
