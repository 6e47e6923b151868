"""Which parts of streams were measured: where a plain XRANGE reads no more than a page may hold.

An entry never changes, and none is added below the last ID of a stream. So what was read once, by anybody,
has at most the size that it had: entries may only be deleted. Agents that share a stream read the same parts
of it, and only the first of them needs the script that looks at each entry.

Another program may remove a stream and write one with the same IDs. Then one reply is larger than was
expected, and what was measured is forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from redstreamd.redisio.reply_parsing import RawEntry
from redstreamd.streams.stream_ends import PageKey

#: Streams that are remembered.
_MOST: Final = 256
#: Entries of the end of a range whose IDs are remembered: those of the largest page.
_TAIL: Final = 100

_Position = tuple[int, int]


class _Range(msgspec.Struct, gc=False):
    """A part of a stream of which each entry was seen.

    Attributes:
        first: The position at which it begins.
        last: The ID of its last entry.
        largest: Bytes of content of the largest entry at the most.
        tail: The IDs of its last entries, in their order.
        beyond: The ID of the entry that follows, which was not measured; None if nothing is known of one, or
            it turned out to be large.
        large: The ID of one that turned out to be.
    """

    first: _Position
    last: str
    largest: int
    tail: list[str]
    beyond: str | None
    large: str | None = None


class MeasuredRanges:
    """Remembers one range of each stream: the last one that was read, with all that it touches."""

    def __init__(self) -> None:
        """Begin with none."""
        self._ranges: dict[str, _Range] = {}

    def end_for(self, key: PageKey) -> str | None:
        """Return the ID up to which a plain XRANGE gets a whole page that surely fits, and one entry more.

        That one may not have been measured, as the last entry of any page.

        None if what is asked for was not measured.
        """
        known = self._ranges.get(key.stream)
        if known is None or not _goes_forward(key) or key.last != "+":
            return None
        ids = known.tail if known.beyond is None else [*known.tail, known.beyond]
        count = key.max_entries + 1
        if count > len(ids) or known.largest * key.max_entries > key.max_bytes:
            return None
        return ids[-1] if known.first <= _position(key.first) <= _position(ids[-count]) else None

    def note(self, key: PageKey, entries: Sequence[RawEntry], largest: int, beyond: str | None) -> None:
        """Remember what was read from the beginning of a page on.

        Args:
            key: What was asked for.
            entries: What was found.
            largest: Bytes of content of the largest of them, at the most.
            beyond: The ID of the entry that follows, if one was found.
        """
        if not entries or not _goes_forward(key):
            return
        first, ids = _position(key.first), [entry.id for entry in entries]
        known = self._ranges.pop(key.stream, None)
        large = None if known is None else known.large
        if known is not None and first <= known.first and _position(ids[-1]) >= _position(known.last):
            # All of it was measured anew: what was there before may be gone.
            known = None
        if known is not None:
            last = _position(known.last)
            if known.first <= first <= (last[0], last[1] + 1):
                if first <= last:
                    ids = [each for each in ids if _position(each) > last]
                if not ids and entries[-1].id != known.last:
                    # What follows the page is a part of the range.
                    beyond = known.beyond
                first, ids = known.first, known.tail + ids
                largest = max(largest, known.largest)
        elif len(self._ranges) >= _MOST:
            del self._ranges[next(iter(self._ranges))]
        if beyond == large:
            beyond = None
        self._ranges[key.stream] = _Range(first, ids[-1], largest, ids[-_TAIL:], beyond, large)

    def leave_out(self, stream: str, entry_id: str) -> None:
        """Take note that the entry behind a range is large: no page is read with it."""
        known = self._ranges.get(stream)
        if known is not None and known.beyond == entry_id:
            known.beyond, known.large = None, entry_id

    def forget(self, stream: str) -> None:
        """Forget what was measured of a stream, because something else was found there."""
        self._ranges.pop(stream, None)


def _goes_forward(key: PageKey) -> bool:
    """Return whether a page is read from the beginning of a stream towards its end."""
    return key.command == "XRANGE" and key.first != "+"


def _position(text: str) -> _Position:
    """Return the least ID at a position as XRANGE takes it."""
    milliseconds, _, sequence = text.lstrip("-(").partition("-")
    return int(milliseconds or 0), int(sequence or 0) + text.startswith("(")
