"""Who is at the other end of a connection, and who holds most of them.

A Unix socket tells the process that connected (unix(7), SO_PEERCRED), a TCP socket its address. A process's
name is looked up only where it is shown.
"""

from __future__ import annotations

import heapq
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs
import trio

from redstreamd.admission.accounts import Peer

UNKNOWN: Final = Peer()
#: Those who hold most connections are looked for at most once in so many seconds.
_TOP_SECONDS: Final = 1.0
_MAX_HOLDERS: Final = 3
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid


def peer_of(stream: trio.SocketStream) -> Peer:
    """Return the peer of a connection."""
    try:
        if stream.socket.family == socket.AF_UNIX:
            credentials = stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            pid, uid, _gid = _CREDENTIALS.unpack(credentials)
            return Peer(uid=uid, pid=pid)
        return Peer(address=str(stream.socket.getpeername()[0]))
    except OSError:
        # It has disconnected already.
        return UNKNOWN


def process_name(pid: int) -> str | None:
    """Return the name of a process; None if it has ended, or is hidden (ProtectProc=invisible)."""
    try:
        return Path(f"/proc/{pid}/comm").read_text("utf-8", "replace").strip() or None
    except OSError:
        return None


def peer_text(peer: Peer) -> str:
    """Return a peer for people: ``process 4711 (node)``, or an address."""
    if peer.address:
        return peer.address
    if not peer.pid:
        return "an unknown process"
    name = process_name(peer.pid)
    return f"process {peer.pid}" if name is None else f"process {peer.pid} ({name})"


@attrs.frozen
class Holder:
    """A peer with connections.

    Attributes:
        connections: How many it holds.
        pid: Its process ID; None over TCP.
        process: The name of that process, if it can be seen.
        address: Its address; None over a Unix socket.
    """

    connections: int
    pid: int | None
    process: str | None
    address: str | None


class Holders:
    """Counts the connections of each peer."""

    def __init__(self) -> None:
        """Begin without connections."""
        self._counts: dict[Peer, int] = {}
        self._top: tuple[tuple[Peer, int], ...] = ()
        self._top_at = -_TOP_SECONDS

    def add(self, peer: Peer) -> None:
        """Count a connection."""
        self._counts[peer] = self._counts.get(peer, 0) + 1

    def remove(self, peer: Peer) -> None:
        """Count one less."""
        if (left := self._counts[peer] - 1) > 0:
            self._counts[peer] = left
        else:
            del self._counts[peer]

    def top(self) -> tuple[tuple[Peer, int], ...]:
        """Return those who hold most and how many, the greatest first; up to a second old."""
        now = trio.current_time()
        if now >= self._top_at + _TOP_SECONDS:
            self._top = self._find_top()
            self._top_at = now
        return self._top

    def described(self) -> Sequence[Holder]:
        """Return those who hold most as of now, with the names of their processes."""
        return [
            Holder(count, None, None, peer.address)
            if peer.address
            else Holder(count, peer.pid, process_name(peer.pid), None)
            for peer, count in self._find_top()
        ]

    def _find_top(self) -> tuple[tuple[Peer, int], ...]:
        return tuple(heapq.nlargest(_MAX_HOLDERS, self._counts.items(), key=lambda item: item[1]))
