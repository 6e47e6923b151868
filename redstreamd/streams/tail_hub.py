"""The tail hub: wakes all who wait for a stream, over one connection, without blocking it.

Owns which keys are watched, how they are armed, and who is woken. A woken waiter reads from its own cursor on
another connection.

The watch connection has key tracking on (CLIENT TRACKING,
https://redis.io/docs/latest/commands/client-tracking/): once a key was named in a reading command there, the
server pushes one invalidation when it changes, by any command or script. The hub then names it again, which
arms it for the next change, and wakes its watchers once that is answered. A change is either before the
arming, and the watcher's read that follows sees it, or after it, and is pushed: none is missed. Several
changes between two armings are one push.

An eager watcher is woken by the push itself, so that one round trip later it has what was added. The key is
armed when it has read and goes, or has found nothing and waits again: then it reads once more.

A key stays armed when its last watcher has gone, until it changes or the next sweep. So a client that waits
again and again at a stream names it once for each change, and its next wait reads once.

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
from functools import partial
from typing import Any, Final

import attrs
import trio

from redstreamd.admission.accounts import Account
from redstreamd.admission.claims import WAITS, Limit
from redstreamd.errors import BusError
from redstreamd.redisio import Role
from redstreamd.redisio.client import Redis
from redstreamd.redisio.node import Node
from redstreamd.redisio.redis_errors import ConnectionEnded, ServerReplied
from redstreamd.streams.background import Background
from redstreamd.streams.concurrency import gather
from redstreamd.streams.deadlines import Deadlines
from redstreamd.streams.watches import Watch, Watcher

#: Keys armed by one command: 10,000 keys take 20 round trips, and other commands wait well under a
#: millisecond.
_ARM_BATCH: Final = 512
#: Keys without watchers that stay armed; with names of 512 bytes about 1 MiB.
_MAX_IDLE_KEYS: Final = 1_024
#: In the place of the number of a command: only a sweep helps, because the server pushes nothing for the key.
_REFUSED: Final = -1


@attrs.frozen
class TailHubStatistics:
    """A snapshot of the hub.

    Attributes:
        watches: Waits, and watches of tasks.
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


class _Key:
    """A key that is watched or armed."""

    # Invariant: a watched key is in TailHub._unarmed, or being armed, or armed, or refused; or it changed,
    # and all its watchers are eager and still reading. A push, or a later command, makes the answer to an
    # earlier command count for nothing.
    __slots__ = ("armed", "arming", "watchers")

    def __init__(self) -> None:
        # In the order in which they came.
        self.watchers: dict[Watcher, None] = {}
        # The number of the command that is to arm it, and of the one that has armed it; else 0.
        self.arming = 0
        self.armed = 0


