"""Those who wait for changes of keys: what the tail hub knows of them, and the watch of a task.

A wait without a task is another (``waiting.Sleep``).
"""

from __future__ import annotations

from typing import Protocol

import trio


class Watcher(Protocol):
    """What is woken when keys change.

    Attributes:
        keys: The keys. They need not exist.
        is_eager: Whether it is woken before the keys are armed again, and then removes itself or calls
            `TailHub.arm`. For those whose first read after a change probably finds what they wait for.
    """

    keys: frozenset[bytes]
    is_eager: bool

    def wake(self) -> None:
        """Note that a key may have changed, or that the hub is draining; must not block or raise."""
        ...

    @property
    def waiting(self) -> int:
        """How many wait for a change; 0 while what was changed is read."""
        ...


class Hub(Protocol):
    """What a watch asks of the hub.

    Attributes:
        draining: Whether the daemon is stopping, so that nobody waits any more.
    """

    draining: bool

    def arm(self, watcher: Watcher) -> None:
        """Arm those of a watcher's keys that are not."""
        ...


class Watch:
    """A wait of a task for changes of some keys; see `TailHub.watch`.

    Use: ``reset()``, read what you wait for, ``await changed()`` if it is not there, and begin again. A
    change after ``reset()`` makes ``changed()`` return, even if it came before the call.
    """

    def __init__(self, keys: frozenset[bytes], hub: Hub, *, is_eager: bool) -> None:
        """Made by `TailHub.watch`."""
        self.keys = keys
        self.is_eager = is_eager
        self._hub = hub
        self._woken = trio.Event()
        #: Whether the wait is to end as if its time were over.
        self.is_over = False

    def reset(self) -> None:
        """Forget the changes up to now."""
        if self._woken.is_set():
            self._woken = trio.Event()

    def wake(self) -> None:
        """Let `changed` return."""
        self._woken.set()

    def end_early(self) -> None:
        """Let the wait end: another client has its place."""
        self.is_over = True
        self.wake()

    async def changed(self) -> None:
        """Return once a watched key may have changed since `reset`, or at once if the hub is draining."""
        if not (self._hub.draining or self.is_over):
            self._hub.arm(self)
            await self._woken.wait()

    @property
    def waiting(self) -> int:
        """How many tasks wait for a change."""
        return self._woken.statistics().tasks_waiting
