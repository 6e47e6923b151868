"""Marks by which parts of the daemon show that they get on with their work.

Owns the bookkeeping of "when was progress last seen". What follows from a lack of it is
the watchdog's business, and a crash is the supervisor's: a mark only finds the task that
neither works nor ends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import attrs
import trio


@attrs.frozen
class StaleMark:
    """A mark that was not renewed in time.

    Attributes:
        name: Whose mark it is.
        age_seconds: How long ago it was renewed.
        max_age_seconds: How old it may become.
    """

    name: str
    age_seconds: float
    max_age_seconds: float

    def __str__(self) -> str:
        """Return the form used in the log."""
        allowed = f"(allowed: {self.max_age_seconds:g} s)"
        return f"{self.name} showed no progress for {self.age_seconds:.1f} s {allowed}"


class Heartbeat:
    """The mark of one part; use it as a context manager, so that it goes when its part ends.

    A part that waits for the outside world has nothing to show meanwhile and waits inside
    `idle`. That the event loop as a whole gets round is measured without any mark.
    """

    def __init__(self, heartbeats: Heartbeats, name: str, max_age_seconds: float) -> None:
        """Made by `Heartbeats.register`; fresh from now on."""
        self.name = name
        self.max_age_seconds = max_age_seconds
        self._heartbeats = heartbeats
        self._idle = 0
        self._beat_at = trio.current_time()

    def beat(self) -> None:
        """Show progress."""
        self._beat_at = trio.current_time()

    @contextlib.contextmanager
    def idle(self) -> Iterator[None]:
        """Expect nothing for the block; afterwards the mark is fresh."""
        self._idle += 1
        try:
            yield
        finally:
            self._idle -= 1
            self.beat()

    def close(self) -> None:
        """Take the mark away; nothing is expected of this part any more."""
        self._heartbeats.remove(self)

    def __enter__(self) -> Self:
        """Return the mark."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Take the mark away."""
        self.close()

    def stale(self, now: float) -> StaleMark | None:
        """Return what is to be said if the mark is too old at the time `now`, else None."""
        age = now - self._beat_at
        if self._idle or age <= self.max_age_seconds:
            return None
        return StaleMark(self.name, age, self.max_age_seconds)


class Heartbeats:
    """All marks of one daemon."""

    def __init__(self) -> None:
        """Begin without any."""
        self._heartbeats: list[Heartbeat] = []

    def register(self, name: str, *, max_age_seconds: float) -> Heartbeat:
        """Return a new, fresh mark.

        Args:
            name: For the log. A child that is restarted registers again, and several parts may share
                a name; each mark counts by itself.
            max_age_seconds: How long the part may go without showing progress. Well above what it
                needs when the machine is slow: the consequence is a restart of the daemon.
        """
        heartbeat = Heartbeat(self, name, max_age_seconds)
        self._heartbeats.append(heartbeat)
        return heartbeat

    def remove(self, heartbeat: Heartbeat) -> None:
        """Forget a mark; one that is not known is fine."""
        with contextlib.suppress(ValueError):
            self._heartbeats.remove(heartbeat)

    def stale(self) -> tuple[StaleMark, ...]:
        """Return the marks that are too old now, in the order of their registration."""
        now = trio.current_time()
        return tuple(late for heartbeat in self._heartbeats if (late := heartbeat.stale(now)) is not None)
