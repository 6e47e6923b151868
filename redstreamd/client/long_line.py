"""A line of the client that is too long to be kept, and is passed on in pieces."""

from __future__ import annotations

import math

from redstreamd.client.message_forms import front_form, last_id

#: Where its id is looked for.
_HEAD_BYTES = 4096
_TAIL_BYTES = 256


class LongLine:
    """What is known of it.

    Attributes:
        request_id: Its id, as JSON text; None until it has come, or if there is none.
        method: Its method; empty if that is not at the front.
        is_registered: Whether the session has taken note of the request; then it may be answered already.
        is_discarded: Whether the rest is not passed on.
        since: When it began to wait for a daemon; infinite if it does not.
    """

    def __init__(self, head: bytes) -> None:
        """Look for the id and the method in the first bytes."""
        self.request_id, self.method = front_form(head[:_HEAD_BYTES])
        self.is_discarded = self.is_registered = False
        self.since = math.inf
        self._tail = b""
        self._held: list[bytes] = []

    @property
    def is_held(self) -> bool:
        """Whether its beginning waits for a daemon."""
        return bool(self._held)

    def note(self, piece: bytes) -> None:
        """Look for the id at the end."""
        self._tail = (self._tail + piece[-_TAIL_BYTES:])[-_TAIL_BYTES:]
        if self.request_id is None and piece.endswith(b"\n"):
            self.request_id = last_id(self._tail)

    def hold(self, piece: bytes, now: float) -> None:
        """Keep a piece for the next connection."""
        self.since = min(self.since, now)
        self._held.append(piece)

    def take_held(self) -> list[bytes]:
        """Return what was kept."""
        held, self._held = self._held, []
        self.since = math.inf
        return held

    def discard(self) -> None:
        """Pass nothing of it on."""
        self.take_held()
        self.is_discarded = True

    def discard_rest(self) -> None:
        """Pass no more of it on, if some was."""
        if not self._held:
            self.is_discarded = True
