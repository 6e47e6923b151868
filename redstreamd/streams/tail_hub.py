"""The tail hub: wakes all who wait for a stream, over one connection to each node, without blocking it.

Owns which keys are watched, at which node each is armed, and who is woken. How a node arms keys is known to
``node_arming``. A woken waiter reads from its own cursor on another connection.

A watch connection has key tracking on (CLIENT TRACKING,
https://redis.io/docs/latest/commands/client-tracking/): once a key was named in a reading command there, the
server pushes one invalidation when it changes, by any command or script. The hub then names it again, which
arms it for the next change, and wakes its watchers once that is answered. A change is either before the
arming, and the watcher's read that follows sees it, or after it, and is pushed: none is missed. Several
changes between two armings are one push.

An eager watcher is woken by the push itself, so that one round trip later it has what was added. Where it
can, it reads on the watch connection: that arms the key as well, and what follows the last entry that was
read is pushed. So whoever waits from there on sleeps without a read. Else the key is armed when the watcher
has read and goes, or has found nothing and waits again: then it reads once more.

A key stays armed when its last watcher has gone, until it changes or the next sweep. So a client that waits
again and again at a stream names it once for each change, and its next wait reads once.

Blocking reads were rejected: one XREAD cannot span slots, a key of a wrong type fails it for all, and arming
it again costs the server O(streams).

After a reconnect all keys of that node are armed and their watchers woken. A sweep does the same from time to
time, in case a push was lost. Where the server refuses tracking (an ACL, a proxy) the sweeps are frequent.

A key is armed at the node that serves it. When keys have other nodes than before (a failover, a slot that has
moved), those are armed there, and their watchers read once from their cursors: what was added in between is
found so. A key that exists is deleted by the node that gives it away, which is a push. For one that does not
exist no node pushes anything when its slot moves; so where there are slots, the hub asks for such keys again
from time to time, those who serve them. An answer other than "it does not exist" is a change, unless it
redirects (ASK) to the node that said so before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any, Final

import msgspec
import trio

from redstreamd.admission.accounts import Account
from redstreamd.admission.claims import WAITS, Limit
from redstreamd.admission.turns import next_turn
from redstreamd.redisio.client import Redis
from redstreamd.redisio.node import Node
from redstreamd.redisio.redis_request import Request
from redstreamd.redisio.script import Write
from redstreamd.streams.armed_keys import QUEUED, REFUSED, ArmedKeys, WatchedKey
from redstreamd.streams.background import Background
from redstreamd.streams.deadlines import Deadlines
from redstreamd.streams.life_signs import Relying
from redstreamd.streams.node_arming import ASKED_AT_ONCE, NodeArming
from redstreamd.streams.watches import Watch, Watcher

#: Keys for which it is asked in one turn whether they have moved: half a millisecond.
_MOVED_AT_ONCE: Final = 256
#: All are asked for once in so many seconds, and no more than this part of the time.
_MOVES_SECONDS: Final = 0.1
_MOVES_SHARE: Final = 10.0
#: Absent keys that are asked for again at each poll, where slots move: of 2,000 each is asked for within a
#: second, which is 2 % of one.
_LOOKED_AT_ONCE: Final = 512


class TailHubStatistics(msgspec.Struct, frozen=True):
    """A snapshot of the hub.

    Attributes:
        watches: Waits, and watches of tasks.
        keys: Distinct keys they watch.
        tracking: Whether changes are pushed for all keys, by every node that has some; False before the first
            connection, after a new one until its keys are armed, and if a server refuses.
        pushes: Changed keys that servers pushed so far.
        armings: Keys armed so far.
    """

    watches: int
    keys: int
    tracking: bool
    pushes: int
    armings: int


class TailHub:
    """Watches keys for any number of waiters over Redis's watch connections.

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
        """Take the watch connections of `redis`.

        Args:
            redis: Sends commands; the hub sets the hooks of its watch connections.
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
        self._keys = ArmedKeys()
        # Those that have armed keys, or are to. Invariant: where a key is armed is one of them.
        self._nodes: dict[Node, NodeArming] = {}
        # QUEUED keys whose node is not known at the moment.
        self._homeless: set[bytes] = set()
        # Absent keys that are yet to be asked for in this round.
        self._unseen: list[bytes] = []
        self._work = trio.Event()
        self._moved = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._pushes = 0
        redis.set_watch_hooks(on_push=self._on_push, on_connected=self._on_connected, on_moved=self._on_moved)

    def statistics(self) -> TailHubStatistics:
        """Return a snapshot."""
        return TailHubStatistics(
            watches=self.waits.total,
            keys=len(self._keys.all) - len(self._keys.idle),
            tracking=bool(self._nodes)
            and not self._homeless
            and all(node.is_tracking for node in self._nodes.values()),
            pushes=self._pushes,
            armings=self._keys.armings,
        )

    @property
    def waiting(self) -> int:
        """How many wait for a change, with a task or without."""
        watchers = {watcher for key in self._keys.all.values() for watcher in key.watchers}
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
        keys = self._keys
        for name in watcher.keys:
            key = keys.all.get(name)
            if key is None:
                key = keys.all[name] = WatchedKey()
            elif not key.watchers:
                del keys.idle[name]
            key.watchers[watcher] = None
        self.arm(watcher)

    def arm(self, watcher: Watcher) -> None:
        """Arm those of its keys that are not; it is woken once that is done. For one that was added."""
        keys = self._keys.all
        names = [name for name in watcher.keys if not ((key := keys[name]).armed or key.arming)]
        if names:
            self._arm(names)

    def remove(self, watcher: Watcher) -> None:
        """Wake a watcher no more. For one that was added."""
        for name in watcher.keys:
            key = self._keys.all[name]
            del key.watchers[watcher]
            if key.watchers:
                continue
            if not (self.draining or key.armed or key.arming):
                self._arm([name])
            if self.draining or key.arming in (QUEUED, REFUSED):
                del self._keys.all[name]
            else:
                self._keys.keep_idle(name)

    def armed_by(self, keys: Iterable[bytes]) -> tuple[int, ...]:
        """Return a number for each key that stays the same as long as each change is pushed; 0 if none is.

        What was read while the numbers stayed the same is still so, if the watch connections work.
        """
        known = self._keys.all
        return tuple([0 if (key := known.get(name)) is None else key.armed for name in keys])

    def arm_by_reading(
        self, watcher: Watcher, write: Write, then: Callable[[Any], None]
    ) -> tuple[Request, int] | None:
        """Send a read of a watcher's only key so that it arms it, if the key has changed and nobody does.

        Args:
            watcher: One that was added. The others are woken once the reply was told.
            write: The read; its reply should be small, because pushes wait behind it.
            then: Is told the reply, or the exception in its place.

        Returns:
            The request, and what `armed_by` returns for the key as long as each change since is pushed. None:
            the read is to be sent otherwise.
        """
        (name,) = watcher.keys
        key = self._keys.all[name]
        at = key.at
        if key.armed or key.arming or at is None or at.node is not self._redis.node_for(name):
            return None
        request = at.arm_by_reading(name, write, then, watcher)
        return None if request is None else (request, key.arming)

    def note_end(self, name: bytes, arming: int, last_id: str) -> None:
        """Note that nothing follows an entry in a stream; see `WatchedKey.end`."""
        key = self._keys.all.get(name)
        if key is not None and arming and key.armed == arming:
            key.end = arming, last_id

    def nothing_after(self, name: bytes, last_id: str) -> int:
        """Return what `armed_by` returns for a key, if it was noted that nothing follows an entry; else 0."""
        key = self._keys.all.get(name)
        return 0 if key is None or key.end != (key.armed, last_id) else key.armed

    def are_at_one_server(self, keys: Collection[bytes]) -> bool:
        """Return whether one server pushes the changes of all keys, which are watched."""
        return len(keys) == 1 or len({self._keys.all[name].at for name in keys}) == 1

    def expect_life(self, who: Relying, now: float) -> None:
        """Tell one whose keys are armed, and who has not read, whether those who push are there."""
        for name in who.keys:
            at = self._keys.all[name].at
            if at is not None:
                at.signs.expect(who, now)

    def notify(self, key: str) -> None:
        """Wake the watchers of `key`, for changes that the server does not push, such as a release."""
        known = self._keys.all.get(key.encode())
        if known is not None:
            for watcher in tuple(known.watchers):
                watcher.wake()

    def drain(self) -> None:
        """End every wait at once, now and from now on: the daemon is stopping."""
        self.draining = True
        for key in list(self._keys.all.values()):
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
            nursery.start_soon(self._follow_moves)
            for node in self._nodes.values():
                nursery.start_soon(node.run)
            self._nursery = nursery
            try:
                task_status.started()
                while True:
                    await self._wait_for_work()
                    on_progress()
                    homeless, self._homeless = self._homeless, set()
                    self._arm([name for name in homeless if self._keys.is_arming(name, QUEUED)])
                    if self._redis.topology.has_slots:
                        await self._look_at_absent()
            finally:
                self._nursery = None

    async def _wait_for_work(self) -> None:
        polls = self._homeless or self._redis.topology.has_slots
        with trio.move_on_after(self._poll_seconds if polls else self._sweep_seconds):
            await self._work.wait()
        self._work = trio.Event()

    # At which node

    def _arm(self, names: list[bytes]) -> None:
        """Arm known keys at the nodes that serve them: at once, if that is possible."""
        node_for = self._redis.node_for
        by_node: dict[Node | None, list[bytes]] = {}
        for name in names:
            by_node.setdefault(node_for(name), []).append(name)
        for node, some in by_node.items():
            if node is not None:
                self._peer(node).arm(some)
                continue
            for name in some:
                key = self._keys.all[name]
                key.armed, key.arming, key.at = 0, QUEUED, None
            self._homeless.update(some)
            self._work.set()

    def _peer(self, node: Node) -> NodeArming:
        """Return what arms keys at a node; made at first."""
        peer = self._nodes.get(node)
        if peer is None:
            peer = self._nodes[node] = NodeArming(
                node,
                self._redis,
                self._keys,
                self._peer,
                self._arm,
                deadlines=self.deadlines,
                sweep_seconds=self._sweep_seconds,
                poll_seconds=self._poll_seconds,
            )
            if self._nursery is not None:
                self._nursery.start_soon(peer.run)
        return peer

    async def _follow_moves(self) -> None:
        """Arm keys where they are served, each time that they may have moved; returns never."""
        while True:
            await self._moved.wait()
            self._moved = trio.Event()
            began = trio.current_time()
            await self._arm_moved()
            # While slots move, each of them tells.
            await trio.sleep(max(_MOVES_SECONDS, _MOVES_SHARE * (trio.current_time() - began)))

    async def _arm_moved(self) -> None:
        """Arm the keys that have another node than the one where they are armed, in turns."""
        keys, node_for = self._keys.all, self._redis.node_for
        names = iter(list(keys))
        while some := list(islice(names, _MOVED_AT_ONCE)):
            moved: list[bytes] = []
            for name in some:
                key = keys.get(name)
                # Else all who watch it are reading, and have it armed when they wait again.
                if key is None or not (key.armed or key.arming):
                    continue
                if key.at is None or key.at.node is not node_for(name):
                    key.unarm()
                    moved.append(name)
            self._arm(moved)
            await next_turn()
        used = {key.at for key in keys.values()}
        serving = self._redis.nodes()
        for node, peer in list(self._nodes.items()):
            if node not in serving and peer not in used:
                peer.stop()
                del self._nodes[node]

    async def _look_at_absent(self) -> None:
        """Ask for some of the armed keys that did not exist: they may exist elsewhere by now."""
        keys = self._keys.all
        if not self._unseen:
            self._unseen = [name for name, key in keys.items() if key.is_absent and key.armed]
        some, self._unseen = self._unseen[:_LOOKED_AT_ONCE], self._unseen[_LOOKED_AT_ONCE:]
        for number, name in enumerate(some, 1):
            key = keys.get(name)
            node = self._redis.node_for(name)
            # One without a peer is new, and the key is armed there in a moment.
            if key is not None and key.armed and node is not None and node in self._nodes:
                self._nodes[node].look(name, partial(self._on_look, name, key.armed, node))
            if number % ASKED_AT_ONCE == 0:
                await next_turn()

    def _on_look(self, name: bytes, armed: int, asked: Node, reply: Any) -> None:
        key = self._keys.all.get(name)
        if key is None or key.armed != armed or key.at is None:
            return
        absent_at = asked if reply == 0 else self._redis.asked_for(asked, name, reply)
        if absent_at is not key.at.node:
            key.unarm()
            self._arm([name])

    # What nodes and the topology tell

    def _on_moved(self) -> None:
        self._moved.set()

    def _on_connected(self, node: Node) -> None:
        if (peer := self._nodes.get(node)) is not None:
            peer.connected()

    def _on_push(self, node: Node, message: list[Any]) -> None:
        peer = self._nodes.get(node)
        if message[0] != b"invalidate" or peer is None:
            return
        keys = self._keys.all
        # FLUSHALL and FLUSHDB push null: every key changed.
        changed = list(keys) if message[1] is None else message[1]
        self._pushes += len(changed)
        unarmed: list[bytes] = []
        for name in changed:
            key = keys.get(name)
            if key is None or key.at not in (peer, None):
                continue
            if not key.watchers:
                self._keys.forget_idle(name)
                continue
            if key.arming != QUEUED:
                key.unarm()
            for watcher in tuple(key.watchers):
                if watcher.is_eager:
                    watcher.wake()
                elif not unarmed or unarmed[-1] != name:
                    unarmed.append(name)
        # An eager one that has gone by now has armed them, and a queued one will be.
        if unarmed and (unarmed := [name for name in unarmed if not keys[name].arming]):
            self._arm(unarmed)
        # Whoever is woken reads first.
        peer.signs.note()
