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
import re
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from itertools import chain
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
_SERIES_BYTES, _NONCE_BYTES, _TAG_BYTES, _COUNT_BYTES = 16, 12, 16, 4
_DERIVED: Final = b"redstreamd entries 1"
#: Entries and bytes of a series. A nonce has 32 bits of the count; and with 2^32 blocks of one key the
#: ciphertext can be told from random bytes with a probability of 2^-65.
MAX_ENTRIES: Final = 1 << 24
MAX_BYTES: Final = 1 << 36

#: Begins every text that was sealed for itself.
TEXT_PREFIX: Final = "_rs.enc "
_SEALED_TEXT: Final = re.compile(
    rf"{TEXT_PREFIX}(\d{{1,9}} [a-z0-9][a-z0-9._-]{{0,31}} [A-Za-z0-9+/]{{22}} [A-Za-z0-9+/]{{16}} "
    r"[A-Za-z0-9+/]{22}) ([A-Za-z0-9+/=]*)"
)
#: More than a header of this version has.
_MAX_HEADER: Final = 256
#: Bytes of the names of an entry whose layout is remembered.
_MAX_REMEMBERED: Final = 512

_PREFIX, _ESCAPE, _JSON_NAMES = "_rs.", "_rs.=", "_rs.json"

#: What begins the associated data of an entry, and that of a text.
_ENTRY, _TEXT = "redstreamd entry", "redstreamd text"

_to_base64: Final = msgspec.to_builtins


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
    if len(words) != 5 or len(text) > _MAX_HEADER:
        return None
    try:
        nonce, tag = binascii.a2b_base64(words[3]), binascii.a2b_base64(words[4] + "==")
    except ValueError:
        return None
    if len(nonce) != _NONCE_BYTES or len(tag) != _TAG_BYTES:
        return None
    return Header(words[0], words[1], words[2], nonce, tag, text[: text.rindex(" ")])


def new_draw() -> bytes:
    """Return random bytes for the nonces of a batch."""
    return secrets.token_bytes(_NONCE_BYTES - _COUNT_BYTES)


class SealError(Exception):
    """An entry or a text is not what was sealed, or was not sealed with this key."""