class TailHub:
    """Watches keys for any number of waiters over Redis's watch connection.

    Attributes:
        draining: Whether the daemon is stopping, so that nobody waits any more.
        waits: The waits of clients, and who may have one more.
        deadlines: Wakes waiters at their time.
        background: Runs what they need of tasks.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        waits: Limit | None = None,
        sweep_seconds: float = 30.0,
        poll_seconds: float = 0.25,
    ) -> None:
        """Take the watch connection of `redis`.

        Args:
            redis: Sends commands; the hub sets the hooks of its watch connection.
            waits: Counts waits, and watches of tasks; None for 10,000. Each costs about a kilobyte; the limit
                keeps a runaway client from exhausting memory.
            sweep_seconds: Interval between sweeps while the server pushes changes.
            poll_seconds: The same while it refuses to, or cannot be reached.
        """
        self.draining = False
        self.deadlines = Deadlines()
        self.background = Background()
        self._redis = redis
        self._sweep_seconds = sweep_seconds
        self._poll_seconds = poll_seconds
        self.waits = waits or Limit(WAITS, 10_000)
        self._keys: dict[bytes, _Key] = {}
        # Armed keys without watchers, the first to be forgotten first. Invariant: each is in _keys.
        self._idle: dict[bytes, None] = {}
        # For the task that arms: what cannot be armed at once.
        self._unarmed: set[bytes] = set()
        self._work = trio.Event()
        # Counts connections; a command that began on an earlier one arms nothing.
        self._epoch = 0
        self._tracking_epoch = -1
        self._refused_epoch = -1
        self._pushes = 0
        self._armings = 0
        # Counts arming commands.
        self._last_arming = 0
        redis.set_watch_hooks(on_push=self._on_push, on_connected=self._on_connected, on_moved=self._on_moved)

    def statistics(self) -> TailHubStatistics:
        """Return a snapshot."""
        return TailHubStatistics(
            watches=self.waits.total,
            keys=len(self._keys) - len(self._idle),
            tracking=self._is_tracking,
            pushes=self._pushes,
            armings=self._armings,
        )

    @property
    def waiting(self) -> int:
        """How many wait for a change, with a task or without."""
        watchers = {watcher for key in self._keys.values() for watcher in key.watchers}
        return sum(watcher.waiting for watcher in watchers)

    @contextlib.contextmanager
    def watch(
        self,
        keys: Iterable[str],
        *,
        is_eager: bool = False,
        is_counted: bool = True,
        account: Account | None = None,
        end: Callable[[], None] | None = None,
    ) -> Iterator[Watch]:
        """Watch keys, which need not exist, for the block; see `Watcher` for `is_eager`.

        Args:
            keys: The keys.
            is_eager: See `Watcher`.
            is_counted: Whether it counts as a wait.
            account: Whose wait it is; None for the daemon's own.
            end: Ends the wait early; None: it becomes `Watch.is_over`.

        Raises:
            BusError: RATE_LIMITED beyond the limit of waits.
        """
        watch = Watch(frozenset(key.encode() for key in keys), self, is_eager=is_eager)
        claim = self.waits.claim(account, end or watch.end_early) if is_counted else None
        try:
            self.add(watch)
            try:
                yield watch
            finally:
                self.remove(watch)
        finally:
            if claim is not None:
                self.waits.release(claim)

    def add(self, watcher: Watcher) -> None:
        """Wake a watcher when its keys change, until `remove`. It is also woken when a new key is armed."""
        for name in watcher.keys:
            key = self._keys.get(name)
            if key is None:
                key = self._keys[name] = _Key()
            elif not key.watchers:
                del self._idle[name]
            key.watchers[watcher] = None
        self.arm(watcher)

    def arm(self, watcher: Watcher) -> None:
        """Arm those of its keys that are not; it is woken once that is done. For one that was added."""
        keys, unarmed = self._keys, self._unarmed
        names = [
            name for name in watcher.keys if not ((key := keys[name]).armed or key.arming or name in unarmed)
        ]
        if names:
            self._arm(names)

    def remove(self, watcher: Watcher) -> None:
        """Wake a watcher no more. For one that was added."""
        for name in watcher.keys:
            key = self._keys[name]
            del key.watchers[watcher]
            if key.watchers:
                continue
            if self.draining or not self._is_tracking or key.arming == _REFUSED or name in self._unarmed:
                del self._keys[name]
                self._unarmed.discard(name)
                continue
            if not (key.armed or key.arming):
                self._arm([name])
            self._keep_armed(name)

    def armed_by(self, keys: Iterable[bytes]) -> tuple[int, ...]:
        """Return a number for each key that stays the same as long as each change is pushed; 0 if none is.

        What was read while the numbers stayed the same is still so, if the watch connection works.
        """
        known = self._keys
        return tuple([0 if (key := known.get(name)) is None else key.armed for name in keys])

    def notify(self, key: str) -> None:
        """Wake the watchers of `key`, for changes that the server does not push, such as a release."""
        known = self._keys.get(key.encode())
        if known is not None:
            for watcher in tuple(known.watchers):
                watcher.wake()

    def drain(self) -> None:
        """End every wait at once, now and from now on: the daemon is stopping."""
        self.draining = True
        for key in list(self._keys.values()):
            for watcher in tuple(key.watchers):
                watcher.wake()

    async def run(
        self,
        *,
        on_progress: Callable[[], None] = lambda: None,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Arm keys and wake their watchers until cancelled. Outages of Redis are not errors.

        `on_progress` is called at least once a sweep, for the watchdog.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.deadlines.run)
            nursery.start_soon(self.background.run)
            task_status.started()
            while True:
                # Keys that could not be armed because Redis is away are tried again soon, too.
                fast = self._unarmed or self._refused_epoch == self._epoch
                with trio.move_on_after(self._poll_seconds if fast else self._sweep_seconds) as sweep:
                    await self._work.wait()
                if sweep.cancelled_caught:
                    self._unarm_all()
                on_progress()
                await self._arm_all()

    @property
    def _is_tracking(self) -> bool:
        return self._tracking_epoch == self._epoch

    def _keep_armed(self, name: bytes) -> None:
        if len(self._idle) >= _MAX_IDLE_KEYS:
            oldest = next(iter(self._idle))
            del self._idle[oldest], self._keys[oldest]
        self._idle[name] = None

    def _unarm_all(self) -> None:
        """Take every key for unarmed, and forget those that nobody watches."""
        for name in self._idle:
            del self._keys[name]
        self._idle.clear()
        for key in self._keys.values():
            key.armed = key.arming = 0
        self._unarmed.update(self._keys)

    def _arm(self, names: list[bytes]) -> None:
        """Arm some keys at once, if that is possible; else have the task do it."""
        if self._is_tracking and len(names) <= _ARM_BATCH:
            arming = self._begin_arming(names)
            answered = partial(self._on_answer, names, arming)
            with contextlib.suppress(ConnectionEnded, BusError):
                self._redis.submit(("EXISTS", *names), answered, key=names[0], role=Role.WATCH)
                return
        self._arm_by_task(names)

    def _arm_by_task(self, names: Iterable[bytes]) -> None:
        self._unarmed.update(name for name in names if name in self._keys)
        self._work.set()

    def _begin_arming(self, names: Iterable[bytes]) -> int:
        self._last_arming = arming = self._last_arming + 1
        for name in names:
            self._keys[name].arming = arming
        return arming

    def _on_answer(self, names: list[bytes], arming: int, reply: Any) -> None:
        if isinstance(reply, Exception):
            # The task finds out what is the matter, and with which key.
            self._arm_by_task(name for name in names if self._is_named_by(arming, name))
        else:
            self._end_arming(names, arming, armed=True)

    def _is_named_by(self, arming: int, name: bytes) -> bool:
        key = self._keys.get(name)
        return key is not None and key.arming == arming

    def _end_arming(self, names: Iterable[bytes], arming: int, *, armed: bool) -> None:
        """Note that a command was executed, and wake the watchers of its keys."""
        for name in names:
            key = self._keys.get(name)
            if key is not None and key.arming == arming:
                self._armings += 1
                key.armed, key.arming = (arming, 0) if armed else (0, _REFUSED)
                for watcher in tuple(key.watchers):
                    watcher.wake()

    async def _arm_all(self) -> None:
        self._work = trio.Event()
        while self._unarmed:
            batch = [self._unarmed.pop() for _ in range(min(_ARM_BATCH, len(self._unarmed)))]
            epoch = self._epoch
            try:
                await self._track()
                names = [name for name in batch if name in self._keys]
                arming = self._begin_arming(names)
                refused = await self._name(names)
            except BusError:
                # Redis is away. The next sweep or connection tries again.
                self._unarmed.update(name for name in batch if name in self._keys)
                return
            if epoch != self._epoch:
                # Perhaps armed on the old connection: arm again on the new one.
                self._unarmed.update(name for name in batch if name in self._keys)
                continue
            accepted = [name for name in names if name not in refused]
            self._end_arming(accepted, arming, armed=self._is_tracking)
            self._end_arming(refused, arming, armed=False)

    async def _name(self, names: list[bytes]) -> set[bytes]:
        """Name keys on the watch connection; return those that the server refused.

        A key that this user may not read, or keys in several slots of a cluster, fail the command for all.
        Then each is named by itself. One that is refused even so is not pushed; its watchers wake at each
        sweep.
        """
        if not names:
            return set()
        try:
            await self._redis.execute("EXISTS", *names, key=names[0], role=Role.WATCH, retry_safe=True)
        except ServerReplied:
            if len(names) == 1:
                return set(names)
            return set().union(*(await gather(self._name_one, names)).values())
        return set()

    async def _name_one(self, name: bytes) -> set[bytes]:
        return await self._name([name])

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

    def _on_connected(self, _node: Node | None = None) -> None:
        self._epoch += 1
        self._unarm_all()
        self._work.set()

    def _on_moved(self) -> None:
        self._on_connected()

    def _on_push(self, _node: Node, message: list[Any]) -> None:
        if message[0] != b"invalidate":
            return
        # FLUSHALL and FLUSHDB push null: every key changed.
        changed = list(self._keys) if message[1] is None else message[1]
        self._pushes += len(changed)
        unarmed: list[bytes] = []
        for name in changed:
            key = self._keys.get(name)
            if key is None:
                continue
            key.armed = key.arming = 0
            if not key.watchers:
                del self._idle[name], self._keys[name]
                continue
            eager = [watcher for watcher in key.watchers if watcher.is_eager]
            if len(eager) < len(key.watchers):
                unarmed.append(name)
            for watcher in eager:
                watcher.wake()
        # An eager one that has gone by now has armed them.
        if unarmed := [name for name in unarmed if not self._keys[name].arming]:
            self._arm(unarmed)
