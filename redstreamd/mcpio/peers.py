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

import msgspec
import trio

from redstreamd.admission.accounts import Accounts, Held, Peer
from redstreamd.policy import Principal
from redstreamd.visible_text import visible

UNKNOWN: Final = Peer()
_MAX_HOLDERS: Final = 3
#: What the kernel shows for users outside of our user namespace, and for "nobody", who owns nothing either.
OVERFLOW_UID: Final = 65534
#: Of a socket without credentials.
_NO_UID: Final = -1
#: As containers usually have at least; PrivateUsers= leaves root and the service's own.
_USERS_OF_A_HOST: Final = 1000
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


def user_principal(principal: Principal, peer: Peer) -> Principal:
    """Return the principal of a user of a Unix socket.

    A uid that the kernel hides from us, because it is outside of our user namespace (user_namespaces(7)), is
    as good as none: all such users are one principal, ``uid:unknown``. So are clients that have gone already.

    Args:
        principal: The socket's.
        peer: Who connected.
    """
    if peer.uid is None or peer.uid in (OVERFLOW_UID, _NO_UID):
        return principal.proved("uid:unknown")
    return principal.proved(f"uid:{peer.uid}")


def users_are_hidden(uid_map: str | Path = "/proc/self/uid_map") -> bool:
    """Return whether our user namespace has no more users than a handful, so that most are hidden."""
    try:
        lines = Path(uid_map).read_text("ascii").splitlines()
        return sum(int(line.split()[2]) for line in lines) < _USERS_OF_A_HOST
    except (OSError, ValueError, IndexError):
        return False


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
    return f"process {peer.pid}" if name is None else f"process {peer.pid} ({visible(name)})"


def client_text(principal: Principal, peer: Peer | None) -> str:
    """Return a client for people: its principal, and its peer where the transport tells it."""
    return principal.name if peer is None else f"{principal.name} ({peer_text(peer)})"


class Holder(msgspec.Struct, frozen=True):
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


def top_holders(accounts: Accounts) -> tuple[tuple[Peer, int], ...]:
    """Return those who hold most connections and how many, the greatest first; a few."""
    counts: dict[Peer, int] = {}
    for process in accounts.processes():
        # One that uses several sockets has an account for each.
        counts[process.peer] = counts.get(process.peer, 0) + process.held[Held.CONNECTIONS]
    return tuple(heapq.nlargest(_MAX_HOLDERS, counts.items(), key=lambda item: item[1]))


def described(holders: Sequence[tuple[Peer, int]]) -> Sequence[Holder]:
    """Return those who hold most with the names of their processes."""
    return [
        Holder(count, None, None, peer.address)
        if peer.address
        else Holder(count, peer.pid, process_name(peer.pid), None)
        for peer, count in holders
    ]
