"""A sorted listing of many names, made and read in small parts.

Sorting 100,000 names at once takes 40 ms, in which nobody else is served. So they are distributed over blocks
by names that separate these, and each block is sorted in a turn of its own.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Awaitable, Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Final

import msgspec

#: Names of a block, about; to sort them takes 0.2 ms.
_BLOCK: Final = 250


class Listing(msgspec.Struct, frozen=True):
    """Names in their order.

    Attributes:
        blocks: Sorted, none of them empty; every name of one is less than those of the next.
        total: How many names there are.
        version: A digest of all names; equal for equal listings.
        taken_at: When it was taken, in trio's time.
        denied: Those that Redis was found not to let its user access; the parts of a listing share them.
    """

    blocks: list[list[str]]
    total: int
    version: str
    taken_at: float
    denied: set[str] = msgspec.field(default_factory=set)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names in their order."""
        return (name for block in self.blocks for name in block)

    def names(self) -> list[str]:
        """Return all names in their order."""
        # A name at a time 100,000 take 5 ms.
        return list(chain.from_iterable(self.blocks))

    def after(self, name: str | None, count: int) -> list[str]:
        """Return the first `count` names that are greater than `name`; None for the first of all."""
        if name is None:
            return list(islice(self, count))
        at = bisect_right([block[-1] for block in self.blocks], name)
        found: list[str] = []
        for block in self.blocks[at:]:
            begin = bisect_right(block, name)
            found += block[begin : begin + count - len(found)]
            if len(found) == count:
                break
        return found

    def beginning_with(self, prefix: str, count: int) -> tuple[list[str], int]:
        """Return the first `count` names that begin with `prefix`, and how many there are in all."""
        # No name has a character beyond this one.
        end = prefix + chr(0x10FFFF)
        found: list[str] = []
        total = 0
        for block in self.blocks:
            if block[-1] < prefix:
                continue
            first, last = bisect_left(block, prefix), bisect_left(block, end)
            found += block[first : min(last, first + count - len(found))]
            total += last - first
            if last < len(block):
                break
        return found, total


def json_bytes(names: Iterable[str]) -> int:
    """Return the size of the JSON texts of some names together."""
    return sum(map(len, map(msgspec.json.encode, names)))


async def sorted_listing(
    pages: list[list[str]], taken_at: float, turn: Callable[[], Awaitable[object]]
) -> Listing:
    """Sort names, of which some may occur more than once.

    Args:
        pages: The names, in parts of at most about a thousand; emptied, because to free what refers to
            so many names takes several milliseconds, too.
        taken_at: For the listing.
        turn: Awaited between two parts of the work.
    """
    ordered = []
    while pages:
        ordered.append(sorted(pages.pop()))
        await turn()
    separators = await _separators(ordered, turn)
    blocks: list[list[str]] = [[] for _ in range(len(separators) + 1)]
    while ordered:
        page = ordered.pop()
        begin = 0
        for block, separator in zip(blocks, [*separators, None], strict=True):
            if begin == len(page):
                break
            end = len(page) if separator is None else bisect_left(page, separator, begin)
            block += page[begin:end]
            begin = end
        await turn()
    blocks.reverse()
    return await _listing((sorted(set(blocks.pop())) for _ in range(len(blocks))), taken_at, turn)


async def filtered_listing(
    listing: Listing, passes: Callable[[str], bool], turn: Callable[[], Awaitable[object]]
) -> Listing:
    """Return the part of a listing that passes, as if there were no other names.

    Args:
        listing: The whole.
        passes: Says whether a name is in the part; within a microsecond or two.
        turn: Awaited between two parts of the work.
    """
    blocks = ([name for name in block if passes(name)] for block in listing.blocks)
    part = await _listing(blocks, listing.taken_at, turn)
    return msgspec.structs.replace(part, denied=listing.denied)


async def _listing(
    blocks: Iterable[list[str]], taken_at: float, turn: Callable[[], Awaitable[object]]
) -> Listing:
    """Return the listing of blocks as `Listing` has them, but that they may be empty."""
    digest = hashlib.blake2b(digest_size=12)
    sorted_blocks, total = [], 0
    for distinct in blocks:
        if distinct:
            digest.update("\0".join((*distinct, "")).encode("utf-8", "backslashreplace"))
            sorted_blocks.append(distinct)
            total += len(distinct)
        await turn()
    return Listing(sorted_blocks, total, digest.hexdigest(), taken_at)


async def _separators(ordered: list[list[str]], turn: Callable[[], Awaitable[object]]) -> list[str]:
    """Return names that separate blocks of about `_BLOCK`."""
    total = sum(map(len, ordered))
    wanted = total // _BLOCK
    if not wanted:
        return []
    # Several of each, so that the blocks become about equal.
    step = max(1, total // (8 * wanted))
    # Beginning elsewhere in each page, so that no part of the order is preferred.
    samples = [name for number, page in enumerate(ordered) for name in page[number * 37 % step :: step]]
    await turn()
    samples.sort()
    return sorted(set(samples[8::8]))
