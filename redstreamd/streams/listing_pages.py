"""Pages of a listing, which tell nothing of streams that the daemon's user of Redis may not access.

Neither cursors nor whether there is more depend on them. Only a call that has asked for as many streams as it
may says that there is more, at a cursor that names the last listed stream. Where behind that it stands is
remembered by the process that gave it. Once this is forgotten, the cursor stands behind the listed stream
again: a page repeats questions, which the listing has mostly answered, but lists nothing twice and skips
nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeVar

import trio

from redstreamd.policy import StreamFilter
from redstreamd.streams.name_listing import Listing

T = TypeVar("T")

#: Streams that one call asks for, listed or not. Each that may not be accessed is a command of its own.
MAX_ASKED: Final = 2_000
#: Streams that are asked for in one script: 0.4 ms of the server. One more than 25, because a page asks for
#: the first stream behind it, too.
ASKED_AT_ONCE: Final = 26
#: Names that are looked at in one step where all are known to be denied: 0.05 ms.
_LOOKED_AT_ONCE: Final = 250
#: Places remembered. For each, a call asked Redis for `MAX_ASKED` streams that were not known to be denied:
#: who wants to drive out the places of others has to make it do so two million times.
_MAX_PLACES: Final = 1_024
#: Between the last listed name and the random number of a cursor beyond it. No listed name has it: such are
#: those of companion keys.
_BEYOND: Final = ":rs:call:"

#: A pattern and the filter of the caller.
Listed = tuple[str, StreamFilter | None]


class Places:
    """Where cursors stand that do not tell it."""

    def __init__(self) -> None:
        """Remember none yet."""
        # By random numbers: nobody can make a cursor to find out what stands behind it. The oldest first.
        self._places: dict[tuple[Listed, str], str] = {}

    def find(self, of: Listed, cursor: str | None) -> tuple[str | None, str | None]:
        """Return the last name that was listed before a cursor, and the name behind which it stands."""
        listed, beyond, number = (cursor or "").partition(_BEYOND)
        last = listed or None
        return last, self._places.get((of, number), last) if beyond else last

    def cursor(self, of: Listed, last: str | None, at: str) -> str:
        """Return a cursor that stands behind the name `at` and names only the last listed one."""
        if len(self._places) >= _MAX_PLACES:
            del self._places[next(iter(self._places))]
        number = secrets.token_hex(8)
        self._places[of, number] = at
        return f"{last or ''}{_BEYOND}{number}"


async def page_of(
    listing: Listing,
    ask: Callable[[Sequence[str]], Awaitable[Mapping[str, T | None]]],
    places: Places,
    of: Listed,
    *,
    cursor: str | None,
    count: int,
) -> tuple[list[T], str, bool]:
    """Return a page of a listing, the cursor of the next one, and whether there is more.

    Args:
        listing: The names; remembers which are denied.
        ask: Returns what is listed of streams: None for one that does not exist, nothing for one that may not
            be accessed.
        places: Where cursors stand.
        of: Of what the listing is.
        cursor: The cursor of the page before, or a name: the page begins behind it.
        count: The most streams of the page.
    """
    last, at = places.find(of, cursor)
    end = cursor or ""
    lines: list[T] = []
    # One more tells whether there is more; a name alone does not, for it may be denied.
    left, some = MAX_ASKED, count + 1
    while names := listing.after(at, some):
        unknown = [name for name in names if name not in listing.denied]
        if len(unknown) > left:
            names = names[: names.index(unknown[left])]
            del unknown[left:]
            if not names:
                # Behind all that was asked for.
                return lines, end if at == end else places.cursor(of, last, at or ""), True
        answers = await ask(unknown)
        left -= len(unknown)
        listing.denied.update(name for name in unknown if name not in answers)
        for name in unknown:
            line = answers.get(name)
            if line is None:
                continue
            if len(lines) == count:
                return lines, last or "", True
            lines.append(line)
            last = end = name
        at = names[-1]
        # Those that are known to be denied cost Redis nothing, and others have their turn between them.
        some = max(count + 1 - len(lines), ASKED_AT_ONCE) if unknown else _LOOKED_AT_ONCE
        await trio.lowlevel.checkpoint()
    return lines, end, False
