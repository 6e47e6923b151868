"""Follows the topics that somebody subscribes to, each at the cost of one, however many subscribe.

Owns one watch of the tail hub and one task for each topic: mark, look, tell those who were told an older
version, wait for a change. So changes that come in a burst are one, the last change is always told, and
after a reconnect to Redis the hub wakes every feed, which looks and tells what happened meanwhile. Who the
listeners are is not known here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import attrs
import trio

from redstreamd.errors import BusError, Code
from redstreamd.streams.subscriptions.topics import Sources, Topic
from redstreamd.streams.tail_hub import TailHub, Watch
from redstreamd.streams.waiting import PASSING, RETRY_LOOK

#: Failures that say nothing about the topic: Redis could not be asked.
_UNTOLD = PASSING | {Code.INTERNAL}
#: A poll waits so many times as long as its look took, so polling takes at most 2 % of anybody's time.
_POLL_SHARE = 50

#: The version of a topic while Redis cannot be asked; older than any other.
UNKNOWN = ""


@attrs.define(eq=False)
class Listener:
    """One party's interest in one topic.

    Attributes:
        feed: The topic's feed.
        tell: Called with each new version; must not block or raise.
        told: The version it knows; None until it has one to compare with.
    """

    feed: Feed
    tell: Callable[[str], None]
    told: str | None = None


@attrs.define(eq=False)
class Feed:
    """One topic and those who listen to it; goes when the last of them does.

    Attributes:
        topic: What it is about.
        watch: The tail hub wakes this.
        resources: What ends the watch.
        version: What the last look found that could be told.
        listeners: Who is to be told.
        scope: Ends its task.
        looking: Held by who looks, so that looks are told in their order.
        begun: How many looks began.
        done: The number of the last look that ended.
        known: Whether that one could be told.
    """

    topic: Topic
    watch: Watch
    resources: contextlib.ExitStack
    version: str = UNKNOWN
    listeners: set[Listener] = attrs.field(factory=set)
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    looking: trio.Lock = attrs.field(factory=trio.Lock)
    begun: int = 0
    done: int = 0
    known: bool = False

    def advance(self, version: str) -> None:
        """Note what a look found, and tell those who know something else."""
        self.version = version
        for listener in self.listeners:
            if listener.told not in (None, version):
                listener.told = version
                listener.tell(version)


class Feeds:
    """The feeds of all topics that anyone listens to."""

    def __init__(self, hub: TailHub, sources: Sources) -> None:
        """Be woken by `hub`, look at `sources`."""
        self._hub = hub
        self._sources = sources
        self._feeds: dict[Topic, Feed] = {}
        self._nursery: trio.Nursery | None = None
        self.looks = 0

    def __len__(self) -> int:
        """Return how many topics are followed."""
        return len(self._feeds)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow every topic until cancelled. Redis being down is not a failure."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                for feed in self._feeds.values():
                    nursery.start_soon(self._follow, feed)
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def join(self, topic: Topic, tell: Callable[[str], None]) -> Listener:
        """Add a listener, which is told nothing before `baseline`; the first one starts the feed.

        Raises:
            BusError: RATE_LIMITED if the tail hub has too many watches.
        """
        feed = self._feeds.get(topic)
        if feed is None:
            resources = contextlib.ExitStack()
            watch = resources.enter_context(self._hub.watch(topic.keys()))
            feed = self._feeds[topic] = Feed(topic, watch, resources)
            if self._nursery is not None:
                self._nursery.start_soon(self._follow, feed)
        listener = Listener(feed, tell)
        feed.listeners.add(listener)
        return listener

    def leave(self, listener: Listener) -> None:
        """Drop a listener; the last one ends the feed and its watch."""
        feed = listener.feed
        feed.listeners.discard(listener)
        if not feed.listeners:
            del self._feeds[feed.topic]
            feed.scope.cancel()
            feed.resources.close()

    async def baseline(self, listener: Listener, told: str | None) -> str:
        """Give a listener the version to compare with; what changes after the return is told to it.

        Args:
            listener: One that has joined.
            told: The version it knows already, if any; a change since then is told now.

        Returns:
            The version that it knows; `UNKNOWN` while Redis is away, and then it is told once Redis is back.
        """
        feed = listener.feed
        listener.told = told
        if told is None:
            # The feed's last look may be old. What changed since then and changes back must be told, too.
            listener.told = feed.version if await self._look(feed) else UNKNOWN
        elif feed.version == UNKNOWN:
            await self._look(feed)
        else:
            feed.advance(feed.version)
        return listener.told or UNKNOWN

    def seen(self, topic: Topic, version: str) -> None:
        """Note what somebody has just found by a look of his own: it is told of as if it were ours."""
        feed = self._feeds.get(topic)
        if feed is not None:
            feed.advance(version)

    async def _look(self, feed: Feed) -> bool:
        """Look at a topic, tell what changed, and return whether that could be told.

        Those who ask at the same time share a look, but only one that began after they had asked.
        """
        asked = feed.begun
        async with feed.looking:
            if feed.done <= asked:
                feed.begun = number = feed.begun + 1
                version = await self._version(feed.topic)
                feed.done, feed.known = number, version != UNKNOWN
                if feed.known:
                    feed.advance(version)
            return feed.known

    async def _version(self, topic: Topic) -> str:
        self.looks += 1
        try:
            return await topic.look(self._sources)
        except BusError as error:
            # That there is no such stream, or that it is something else, is a version like any other.
            return UNKNOWN if error.code in _UNTOLD else str(error.code)

    async def _follow(self, feed: Feed) -> None:
        with trio.CancelScope() as feed.scope:
            before = 0.0
            while feed.listeners and not self._hub.draining:
                feed.watch.mark()
                began = trio.current_time()
                known = await self._look(feed)
                ended = trio.current_time()
                # What took long once was held up; a look that costs much does so each time.
                took, before = min(before, ended - began), ended - began
                if known:
                    next_look = max(began + feed.topic.poll_seconds, ended + _POLL_SHARE * took)
                else:
                    next_look = ended + RETRY_LOOK
                await trio.sleep(feed.topic.pause_seconds)
                with trio.move_on_at(next_look):
                    await feed.watch.changed()
