"""Opening what was sealed; `sealed_format` has the format."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import msgspec

from redstreamd.encryption.hidden_names import revealed
from redstreamd.encryption.sealed_format import (
    CLEAR,
    ENTRY,
    FORMAT,
    HIDDEN,
    TEXT,
    TEXT_PREFIX,
    Header,
    Layout,
    SealError,
    UnknownFormatError,
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


class Closed(msgspec.Struct, gc=False):
    """An encrypted entry, as it is taken apart.

    Attributes:
        names: The names of its fields.
        values: Their values.
        layout: Where it has what.
        header: What its `_rs.enc` says.
        sizes: The sizes of the sealed fields, in order.
        box: The ciphertext and the tag.
        associated: The associated data.
    """

    names: tuple[str, ...]
    values: list[str]
    layout: Layout
    header: Header
    sizes: list[int] = []  # msgspec copies it
    box: bytes = b""
    associated: bytes = b""


def closed_entry(words: list[str]) -> Closed | None:
    """Return an entry that is encrypted, and what it says of that; None for one that is not.

    Args:
        words: Its words, name and value in turn.

    Raises:
        SealError: It cannot be one that was sealed; `UnknownFormatError` if it is of another version.
    """
    names, values = tuple(words[::2]), words[1::2]
    clear = values[names.index(CLEAR)] if CLEAR in names else None
    layout = remembered(layout_to_open, names, clear)
    if layout.header < 0:
        return None
    header = read_header(values[layout.header])
    if header is None or header.format != FORMAT:
        raise UnknownFormatError("it is of another version of the format, or of none")
    return Closed(names, values, layout, header)


def take_apart(closed: Closed, stream: str) -> None:
    """Do the first half of opening an entry, which needs no key.

    Args:
        closed: The entry.
        stream: The stream that it was added to.

    Raises:
        SealError: It cannot be what was sealed.
    """
    header, layout, values = closed.header, closed.layout, closed.values
    boxes = [_from_base64(values[place]) for place in layout.sealed]
    closed.sizes = sizes = list(map(len, boxes))
    for place, size in zip(layout.sealed, sizes):  # noqa: B905 - of one list
        values[place] = str(size)
    flat = [ENTRY, stream, header.bound]
    names = closed.names
    for place in layout.bound:
        flat += (names[place], values[place])
    boxes.append(header.tag)
    closed.box, closed.associated = b"".join(boxes), joined(flat)


def put_together(closed: Closed, cipher: AESGCM) -> list[str]:
    """Return the words of an entry that was taken apart, as they were before it was sealed.

    Args:
        closed: The entry.
        cipher: `derived` for its series.

    Raises:
        SealError: It is not what was sealed there with this key.
    """
    header, names, values = closed.header, closed.names, closed.values
    plain = _decrypted(cipher, header.nonce, closed.box, closed.associated)
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
