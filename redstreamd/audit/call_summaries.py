"""Sums up calls that come too fast to be recorded one by one, so that each is in the total of some record.

Calls of one connection, tool, streams, group and outcome are one summary: how many there were, how long they
took, how large their answers were. A client that uses many streams gets one for several of them, whose names
it has. A summary is due a second after its first call; one that waits longer goes on counting.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Hashable, Iterable
from typing import Final

import msgspec
import trio

from redstreamd.audit.audit_events import CallServed, CallsServed
from redstreamd.audit.call_audit import connection_of, error_code_of
from redstreamd.tools.invocation import CallEnded

#: Seconds from the first call of a summary until it is due.
DUE_SECONDS: Final = 1.0
#: Summaries that are open, some 6 MiB without the names; beyond them connections are no longer told apart.
MAX_OPEN: Final = 8_192
#: Of those of one connection, each for its streams alone; what is more is summed up by tool and outcome.
MAX_APART: Final = 64
#: Streams and groups that a summary names.
MAX_NAMED: Final = 100
#: Streams of a call that may be summed up for its streams alone.
MAX_STREAMS_APART: Final = 4
#: Names in all summaries, at most 16 MiB; beyond them calls are only counted.
MAX_NAMES: Final = 32_768
#: Summaries with as many names, which wait to be recorded.
MAX_FULL: Final = 256


class Summary(msgspec.Struct, eq=False):
    """Calls that are told together.

    Attributes:
        first: The first of them.
        account: Whose they are; None for those of several connections, or of none.
        since: When that ended, in seconds of the clock.
        streams: The names of their streams, in the place of a set that has an order.
        groups: Likewise of their groups.
        is_apart: Whether all have the streams and the group of the first.
        count: How many there were.
        seconds: How long they took together.
        longest: How long the longest took.
        answer_bytes: The size of their answers together.
        unnamed: How many of them have a stream or a group that is not named.
    """

    first: CallEnded
    account: Hashable
    since: float
    streams: dict[str, None]
    groups: dict[str, None]
    is_apart: bool
    count: int = 0
    seconds: float = 0.0
    longest: float = 0.0
    answer_bytes: int = 0
    unnamed: int = 0

    @property
    def names(self) -> int:
        """How many names it has."""
        return len(self.streams) + len(self.groups)


class CallSummaries:
    """The summaries that are not recorded yet."""

    # Invariant: the sum of the counts of what `pop` returns and of `count` is the number of calls of `add`.

    def __init__(self, clock: Callable[[], float] = trio.current_time) -> None:
        """Begin without calls; the clock counts seconds."""
        self._clock = clock
        self._open: collections.OrderedDict[Hashable, Summary] = collections.OrderedDict()
        self._full: collections.deque[Summary] = collections.deque()
        # How many of the open ones are apart, by account.
        self._apart: collections.Counter[Hashable] = collections.Counter()
        # How many names they have.
        self._names = 0

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._open or self._full)

    @property
    def count(self) -> int:
        """How many calls wait in them."""
        return sum(each.count for each in (*self._open.values(), *self._full))

    def add(self, calls: Iterable[CallEnded]) -> None:
        """Count calls; a part of each call."""
        summary: Summary | None = None
        last: Hashable = None
        for ended in calls:
            key = ended.account, ended.principal, ended.tool, ended.streams, ended.group, ended.outcome
            # Often the same client does the same many times.
            if summary is None or key != last:
                summary = self._open.get(key) or self._place(key, ended)
                last = key if summary.is_apart else None
            seconds = ended.seconds
            summary.count += 1
            summary.seconds += seconds
            if seconds > summary.longest:
                summary.longest = seconds
            summary.answer_bytes += ended.answer_bytes

    def pop(self, due_at: float) -> CallServed | CallsServed | None:
        """Return the event of the summary that has been due for longest, and forget it.

        Args:
            due_at: The time, in seconds of the clock; infinite for all there are.

        Returns:
            None if none is due.
        """
        if self._full:
            return self._event_of(self._full.popleft())
        if not self._open or next(iter(self._open.values())).since + DUE_SECONDS > due_at:
            return None
        summary = self._open.popitem(last=False)[1]
        if summary.is_apart:
            self._apart[summary.account] -= 1
            if not self._apart[summary.account]:
                del self._apart[summary.account]
        return self._event_of(summary)

    def _place(self, key: Hashable, ended: CallEnded) -> Summary:
        """Return the summary of a call of which there was none like it."""
        account: Hashable = ended.account
        has_room = len(self._open) < MAX_OPEN
        is_small = len(ended.streams) <= MAX_STREAMS_APART
        if has_room and is_small and self._apart[account] < MAX_APART:
            self._apart[account] += 1
            return self._begin(key, ended, account, is_apart=True)
        if not has_room:
            account = None
        if self._names >= MAX_NAMES:
            return self._place_unnamed(ended, account)
        key = account, ended.principal, ended.tool, ended.outcome
        groups = () if ended.group is None else (ended.group,)
        summary = self._open.get(key)
        if summary is not None and not _has_room(summary, ended.streams, groups):
            if len(self._full) >= MAX_FULL:
                summary.unnamed += 1
                return summary
            self._full.append(self._open.pop(key))
            summary = None
        if summary is None:
            return self._begin(key, ended, account, is_apart=False)
        self._names -= summary.names
        summary.streams.update(dict.fromkeys(ended.streams))
        summary.groups.update(dict.fromkeys(groups))
        self._names += summary.names
        return summary

    def _place_unnamed(self, ended: CallEnded, account: Hashable) -> Summary:
        key = account, ended.principal, ended.tool, ended.outcome
        summary = self._open.get(key)
        if summary is None:
            # Names that are not told are not kept either.
            nameless = msgspec.structs.replace(ended, streams=(), group=None)
            summary = self._begin(key, nameless, account, is_apart=False)
        summary.unnamed += bool(ended.streams or ended.group)
        return summary

    def _begin(self, key: Hashable, ended: CallEnded, account: Hashable, *, is_apart: bool) -> Summary:
        groups = {} if ended.group is None else {ended.group: None}
        streams = dict.fromkeys(ended.streams)
        summary = self._open[key] = Summary(ended, account, self._clock(), streams, groups, is_apart)
        self._names += summary.names
        return summary

    def _event_of(self, summary: Summary) -> CallServed | CallsServed:
        first = summary.first
        self._names -= summary.names
        if summary.count == 1 and not summary.unnamed:
            return served(first)
        peer, connection_id = connection_of(None if summary.account is None else first.account)
        return CallsServed(
            first.principal,
            peer,
            connection_id,
            first.tool,
            tuple(summary.streams),
            tuple(summary.groups),
            summary.seconds,
            summary.longest,
            self._clock() - summary.since,
            first.outcome,
            error_code_of(first.outcome),
            summary.answer_bytes,
            summary.count,
            summary.unnamed or None,
        )


def _has_room(summary: Summary, streams: Iterable[str], groups: Iterable[str]) -> bool:
    """Return whether a summary has these names, or can have them besides."""
    more = sum(each not in summary.streams for each in streams)
    more += sum(each not in summary.groups for each in groups)
    return not more or summary.names + more <= MAX_NAMED


def served(ended: CallEnded) -> CallServed:
    """Return the event of the access log for one call."""
    peer, connection_id = connection_of(ended.account)
    return CallServed(
        ended.principal,
        peer,
        connection_id,
        ended.tool,
        ended.streams,
        ended.group,
        ended.seconds,
        ended.outcome,
        error_code_of(ended.outcome),
        ended.answer_bytes,
    )
