"""The subscribers, their topics, and the changes that each has not read yet.

Owns the subscribers and their number; `feeds` detects changes. An update means "read again", without content:
a subscriber that reads from its own cursor after each update misses nothing. An update is sent when the
client has read the one before. Until then changes are collected, each topic once, so a slow subscriber costs
no more than another. Where the client has read, no task is woken to send.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Final, Protocol

import msgspec
import trio

from redstreamd.admission.claims import SUBSCRIPTIONS, Limit, SharedLimit
from redstreamd.admission.turns import ACCOUNT
from redstreamd.streams.subscriptions.feeds import UNKNOWN, Feeds, Listener
from redstreamd.streams.subscriptions.topics import Topic

#: Changes of so many topics are written one by one. Of more some may come together, and then are one write.
_FEW: Final = 8


class UpdatesStatistics(msgspec.Struct, frozen=True):
    """A snapshot.

    Attributes:
        topics: Topics with a subscriber.
        subscriptions: Pairs of subscriber and topic.
        looks: Reads of versions so far.
    """

    topics: int
    subscriptions: int
    looks: int


class Outlet(Protocol):
    """Where the changes of a subscriber go: its client."""

    def flushed(self) -> Awaitable[None]:
        """Return when the client has read everything that was sent to it."""
        ...

    def start_soon(self, task: Callable[[], Awaitable[None]]) -> bool:
        """Run a task until the subscriber's client is gone; False if it is."""
        ...

    def offer(self, name: str, version: str, *, is_last: bool) -> bool:
        """As `send`, if the client has read everything that was sent to it; else do nothing: False.

        `is_last` says that no other is expected soon.
        """
        ...

    def send(self, name: str, version: str) -> None:
        """Tell it that a topic has a new version; must not block or raise."""
        ...


class Updates:
    """The subscriptions of any number of subscribers."""

    def __init__(self, feeds: Feeds, limit: Limit | None = None) -> None:
        """Follow topics through `feeds`.

        Args:
            feeds: Detects changes.
            limit: Counts pairs of subscriber and topic; None for 10,000. Each costs about a kilobyte; the
                limit keeps a runaway client from exhausting memory.
        """
        self.draining = False
        self.limit = limit or SharedLimit(SUBSCRIPTIONS, 10_000)
        self._subscribers: set[Subscriber] = set()
        self._feeds = feeds

    def statistics(self) -> UpdatesStatistics:
        """Return a snapshot."""
        return UpdatesStatistics(len(self._feeds), self.limit.total, self._feeds.reads)

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
        for subscriber in list(self._subscribers):
            subscriber.end_if_told()

    def open_subscriber(self, outlet: Outlet, *, is_held: bool = False) -> Subscriber:
        """Return a new subscriber, which the caller closes; if held, it sends nothing until `release`."""
        subscriber = Subscriber(self, self._feeds, outlet, is_held=is_held)
        self._subscribers.add(subscriber)
        return subscriber

    def observe(self, topic: Topic, version: str) -> None:
        """Record a version that a caller observed, and notify subscribers that know another."""
        self._feeds.observe(topic, version)

    def has(self, subscriber: Subscriber) -> bool:
        """Return whether a subscriber is open."""
        return subscriber in self._subscribers

    def forget(self, subscriber: Subscriber) -> None:
        """Remove a subscriber that was closed."""
        self._subscribers.discard(subscriber)


class Subscriber:
    """Sends the changes of its topics; see `Updates.open_subscriber`.

    Attributes:
        on_ended: Called once the daemon is stopping and all changes were sent; perhaps more than once.
    """

    __slots__ = ("_changes", "_feeds", "_is_sending", "_listeners", "_outlet", "_updates", "on_ended")

    def __init__(self, updates: Updates, feeds: Feeds, outlet: Outlet, *, is_held: bool) -> None:
        """Made by `Updates`."""
        self._updates = updates
        self._feeds = feeds
        self._outlet = outlet
        self._listeners: dict[str, Listener] = {}
        # Name -> version, of what is not sent yet.
        self._changes: dict[str, str] = {}
        # Whether `release` or a task will send them.
        self._is_sending = is_held
        self.on_ended: Callable[[], None] | None = None

    def __len__(self) -> int:
        """Return how many topics it subscribes to."""
        return len(self._listeners)

    async def add(self, name: str, topic: Topic, *, known: str | None = None) -> str:
        """Subscribe to `topic` under `name`; a name in use keeps its topic. Once closed, do nothing.

        Args:
            name: Its name for the client.
            topic: The topic.
            known: The version the subscriber knows already, if any, from an earlier connection or a read.

        Returns:
            The version it knows: changes after the return are notified. `feeds.UNKNOWN` while Redis is away;
            then a change is notified once Redis is back.

        Raises:
            BusError: TOO_MANY_SUBSCRIPTIONS if no further one is allowed for whoever the task works for.

        Cancellation: there is no subscription then.
        """
        if (existing := self._listeners.get(name)) is not None:
            if known is not None:
                existing.known = known
                self._changes.pop(name, None)
            return existing.known or ""
        if not self._updates.has(self):
            # Nobody would close it again.
            await trio.lowlevel.checkpoint()
            return known or UNKNOWN
        claim = self._updates.limit.claim(ACCOUNT.get())
        try:
            listener = self._feeds.join(topic, self, name)
        except BaseException:
            self._updates.limit.release(claim)
            raise
        listener.claim = claim
        self._listeners[name] = listener
        try:
            version = await self._feeds.baseline(listener, known)
        except BaseException:
            if self._listeners.get(name) is listener:
                self.remove(name)
            raise
        # Of a change that is not sent yet it knows nothing.
        return version if known is None or name not in self._changes else known

    def tell(self, name: str, version: str) -> None:
        """Send a change, or keep it until the client has read everything: called by `feeds`."""
        if self._is_sending:
            self._changes[name] = version
        elif not self._outlet.offer(name, version, is_last=len(self._listeners) <= _FEW):
            self._changes[name] = version
            self._is_sending = self._outlet.start_soon(self._send_when_read)

    def topics(self) -> Iterator[tuple[str, Topic]]:
        """Yield the name and the topic of each of its subscriptions."""
        for name, listener in self._listeners.items():
            yield name, listener.feed.topic

    def remove(self, name: str) -> None:
        """End a subscription and drop its change. Idempotent."""
        self._changes.pop(name, None)
        listener = self._listeners.pop(name, None)
        if listener is not None:
            if listener.claim is not None:
                self._updates.limit.release(listener.claim)
            self._feeds.leave(listener)

    def release(self) -> None:
        """Send the changes from now on; see `Updates.open_subscriber`."""
        self._is_sending = bool(self._changes) and self._outlet.start_soon(self._send_when_read)

    def end_if_told(self) -> None:
        """Call `on_ended` if it is due."""
        if self.on_ended is not None and self._updates.draining and not self._changes:
            self.on_ended()

    def close(self) -> None:
        """End all its subscriptions."""
        self.on_ended = None
        for name in list(self._listeners):
            self.remove(name)
        self._updates.forget(self)

    async def _send_when_read(self) -> None:
        try:
            while self._changes:
                await self._outlet.flushed()
                changes, self._changes = self._changes, {}
                for name, version in changes.items():
                    if name in self._listeners:
                        self._outlet.send(name, version)
        finally:
            self._is_sending = False
            self.end_if_told()
