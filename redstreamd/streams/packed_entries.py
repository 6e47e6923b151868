"""Entries as Redis gets them, with the fields of `entry_codec`: one as an XADD, many for a script.

One is packed in the protocol's own form if its values are texts in ASCII and integers. The same names, sizes,
streams and senders recur: their parts of the command are remembered, and an entry is put together in one
pass. hiredis, which looks at each word anew, takes more than twice as long.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import chain
from typing import Any, Final, Generic, TypeVar

import msgspec

from redstreamd.redisio.script import PackedCommand
from redstreamd.streams.entry_codec import (
    ESCAPE,
    FORMAT,
    JSON_NAMES,
    MAX_MEMBERS,
    PREFIX_TEXT,
    SENDER,
    VERSION,
    Stamp,
    encode_fields,
    hold_texts_only,
    stamped,
)
from redstreamd.strict_json import MAX_INTEGER

KeyT = TypeVar("KeyT", bound=Hashable)

#: What is remembered of each kind, and how long a word may be that is: of names of 512 bytes some 3 MiB.
_MAX_REMEMBERED: Final = 4_096
_MAX_CHARACTERS: Final = 512


def packed_add(stream: str, members: Mapping[str, Any], sender: str) -> PackedCommand | None:
    """Return the XADD of an entry whose stamp is its sender; None if the entry is not usual."""
    words = ["", _OPENING[stream]]
    as_json = []
    add = words.append
    for name, value in members.items():
        if type(value) is not str:
            if type(value) is not int or not -MAX_INTEGER <= value <= MAX_INTEGER:
                return None
            as_json.append(name)
            value = str(value)
        add(_NAME[name])
        add(_SIZE[len(value)])
        add(value)
    add(_VERSIONED)
    pairs = len(members)
    if as_json:
        pairs += 1
        add(_LISTED[tuple(as_json)])
    add(_CLOSING[sender])
    # XADD, the stream and the asterisk, the version and the sender with their values.
    words[0] = f"*{7 + 2 * pairs}"
    command = "".join(words)
    # What has other characters has more bytes than characters, or may be no I-JSON.
    if len(members) > MAX_MEMBERS or not command.isascii():
        return None
    return PackedCommand("XADD", command.encode())


def pack_all(entries: Sequence[Mapping[str, Any]], stamp: Stamp) -> tuple[bytes, int]:
    """Return entries for ``packed_entries.lua``, and how many fields follow on each of the maps.

    Raises:
        BusError: As `entry_codec.encode`.
    """
    if not hold_texts_only(entries):
        return _pack([encode_fields(entry, stamp) for entry in entries]), 0
    # Stored as they are.
    own = {VERSION: FORMAT, **stamped(stamp)}
    end = b"".join(map(_pack, chain.from_iterable(own.items())))
    head = b"\xdc" + len(entries).to_bytes(2, "big")
    return b"".join((head, end.join(map(_pack, entries)), end)), len(own)


_pack: Final = msgspec.msgpack.Encoder().encode


class _Remembered(dict[KeyT, str], Generic[KeyT]):
    """Texts that follow from others; the oldest is forgotten first, and long ones are not remembered."""

    def __init__(self, make: Callable[[KeyT], str]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key: KeyT) -> str:
        text = self._make(key)
        if len(text) <= _MAX_CHARACTERS:
            if len(self) >= _MAX_REMEMBERED:
                del self[next(iter(self))]
            self[key] = text
        return text


def _word(text: str) -> str:
    """Return a text in ASCII as a bulk string, with the end of the line before it instead of its own."""
    return f"\r\n${len(text)}\r\n{text}"


_OPENING: Final = _Remembered[str](lambda stream: _word("XADD") + _word(stream) + _word("*"))
_NAME: Final = _Remembered[str](lambda name: _word(ESCAPE + name if name.startswith(PREFIX_TEXT) else name))
_SIZE: Final = _Remembered[int]("\r\n${}\r\n".format)
_CLOSING: Final = _Remembered[str](lambda sender: _word(SENDER) + _word(sender) + "\r\n")
_VERSIONED: Final = _word(VERSION) + _word(FORMAT)
_LISTED: Final = _Remembered[tuple[str, ...]](
    lambda names: _word(JSON_NAMES) + _word(msgspec.json.encode(names).decode())
)
