"""The format of encrypted entries: sealing an entry's fields, and opening them again.

Owns the format in Redis; docs/design.md specifies it, and tests/streams/encrypted_vectors.json has test
vectors. Knows neither Redis nor which streams are encrypted.

An entry is one message of AES-256-GCM: the texts of its sealed fields, one behind the other. Each field keeps
the part of the ciphertext that is its own, in base64, under its own name. The tag is in the reserved field
``_rs.enc``, with what is needed to find the key and the nonce::

    1 <ID of the key> <series> <nonce> <tag>

Everything else of the entry is associated data, the name of its stream included, so nothing of it can be
changed or moved. Only what is stamped later is not (`STAMPED_LATER`).

A *series* is what one process encrypts with one key, up to a bound. Its 16 random bytes and the key give the
key that its entries are encrypted with. They are counted, and the count is part of the nonce: nonces cannot
repeat unless two series draw the same 128 bits. The rest of the nonce is random, one draw for a batch. It
keeps entries apart to which two copies of a process (a machine restored from a snapshot) give one count.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

#: Says how an entry is encrypted; no other has it.
ENCRYPTED: Final = "_rs.enc"
#: JSON array of the names of fields that stayed clear; absent if there are none.
CLEAR: Final = "_rs.clear"
#: JSON object of the members whose names are hidden, too.
HIDDEN: Final = "_rs.sealed"
#: Fields that a script adds to an entry later, which are not associated data.
STAMPED_LATER: Final = frozenset({"_rs.quarantine", "_rs.released", "_rs.dead"})

FORMAT: Final = "1"
SERIES_BYTES, NONCE_BYTES, TAG_BYTES, COUNT_BYTES = 16, 12, 16, 4
_NONCE_CHARACTERS: Final = 16
_DERIVED: Final = b"redstreamd entries 1"
#: Begins every text that was sealed for itself.
TEXT_PREFIX: Final = "_rs.enc "
#: More than a header of this version has.
_MAX_HEADER: Final = 256
#: Characters of the names of an entry whose layout is remembered, with those of the list of clear ones.
_MAX_REMEMBERED: Final = 1_024

PREFIX, ESCAPE, VERSION, JSON_NAMES = "_rs.", "_rs.=", "_rs.v", "_rs.json"

#: What begins the associated data of an entry, and that of a text.
ENTRY: Final = "redstreamd entry"
TEXT: Final = "redstreamd text"


class SealError(Exception):
    """An entry or a text is not what was sealed, or was not sealed with this key."""


class UnknownFormatError(SealError):
    """An entry says nothing that can be read of how it is encrypted."""


class Header(msgspec.Struct, frozen=True, gc=False):
    """What `_rs.enc` says.

    Attributes:
        format: The version of the format.
        key: The ID of the key.
        series: The series, in base64 without padding.
        nonce: The nonce, 12 bytes.
        tag: The tag, 16 bytes.
        bound: The part of the field that is associated data.
    """

    format: str
    key: str
    series: str
    nonce: bytes
    tag: bytes
    bound: str


def read_header(text: str) -> Header | None:
    """Return what the field `_rs.enc` says; None if it says nothing that can be read."""
    words = text.split(" ")
    if len(words) != 5 or len(text) > _MAX_HEADER or len(words[3]) != _NONCE_CHARACTERS:
        return None
    try:
        # The nonce's bytes end with a character, so both are decoded at once.
        both = binascii.a2b_base64(f"{words[3]}{words[4]}==")
    except ValueError:
        return None
    if len(both) != NONCE_BYTES + TAG_BYTES:
        return None
    bound = text[: -1 - len(words[4])]
    return Header(words[0], words[1], words[2], both[:NONCE_BYTES], both[NONCE_BYTES:], bound)


class Layout(msgspec.Struct, frozen=True):
    """Where an entry has what.

    Attributes:
        sealed: The places of the sealed fields among its fields.
        clear: To seal: the value of `CLEAR`, if the entry is to have it.
        bound: To open: the places of the fields that are associated data.
        shown: To open: those of the fields that the entry had before.
        header: To open: the place of `_rs.enc`; -1 if the entry is not encrypted.
    """

    sealed: tuple[int, ...]
    clear: str | None = None
    bound: tuple[int, ...] = ()
    shown: tuple[int, ...] = ()
    header: int = -1


def layout_to_seal(names: tuple[str, ...], clear: Collection[str]) -> Layout:
    if HIDDEN in names:
        kept = [name for name in names if is_member(name)]
        return Layout((names.index(HIDDEN),), json_text(kept) if kept else None)
    kept = [name for name in names if is_member(name) and name.removeprefix(ESCAPE) in clear]
    sealed = tuple([place for place, name in enumerate(names) if is_member(name) and name not in kept])
    return Layout(sealed, json_text(kept) if kept else None)


def layout_to_open(names: tuple[str, ...], clear: str | None) -> Layout:
    """Return the layout of an entry to open.

    Args:
        names: The names of its fields.
        clear: The value of `CLEAR`, if it has it.

    Raises:
        SealError: It cannot be one that was sealed.
    """
    if ENCRYPTED not in names or VERSION not in names:
        # A value is that text; or another program wrote it, whose fields mean nothing.
        return Layout(())
    if names.count(ENCRYPTED) != 1:
        raise SealError("it is said twice how it is encrypted")
    kept = names_in(clear)
    sealed, bound, shown = [], [], []
    for place, name in enumerate(names):
        if name == ENCRYPTED:
            continue
        if name == HIDDEN or (is_member(name) and name not in kept):
            sealed.append(place)
        if name not in STAMPED_LATER:
            bound.append(place)
        if name != CLEAR:
            shown.append(place)
    return Layout(tuple(sealed), None, tuple(bound), tuple(shown), names.index(ENCRYPTED))


_MakeLayout = Callable[[tuple[str, ...], Any], Layout]


def remembered(make: _MakeLayout, names: tuple[str, ...], clear: Any) -> Layout:
    """Return the layout of an entry; most entries of a stream have the same names."""
    size = len("".join(names)) + (len(clear) if isinstance(clear, str) else 0)
    return _layout(make, names, clear) if size <= _MAX_REMEMBERED else make(names, clear)


@lru_cache(maxsize=1_024)
def _layout(make: _MakeLayout, names: tuple[str, ...], clear: Any) -> Layout:
    return make(names, clear)


def derived(secret: bytes, series: str) -> AESGCM:
    """Return the cipher of a series: its key is HKDF-SHA256 of the key, with the series as salt.

    Raises:
        SealError: It is no series.
    """
    # Takes as long as much of a start, and is needed only where there are keys.
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    try:
        salt = binascii.a2b_base64(f"{series}==")
    except ValueError as error:
        raise SealError("the series is not in base64") from error
    if len(salt) != SERIES_BYTES:
        raise SealError("the series has another size")
    return AESGCM(HKDF(SHA256(), len(secret), salt, _DERIVED).derive(secret))


def joined(texts: Sequence[str]) -> bytes:
    """Return texts as associated data: their sizes in bytes, and they; other texts give other data."""
    joined = "".join(texts)
    sizes = list(map(len, texts)) if joined.isascii() else [len(text.encode()) for text in texts]
    # A list of JSON without its brackets, because that is made in C.
    return msgspec.json.encode(sizes)[1:-1] + b":" + joined.encode()


def is_member(name: str) -> bool:
    return not name.startswith(PREFIX) or name.startswith(ESCAPE)


def json_text(value: object) -> str:
    return msgspec.json.encode(value).decode()


def names_in(listed: str | None) -> frozenset[str]:
    if listed is None:
        return frozenset()
    try:
        return frozenset(msgspec.json.decode(listed, type=list[str]))
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise SealError("a list of names cannot be read") from error


def unpadded(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).rstrip(b"=").decode()
