"""The keys that the tail hub watches, and where each of them is armed.

Owns the state of each key and the number of each arming. Sending is done in ``node_arming``; who is woken
when is decided in ``tail_hub``.

Invariants:
- A key that is watched is queued, being armed, armed or refused; or it changed, and all its watchers are
  eager and still reading.
- A key is armed at one node (`at`), which pushes its next change. What other nodes push of it counts for
  nothing: they served it before.
- An arming has a number that no other has. An answer counts if the key still has that number: a push, a
  new connection, another node for the key, or a later arming, makes an earlier answer count for nothing, and
  each of them sees to it that the key is armed again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from redstreamd.streams.watches import Watcher

if TYPE_CHECKING:
    from redstreamd.streams.node_arming import NodeArming

#: In the place of the number of an arming: a task is to arm the key.
QUEUED: Final = -1
#: The same: only a sweep helps, because the server pushes nothing for the key.
REFUSED: Final = -2
#: Keys without watchers that stay armed; with names of 512 bytes about 1 MiB.
_MAX_IDLE_KEYS: Final = 1_024


class WatchedKey:
    """A key that is watched or armed.

    Attributes:
        watchers: In the order in which they came.
        arming: The number of the arming under way, QUEUED or REFUSED; else 0.
        armed: The number of the arming that has succeeded; else 0.
        at: Where it is armed, or was last; None while that is not known, because the arming under way follows
            redirections.
        is_absent: Whether it did not exist when it was armed. Known only where keys are named one by one.
        end: The number of an arming, and the ID of an entry of the stream that none followed then, and since
            then while that arming counts.
    """

    __slots__ = ("armed", "arming", "at", "end", "is_absent", "watchers")

    def __init__(self) -> None:
        """Begin unarmed, with nobody."""
        self.watchers: dict[Watcher, None] = {}
        self.arming = 0
        self.armed = 0
        self.at: NodeArming | None = None
        self.is_absent = False
        self.end = (0, "")

    def unarm(self) -> None:
        """Make what was sent for it count for nothing."""
        self.armed = self.arming = 0


class ArmedKeys:
    """All keys.

    Attributes:
        all: By name.
        idle: Armed keys without watchers, the first to be forgotten first; each is in `all`.
        armings: Keys armed so far.
        last_arming: The number of the last arming.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self.all: dict[bytes, WatchedKey] = {}
        self.idle: dict[bytes, None] = {}
        self.armings = 0
        self.last_arming = 0

    def keep_idle(self, name: bytes) -> None:
        """Keep a key armed that nobody watches any more."""
        if len(self.idle) >= _MAX_IDLE_KEYS:
            self.forget_idle(next(iter(self.idle)))
        self.idle[name] = None

    def forget_idle(self, name: bytes) -> None:
        """Forget a key that nobody watches."""
        del self.idle[name], self.all[name]

    def begin(self, names: Iterable[bytes], at: NodeArming | None) -> int:
        """Note that known keys are being armed, and return the number of that."""
        self.last_arming = arming = self.last_arming + 1
        for name in names:
            key = self.all[name]
            key.arming, key.at = arming, at
        return arming

    def is_arming(self, name: bytes, arming: int) -> bool:
        """Return whether the answer to an arming counts."""
        key = self.all.get(name)
        return key is not None and key.arming == arming

    def end(
        self,
        names: Iterable[bytes],
        arming: int,
        at: NodeArming,
        *,
        armed: bool,
        is_absent: bool = False,
    ) -> None:
        """Note the answer to an arming, and wake the watchers of its keys.

        Args:
            names: Its keys; those for which it does not count are left out.
            arming: Its number.
            at: Who answered.
            armed: Whether it will push the next change.
            is_absent: Whether the keys do not exist.
        """
        for name in names:
            key = self.note(name, arming, at, armed=armed, is_absent=is_absent)
            if key is not None:
                for watcher in tuple(key.watchers):
                    watcher.wake()

    def note(
        self, name: bytes, arming: int, at: NodeArming, *, armed: bool, is_absent: bool = False
    ) -> WatchedKey | None:
        """Note the answer for one key, as `end`, and return the key if it counts; nobody is woken."""
        key = self.all.get(name)
        if key is None or key.arming != arming:
            return None
        self.armings += 1
        key.armed, key.arming = (arming, 0) if armed else (0, REFUSED)
        key.at, key.is_absent = at, is_absent
        return key
