"""Who has subscribed to what, and what each of them has not heard yet.

Owns the subscribers and their number; `feeds` finds out what changed. What changed is not passed on: an
update means "read again", and whoever reads from a cursor of its own after each update misses nothing. A
subscriber collects what it was told until it asks, each topic once, so one that is slow costs no more than
one that is not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

import attrs
import trio

from redstreamd.errors import BusError, Code
from redstreamd.errors.remedies import setting
from redstreamd.streams.subscriptions.feeds import Feeds, Listener
from redstreamd.streams.subscriptions.topics import Sources, Topic
from redstreamd.streams.tail_hub import TailHub


@attrs.frozen
class UpdatesStatistics:
    """A snapshot.

    Attributes:
        topics: Topics that somebody subscribes to.
        subscriptions: Pairs of subscriber and topic.
        looks: Looks taken so far.
    """

    topics: int
    subscriptions: int
    looks: int


class Updates:
    """Subscriptions of any number of parties, over the tail hub."""

    def __init__(self, hub: TailHub, sources: Sources, *, max_subscriptions: int = 10_000) -> None:
        """Watch through `hub`, look at `sources`.

        Args:
            hub: Wakes those who follow a topic.
            sources: Where they look.
            max_subscriptions: Pairs of subscriber and topic at a time. Each costs about a kilobyte; the
                limit keeps a runaway client from exhausting memory.
        """
        self.draining = False
        #: Kept by the subscribers.
        self.subscriptions = 0
        self._max_subscriptions = max_subscriptions
        self._subscribers: set[Subscriber] = set()
        self._feeds = Feeds(hub, sources)

    def statistics(self) -> UpdatesStatistics:
        """Return a snapshot."""
        return UpdatesStatistics(len(self._feeds), self.subscriptions, self._feeds.looks)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow every topic until cancelled. Redis being down is not a failure."""
        await self._feeds.run(task_status=task_status)

    def drain(self) -> None:
        """Let every subscriber end, now and from now on: the daemon is stopping."""
        self.draining = True
        for subscriber in self._subscribers:
            subscriber.wake()

    def open_subscriber(self) -> Subscriber:
        """Return a new subscriber, which the caller has to close."""
        subscriber = Subscriber(self, self._feeds)
        self._subscribers.add(subscriber)
        return subscriber

    def seen(self, topic: Topic, version: str) -> None:
        """Note what somebody who read a topic has found; subscribers are told of changes from there on."""
        self._feeds.seen(topic, version)

    @contextlib.contextmanager
    def subscriber(self) -> Iterator[Subscriber]:
        """Give a new subscriber for the block."""
        subscriber = self.open_subscriber()
        try:
            yield subscriber
        finally:
            subscriber.close()

    def forget(self, subscriber: Subscriber) -> None:
        """Drop a subscriber that has closed."""
        self._subscribers.discard(subscriber)

    def check_room(self) -> None:
        """Raise RATE_LIMITED if there may be no further subscription."""
        if self.subscriptions >= self._max_subscriptions:
            raise BusError(
                Code.RATE_LIMITED,
                "There are too many subscriptions.",
                cause=f"{self._max_subscriptions} are open already, the most that "
                f"{setting('limits.max_waits')} allows.",
                next_step="Subscribe to less, or use stream_wait; or raise that setting.",
            )


class Subscriber:
    """One party that is told of changes; see `Updates.subscriber`."""

    def __init__(self, updates: Updates, feeds: Feeds) -> None:
        """Made by `Updates`."""
        self._updates = updates
        self._feeds = feeds
        self._listeners: dict[str, Listener] = {}
        self._news: dict[str, str] = {}
        self._woken = trio.Event()

    def __len__(self) -> int:
        """Return how many topics it subscribes to."""
        return len(self._listeners)

    async def add(self, name: str, topic: Topic, *, told: str | None = None) -> str:
        """Subscribe to `topic` under `name`; a name that is in use stays what it is.

        Args:
            name: What `next_changes` calls it.
            topic: What to watch.
            told: The version it knows already, if any: it was told of it in an earlier life, or has read it.

        Returns:
            The version from which on changes are told: whatever changes after the return is. It is
            `feeds.UNKNOWN` while Redis is away; then a change is told once Redis is back.

        Raises:
            BusError: RATE_LIMITED if there are too many subscriptions.

        Cancellation: subscribes to nothing.
        """
        if (known := self._listeners.get(name)) is not None:
            if told is not None:
                known.told = told
                self._news.pop(name, None)
            return known.told or ""
        self._updates.check_room()
        listener = self._feeds.join(topic, partial(self._tell, name))
        self._listeners[name] = listener
        self._updates.subscriptions += 1
        try:
            return await self._feeds.baseline(listener, told)
        except BaseException:
            if self._listeners.get(name) is listener:
                self.remove(name)
            raise

    def remove(self, name: str) -> None:
        """End a subscription, and forget what was told of it; one that there is not is no error."""
        self._news.pop(name, None)
        listener = self._listeners.pop(name, None)
        if listener is not None:
            self._updates.subscriptions -= 1
            self._feeds.leave(listener)

    async def next_changes(self) -> dict[str, str]:
        """Wait for changes and return them: name -> version, each name once however often it changed.

        Returns an empty dict once the daemon is stopping and everything was returned.
        """
        while not self._news and not self._updates.draining:
            self._woken = trio.Event()
            await self._woken.wait()
        news, self._news = self._news, {}
        return news

    def wake(self) -> None:
        """Let `next_changes` look whether to end."""
        self._woken.set()

    def close(self) -> None:
        """End all its subscriptions."""
        for name in list(self._listeners):
            self.remove(name)
        self._updates.forget(self)

    def _tell(self, name: str, version: str) -> None:
        # A baseline that was still on its way when the subscription ended tells nobody.
        if name in self._listeners:
            self._news[name] = version
            self._woken.set()
