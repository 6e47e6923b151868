"""Counts the failures of peers of late, so that whoever fails often can be slowed down."""

from __future__ import annotations

from typing import Final

import attrs
import trio

from redstreamd.admission.accounts import Peer

#: Failures of one peer within `PERIOD_SECONDS` that are not too many.
MAX_FAILURES: Final = 20
PERIOD_SECONDS: Final = 60.0
#: Peers that are remembered; beyond it the one is forgotten whose period began first.
_MAX_PEERS: Final = 1_024


@attrs.define
class _Count:
    since: float
    failures: int = 0


class FailedAttempts:
    """Counts per peer. All clients behind a reverse proxy are one peer."""

    def __init__(self) -> None:
        """Begin without a failure."""
        self._peers: dict[Peer, _Count] = {}

    def too_many(self, peer: Peer) -> bool:
        """Count a failure, and return whether its peer had too many."""
        now = trio.current_time()
        count = self._peers.get(peer)
        if count is None or now >= count.since + PERIOD_SECONDS:
            self._peers.pop(peer, None)
            if len(self._peers) >= _MAX_PEERS:
                del self._peers[next(iter(self._peers))]
            count = self._peers[peer] = _Count(now)
        count.failures += 1
        return count.failures > MAX_FAILURES
