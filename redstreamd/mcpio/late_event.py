"""An event that is small as long as nobody waits for it."""

from __future__ import annotations

import trio


class LateEvent:
    """As `trio.Event`, which takes 300 bytes, but made when somebody waits.

    A connection has several events, of which most are never awaited.

    Attributes:
        was_set: What `is_set` returns, for who asks at each call.
    """

    __slots__ = ("_event", "was_set")

    def __init__(self) -> None:
        """Begin not set."""
        self.was_set = False
        self._event: trio.Event | None = None

    def is_set(self) -> bool:
        """Return whether it is set."""
        return self.was_set

    def set(self) -> None:
        """Let all go on who wait, and who will."""
        self.was_set = True
        if self._event is not None:
            self._event.set()

    async def wait(self) -> None:
        """Return once it is set; a checkpoint."""
        if self.was_set:
            await trio.lowlevel.checkpoint()
            return
        if self._event is None:
            self._event = trio.Event()
        await self._event.wait()
