"""What can be subscribed to, and how changes are detected.

Owns the three kinds of topic: for each the keys to watch, and how to read its version, a short text. Equal
versions mean that a subscriber has nothing new to read. Comparing versions is necessary because the tail hub
also wakes without a change, after a reconnect and on its sweep, and because some changes wake nobody.
"""

from __future__ import annotations

import hashlib
from typing import ClassVar, Protocol

import msgspec

from redstreamd.policy import StreamFilter
from redstreamd.streams.bus import Bus
from redstreamd.streams.consumer_lists import ConsumerLists
from redstreamd.streams.error_context import explain_errors
from redstreamd.streams.group_lists import GroupLists
from redstreamd.streams.names import Kind, companion_key


class Pace(msgspec.Struct, frozen=True):
    """How often a topic is read.

    Attributes:
        pause_seconds: Least time between two reads, and so between two notifications.
        poll_seconds: Most time between two reads, for changes that wake nobody.
    """

    pause_seconds: float
    poll_seconds: float


class Topic(Protocol):
    """Something to subscribe to."""

    pace: ClassVar[Pace]

    def keys(self) -> tuple[str, ...]:
        """Return the keys to watch."""
        ...

    async def read_version(self, bus: Bus) -> str:
        """Return the present version.

        Raises:
            BusError: Redis could not be asked, or the topic does not exist.
        """
        ...


class StreamTopic(msgspec.Struct, frozen=True):
    """The entries of a stream, which need not exist yet, and its number of groups.

    Redis pushes changes of the entries, but not that a group is created or destroyed. redstreamd wakes the
    watchers when it creates one, but not when it destroys one: takes that wait for its work would create it
    again. That, and what other programs do, is found by polling.
    """

    stream: str

    # Ten updates a second are more than an agent can act on, and bound the reads of a busy stream.
    pace: ClassVar[Pace] = Pace(pause_seconds=0.1, poll_seconds=5.0)

    def keys(self) -> tuple[str, ...]:
        """Return the stream."""
        return (self.stream,)

    async def read_version(self, bus: Bus) -> str:
        """Read the stream's last ID, length and number of groups."""
        summary = await bus.lister.position(self.stream)
        return "none" if summary is None else f"{summary.last_id}/{summary.length}/{summary.groups}"


class GroupTopic(msgspec.Struct, frozen=True):
    """The position, pending entries and limit of a consumer group.

    Redis does not push deliveries and acknowledgements. Those made through redstreamd change the group's due
    set, which is a key of its own; those of other programs are found by polling.
    """

    stream: str
    group: str

    # A busy group changes with every entry, and each read costs the server O(groups + consumers).
    pace: ClassVar[Pace] = Pace(pause_seconds=1.0, poll_seconds=5.0)

    def keys(self) -> tuple[str, ...]:
        """Return the stream, for new entries, and the due set."""
        return (self.stream, companion_key(self.stream, Kind.DUE, self.group))

    async def read_version(self, bus: Bus) -> str:
        """Read the group's position, its pending entries by consumer, and its limit of deliveries.

        Who reads the group for this version gets consumers as they are from now on. Of more than a thousand
        groups the group's own line may be older: it is in the version, so once it is newer it is another one.
        """
        redis = bus.redis
        async with explain_errors(redis, self.stream, self.group):
            info = await redis.shared(GroupLists).find(self.stream, self.group)
            if info is None:
                return "none"
            try:
                held = await redis.xpending_summary(self.stream, self.group)
            finally:
                redis.shared(ConsumerLists).forget((self.stream, self.group))
            limit = await bus.records.max_deliveries(self.stream, self.group)
        return _digest(repr((info, held, limit)))


class ListTopic(msgspec.Struct, frozen=True):
    """The names of all streams, or of those that a subscriber may read.

    Redis pushes nothing for keys that were not named. Keyspace notifications are off by default, and report
    every write where they are on. So the names are listed from time to time, once for all subscribers.

    Attributes:
        readable: Lets pass the streams whose coming and going is told; None for all.
    """

    readable: StreamFilter | None = None

    pace: ClassVar[Pace] = Pace(pause_seconds=1.0, poll_seconds=5.0)

    def keys(self) -> tuple[str, ...]:
        """Return none."""
        return ()

    async def read_version(self, bus: Bus) -> str:
        """Read all names of streams."""
        return (await bus.lister.names("*", readable=self.readable)).version


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=12).hexdigest()
