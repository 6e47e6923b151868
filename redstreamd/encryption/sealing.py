"""Sealing entries and texts; `sealed_format` has the format."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from itertools import chain
from typing import Final

import msgspec

from redstreamd.encryption.hidden_names import hidden
from redstreamd.encryption.sealed_format import (
    CLEAR,
    COUNT_BYTES,
    ENCRYPTED,
    ENTRY,
    FORMAT,
    NONCE_BYTES,
    SERIES_BYTES,
    TAG_BYTES,
    TEXT,
    TEXT_PREFIX,
    derived,
    joined,
    layout_to_seal,
    remembered,
    unpadded,
)

#: Entries and bytes of a series. A nonce has 32 bits of the count; and with 2^32 blocks of one key the
#: ciphertext can be told from random bytes with a probability of 2^-65.
MAX_ENTRIES: Final = 1 << 24
MAX_BYTES: Final = 1 << 36

_to_base64: Final = msgspec.to_builtins


def new_draw() -> bytes:
    """Return random bytes for the nonces of a batch."""
    return secrets.token_bytes(NONCE_BYTES - COUNT_BYTES)


class Series:
    """What one process encrypts with one key; see the module."""

    def __init__(self, key_id: str, secret: bytes, series: bytes | None = None, *, first: int = 0) -> None:
        """Begin with a key of 32 bytes; its number and that of the first entry are given by tests only."""
        name = unpadded(series or secrets.token_bytes(SERIES_BYTES))
        self._cipher: Final = derived(secret, name)
        self._bound: Final = f"{FORMAT} {key_id} {name} "
        self._entries, self._bytes = first, 0

    @property
    def is_used_up(self) -> bool:
        """Whether another series is to be begun."""
        return self._entries >= MAX_ENTRIES or self._bytes >= MAX_BYTES

    def seal(
        self,
        stream: str,
        fields: Mapping[str, str],
        clear: frozenset[str] = frozenset(),
        *,
        hide_names: bool = False,
        draw: bytes | None = None,
    ) -> dict[str, str]:
        """Return the fields of an entry sealed.

        Args:
            stream: The stream that it is added to.
            fields: All of its fields, as `entry_encoding` encodes them: members, then reserved fields.
            clear: Names of members that stay as they are.
            hide_names: Seal the names of the others, too.
            draw: Eight random bytes, which all entries of a batch may share.
        """
        shown = hidden(fields, clear) if hide_names else fields
        names, values = tuple(shown), list(shown.values())
        layout = remembered(layout_to_seal, names, clear)
        if layout.clear is not None:
            names, values = (*names, CLEAR), [*values, layout.clear]
        texts = [values[place] for place in layout.sealed]
        text = "".join(texts)
        plain = text.encode()
        sizes = list(map(len, texts if len(plain) == len(text) else map(str.encode, texts)))
        nonce, bound = self._next(draw or new_draw(), len(plain))
        for place, size in zip(layout.sealed, sizes):  # noqa: B905 - of one list
            values[place] = str(size)
        flat = [ENTRY, stream, bound, *chain.from_iterable(zip(names, values))]  # noqa: B905 - of one dict
        box = self._cipher.encrypt(nonce, plain, joined(flat))
        at = 0
        for place, size in zip(layout.sealed, sizes):  # noqa: B905 - as above
            values[place] = _to_base64(box[at : at + size])
            at += size
        result = dict(zip(names, values))  # noqa: B905 - as above
        result[ENCRYPTED] = f"{bound} {unpadded(box[at:])}"
        return result

    def seal_text(self, text: str, *places: str, draw: bytes | None = None) -> str:
        """Return a text sealed that is no entry, such as a reason.

        Args:
            text: The text.
            places: Where it belongs; `open_text` needs the same.
            draw: As for `seal`.
        """
        plain = text.encode()
        nonce, bound = self._next(draw or new_draw(), len(plain))
        box = self._cipher.encrypt(nonce, plain, joined((TEXT, bound, *places)))
        return f"{TEXT_PREFIX}{bound} {unpadded(box[-TAG_BYTES:])} {_to_base64(box[:-TAG_BYTES])}"

    def _next(self, draw: bytes, size: int) -> tuple[bytes, str]:
        """Return the next nonce, and the part of `_rs.enc` that is associated data."""
        nonce = draw + self._entries.to_bytes(COUNT_BYTES, "big")
        self._entries += 1
        self._bytes += size
        return nonce, self._bound + unpadded(nonce)
