"""Results of many items, encoded in parts: in one step a megabyte takes 10 ms and more.

They are what `results.success` makes of the whole, byte for byte; others have their turn between the parts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from redstreamd.admission.turns import next_turn
from redstreamd.tools.results import Result, joined
from redstreamd.visible_text import visible

#: Bytes of JSON of one part: some hundred items, which take half a millisecond.
PART_BYTES: Final = 16_384

_encode: Final = msgspec.json.Encoder().encode


async def list_in_parts(items: Iterable[object]) -> Result:
    """Return what `success` returns for a list of these; each is made when it is its turn, of JSON values."""
    return await _in_parts(b"[", items, b"]", whole=False)


async def member_in_parts(name: str, items: Iterable[object]) -> Result:
    """Return what `success` returns for an object whose only member is a list of these; likewise."""
    return await _in_parts(b"{%b:[" % _encode(name), items, b"]}", whole=True)


async def _in_parts(opening: bytes, items: Iterable[object], closing: bytes, *, whole: bool) -> Result:
    made = _Made()
    part, size, separator = [opening], len(opening), b""
    for item in items:
        encoded = _encode(item)
        part += (separator, encoded)
        separator = b","
        size += len(encoded) + 1
        if size >= PART_BYTES:
            await made.add(b"".join(part))
            part, size = [], 0
    part.append(closing)
    await made.add(b"".join(part))
    own_text = "".join(made.texts) if made.is_escaped else None
    result = joined(made.bodies, made.inner, own_text, whole=whole)
    # To write it copies as much again.
    await next_turn()
    return result


class _Made:
    """What is made of a result.

    Attributes:
        bodies: See `joined`.
        inner: See `joined`.
        texts: The text block.
        is_escaped: Whether a hidden character of it is shown, so that it differs from the JSON.
    """

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.inner: list[bytes] = []
        self.texts: list[str] = []
        self.is_escaped = False

    async def add(self, body: bytes) -> None:
        """Add a part, which may be one large item."""
        self.bodies.append(body)
        text = body.decode()
        for start in range(0, len(text), PART_BYTES):
            some = text[start : start + PART_BYTES]
            shown = visible(some)
            self.is_escaped |= shown != some
            self.texts.append(shown)
            self.inner.append(_encode(shown)[1:-1])
            await next_turn()
