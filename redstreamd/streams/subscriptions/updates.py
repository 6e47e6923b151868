"""The subscribers, their topics, and the changes that each has not read yet.

Owns the subscribers and their number; `feeds` detects changes. An update means "read again", without content:
a subscriber that reads from its own cursor after each update misses nothing. Changes are collected until the
subscriber asks for them, each topic once, so a slow subscriber costs no more than another.
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
from redstreamd.streams.subscriptions.topics import Topic


@attrs.frozen
class UpdatesStatistics:
    """A snapshot.

    Attributes:
        topics: Topics with a subscriber.
        subscriptions: Pairs of subscriber and topic.
        looks: Reads of versions so far.
    """

    topics: int
    subscriptions: int
    looks: int


class Updates:
    """The subscriptions of any number of subscribers."""

    def __init__(self, feeds: Feeds, *, max_subscriptions: int = 10_000) -> None:
        """Follow topics through `feeds`, with at most so many pairs of subscriber and topic.

        Each costs about a kilobyte; the limit keeps a runaway client from exhausting memory.
        """
        self.draining = False
        #: Maintained by the subscribers.
        self.subscriptions = 0
        self._max_subscriptions = max_subscriptions
        self._subscribers: set[Subscriber] = set()
        self._feeds = feeds

    def statistics(self) -> UpdatesStatistics:
        """Return a snapshot."""
        return UpdatesStatistics(len(self._feeds), self.subscriptions, self._feeds.reads)

    def versions(self) -> list[str]:
        """Return the last version of each topic; `feeds.UNKNOWN` before it was read."""
        return self._feeds.versions()

    @property
    def subscribers(self) -> int:
        """How many subscribers are open."""
        return len(self._subscribers)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow every topic until cancelled. Outages of Redis are not errors."""
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

    def observe(self, topic: Topic, version: str) -> None:
        """Record a version that a caller observed, and notify subscribers that know another."""
        self._feeds.observe(topic, version)

    @contextlib.contextmanager
    def subscriber(self) -> Iterator[Subscriber]:
        """Give a new subscriber for the block."""
        subscriber = self.open_subscriber()
        try:
            yield subscriber
        finally:
            subscriber.close()

    def forget(self, subscriber: Subscriber) -> None:
        """Remove a subscriber that was closed."""
        self._subscribers.discard(subscriber)

    def check_room(self) -> None:
        """Raise TOO_MANY_SUBSCRIPTIONS if no further subscription is allowed."""
        if self.subscriptions >= self._max_subscriptions:
            raise BusError(
                Code.TOO_MANY_SUBSCRIPTIONS,
                "There are too many subscriptions.",
                cause=f"{self._max_subscriptions} are open; {setting('limits.max_waits')} allows no more.",
                next_step="Subscribe to less, or use stream_wait; or raise that setting.",
            )


class Subscriber:
    """Collects the changes of its topics; see `Updates.subscriber`."""

    def __init__(self, updates: Updates, feeds: Feeds) -> None:
        """Made by `Updates`."""
        self._updates = updates
        self._feeds = feeds
        self._listeners: dict[str, Listener] = {}
        self._changes: dict[str, str] = {}
        self._woken = trio.Event()

    def __len__(self) -> int:
        """Return how many topics it subscribes to."""
        return len(self._listeners)

    async def add(self, name: str, topic: Topic, *, known: str | None = None) -> str:
        """Subscribe to `topic` under `name`; a name in use keeps its topic.

        Args:
            name: Its name in `next_changes`.
            topic: The topic.
            known: The version the subscriber knows already, if any, from an earlier connection or a read.

        Returns:
            The version it knows: changes after the return are notified. `feeds.UNKNOWN` while Redis is away;
            then a change is notified once Redis is back.

        Raises:
            BusError: TOO_MANY_SUBSCRIPTIONS if no further one is allowed.

        Cancellation: there is no subscription then.
        """
        if (existing := self._listeners.get(name)) is not None:
            if known is not None:
                existing.known = known
                self._changes.pop(name, None)
            return existing.known or ""
        self._updates.check_room()
        listener = self._feeds.join(topic, partial(self._notify, name))
        self._listeners[name] = listener
        self._updates.subscriptions += 1
        try:
            return await self._feeds.baseline(listener, known)
        except BaseException:
            if self._listeners.get(name) is listener:
                self.remove(name)
            raise

    def remove(self, name: str) -> None:
        """End a subscription and drop its change. Idempotent."""
        self._changes.pop(name, None)
        listener = self._listeners.pop(name, None)
        if listener is not None:
            self._updates.subscriptions -= 1
            self._feeds.leave(listener)

    async def next_changes(self) -> dict[str, str]:
        """Wait for changes and return them: name -> last version.

        Returns an empty dict once the daemon is stopping and all changes were returned.
        """
        while not self._changes and not self._updates.draining:
            self._woken = trio.Event()
            await self._woken.wait()
        changes, self._changes = self._changes, {}
        return changes

    def wake(self) -> None:
        """Let `next_changes` check whether to end."""
        self._woken.set()

    def close(self) -> None:
        """End all its subscriptions."""
        for name in list(self._listeners):
            self.remove(name)
        self._updates.forget(self)

    def _notify(self, name: str, version: str) -> None:
        # The subscription may have ended during its baseline.
        if name in self._listeners:
            self._changes[name] = version
            self._woken.set()
