"""What can be subscribed to, and how one tells that it changed.

Owns the three kinds of topic: for each the keys whose changes announce one, and the look that makes sure.
A look returns a version, a short text: two that are equal mean that a subscriber has nothing new to read.
Who is told, and when, is the business of `updates`.

Looking is what keeps updates honest: the tail hub also wakes after a reconnect and on its slow sweep,
when nothing need have changed, and some changes wake nobody.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import ClassVar, Protocol

import attrs

from redstreamd.redisio.commands import Commands
from redstreamd.streams.error_context import explained
from redstreamd.streams.group_records import GroupRecords
from redstreamd.streams.listing import Lister
from redstreamd.streams.names import Kind, companion_key


@attrs.frozen
class Sources:
    """Where looks ask.

    Attributes:
        commands: For one stream or group.
        lister: For all streams.
        records: For what was agreed for a group.
    """

    commands: Commands
    lister: Lister
    records: GroupRecords


class Topic(Protocol):
    """Something that changes.

    Attributes:
        pause_seconds: Least time between two looks, so also between two updates.
        poll_seconds: Most time between two looks, for changes that nobody announces.
    """

    pause_seconds: ClassVar[float]
    poll_seconds: ClassVar[float]

    def keys(self) -> tuple[str, ...]:
        """Return the keys whose changes call for a look."""
        ...

    async def look(self, sources: Sources) -> str:
        """Return the present version.

        Raises:
            BusError: It could not be told, or there is no such thing.
        """
        ...


@attrs.frozen
class StreamTopic:
    """The entries of a stream, which need not exist yet; also how many groups it has.

    Redis pushes what changes the entries, but not that a group is made or destroyed. redstreamd wakes the
    watchers of the stream when it makes one, but not when it destroys one: among them are those who wait for
    work of the group, and they would make it anew. That, and what other programs do, is found by polling.
    """

    stream: str

    # Ten updates a second are more than an agent can act on, and bound the looks of a busy stream.
    pause_seconds: ClassVar[float] = 0.1
    poll_seconds: ClassVar[float] = 5.0

    def keys(self) -> tuple[str, ...]:
        """Return the stream itself: whatever changes its entries changes this key."""
        return (self.stream,)

    async def look(self, sources: Sources) -> str:
        """Ask where the stream ends and how long it is, without any content."""
        summary = await sources.lister.position(self.stream)
        return "none" if summary is None else f"{summary.last_id}/{summary.length}/{summary.groups}"


@attrs.frozen
class GroupTopic:
    """What a consumer group was given, holds and has finished, and what was agreed for it.

    Deliveries and acknowledgements change no watched key of the stream. Those made through redstreamd
    change the group's due set, which lies in a key of its own; those of other programs are found by
    polling.
    """

    stream: str
    group: str

    # A group that works changes with every entry, and each look costs the server O(groups + consumers).
    pause_seconds: ClassVar[float] = 1.0
    poll_seconds: ClassVar[float] = 5.0

    def keys(self) -> tuple[str, ...]:
        """Return the stream, for new entries, and the due set."""
        return (self.stream, companion_key(self.stream, Kind.DUE, self.group))

    async def look(self, sources: Sources) -> str:
        """Ask for the group's position, for who holds how much, and for its limit of deliveries."""
        commands = sources.commands
        async with explained(commands, self.stream, self.group):
            groups = await commands.xinfo_groups(self.stream)
            info = next((each for each in groups if each.name == self.group), None)
            if info is None:
                return "none"
            held = await commands.xpending_summary(self.stream, self.group)
            limit = await sources.records.max_deliveries(self.stream, self.group)
        return _digest(repr((info, held, limit)))


@attrs.frozen
class ListTopic:
    """Which streams there are.

    Redis pushes nothing for keys that nobody named. Keyspace notifications would, but are off by
    default, and where on they report every write. So the names are looked through from time to time, at
    the same cost however many subscribe.
    """

    pause_seconds: ClassVar[float] = 1.0
    poll_seconds: ClassVar[float] = 5.0

    def keys(self) -> tuple[str, ...]:
        """Return none."""
        return ()

    async def look(self, sources: Sources) -> str:
        """Ask for all names of streams."""
        return self.version_of(await sources.lister.names("*"))

    @staticmethod
    def version_of(names: Iterable[str]) -> str:
        """Return the version in which these are all streams, sorted."""
        return _digest("\0".join(names))


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=12).hexdigest()
