"""Many entries as ``packed_entries.lua`` gets them, with the fields of `entry_encoding`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Final

import msgspec

from redstreamd.streams.entry_encoding import (
    FORMAT,
    VERSION,
    Stamp,
    encode_fields,
    hold_texts_only,
    stamped,
)

_pack: Final = msgspec.msgpack.Encoder().encode


def pack_all(entries: Sequence[Mapping[str, Any]], stamp: Stamp) -> tuple[bytes, int]:
    """Return entries for the script, and how many fields follow on each of the maps.

    Raises:
        BusError: As `entry_encoding.encode`.
    """
    if not hold_texts_only(entries):
        return _pack([encode_fields(entry, stamp) for entry in entries]), 0
    # Stored as they are.
    own = {VERSION: FORMAT, **stamped(stamp)}
    end = b"".join(map(_pack, chain.from_iterable(own.items())))
    head = b"\xdc" + len(entries).to_bytes(2, "big")
    return b"".join((head, end.join(map(_pack, entries)), end)), len(own)
