"""The format of encrypted entries: sealing an entry's fields, and opening them again.

Owns the format in Redis; docs/design.md specifies it, and tests/encryption/sealed_vectors.json has test
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
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Final

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
_HEADER: Final = re.compile(
    r"(?P<format>\d{1,9}) (?P<key>[a-z0-9][a-z0-9._-]{0,31}) (?P<series>[A-Za-z0-9+/]{22}) "
    r"(?P<nonce>[A-Za-z0-9+/]{16}) (?P<tag>[A-Za-z0-9+/]{22})"
)
_SEALED_TEXT: Final = re.compile(rf"{re.escape(TEXT_PREFIX)}({_HEADER.pattern}) ([A-Za-z0-9+/=]*)")

_PREFIX, _ESCAPE, _JSON_NAMES = "_rs.", "_rs.=", "_rs.json"

#: What begins the associated data of an entry, and that of a text.
_ENTRY, _TEXT = "redstreamd entry", "redstreamd text"

_to_base64: Final = msgspec.to_builtins


class Header(msgspec.Struct, frozen=True):
    """What `_rs.enc` says.

    Attributes:
        format: The version of the format.
        key: The ID of the key.
        series: The series, 16 bytes.
        nonce: The nonce, 12 bytes.
        tag: The tag, 16 bytes.
    """

    format: str
    key: str
    series: bytes
    nonce: bytes
    tag: bytes

    @property
    def bound(self) -> str:
        """The part of the field that is associated data."""
        return " ".join((self.format, self.key, _unpadded(self.series), _unpadded(self.nonce)))


def read_header(text: str) -> Header | None:
    """Return what the field `_rs.enc` says; None if it says nothing that can be read."""
    found = _HEADER.fullmatch(text)
    if found is None:
        return None
    key_format, key, series, nonce, tag = found.groups()
    return Header(key_format, key, _padded(series), _padded(nonce), _padded(tag))


def new_draw() -> bytes:
    """Return random bytes for the nonces of a batch."""
    return secrets.token_bytes(_NONCE_BYTES - _COUNT_BYTES)


class SealError(Exception):
    """An entry or a text is not what was sealed, or was not sealed with this key."""


class Series:
    """What one process encrypts with one key; see the module."""

    def __init__(self, key_id: str, secret: bytes, series: bytes | None = None) -> None:
        """Begin with a key of 32 bytes; `series` is given by tests only."""
        series = series or secrets.token_bytes(_SERIES_BYTES)
        self._cipher: Final = derived(secret, series)
        self._bound: Final = f"{FORMAT} {key_id} {_unpadded(series)} "
        self._entries = self._bytes = 0

    @property
    def is_used_up(self) -> bool:
        """Whether another series is to be begun."""
        return self._entries >= MAX_ENTRIES or self._bytes >= MAX_BYTES

    def seal(
        self,
        stream: str,
        fields: Mapping[str, str],
        clear: Collection[str] = (),
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
        result = dict(shown)
        sealed = [name for name in shown if _is_member(name)]
        if clear and (kept := [name for name in sealed if name.removeprefix(_ESCAPE) in clear]):
            sealed = [name for name in sealed if name not in kept]
            result[CLEAR] = _json(kept)
        if hide_names:
            sealed = [HIDDEN]
        texts = [shown[name].encode() for name in sealed]
        plain = b"".join(texts)
        sizes = list(map(len, texts))
        nonce, bound = self._next(draw or new_draw(), len(plain))
        result.update(zip(sealed, map(str, sizes), strict=True))
        associated = _joined((_ENTRY, stream, bound, *chain.from_iterable(result.items())))
        box = self._cipher.encrypt(nonce, plain, associated)
        at = 0
        for name, size in zip(sealed, sizes, strict=True):
            result[name] = _to_base64(box[at : at + size])
            at += size
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


def sealed_names(names: Sequence[str], values: Sequence[str]) -> frozenset[str]:
    """Return the names of the fields of an encrypted entry whose values are sealed.

    Raises:
        SealError: The entry is not of this format.
    """
    clear = _names(values[names.index(CLEAR)]) if CLEAR in names else frozenset()
    return frozenset([name for name in names if name == HIDDEN or (_is_member(name) and name not in clear)])


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
    names, values = words[::2], words[1::2]
    sealed = sealed_names(names, values)
    boxes: list[bytes] = []
    opened: list[str] = []
    bound = [_ENTRY, stream, header.bound]
    places: list[tuple[int, int]] = []
    for name, value in zip(names, values, strict=True):
        if name == ENCRYPTED:
            continue
        if name in sealed:
            box = _from_base64(value)
            boxes.append(box)
            places.append((len(opened) + 1, len(box)))
            bound += (name, str(len(box)))
        elif name not in STAMPED_LATER:
            bound += (name, value)
            if name == CLEAR:
                continue
        opened += (name, value)
    boxes.append(header.tag)
    plain = _decrypted(cipher, header.nonce, b"".join(boxes), _joined(bound))
    at = 0
    try:
        for place, size in places:
            opened[place] = plain[at : at + size].decode()
            at += size
        return _revealed(opened) if HIDDEN in sealed else opened
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
    return None if found is None or header is None else (header, found[found.re.groups])


def derived(secret: bytes, series: bytes) -> AESGCM:
    """Return the cipher of a series: its key is HKDF-SHA256 of the key, with the series as salt."""
    # Takes as long as much of a start, and is needed only where there are keys.
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return AESGCM(HKDF(SHA256(), len(secret), series, _DERIVED).derive(secret))


def _decrypted(cipher: AESGCM, nonce: bytes, box: bytes, associated: bytes) -> bytes:
    from cryptography.exceptions import InvalidTag

    try:
        return cipher.decrypt(nonce, box, associated)
    except InvalidTag as error:
        raise SealError("it was changed, moved, or sealed with another key") from error


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


def _padded(text: str) -> bytes:
    return binascii.a2b_base64(text + "=" * (-len(text) % 4))
