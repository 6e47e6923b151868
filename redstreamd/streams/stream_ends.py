"""Where streams were seen to end, so that a plain XRANGE may read what follows.

XRANGE takes Redis a quarter of the time of a script that looks at the size of each entry, but it returns
whatever lies in the range. After the end of a stream there is only what was added since somebody looked:
within a moment, no more than the server can take in.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, TypeVar

import msgspec

from redstreamd.streams import entry_ids

#: Seconds for which an end that was seen counts. A server takes in some 10 MB meanwhile from one connection.
_END_SECONDS: Final = 0.1
#: Ends that are remembered.
_MOST: Final = 1_024

KeyT = TypeVar("KeyT", bound=Hashable)
ValueT = TypeVar("ValueT")


class PageKey(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What was asked for; see `Pages.read`."""

    stream: str
    command: str
    first: str
    last: str
    max_entries: int
    max_bytes: int


class StreamEnds:
    """Remembers ends of streams."""

    def __init__(self) -> None:
        """Begin with none."""
        # The last ID of a stream, and when it was the last one.
        self._ends: dict[str, tuple[str, float]] = {}

    def begins_at_end(self, key: PageKey, now: float) -> bool:
        """Return whether what is asked for is all that was added since a moment ago."""
        if key.last != "+" or key.command != "XRANGE" or (end := self._ends.get(key.stream)) is None:
            return False
        last_id, seen = end
        return now - seen <= _END_SECONDS and key.first == f"({last_id}"

    def note_end(self, key: PageKey, last_id: str | None, asked: float) -> None:
        """Remember that nothing followed what was asked for at a time.

        Args:
            key: What was asked for.
            last_id: The last ID that was read; None for none.
            asked: When the command was made, on any clock that `begins_at_end` is given, too.
        """
        if key.last == "+" and key.command == "XRANGE":
            if last_id is None and key.first.startswith("("):
                last_id = key.first[1:]
            # Redis refuses a range behind the greatest ID.
            if last_id is not None and last_id != entry_ids.LAST:
                _put(self._ends, key.stream, (last_id, asked))


def _put(known: dict[KeyT, ValueT], key: KeyT, value: ValueT) -> None:
    """Put a value last, and drop the first where there are too many."""
    known.pop(key, None)
    if len(known) >= _MOST:
        del known[next(iter(known))]
    known[key] = value
