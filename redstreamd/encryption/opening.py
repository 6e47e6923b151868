"""Opening what was sealed; `sealed_format` has the format."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import msgspec

from redstreamd.encryption.hidden_names import revealed
from redstreamd.encryption.sealed_format import (
    CLEAR,
    ENTRY,
    HIDDEN,
    TEXT,
    TEXT_PREFIX,
    Header,
    Layout,
    SealError,
    joined,
    layout_to_open,
    read_header,
    remembered,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_SEALED_TEXT: Final = re.compile(
    rf"{TEXT_PREFIX}(\d{{1,9}} [a-z0-9][a-z0-9._-]{{0,31}} [A-Za-z0-9+/]{{22}} [A-Za-z0-9+/]{{16}} "
    r"[A-Za-z0-9+/]{22}) ([A-Za-z0-9+/=]*)"
)


class Closed(msgspec.Struct, frozen=True, gc=False):
    """An encrypted entry taken apart: all but what needs the key.

    Attributes:
        names: The names of its fields.
        values: Their values; of sealed ones the size.
        sizes: The sizes of the sealed ones, in order.
        layout: Where it has what.
        nonce: The nonce.
        box: The ciphertext and the tag.
        associated: The associated data.
    """

    names: tuple[str, ...]
    values: list[str]
    sizes: list[int]
    layout: Layout
    nonce: bytes
    box: bytes
    associated: bytes


def take_apart(header: Header, stream: str, words: Sequence[str]) -> Closed:
    """Return an encrypted entry for `open_closed`: half of the work of opening it.

    Args:
        header: What the entry's `_rs.enc` says.
        stream: The stream that it was added to.
        words: Its words, name and value in turn.

    Raises:
        SealError: It cannot be what was sealed.
    """
    names, values = tuple(words[::2]), list(words[1::2])
    clear = values[names.index(CLEAR)] if CLEAR in names else None
    layout = remembered(layout_to_open, names, clear)
    boxes = [_from_base64(values[place]) for place in layout.sealed]
    sizes = list(map(len, boxes))
    for place, size in zip(layout.sealed, sizes):  # noqa: B905 - of one list
        values[place] = str(size)
    flat = [ENTRY, stream, header.bound]
    for place in layout.bound:
        flat += (names[place], values[place])
    boxes.append(header.tag)
    return Closed(names, values, sizes, layout, header.nonce, b"".join(boxes), joined(flat))


def open_closed(cipher: AESGCM, closed: Closed) -> list[str]:
    """Return the words of an entry as they were before it was sealed.

    Args:
        cipher: `derived` for the header's series.
        closed: The entry.

    Raises:
        SealError: It is not what was sealed there with this key.
    """
    plain = _decrypted(cipher, closed.nonce, closed.box, closed.associated)
    names, values = closed.names, closed.values
    at = 0
    try:
        for place, size in zip(closed.layout.sealed, closed.sizes):  # noqa: B905 - of one list
            values[place] = plain[at : at + size].decode()
            at += size
        opened: list[str] = []
        for place in closed.layout.shown:
            opened += (names[place], values[place])
        return revealed(opened) if HIDDEN in names else opened
    except (UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise SealError("what was sealed is not of this format") from error


def open_words(cipher: AESGCM, header: Header, stream: str, words: Sequence[str]) -> list[str]:
    """Return the words of an encrypted entry as they were before they were sealed; see `take_apart`.

    Raises:
        SealError: It is not what was sealed there with this key.
    """
    return open_closed(cipher, take_apart(header, stream, words))


def open_text(cipher: AESGCM, header: Header, box: str, *places: str) -> str:
    """Return a text that `Series.seal_text` sealed; see `split_text` for its parts.

    Raises:
        SealError: It is not what was sealed for these places with this key.
    """
    associated = joined((TEXT, header.bound, *places))
    try:
        return _decrypted(cipher, header.nonce, _from_base64(box) + header.tag, associated).decode()
    except UnicodeDecodeError as error:
        raise SealError("what was sealed is no text") from error


def split_text(text: str) -> tuple[Header, str] | None:
    """Return the header and the ciphertext of a text that was sealed for itself; None for any other."""
    found = _SEALED_TEXT.fullmatch(text) if text.startswith(TEXT_PREFIX) else None
    header = None if found is None else read_header(found[1])
    return None if found is None or header is None else (header, found[2])


def _decrypted(cipher: AESGCM, nonce: bytes, box: bytes, associated: bytes) -> bytes:
    try:
        return cipher.decrypt(nonce, box, associated)
    except _invalid_tag() as error:
        raise SealError("it was changed, moved, or sealed with another key") from error


@lru_cache(maxsize=1)
def _invalid_tag() -> type[Exception]:
    from cryptography.exceptions import InvalidTag

    return InvalidTag


def _from_base64(text: str) -> bytes:
    try:
        # In C, and several times as fast as the module `base64`.
        return msgspec.convert(text, bytes)
    except msgspec.ValidationError as error:
        raise SealError("a value is not in base64") from error