class Series:
    """What one process encrypts with one key; see the module."""

    def __init__(self, key_id: str, secret: bytes, series: bytes | None = None, *, first: int = 0) -> None:
        """Begin with a key of 32 bytes; its number and that of the first entry are given by tests only."""
        name = _unpadded(series or secrets.token_bytes(_SERIES_BYTES))
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
            fields: All of its fields, as `entry_codec` encodes them: members, then reserved fields.
            clear: Names of members that stay as they are.
            hide_names: Seal the names of the others, too.
            draw: Eight random bytes, which all entries of a batch may share.
        """
        shown = _hidden(fields, clear) if hide_names else fields
        names, values = tuple(shown), list(shown.values())
        layout = _remembered(_layout_to_seal, names, clear)
        if layout.clear is not None:
            names, values = (*names, CLEAR), [*values, layout.clear]
        texts = [values[place] for place in layout.sealed]
        joined = "".join(texts)
        plain = joined.encode()
        sizes = list(map(len, texts if len(plain) == len(joined) else map(str.encode, texts)))
        nonce, bound = self._next(draw or new_draw(), len(plain))
        for place, size in zip(layout.sealed, sizes):  # noqa: B905 - of one list
            values[place] = str(size)
        flat = [_ENTRY, stream, bound, *chain.from_iterable(zip(names, values))]  # noqa: B905 - of one dict
        box = self._cipher.encrypt(nonce, plain, _joined(flat))
        at = 0
        for place, size in zip(layout.sealed, sizes):  # noqa: B905 - as above
            values[place] = _to_base64(box[at : at + size])
            at += size
        result = dict(zip(names, values))  # noqa: B905 - as above
        result[ENCRYPTED] = f"{bound} {_unpadded(box[at:])}"
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
        box = self._cipher.encrypt(nonce, plain, _joined((_TEXT, bound, *places)))
        return f"{TEXT_PREFIX}{bound} {_unpadded(box[-_TAG_BYTES:])} {_to_base64(box[:-_TAG_BYTES])}"

    def _next(self, draw: bytes, size: int) -> tuple[bytes, str]:
        """Return the next nonce, and the part of `_rs.enc` that is associated data."""
        nonce = draw + self._entries.to_bytes(_COUNT_BYTES, "big")
        self._entries += 1
        self._bytes += size
        return nonce, self._bound + _unpadded(nonce)


class _Layout(msgspec.Struct, frozen=True):
    """Where an entry has what.

    Attributes:
        sealed: The places of the sealed fields among its fields.
        clear: To seal: the value of `CLEAR`, if the entry is to have it.
        bound: To open: the places of the fields that are associated data.
        shown: To open: those of the fields that the entry had before.
    """

    sealed: tuple[int, ...]
    clear: str | None = None
    bound: tuple[int, ...] = ()
    shown: tuple[int, ...] = ()


def _layout_to_seal(names: tuple[str, ...], clear: Collection[str]) -> _Layout:
    if HIDDEN in names:
        kept = [name for name in names if _is_member(name)]
        return _Layout((names.index(HIDDEN),), _json(kept) if kept else None)
    kept = [name for name in names if _is_member(name) and name.removeprefix(_ESCAPE) in clear]
    sealed = tuple([place for place, name in enumerate(names) if _is_member(name) and name not in kept])
    return _Layout(sealed, _json(kept) if kept else None)


def _layout_to_open(names: tuple[str, ...], clear: str | None) -> _Layout:
    if names.count(ENCRYPTED) != 1:
        raise SealError("it is said twice how it is encrypted")
    kept = _names(clear)
    sealed, bound, shown = [], [], []
    for place, name in enumerate(names):
        if name == ENCRYPTED:
            continue
        if name == HIDDEN or (_is_member(name) and name not in kept):
            sealed.append(place)
        if name not in STAMPED_LATER:
            bound.append(place)
        if name != CLEAR:
            shown.append(place)
    return _Layout(tuple(sealed), None, tuple(bound), tuple(shown))


_MakeLayout = Callable[[tuple[str, ...], Any], _Layout]


def _remembered(make: _MakeLayout, names: tuple[str, ...], clear: Any) -> _Layout:
    """Return the layout of an entry; most entries of a stream have the same names."""
    return _layout(make, names, clear) if len("".join(names)) <= _MAX_REMEMBERED else make(names, clear)


@lru_cache(maxsize=1_024)
def _layout(make: _MakeLayout, names: tuple[str, ...], clear: Any) -> _Layout:
    return make(names, clear)


def open_words(cipher: AESGCM, header: Header, stream: str, words: Sequence[str]) -> list[str]:
    """Return the words of an encrypted entry, name and value in turn, as they were before they were sealed.

    Args:
        cipher: `derived` for the header's series.
        header: What the entry's `_rs.enc` says.
        stream: The stream that it was added to.
        words: Its words.

    Raises:
        SealError: It is not what was sealed there with this key.
    """
    names, values = tuple(words[::2]), list(words[1::2])
    clear = values[names.index(CLEAR)] if CLEAR in names else None
    layout = _remembered(_layout_to_open, names, clear)
    boxes = [_from_base64(values[place]) for place in layout.sealed]
    for place, box in zip(layout.sealed, boxes):  # noqa: B905 - of one list
        values[place] = str(len(box))
    flat = [_ENTRY, stream, header.bound]
    for place in layout.bound:
        flat += (names[place], values[place])
    plain = _decrypted(cipher, header.nonce, b"".join((*boxes, header.tag)), _joined(flat))
    at = 0
    try:
        for place, box in zip(layout.sealed, boxes):  # noqa: B905 - as above
            values[place] = plain[at : at + len(box)].decode()
            at += len(box)
        opened: list[str] = []
        for place in layout.shown:
            opened += (names[place], values[place])
        return _revealed(opened) if HIDDEN in names else opened
    except (UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise SealError("what was sealed is not of this format") from error


def open_text(cipher: AESGCM, header: Header, box: str, *places: str) -> str:
    """Return a text that `Series.seal_text` sealed; see `split_text` for its parts.

    Raises:
        SealError: It is not what was sealed for these places with this key.
    """
    associated = _joined((_TEXT, header.bound, *places))
    try:
        return _decrypted(cipher, header.nonce, _from_base64(box) + header.tag, associated).decode()
    except UnicodeDecodeError as error:
        raise SealError("what was sealed is no text") from error


def split_text(text: str) -> tuple[Header, str] | None:
    """Return the header and the ciphertext of a text that was sealed for itself; None for any other."""
    found = _SEALED_TEXT.fullmatch(text) if text.startswith(TEXT_PREFIX) else None
    header = None if found is None else read_header(found[1])
    return None if found is None or header is None else (header, found[2])


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
    if len(salt) != _SERIES_BYTES:
        raise SealError("the series has another size")
    return AESGCM(HKDF(SHA256(), len(secret), salt, _DERIVED).derive(secret))


def _decrypted(cipher: AESGCM, nonce: bytes, box: bytes, associated: bytes) -> bytes:
    try:
        return cipher.decrypt(nonce, box, associated)
    except _invalid_tag() as error:
        raise SealError("it was changed, moved, or sealed with another key") from error


@lru_cache(maxsize=1)
def _invalid_tag() -> type[Exception]:
    from cryptography.exceptions import InvalidTag

    return InvalidTag


def _joined(texts: Sequence[str]) -> bytes:
    """Return texts as associated data: their sizes in bytes, and they; other texts give other data."""
    joined = "".join(texts)
    sizes = list(map(len, texts)) if joined.isascii() else [len(text.encode()) for text in texts]
    return f"{','.join(map(str, sizes))}:{joined}".encode()


def _is_member(name: str) -> bool:
    return not name.startswith(_PREFIX) or name.startswith(_ESCAPE)


def _hidden(fields: Mapping[str, str], clear: Collection[str]) -> dict[str, str]:
    """Return the fields of an entry with all members that do not stay clear in one JSON object."""
    as_json = _names(fields.get(_JSON_NAMES))
    kept: dict[str, str] = {}
    members: list[str] = []
    for field, text in fields.items():
        name = field.removeprefix(_ESCAPE)
        if not _is_member(field) or name in clear:
            kept[field] = text
        else:
            value = text if name in as_json else _json(text)
            members.append(f"{_json(name)}:{value}")
    if as_json:
        if shown := [name for name in msgspec.json.decode(fields[_JSON_NAMES]) if name in clear]:
            kept[_JSON_NAMES] = _json(shown)
        else:
            del kept[_JSON_NAMES]
    kept[HIDDEN] = f"{{{','.join(members)}}}"
    return kept


def _revealed(words: Sequence[str]) -> list[str]:
    """Return the words of an entry with the members that `_hidden` put into one."""
    fields = dict(zip(words[::2], words[1::2], strict=True))
    as_json = list(_names(fields.pop(_JSON_NAMES, None)))
    members: list[str] = []
    for name, raw in msgspec.json.decode(fields.pop(HIDDEN), type=dict[str, msgspec.Raw]).items():
        text = bytes(raw)
        members.append(_ESCAPE + name if name.startswith(_PREFIX) else name)
        if text.startswith(b'"'):
            members.append(msgspec.json.decode(text, type=str))
        else:
            as_json.append(name)
            members.append(text.decode())
    shown = [word for pair in fields.items() if _is_member(pair[0]) for word in pair]
    end = [word for pair in fields.items() if not _is_member(pair[0]) for word in pair]
    dead: list[str] = []
    if end[-2:-1] == ["_rs.dead"]:
        end, dead = end[:-2], end[-2:]
    if as_json:
        end += (_JSON_NAMES, _json(as_json))
    return [*shown, *members, *end, *dead]


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _names(listed: str | None) -> frozenset[str]:
    if listed is None:
        return frozenset()
    try:
        return frozenset(msgspec.json.decode(listed, type=list[str]))
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise SealError("a list of names cannot be read") from error


def _from_base64(text: str) -> bytes:
    try:
        # In C, and several times as fast as the module `base64`.
        return msgspec.convert(text, bytes)
    except msgspec.ValidationError as error:
        raise SealError("a value is not in base64") from error


def _unpadded(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).rstrip(b"=").decode()
