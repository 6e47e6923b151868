"""Arms keys on the watch connection of one node.

Owns whether that connection tracks keys, and the queue of what cannot be armed at once. Which node a key is
armed at is known to the ``tail_hub``, and the state of the keys to ``armed_keys``.

The arming command is EXISTS: it takes many keys at once, costs O(1) for each, sends no content (an entry may
have 100 MiB), arms keys that do not exist yet, and works for keys of any type. In a cluster, where a command
names keys of one slot only, there is one for each key. Where one refused key fails it for all (an ACL), each
is named by itself. So is one that a node of a cluster redirects: that command is sent as any other, and the
node that has answered in the end is where the key is armed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from redstreamd.errors import BusError
from redstreamd.redisio import Role
from redstreamd.redisio.client import Redis
from redstreamd.redisio.redis_errors import ConnectionEnded, Recovery, ServerReplied
from redstreamd.redisio.redis_request import Request
from redstreamd.redisio.script import ScriptCall, Write
from redstreamd.streams.armed_keys import QUEUED, ArmedKeys
from redstreamd.streams.concurrency import MAX_IN_FLIGHT, gather
from redstreamd.streams.deadlines import Deadlines
from redstreamd.streams.life_signs import LifeSigns
from redstreamd.streams.watches import Watcher

if TYPE_CHECKING:
    from redstreamd.redisio.node import Node

#: Keys armed at a time: 10,000 take 20 round trips, and other commands wait well under a millisecond.
_ARM_BATCH: Final = 512
#: Commands of one key each that are sent at a time: a millisecond of the loop.
ASKED_AT_ONCE: Final = 128
#: Where each key is a command, so many are swept in a second while the server refuses to push: a tenth of it.
_SWEPT_PER_SECOND: Final = 10_000


class NodeArming:
    """The keys of one node.

    Attributes:
        node: The node.
        queue: Keys for the task. Those that are not QUEUED any more are skipped.
        signs: Whether the node is there.
    """

    # Invariant: keys are armed at once only while is_tracking; so the number of such an arming is greater
    # than _tracking_since.
    def __init__(
        self,
        node: Node,
        redis: Redis,
        keys: ArmedKeys,
        peer: Callable[[Node], NodeArming],
        arm: Callable[[list[bytes]], None],
        *,
        deadlines: Deadlines,
        sweep_seconds: float,
        poll_seconds: float,
    ) -> None:
        """Arm nothing yet.

        Args:
            node: Whose watch connection it is.
            redis: Follows redirections.
            keys: Their state.
            peer: Returns the same for another node.
            arm: Arms keys at the nodes that serve them.
            deadlines: Keep the time.
            sweep_seconds: As for `TailHub`.
            poll_seconds: As for `TailHub`.
        """
        self.node: Final = node
        self.queue: set[bytes] = set()
        self.signs: Final = LifeSigns(deadlines, self._ping)
        self._redis = redis
        self._keys = keys
        self._peer = peer
        self._arm = arm
        self._sweep_seconds = sweep_seconds
        self._poll_seconds = poll_seconds
        self._one_by_one = redis.topology.has_slots
        self._batch = ASKED_AT_ONCE if self._one_by_one else _ARM_BATCH
        # What an error reply came to; each is named by itself.
        self._failed: dict[bytes, int] = {}
        self._work = trio.Event()
        # Counts connections; tracking belongs to one of them.
        self._epoch = 0
        self._tracking_epoch = -1
        self._refused_epoch = -1
        # The last arming before tracking was on: this one and those before it arm nothing.
        self._tracking_since = 0
        self._answered = trio.Event()
        self._unanswered = 0
        self._scope = trio.CancelScope()
        self._is_stopped = False

    @property
    def is_tracking(self) -> bool:
        """Whether the server pushes changes on the connection that there is, or was last."""
        return self._tracking_epoch == self._epoch

    @property
    def is_refused(self) -> bool:
        """Whether the server refuses to push changes on that connection."""
        return self._refused_epoch == self._epoch

    def has_seen(self, arming: int) -> bool:
        """Return whether an arming that it answered was sent after it was known whether it tracks."""
        return self.is_refused or (self.is_tracking and arming > self._tracking_since)

    def connected(self) -> None:
        """Take note of a new connection: what was armed on the one before is not any more."""
        self._epoch += 1
        self.sweep()
        self._work.set()

    def sweep(self) -> None:
        """Arm its keys anew, and forget those that nobody watches."""
        names = [name for name, key in self._keys.all.items() if key.at is self]
        for name in names:
            if name in self._keys.idle:
                self._keys.forget_idle(name)
        self.enqueue(names)

    def enqueue(self, names: Iterable[bytes]) -> None:
        """Have the task arm keys; what was sent for them before counts for nothing."""
        if self._is_stopped:
            # Somebody else has to.
            self._arm([name for name in names if name in self._keys.all])
            return
        self._postpone(names)
        self._work.set()

    def _postpone(self, names: Iterable[bytes]) -> None:
        """Put keys into the queue for the next time that the task looks at it."""
        for name in names:
            key = self._keys.all.get(name)
            if key is not None:
                key.armed, key.arming, key.at = 0, QUEUED, self
                self.queue.add(name)

    def arm(self, names: list[bytes]) -> None:
        """Arm known keys at once, if that is possible; else have the task do it."""
        if not self.is_tracking or len(names) > self._batch:
            self.enqueue(names)
        elif not self._submit(names):
            self._work.set()

    def arm_by_reading(
        self, name: bytes, write: Write, then: Callable[[Any], None], reader: Watcher
    ) -> Request | None:
        """Send a read of one known key, which arms it as well: one round trip in the place of two.

        Args:
            name: The key, which is not armed, nor being armed.
            write: The read. Pushes wait behind its reply, so that is to be small.
            then: Is told the reply, before the key's watchers are woken.
            reader: One of them, which is not.

        Returns:
            None if that is not possible now; the caller sees to it that the key is read and armed.
        """
        if self._one_by_one or not self.is_tracking or self._is_stopped:
            return None
        arming = self._keys.begin((name,), self)
        try:
            request = self.node.queues[Role.WATCH].enqueue(
                write.by_digest if type(write) is ScriptCall else write,  # type: ignore[arg-type]
                partial(self._on_read, name, arming, reader, then),
            )
        except (ConnectionEnded, BusError):
            self._keys.all[name].arming = 0
            return None
        return request

    def look(self, name: bytes, then: Callable[[Any], None]) -> None:
        """Ask the node whether a key exists; nothing is told if there is no connection."""
        try:
            self.node.queues[Role.WATCH].enqueue(("EXISTS", name), then)
        except (ConnectionEnded, BusError):
            # All of its keys are armed again on the next connection.
            return

    def _ping(self, then: Callable[[Any], None]) -> None:
        try:
            self.node.queues[Role.WATCH].enqueue(("PING",), then, is_own=True)
        except (ConnectionEnded, BusError) as error:
            then(error)

    def stop(self) -> None:
        """End `run`, for good: the node does not serve keys any more."""
        self._is_stopped = True
        self._scope.cancel()

    async def run(self) -> None:
        """Arm what is queued until stopped or cancelled. Outages of Redis are not errors."""
        with trio.CancelScope() as self._scope:
            swept = trio.current_time()
            while not self._is_stopped:
                due = swept + self._pause
                # What could not be armed because Redis is away is tried again soon, too.
                soon = min(due, trio.current_time() + self._poll_seconds) if self._waits else due
                with trio.move_on_at(soon):
                    await self._work.wait()
                self._work = trio.Event()
                if trio.current_time() >= due:
                    swept = trio.current_time()
                    self.sweep()
                await self._work_off()

    @property
    def _pause(self) -> float:
        """Seconds from one sweep to the next."""
        if not self.is_refused:
            return self._sweep_seconds
        least = len(self._keys.all) / _SWEPT_PER_SECOND if self._one_by_one else 0.0
        return max(self._poll_seconds, least)

    @property
    def _waits(self) -> bool:
        return bool(self.queue or self._failed)

    async def _work_off(self) -> None:
        """Arm what is queued; what is left when Redis is away stays there."""
        while self._waits:
            try:
                deadline = trio.current_time() + self._redis.command_timeout
                await self.node.roles[Role.WATCH].wait_open(deadline)
                if not await self._track():
                    continue
            except BusError:
                self._give_back()
                return
            batch = [self.queue.pop() for _ in range(min(self._batch, len(self.queue)))]
            names = [name for name in batch if self._keys.is_arming(name, QUEUED)]
            if names:
                submitted = self._submit(names)
                await self._answers()
                if not submitted:
                    return
            if not await self._name_failed():
                return

    def _give_back(self) -> None:
        """Have others arm what is queued, if this node will not be connected to any more."""
        if self.node.is_retired:
            names = [name for name in self.queue if self._keys.is_arming(name, QUEUED)]
            self.queue.clear()
            self._arm(names)

    async def _track(self) -> bool:
        """Have the server push changes; return whether it is known that it does, or that it refuses.

        Raises:
            BusError: The server is away.
        """
        if self.is_tracking or self.is_refused:
            return True
        epoch = self._epoch
        try:
            await self.node.execute("CLIENT", "TRACKING", "ON", role=Role.WATCH, retry_safe=True)
        except ServerReplied as answer:
            if answer.recovery is Recovery.NOT_EXECUTED:
                raise
            self._refused_epoch = epoch
        else:
            self._tracking_epoch = epoch
            self._tracking_since = self._keys.last_arming
        return epoch == self._epoch

    # At this node

    def _submit(self, names: list[bytes]) -> bool:
        """Send what arms keys; return False if some could not be sent, which are in the queue then."""
        arming = self._keys.begin(names, self)
        pipeline = self.node.queues[Role.WATCH]
        groups = [[name] for name in names] if self._one_by_one else [names]
        for number, group in enumerate(groups):
            try:
                pipeline.enqueue(("EXISTS", *group), partial(self._on_answer, group, arming))
            except (ConnectionEnded, BusError):
                self._postpone([name for left in groups[number:] for name in left])
                return False
            self._unanswered += 1
        return True

    async def _answers(self) -> None:
        """Return once all that was submitted is answered."""
        while self._unanswered:
            self._answered = trio.Event()
            await self._answered.wait()

    def _on_read(
        self, name: bytes, arming: int, reader: Watcher, then: Callable[[Any], None], reply: Any
    ) -> None:
        key = None
        if not isinstance(reply, Exception):
            key = self._keys.note(name, arming, self, armed=self.is_tracking)
        try:
            then(reply)
        finally:
            if not isinstance(reply, Exception):
                self.signs.note()
            if key is not None:
                for watcher in tuple(key.watchers):
                    if watcher is not reader:
                        watcher.wake()
            elif isinstance(reply, Exception):
                self._on_error([name], arming, reply)

    def _on_answer(self, names: list[bytes], arming: int, reply: Any) -> None:
        self._unanswered -= 1
        if not self._unanswered:
            self._answered.set()
        if isinstance(reply, Exception):
            self._on_error(names, arming, reply)
        else:
            self.signs.note()
            self._keys.end(names, arming, self, armed=self.is_tracking, is_absent=reply == 0)

    def _on_error(self, names: list[bytes], arming: int, error: Exception) -> None:
        names = [name for name in names if self._keys.is_arming(name, arming)]
        if isinstance(error, ConnectionEnded):
            self.enqueue(names)
        elif names:
            self._failed.update(dict.fromkeys(names, arming))
            self._work.set()

    # Wherever it is

    async def _name_failed(self) -> bool:
        """Name each key by itself that could not be named with others; return whether to go on."""
        while self._failed:
            some = [self._failed.popitem() for _ in range(min(MAX_IN_FLIGHT, len(self._failed)))]
            names = [name for name, arming in some if self._keys.is_arming(name, arming)]
            if names and not all((await gather(self._name_one, names)).values()):
                return False
        return True

    async def _name_one(self, name: bytes) -> bool:
        """Arm a key at the node that answers for it; return whether there was one.

        One that is refused is not pushed; its watchers wake at each sweep.
        """
        keys = self._keys
        if name not in keys.all:
            return True
        arming = keys.begin([name], None)
        nodes: list[Node] = []

        def answered(node: Node, _connection: object) -> None:
            nodes.append(node)

        try:
            found = await self._redis.execute(
                "EXISTS", name, key=name, role=Role.WATCH, retry_safe=True, answered_by=answered
            )
        except BusError as error:
            if isinstance(error, ServerReplied) and error.recovery is not Recovery.NOT_EXECUTED:
                keys.end([name], arming, self, armed=False)
                return True
            if keys.is_arming(name, arming):
                self._postpone([name])
            return False
        except trio.Cancelled:
            # The task that runs the hub ends; the next one finds the key in the queue.
            if keys.is_arming(name, arming):
                self._postpone([name])
            raise
        peer = self._peer(nodes[-1])
        if peer.has_seen(arming) and not peer.node.is_retired:
            keys.end([name], arming, peer, armed=peer.is_tracking, is_absent=found == 0)
        elif keys.is_arming(name, arming):
            # Its task turns tracking on first, or finds that the node is gone.
            peer.enqueue([name])
        return True
