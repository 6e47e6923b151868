"""Completion of arguments: existing names that begin with a prefix. Every search is bounded."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping

import msgspec

from redstreamd.errors import BusError, Code
from redstreamd.presentation.views import Views
from redstreamd.streams import entry_ids
from redstreamd.streams.bus import Bus
from redstreamd.streams.consumer_lists import ConsumerLists
from redstreamd.streams.group_lists import GroupLists
from redstreamd.streams.listing_pages import MAX_ASKED

#: The specification's limit for one result (server/utilities/completion).
MAX_SUGGESTIONS = 100
#: Entries whose IDs are suggested, the latest; few, because entries are read whole.
_LATEST = 20

_BEGUN_ID = re.compile(r"([0-9]{1,20})(?:(-)([0-9]{0,20}))?")
_ABSENT = frozenset(
    {
        Code.STREAM_NOT_FOUND,
        Code.GROUP_NOT_FOUND,
        Code.INVALID_STREAM,
        Code.INVALID_GROUP,
        Code.INVALID_START,
        Code.INVALID_ARGUMENT,
        Code.WRONG_TYPE,
        Code.TOO_LARGE,
    }
)


class Suggestions(msgspec.Struct, frozen=True):
    """Names that begin with a prefix.

    Attributes:
        names: At most `MAX_SUGGESTIONS`, sorted; entry IDs newest first.
        total: Their number; None if not all were searched.
    """

    names: list[str]
    total: int | None


class _Found(msgspec.Struct, frozen=True):
    """Names that begin with a prefix, and how many there are in all; None: not all were searched."""

    names: list[str]
    total: int | None


_NOTHING = _Found([], 0)


class Suggester:
    """Finds suggestions for arguments, by their names: stream, group, consumer, entry_id and field."""

    def __init__(self, views: Views) -> None:
        """Search the streams of `views`."""
        self._views = views
        self._searches: dict[str, Callable[[str, Mapping[str, str]], Awaitable[_Found]]] = {
            "stream": self._streams,
            "group": self._groups,
            "consumer": self._consumers,
            "entry_id": self._entry_ids,
            "field": self._fields,
        }

    async def suggest(self, argument: str, prefix: str, others: Mapping[str, str]) -> Suggestions:
        """Return names that begin with `prefix`; none for an argument that takes no names.

        Args:
            argument: The argument's name.
            prefix: The beginning of its value.
            others: Arguments with a value: a group is searched for in their stream.

        Raises:
            BusError: CONNECTION_ERROR and the like; not if the stream does not exist.
        """
        search = self._searches.get(argument)
        if search is None or not self._may_begin_name(prefix) or not self._may_search(argument, others):
            return Suggestions([], 0)
        try:
            found = await search(prefix, others)
        except BusError as error:
            if error.code not in _ABSENT:
                raise
            found = _NOTHING
        return Suggestions(found.names[:MAX_SUGGESTIONS], found.total)

    def _may_search(self, argument: str, others: Mapping[str, str]) -> bool:
        """Return whether the stream may be read in which an argument is searched for."""
        return argument == "stream" or "stream" not in others or self._views.may_read(others["stream"])

    @property
    def _bus(self) -> Bus:
        return self._views.bus

    def _may_begin_name(self, prefix: str) -> bool:
        """Return whether `prefix` is short enough and valid text."""
        try:
            return len(prefix.encode()) <= self._bus.settings.streams.max_name_bytes
        except UnicodeEncodeError:
            return False

    async def _streams(self, prefix: str, _others: Mapping[str, str]) -> _Found:
        listing = await self._bus.lister.names("*", readable=self._views.readable)
        # More than are suggested: those that may be named can stand behind others, which do not count.
        names, total = listing.beginning_with(prefix, MAX_SUGGESTIONS + MAX_ASKED)
        found, is_all = await self._bus.lister.permitted(listing, names, len(names))
        return _Found(found, len(found) if is_all and total == len(names) else None)

    async def _groups(self, prefix: str, others: Mapping[str, str]) -> _Found:
        if "stream" not in others:
            return _NOTHING
        self._views.check(others["stream"])
        listed = await self._bus.redis.shared(GroupLists).of(others["stream"])
        return _beginning_with(prefix, listed.groups)

    async def _consumers(self, prefix: str, others: Mapping[str, str]) -> _Found:
        if "stream" not in others or "group" not in others:
            return _NOTHING
        self._views.check(others["stream"], others["group"])
        listed = await self._bus.redis.shared(ConsumerLists).of((others["stream"], others["group"]))
        return _beginning_with(prefix, listed.consumers)

    async def _entry_ids(self, prefix: str, others: Mapping[str, str]) -> _Found:
        if "stream" not in others:
            return _NOTHING
        stream = others["stream"]
        self._views.check(stream)
        found: list[str] = []
        ranges = await self._ranges(stream, prefix)
        for read, (newest, oldest) in enumerate(ranges, start=1):
            page = await self._bus.reader.read(
                stream, start=newest, end=oldest, direction="backward", count=_LATEST - len(found)
            )
            found += [entry.id for entry in page.entries if entry.id.startswith(prefix)]
            # A page may also end early because entries are large.
            if page.has_more or len(found) == _LATEST:
                is_all = not page.has_more and read == len(ranges)
                return _Found(found, len(found) if is_all else None)
        return _Found(found, len(found))

    async def _ranges(self, stream: str, prefix: str) -> list[tuple[str | None, str | None]]:
        """Return the ranges, newest first, of the entry IDs that begin with `prefix`.

        There is one for each number of digits, up to that of the newest ID: IDs are ordered as numbers, so
        those with the same prefix are not adjacent.
        """
        if not prefix:
            return [(None, None)]
        begun = _BEGUN_ID.fullmatch(prefix)
        if begun is None:
            return []
        milliseconds, dash, sequence = begun.groups()
        if dash is None:
            summary = await self._bus.lister.position(stream)
            digits = 0 if summary is None else summary.last_id.index("-")
            return [
                (f"{most}-{entry_ids.MAX_PART}", f"{least}-0")
                for most, least in _numbers(milliseconds, digits)
            ]
        first, last = f"{milliseconds}-0", f"{milliseconds}-{entry_ids.MAX_PART}"
        if not sequence:
            return [(last, first)]
        page = await self._bus.reader.read(stream, start=last, end=first, direction="backward", count=1)
        digits = max((len(entry.id.partition("-")[2]) for entry in page.entries), default=0)
        return [
            (f"{milliseconds}-{most}", f"{milliseconds}-{least}")
            for most, least in _numbers(sequence, digits)
        ]

    async def _fields(self, prefix: str, others: Mapping[str, str]) -> _Found:
        if "stream" not in others or "entry_id" not in others:
            return _NOTHING
        entry = await self._views.entry(others["stream"], others["entry_id"])
        return _beginning_with(prefix, entry["fields"])


def _beginning_with(prefix: str, names: Iterable[str]) -> _Found:
    """Find the first names in their order; a name may be one of many."""
    found = [name for name in names if name.startswith(prefix)]
    # Most come in their order, which takes less to sort than to look for the first of them.
    return _Found(sorted(found)[:MAX_SUGGESTIONS], len(found))


def _numbers(prefix: str, digits: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of numbers of at most `digits` digits that begin with `prefix`: greatest and least."""
    # No digits follow a leading zero.
    further = min(0, digits - len(prefix)) if prefix.startswith("0") else digits - len(prefix)
    for added in range(further, -1, -1):
        least = int(prefix) * 10**added
        if least <= entry_ids.MAX_PART:
            yield min(least + 10**added - 1, entry_ids.MAX_PART), least
