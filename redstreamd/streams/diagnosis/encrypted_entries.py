"""Which keys the entries of a stream need, by its newest and its oldest ones; nothing is decrypted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from redstreamd.redisio.reply_parsing import RawEntry
from redstreamd.streams.diagnosis.findings import Finding, Severity
from redstreamd.streams.entry_encryption import Encryption, key_of
from redstreamd.streams.entry_pages import Pages

#: Entries and bytes of a page, which bound what Redis and the daemon read of a stream at either end.
_ENTRIES, _BYTES = 100, 65_536
#: Stands for the key of an entry whose field says none.
UNKNOWN: Final = "?"


class KeysOfPage(msgspec.Struct, frozen=True):
    """By which keys the entries of a page are encrypted.

    Attributes:
        entries: The number of entries.
        clear: How many are not encrypted.
        keys: ID of a key -> how many are encrypted with it.
    """

    entries: int
    clear: int
    keys: Mapping[str, int]


class EncryptedEntries(msgspec.Struct, frozen=True):
    """What is known of a stream.

    Attributes:
        newest: The last entries.
        oldest: The first ones; None if the last ones are all.
        findings: What is wrong.
    """

    newest: KeysOfPage
    oldest: KeysOfPage | None
    findings: list[Finding]


async def encrypted_entries(pages: Pages, encryption: Encryption, stream: str) -> EncryptedEntries | None:
    """Look at the newest and the oldest entries; None if none is encrypted, nor a new one would be.

    Raises:
        BusError: CONNECTION_ERROR, WRONG_TYPE.
    """
    page = await pages.read(stream, "+", "-", max_entries=_ENTRIES, max_bytes=_BYTES, forward=False)
    newest, oldest = keys_of(page.entries), None
    if page.has_more:
        first = await pages.read(stream, "-", "+", max_entries=_ENTRIES, max_bytes=_BYTES)
        oldest = keys_of(first.entries)
    needed = {*newest.keys, *(() if oldest is None else oldest.keys)}
    if not needed and encryption.rule_for(stream) is None:
        return None
    missing = sorted(key for key in needed if not encryption.has_key(key))
    return EncryptedEntries(newest, oldest, [_missing(stream, missing)] if missing else [])


def keys_of(entries: list[RawEntry]) -> KeysOfPage:
    """Count entries by the keys that they are encrypted with."""
    counts: Counter[str | None] = Counter(map(key_of, entries))
    clear = counts.pop(None, 0)
    return KeysOfPage(len(entries), clear, {key or UNKNOWN: count for key, count in sorted(counts.items())})


def figures(found: EncryptedEntries) -> dict[str, Any]:
    """Return what is known as JSON values."""
    shown = {"newest": msgspec.structs.asdict(found.newest)}
    return shown if found.oldest is None else {**shown, "oldest": msgspec.structs.asdict(found.oldest)}


def _missing(stream: str, keys: list[str]) -> Finding:
    return Finding(
        Severity.WARNING,
        "keys_missing",
        "Entries are encrypted with keys that this daemon does not have. They are not lost: they can be read "
        "once the operator has put these files where this daemon looks for them, and has reloaded.",
        {"keys": keys},
        tool="stream_read",
        arguments={"stream": stream},
    )
