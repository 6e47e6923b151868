"""The tail hub: wakes all who wait for a stream, over one connection, without blocking it.

Owns which keys are watched, how they are armed, and who is woken. A woken waiter reads from its own cursor on
another connection.

The watch connection has key tracking on (CLIENT TRACKING,
https://redis.io/docs/latest/commands/client-tracking/): once a key was named in a reading command there, the
server pushes one invalidation when it changes, by any command or script. The hub then names it again, which
arms it for the next change, and only then wakes its watchers. A change is either before the arming, and the
watcher's read that follows sees it, or after it, and is pushed: none is missed. Several changes between two
armings are one push.

The arming command is EXISTS: it takes many keys at once, costs O(1) for each, sends no content (an entry may
have 100 MiB), arms keys that do not exist yet, and works for keys of any type. Where one refused key fails it
for all (an ACL, the slots of a cluster), each is named by itself. Blocking reads were rejected: one XREAD
cannot span slots, a key of a wrong type fails it for all, and arming it again costs the server O(streams).

After a reconnect all keys are armed and all watchers woken. A sweep does the same from time to time, in case
a push was lost. Where the server refuses tracking (an ACL, a proxy) the sweeps are frequent.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import attrs
import trio

from redstreamd.errors import BusError, Code
from redstreamd.errors.remedies import setting
from redstreamd.redisio import Role
from redstreamd.redisio.client import Redis
from redstreamd.redisio.redis_errors import ServerReplied
from redstreamd.streams.concurrency import gather

#: Keys armed by one command: 10,000 keys take 20 round trips, and other commands wait well under a
#: millisecond.
_ARM_BATCH = 512


@attrs.frozen
class TailHubStatistics:
    """A snapshot of the hub.

    Attributes:
        watches: Open watches.
        keys: Distinct keys they watch.
        tracking: Whether the server pushes changes; False while disconnected or if it refuses.
        pushes: Changed keys that the server pushed so far.
        armings: Keys armed so far.
    """

    watches: int
    keys: int
    tracking: bool
    pushes: int
    armings: int


class Watch:
    """A wait for changes of some keys; see `TailHub.watch`.

    Use: ``reset()``, read what you wait for, ``await changed()`` if it is not there, and begin again. A
    change after ``reset()`` makes ``changed()`` return, even if it came before the call.
    """

    def __init__(self, keys: frozenset[bytes], hub: TailHub) -> None:
        """Made by `TailHub.watch`."""
        self.keys = keys
        self._hub = hub
        self._woken = trio.Event()

    def reset(self) -> None:
        """Forget the changes up to now."""
        if self._woken.is_set():
            self._woken = trio.Event()

    def wake(self) -> None:
        """Let `changed` return."""
        self._woken.set()

    async def changed(self) -> None:
        """Return once a watched key may have changed since `reset`, or at once if the hub is draining."""
        if not self._hub.draining:
            await self._woken.wait()

    @property
    def waiting(self) -> int:
        """How many tasks wait for a change."""
        return self._woken.statistics().tasks_waiting


class TailHub:
    """Watches keys for any number of waiters over Redis's watch connection."""

    def __init__(
        self,
        redis: Redis,
        *,
        max_watches: int = 10_000,
        sweep_seconds: float = 30.0,
        poll_seconds: float = 0.25,
    ) -> None:
        """Take the watch connection of `redis`.

        Args:
            redis: Sends commands; the hub sets the hooks of its watch connection.
            max_watches: Watches at a time. Each costs about a kilobyte and one read for each change of its
                stream; the limit keeps a runaway client from exhausting either.
            sweep_seconds: Interval between sweeps while the server pushes changes.
            poll_seconds: The same while it refuses to, or cannot be reached.
        """
        self.draining = False
        self._redis = redis
        self._max_watches = max_watches
        self._sweep_seconds = sweep_seconds
        self._poll_seconds = poll_seconds
        self._watches = 0
        self._watchers: dict[bytes, set[Watch]] = {}
        # Invariant: a watched key is in _unarmed, or in the batch being armed, or armed at the server.
        self._unarmed: set[bytes] = set()
        self._work = trio.Event()
        # Counts connections; a command that began on an earlier one arms nothing.
        self._epoch = 0
        self._tracking_epoch = -1
        self._refused_epoch = -1
        self._pushes = 0
        self._armings = 0
        redis.set_watch_hooks(on_push=self._on_push, on_connected=self._on_connected)

    def statistics(self) -> TailHubStatistics:
        """Return a snapshot."""
        return TailHubStatistics(
            watches=self._watches,
            keys=len(self._watchers),
            tracking=self._tracking_epoch == self._epoch,
            pushes=self._pushes,
            armings=self._armings,
        )

    @property
    def waiting(self) -> int:
        """How many tasks wait in `Watch.changed`."""
        return sum(watch.waiting for watch in set().union(*self._watchers.values()))

    @contextlib.contextmanager
    def watch(self, keys: Iterable[str]) -> Iterator[Watch]:
        """Watch keys, which need not exist, for the block.

        Raises:
            BusError: RATE_LIMITED beyond `max_watches`.
        """
        if self._watches >= self._max_watches:
            raise BusError(
                Code.RATE_LIMITED,
                "Too many calls are waiting.",
                cause=f"{self._watches} calls wait; at most {self._max_watches} may.",
                next_step=f"Try again when some have ended, or raise {setting('limits.max_waits')}.",
            )
        watch = Watch(frozenset(key.encode() for key in keys), self)
        self._watches += 1
        for key in watch.keys:
            watchers = self._watchers.setdefault(key, set())
            if not watchers:
                self._arm_soon(key)
            watchers.add(watch)
        try:
            yield watch
        finally:
            self._watches -= 1
            for key in watch.keys:
                watchers = self._watchers[key]
                watchers.discard(watch)
                if not watchers:
                    # The server still tracks the key; its next push is ignored.
                    del self._watchers[key]
                    self._unarmed.discard(key)

    def notify(self, key: str) -> None:
        """Wake the watchers of `key`, for changes that the server does not push, such as a release."""
        for watch in self._watchers.get(key.encode(), ()):
            watch.wake()

    def drain(self) -> None:
        """End every wait at once, now and from now on: the daemon is stopping."""
        self.draining = True
        for watchers in self._watchers.values():
            for watch in watchers:
                watch.wake()

    async def run(
        self,
        *,
        on_progress: Callable[[], None] = lambda: None,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Arm keys and wake their watchers until cancelled. Outages of Redis are not errors.

        `on_progress` is called at least once a sweep, for the watchdog.
        """
        task_status.started()
        while True:
            # Keys that could not be armed because Redis is away are tried again soon, too.
            fast = self._unarmed or self._refused_epoch == self._epoch
            with trio.move_on_after(self._poll_seconds if fast else self._sweep_seconds) as sweep:
                await self._work.wait()
            if sweep.cancelled_caught:
                self._unarmed.update(self._watchers)
            on_progress()
            await self._arm_all()

    async def _arm_all(self) -> None:
        self._work = trio.Event()
        while self._unarmed:
            batch = [self._unarmed.pop() for _ in range(min(_ARM_BATCH, len(self._unarmed)))]
            epoch = self._epoch
            try:
                await self._track()
                await self._arm(batch)
            except BusError:
                # Redis is away. The next sweep or connection tries again.
                self._unarmed.update(key for key in batch if key in self._watchers)
                return
            if epoch != self._epoch:
                # Perhaps armed on the old connection: arm again on the new one.
                self._unarmed.update(key for key in batch if key in self._watchers)
                continue
            self._armings += len(batch)
            for key in batch:
                for watch in self._watchers.get(key, ()):
                    watch.wake()

    async def _arm(self, keys: list[bytes]) -> None:
        """Name keys on the watch connection.

        A key that this user may not read, or keys in several slots of a cluster, fail the command for all.
        Then each is named by itself. One that is refused even so is not pushed; its watchers wake at each
        sweep.
        """
        try:
            await self._redis.execute("EXISTS", *keys, key=keys[0], role=Role.WATCH, retry_safe=True)
        except ServerReplied:
            if len(keys) > 1:
                await gather(self._arm_one, keys)

    async def _arm_one(self, key: bytes) -> None:
        await self._arm([key])

    async def _track(self) -> None:
        if self._epoch in (self._tracking_epoch, self._refused_epoch):
            return
        epoch = self._epoch
        try:
            await self._redis.execute("CLIENT", "TRACKING", "ON", key=None, role=Role.WATCH, retry_safe=True)
        except ServerReplied:
            self._refused_epoch = epoch
        else:
            self._tracking_epoch = epoch

    def _arm_soon(self, key: bytes) -> None:
        self._unarmed.add(key)
        self._work.set()

    def _on_connected(self) -> None:
        self._epoch += 1
        self._unarmed.update(self._watchers)
        self._work.set()

    def _on_push(self, message: list[Any]) -> None:
        if message[0] != b"invalidate":
            return
        # FLUSHALL and FLUSHDB push null: every key changed.
        changed = list(self._watchers) if message[1] is None else message[1]
        self._pushes += len(changed)
        for key in changed:
            if key in self._watchers:
                self._arm_soon(key)
