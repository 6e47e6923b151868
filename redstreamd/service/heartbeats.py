"""Heartbeats by which parts of the daemon show progress.

They find a task that neither works nor ends. What follows is the watchdog's; a crash is the supervisor's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import msgspec
import trio


class StaleHeartbeat(msgspec.Struct, frozen=True):
    """A heartbeat that was not renewed in time.

    Attributes:
        name: The part's name.
        age_seconds: Time since its last beat.
        max_age_seconds: The longest time allowed.
    """

    name: str
    age_seconds: float
    max_age_seconds: float

    def __str__(self) -> str:
        """Return the form used in the log."""
        allowed = f"(allowed: {self.max_age_seconds:g} s)"
        return f"{self.name} showed no progress for {self.age_seconds:.1f} s {allowed}"


class Heartbeat:
    """The heartbeat of one part; as a context manager it is removed when the part ends.

    A part that waits for the outside world does so inside `idle`.
    """

    def __init__(self, heartbeats: Heartbeats, name: str, max_age_seconds: float) -> None:
        """For `Heartbeats.register`; begins with a beat."""
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
        """Expect no beats during the block; it ends with a beat."""
        self._idle += 1
        try:
            yield
        finally:
            self._idle -= 1
            self.beat()

    def close(self) -> None:
        """Remove the heartbeat: no beats are expected any more."""
        self._heartbeats.remove(self)

    def __enter__(self) -> Self:
        """Return the heartbeat."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Remove the heartbeat."""
        self.close()

    def stale(self, now: float) -> StaleHeartbeat | None:
        """Return a description if the last beat is too old at `now`, in trio's time; else None."""
        age = now - self._beat_at
        if self._idle or age <= self.max_age_seconds:
            return None
        return StaleHeartbeat(self.name, age, self.max_age_seconds)


class Heartbeats:
    """All heartbeats of one daemon."""

    def __init__(self) -> None:
        """Start without any."""
        self._heartbeats: list[Heartbeat] = []

    def register(self, name: str, *, max_age_seconds: float) -> Heartbeat:
        """Return a new heartbeat.

        Args:
            name: For the log. Several heartbeats may share a name; each counts by itself.
            max_age_seconds: The longest time without a beat. Give much more than a slow machine needs: beyond
                it the daemon is restarted.
        """
        heartbeat = Heartbeat(self, name, max_age_seconds)
        self._heartbeats.append(heartbeat)
        return heartbeat

    def remove(self, heartbeat: Heartbeat) -> None:
        """Remove a heartbeat; idempotent."""
        with contextlib.suppress(ValueError):
            self._heartbeats.remove(heartbeat)

    def stale(self) -> tuple[StaleHeartbeat, ...]:
        """Return the heartbeats that are too old now, in the order of their registration."""
        now = trio.current_time()
        return tuple(late for heartbeat in self._heartbeats if (late := heartbeat.stale(now)) is not None)
