"""A listener that clients are accepted from, and what is asked of its sockets."""

from __future__ import annotations

import contextlib
import select
import socket
from typing import Final

import msgspec
import trio

from redstreamd.mcpio.served_connection import OpenConnection
from redstreamd.mcpio.shared_listener import SharedListener
from redstreamd.policy import Principal
from redstreamd.protection.listener_protection import Protection

# How a vanished TCP client is detected (tcp(7)): after 30 s of silence by three probes at intervals of 5 s,
# and after 15 s if sent data is not acknowledged.
_KEEPALIVE_OPTIONS: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 15_000),
)


class ServedListener(msgspec.Struct, frozen=True):
    """A listener, and the principal of its clients.

    A client is identified by the socket it connects to, and where that is asked for, by more.

    Attributes:
        address: Where it listens, for people.
        outlives_us: Whether another process keeps the socket open, as a service manager does. Then the
            connections that wait to be accepted when we stop are left to our successor.
        tells_users: Whether the users of a Unix socket are principals of their own.
        protection: What clients have to show first; None for nothing.
        opens: Opens the connections of clients that speak another protocol; None: the line transport.
    """

    listener: trio.abc.Listener[trio.SocketStream]
    principal: Principal
    address: str = ""
    outlives_us: bool = False
    tells_users: bool = False
    protection: Protection | None = None
    opens: OpenConnection | None = None


def notice_vanishing(stream: trio.SocketStream) -> None:
    """Have the kernel find out when a TCP client vanishes; nothing for a Unix socket."""
    if stream.socket.family in (socket.AF_INET, socket.AF_INET6):
        # Fails for a client that has disconnected already, which the connection notices.
        with contextlib.suppress(OSError):
            for level, option, value in _KEEPALIVE_OPTIONS:
                stream.setsockopt(level, option, value)


def take_waiting(listener: trio.abc.Listener[trio.SocketStream]) -> trio.SocketStream | None:
    """Accept a connection that waits, without a checkpoint; None if none does, or none can be accepted.

    While other processes accept from the same socket, none is taken so: which are this one's, `accept` says.
    """
    descriptor = _descriptor(listener)
    if descriptor < 0 or (isinstance(listener, SharedListener) and listener.has_others()):
        return None
    # It does not block: trio has set the descriptor so.
    listening = socket.socket(fileno=descriptor)
    try:
        accepted, _ = listening.accept()
    except OSError:
        # What it means is for `accept` to say.
        return None
    finally:
        listening.detach()
    return trio.SocketStream(trio.socket.from_stdlib_socket(accepted))


def has_waiting(listener: trio.abc.Listener[trio.SocketStream]) -> bool:
    """Return whether a connection waits to be accepted."""
    descriptor = _descriptor(listener)
    if descriptor < 0:
        return False
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(0))


def _descriptor(listener: trio.abc.Listener[trio.SocketStream]) -> int:
    """Return the descriptor of a listening socket; negative if it has none, or is closed."""
    listening: trio.socket.SocketType | None = getattr(listener, "socket", None)
    return -1 if listening is None else listening.fileno()
