"""What the model knows of streams, groups, pending entries and dead letters. Plain values, no server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from redstreamd.streams.entry_ids import after

MAX_DELIVERIES = 3


def order(entry_id: str) -> tuple[int, int]:
    """Return the sort key of an entry ID."""
    milliseconds, sequence = entry_id.split("-")
    return int(milliseconds), int(sequence)


@attrs.frozen
class Lease:
    """What a work_take answered: its token, the attempt of each entry it holds, and which delivery it was.

    Its own limit of deliveries is what its taker asked for, if that allowed more than the group's.
    """

    token: str
    stream: str
    group: str
    consumer: str
    attempts: Mapping[str, int]
    delivery: int
    own_limit: int | None = None


@attrs.define
class Pending:
    """A pending entry.

    Attributes:
        owner: The consumer.
        attempt: The deliveries so far.
        due: Anybody may take it now.
        held: A consumer works on it; False for a retry that was put off or came due.
        leased: It was taken through redstreamd, or given a due time by it.
        delivery: Which delivery this was, of all there ever were: attempts count from 1 in a group made anew.
    """

    owner: str
    attempt: int
    due: bool = False
    held: bool = True
    leased: bool = True
    delivery: int = 0


@attrs.define
class Group:
    """A consumer group.

    Attributes:
        position: The last entry it delivered.
        pending: By entry ID.
        max_deliveries: Its limit of deliveries; 0 for never.
        lost: Entry ID and attempt of what went with a consumer that was removed while it worked on them.
    """

    position: str
    pending: dict[str, Pending] = attrs.field(factory=dict)
    max_deliveries: int = MAX_DELIVERIES
    lost: set[tuple[str, int]] = attrs.field(factory=set)

    def forget(self, one: str, attempt: int) -> None:
        """Forget that an attempt was lost: it was settled since, or is the number of another delivery."""
        self.lost.discard((one, attempt))

    def limit_for(self, asked: int | None) -> int:
        """Return the limit that counts for whoever asks for one: the group's, unless that allows fewer."""
        if asked is None or self.max_deliveries == 0:
            return self.max_deliveries
        return asked if asked == 0 or asked > self.max_deliveries else self.max_deliveries

    def spent(self, one: str, asked: int | None) -> bool:
        """Tell whether a pending entry had as many deliveries as it may have."""
        return 0 < self.limit_for(asked) <= self.pending[one].attempt

    def unfinished_from(self) -> str:
        """Return the least entry ID that is pending, with or without content, or not delivered."""
        return min([*self.pending, after(self.position)], key=order)


@attrs.define
class Stream:
    """A stream: its entries' members by ID, in order, where it ends, and its groups."""

    entries: dict[str, dict[str, Any]] = attrs.field(factory=dict)
    last_id: str = "0-0"
    groups: dict[str, Group] = attrs.field(factory=dict)

    def add(self, entry_id: str, members: dict[str, Any]) -> None:
        """Take up a new entry, which must lie beyond all others."""
        assert order(entry_id) > order(self.last_id)
        self.entries[entry_id] = members
        self.last_id = entry_id

    def retain(self, most: int) -> set[str]:
        """Cut to the newest entries and those that a group has not finished.

        Returns:
            The groups that need the first of what is kept for them; empty if nothing is.
        """
        needs = {name: order(group.unfinished_from()) for name, group in self.groups.items()}
        first = min(needs.values(), default=None)
        excess = list(self.entries)[: max(0, len(self.entries) - most)]
        spare = [one for one in excess if first is None or order(one) < first]
        for one in spare:
            del self.entries[one]
        return {name for name, one in needs.items() if one == first and len(spare) < len(excess)}

    def unread(self, group: str) -> list[str]:
        """Return what the group did not get yet."""
        position = order(self.groups[group].position)
        return [one for one in self.entries if order(one) > position]

    def needed_by(self, gone: list[str]) -> set[str]:
        """Return the groups that have some of these entries pending, or did not get them."""
        return {
            name
            for name, group in self.groups.items()
            if any(one in group.pending or order(one) > order(group.position) for one in gone)
        }


@attrs.define
class Letter:
    """A dead letter: the entry it was, and how often that was delivered."""

    entry_id: str
    members: dict[str, Any]
    attempts: int


@attrs.define
class World:
    """Everything there is.

    Attributes:
        streams: By name.
        dead: Dead letters of (stream, group), by their own ID; they outlive both.
        keys: What each idempotency key of (stream, key) stands for: the body and the entry IDs.
        takes: What was taken under each idempotency key of (stream, group, consumer, key).
        asked: The request of each correlation ID: stream and entry ID.
        replied: Correlation IDs that have their answer.
        answered: Stream, group and entry ID of the requests that were answered by finishing them.
        deliveries: How many there were.
    """

    streams: dict[str, Stream] = attrs.field(factory=dict)
    dead: dict[tuple[str, str], dict[str, Letter]] = attrs.field(factory=dict)
    keys: dict[tuple[str, str], tuple[Any, list[str]]] = attrs.field(factory=dict)
    takes: dict[tuple[str, str, str, str], Lease] = attrs.field(factory=dict)
    asked: dict[str, tuple[str, str]] = attrs.field(factory=dict)
    replied: set[str] = attrs.field(factory=set)
    answered: set[tuple[str, str, str]] = attrs.field(factory=set)
    deliveries: int = 0

    def missing(self, stream: str, group: str | None = None) -> str | None:
        """Return the code of the error for what does not exist, or None if all of it does."""
        if stream not in self.streams:
            return "STREAM_NOT_FOUND"
        if group is not None and group not in self.streams[stream].groups:
            return "GROUP_NOT_FOUND"
        return None

    def made(self, stream: str) -> Stream:
        """Return a stream that a call creates if it does not exist."""
        return self.streams.setdefault(stream, Stream())

    def group(self, stream: str, group: str) -> Group:
        """Return a group that exists."""
        return self.streams[stream].groups[group]

    def fates(self, lease: Lease, *, removed: bool = False) -> tuple[set[str], set[str], set[str]]:
        """Return the entries of a lease that are still its own, settled, and another's or lost.

        Args:
            lease: What was taken.
            removed: Whether its consumer is not in the group, so that what was lost with it is known.
        """
        if self.missing(lease.stream, lease.group) is not None:
            return set(), set(), set()
        group = self.group(lease.stream, lease.group)
        pending = group.pending
        gone = {one for one, attempt in lease.attempts.items() if removed and (one, attempt) in group.lost}
        gone -= pending.keys()
        already = lease.attempts.keys() - pending.keys() - gone
        own = {
            one
            for one, attempt in lease.attempts.items()
            if one in pending
            and (pending[one].owner, pending[one].attempt) == (lease.consumer, attempt)
            and pending[one].delivery <= lease.delivery
        }
        lost = lease.attempts.keys() - own - already
        given_back = {one for one in own if not pending[one].held}
        return own - given_back, already | given_back, lost
