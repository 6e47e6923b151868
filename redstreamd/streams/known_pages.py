"""Which ranges of streams are known to be small, so that a plain XRANGE may read them.

XRANGE takes Redis a quarter of the time of a script that looks at the size of each entry, but it returns
whatever lies in the range. Entries do not change, so a page that was read once is no larger the next time.
After the end of a stream there is only what was added since somebody looked: within a moment, no more than
the server can take in.

What is forgotten, or wrong because a stream was made anew, costs time and is found out with the reply.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, TypeVar

import msgspec

from redstreamd.streams import entry_ids

#: Seconds for which an end that was seen counts. A server takes in some 10 MB meanwhile from one connection.
_END_SECONDS: Final = 0.1
#: Pages, and ends of streams, that are remembered.
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


class KnownPage(msgspec.Struct, frozen=True, gc=False):
    """A page that was read.

    Attributes:
        beyond: The ID of the entry that follows it, in the direction of reading.
        entries: How many entries it has.
    """

    beyond: str
    entries: int


class KnownPages:
    """Remembers pages and ends of streams."""

    def __init__(self) -> None:
        """Begin with none."""
        self._pages: dict[PageKey, KnownPage] = {}
        # Pages that entries were deleted of, as they were read last.
        self._changing: dict[PageKey, KnownPage] = {}
        # The last ID of a stream, and when it was the last one.
        self._ends: dict[str, tuple[str, float]] = {}

    def page(self, key: PageKey) -> KnownPage | None:
        """Return the page that was read when the same was asked for."""
        return self._pages.get(key)

    def begins_at_end(self, key: PageKey, now: float) -> bool:
        """Return whether what is asked for is all that was added since a moment ago."""
        if key.last != "+" or key.command != "XRANGE" or (end := self._ends.get(key.stream)) is None:
            return False
        last_id, seen = end
        return now - seen <= _END_SECONDS and key.first == f"({last_id}"

    def note_page(self, key: PageKey, page: KnownPage) -> None:
        """Remember a page. One that was another the last time has to be the same twice."""
        # From the end of the stream another page is read each time.
        if key.first == "+":
            return
        if self._changing.get(key, page) == page:
            _put(self._pages, key, page)
        else:
            self._changing[key] = page

    def note_change(self, key: PageKey, page: KnownPage) -> None:
        """Forget a page because entries of it are gone, as with each addition to a trimmed stream."""
        self._pages.pop(key, None)
        _put(self._changing, key, page)

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
