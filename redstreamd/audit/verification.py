"""Verifies a chain of audit records, as an export of the journal holds it.

What a chain shows, and what not, is told in docs/security.md.
"""

from __future__ import annotations

import datetime as dt
import hmac
import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Final

import msgspec

from redstreamd.audit.chain import CHAIN, HASH, NO_HASH, NUMBER, PREVIOUS, End, chain_name, hash_of
from redstreamd.audit.journal_export import Fields

_PREFIX: Final = "REDSTREAMD_"
_NUMBER: Final = re.compile(r"[1-9]\d{0,19}")
_HASH: Final = re.compile(r"[0-9a-f]{64}")
#: Problems of one kind that a report names; the others are counted.
_MAX_NAMED: Final = 20
#: Events that are audited, and have no number where their chain was cut off them or was not turned on.
AUDITED: Final = frozenset({"call_audited", "call_refused", "request_refused", "audit_chained"})


class Range(msgspec.Struct, frozen=True):
    """Records that follow on each other without a gap or a change.

    Attributes:
        first: The number of the first.
        last: The number of the last.
    """

    first: int
    last: int


class Verified(msgspec.Struct, frozen=True):
    """What an export shows.

    Attributes:
        chain: The name of the chain.
        ranges: What is intact.
        problems: What is wrong, in whole sentences; empty if the chain is intact.
        notes: What should be known besides.
    """

    chain: str
    ranges: tuple[Range, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def is_intact(self) -> bool:
        """Whether there are records, and nothing is wrong with them."""
        return bool(self.ranges) and not self.problems


class _Link(msgspec.Struct, frozen=True, order=True):
    """A record whose hash is right."""

    number: int
    hash: str
    previous: str
    at: str


def verify(key: bytes, exported: Iterable[Fields], end: End | None = None) -> Verified:
    """Verify the chain that has a key.

    Args:
        key: The key.
        exported: The records of the export, of any unit and in any order.
        end: The last record of the chain, if it is to be compared with the last of the export.

    Raises:
        UnreadableExportError: While it is read.
    """
    chain = chain_name(key)
    problems: list[str] = []
    links: list[_Link] = []
    others: dict[str, int] = {}
    changed: list[str] = []
    unchained = 0
    for fields in exported:
        values = dict(fields)
        if _PREFIX + NUMBER not in values and _PREFIX + HASH not in values:
            unchained += values.get(_PREFIX + "EVENT") in AUDITED
            continue
        named = values.get(_PREFIX + CHAIN)
        if named != chain:
            others[str(named)] = others.get(str(named), 0) + 1
        elif (link := _link(key, fields, values)) is None:
            number = str(values.get(_PREFIX + NUMBER, "without a number"))[:24]
            changed.append(f"Record {number} of {_at(values)} was changed or made up: its hash is not right.")
        else:
            links.append(link)
    problems += _named(changed)
    ranges, found = _follow(sorted(links))
    problems += _named(found)
    if end is not None:
        problems += _compared(ranges, links, end)
    if not links:
        problems.append("No record of this chain was found.")
    return Verified(chain, tuple(ranges), tuple(problems), tuple(_notes(ranges, others, unchained)))


def _link(key: bytes, fields: Fields, values: dict[str, str | bytes]) -> _Link | None:
    """Return a record as a link of the chain; None if its hash is not right."""
    number, previous, digest = (str(values.get(_PREFIX + name, "")) for name in (NUMBER, PREVIOUS, HASH))
    if not (_NUMBER.fullmatch(number) and _HASH.fullmatch(previous) and _HASH.fullmatch(digest)):
        return None
    if not hmac.compare_digest(hash_of(key, fields), digest):
        return None
    return _Link(int(number), digest, previous, _at(values))


def _follow(links: list[_Link]) -> tuple[list[Range], list[str]]:
    """Return the ranges of links that follow on each other, and what is wrong between them."""
    ranges: list[Range] = []
    problems: list[str] = []
    before: _Link | None = None
    for number, group in groupby(links, key=lambda link: link.number):
        same = list(group)
        follows = [] if before is None else [each for each in same if each.previous == before.hash]
        link = (follows or same)[0]
        if before is not None and number == before.number + 1 and follows:
            ranges[-1] = Range(ranges[-1].first, number)
        else:
            ranges.append(Range(number, number))
            problems += _break(before, link)
        problems += _repeated(same)
        before = link
    return ranges, problems


def _break(before: _Link | None, link: _Link) -> Iterator[str]:
    """Yield why a record does not follow on the one before; None if it is the first of the export."""
    if before is None:
        if link.number == 1 and link.previous != NO_HASH:
            yield "Record 1 does not begin the chain."
    elif (missing := link.number - before.number - 1) > 0:
        which = f"Record {before.number + 1} is" if missing == 1 else f"{missing} records are"
        yield f"{which} missing between {before.number} ({before.at}) and {link.number} ({link.at})."
    else:
        yield (
            f"Record {link.number} of {link.at} does not follow on record {before.number}: the chain was "
            "continued from an older end, as after a loss of power or with a restored state directory."
        )


def _repeated(same: list[_Link]) -> Iterator[str]:
    if len({link.hash for link in same}) > 1:
        yield f"There are {len({link.hash for link in same})} different records {same[0].number}."
    elif len(same) > 1:
        times = " and ".join(link.at for link in same[:3])
        yield f"Record {same[0].number} is there {len(same)} times, of {times}: a copy was written."


def _compared(ranges: list[Range], links: list[_Link], end: End) -> Iterator[str]:
    """Yield what is wrong with the end of an export."""
    last = ranges[-1].last if ranges else 0
    if end.number > last:
        yield f"The chain goes on to record {end.number}, and this export ends with {last}."
    elif end.number < last:
        yield f"The state directory knows records up to {end.number} only, and this export has {last}."
    elif end.number and end.hash not in {link.hash for link in links if link.number == last}:
        yield f"Record {last} is not the one that the state directory knows."


def _notes(ranges: list[Range], others: dict[str, int], unchained: int) -> Iterator[str]:
    if ranges and ranges[0].first > 1:
        yield f"The export begins with record {ranges[0].first}; what was before is not verified."
    for name, count in sorted(others.items()):
        yield f"{count} records of chain {name[:24]}, which has another key, are not verified."
    if unchained:
        yield f"{unchained} audit records are in no chain: nothing protects them."


def _named(problems: list[str]) -> list[str]:
    rest = len(problems) - _MAX_NAMED
    return [*problems[:_MAX_NAMED], *([f"{rest} more of that kind."] if rest > 0 else [])]


def _at(values: dict[str, str | bytes]) -> str:
    """Return when the journal got a record, as far as it says so."""
    stamp = str(values.get("__REALTIME_TIMESTAMP", ""))
    if not stamp.isdecimal() or len(stamp) > 16:
        return "an unknown time"
    return f"{dt.datetime.fromtimestamp(int(stamp) // 1_000_000, dt.UTC):%Y-%m-%dT%H:%M:%SZ}"
