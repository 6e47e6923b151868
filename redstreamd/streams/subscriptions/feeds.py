"""Follows the topics that have subscribers; the cost does not depend on their number.

Owns one watch of the tail hub and one task for each topic: reset the watch, read the topic's version, notify
listeners that know another version, in parts, wait for a change. So a burst of changes is one notification,
and the last change is always notified. After a reconnect to Redis the hub wakes every feed.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Final, Protocol

import msgspec
import trio

from redstreamd.admission.claims import Claim
from redstreamd.errors import BusError, Code
from redstreamd.streams.background import Background
from redstreamd.streams.bus import Bus
from redstreamd.streams.shared_requests import SharedRequest
from redstreamd.streams.subscriptions.topics import Pace, Topic
from redstreamd.streams.waiting import RETRY_SECONDS, TRANSIENT
from redstreamd.streams.watches import Watch

#: Errors that say nothing about the topic: Redis could not be asked.
_NO_VERSION = TRANSIENT | {Code.INTERNAL}
#: A pause between polls is so many times as long as the read took, so polling takes at most 2 % of the time.
POLL_SHARE = 50

#: A part of a notification ends after so long. The messages are written meanwhile.
PART_SECONDS: Final = 0.002
#: Listeners that are told between two looks at the clock.
_BETWEEN_LOOKS: Final = 8

#: The version of a topic while Redis cannot be asked; older than any other.
UNKNOWN = ""


class Hearer(Protocol):
    """Who listens to topics, each under a name of its own."""

    def tell(self, name: str, version: str) -> None:
        """Take note of a topic's new version; must not block or raise."""
        ...


class Listener(msgspec.Struct, eq=False):
    """What somebody knows of one topic.

    Attributes:
        feed: The topic's feed.
        hearer: Told of each new version.
        name: The topic's name for it.
        known: The version it knows; None until `Feeds.baseline`, and once it has left.
        claim: Its place below the limit of subscriptions.
    """

    feed: Feed
    hearer: Hearer
    name: str
    known: str | None = None
    claim: Claim | None = None


class Feed(msgspec.Struct, eq=False):
    """One topic and its listeners; removed with the last of them.

    Attributes:
        topic: The topic.
        pace: How often it is read.
        watch: Woken by the tail hub.
        resources: Closes the watch.
        background: Takes the parts of a notification.
        read: Reads the version and publishes it; returns whether there was one.
        version: The last version read.
        listeners: Who is notified, in the order in which they came: what was made together lies together in
            memory.
        scope: Ends its task.
    """

    topic: Topic
    pace: Pace
    watch: Watch
    resources: contextlib.ExitStack
    background: Background
    read: SharedRequest[bool]
    version: str = UNKNOWN
    listeners: dict[Listener, None] = msgspec.field(default_factory=dict)
    scope: trio.CancelScope = msgspec.field(default_factory=trio.CancelScope)

    def publish(self, version: str) -> None:
        """Record a version, and notify listeners that know another."""
        self.version = version
        behind = [each for each in self.listeners if each.known != version and each.known is not None]
        if behind:
            self.background.spread(self._notifying(behind))

    def _notifying(self, behind: list[Listener]) -> Iterator[None]:
        clock = time.perf_counter
        ends = clock() + PART_SECONDS
        for number, listener in enumerate(behind, 1):
            known, version = listener.known, self.version
            # It may have left, and the version may be a later one by now.
            if known is not None and known != version:
                listener.known = version
                listener.hearer.tell(listener.name, version)
            if number % _BETWEEN_LOOKS == 0 and clock() >= ends:
                yield
                ends = clock() + PART_SECONDS


class Feeds:
    """The feeds of all topics with listeners."""

    def __init__(
        self, bus: Bus, *, paces: Mapping[type[Topic], Pace] | None = None, poll_share: float = POLL_SHARE
    ) -> None:
        """Read topics of `bus`; `paces` replace those of the topics."""
        self._paces = paces or {}
        self._poll_share = poll_share
        self._bus = bus
        self._feeds: dict[Topic, Feed] = {}
        self._nursery: trio.Nursery | None = None
        self.reads = 0

    def __len__(self) -> int:
        """Return how many topics are followed."""
        return len(self._feeds)

    def versions(self) -> list[str]:
        """Return the last version of each topic."""
        return [feed.version for feed in self._feeds.values()]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow every topic until cancelled. Outages of Redis are not errors."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                for feed in self._feeds.values():
                    nursery.start_soon(self._follow, feed)
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def join(self, topic: Topic, hearer: Hearer, name: str) -> Listener:
        """Add a listener, which is not notified before `baseline`; the first one starts the feed.

        Raises:
            BusError: RATE_LIMITED if the tail hub has too many watches.
        """
        feed = self._feeds.get(topic)
        if feed is None:
            resources = contextlib.ExitStack()
            watch = resources.enter_context(self._bus.hub.watch(topic.keys()))
            pace = self._paces.get(type(topic), topic.pace)
            read = SharedRequest(partial(self._read, topic))
            feed = self._feeds[topic] = Feed(topic, pace, watch, resources, self._bus.hub.background, read)
            if self._nursery is not None:
                self._nursery.start_soon(self._follow, feed)
        listener = Listener(feed, hearer, sys.intern(name))
        feed.listeners[listener] = None
        return listener

    def leave(self, listener: Listener) -> None:
        """Remove a listener; the last one ends the feed and its watch."""
        feed = listener.feed
        listener.known = None
        del feed.listeners[listener]
        if not feed.listeners:
            del self._feeds[feed.topic]
            feed.scope.cancel()
            feed.resources.close()

    async def baseline(self, listener: Listener, known: str | None) -> str:
        """Set the version that a listener knows; it is notified of changes after the return.

        Args:
            listener: One that has joined.
            known: The version it knows already, if any; it is notified of a change since then.

        Returns:
            The version that it knows; `UNKNOWN` while Redis is away: then it is notified once Redis is back.
        """
        feed = listener.feed
        listener.known = known
        if known is None:
            # The feed's version may be old: a change since then that is undone later must be notified, too.
            listener.known = feed.version if await feed.read.answer() else UNKNOWN
        elif feed.version == UNKNOWN:
            await feed.read.answer()
        else:
            feed.publish(feed.version)
        return listener.known or UNKNOWN

    def observe(self, topic: Topic, version: str) -> None:
        """Record a version that a caller observed, and notify listeners."""
        feed = self._feeds.get(topic)
        if feed is not None:
            feed.publish(version)

    async def _read(self, topic: Topic) -> bool:
        self.reads += 1
        try:
            version = await topic.read_version(self._bus)
        except BusError as error:
            if error.code in _NO_VERSION:
                return False
            # That there is no such stream, or that the key is not a stream, is a version, too.
            version = str(error.code)
        self.observe(topic, version)
        return version != UNKNOWN

    async def _follow(self, feed: Feed) -> None:
        with trio.CancelScope() as feed.scope:
            before = 0.0
            while feed.listeners and not self._bus.hub.draining:
                feed.watch.reset()
                began = trio.current_time()
                known = await feed.read.answer()
                ended = trio.current_time()
                # A single slow read may have been delayed; an expensive one is slow each time.
                took, before = min(before, ended - began), ended - began
                if known:
                    next_read = max(began + feed.pace.poll_seconds, ended + self._poll_share * took)
                else:
                    next_read = ended + RETRY_SECONDS
                await trio.sleep(feed.pace.pause_seconds)
                with trio.move_on_at(next_read):
                    await feed.watch.changed()
