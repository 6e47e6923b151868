"""Connects to the daemon again, without blocking, at once and then after pauses."""

from __future__ import annotations

import errno
import os
import socket
from typing import Final

from redstreamd.addresses.default_paths import is_safe_socket
from redstreamd.client.discovery import Found

#: The first pause, and the longest one.
_FIRST_SECONDS: Final = 0.02
_LONGEST_SECONDS: Final = 1.0
#: After a refusal: each attempt may make the service manager start a daemon that cannot serve.
REFUSED_SECONDS: Final = 5.0
#: For a host that does not answer.
CONNECT_SECONDS: Final = 5.0
#: A peer that has vanished is noticed after 15 + 3 * 5 seconds without an answer.
_KEEPALIVE: Final = {
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE): 1,
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE): 15,
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL): 5,
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT): 3,
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT): 30_000,
    (socket.IPPROTO_TCP, socket.TCP_NODELAY): 1,
}


class Reattaching:
    """The place of the daemon that was found, and the pauses.

    Another place is not tried: another daemon may have another Redis.
    """

    def __init__(self, found: Found) -> None:
        """Connect to where `found` is connected to."""
        self._path = found.place.path
        self._place, self._access = found.place, found.access
        self._is_named = found.is_named
        self._family = found.connection.family
        # A name is not resolved again, because that blocks.
        self._peer = found.place.path or found.connection.getpeername()
        self._attempts = 0

    def reset(self) -> None:
        """Begin with an attempt at once."""
        self._attempts = 0

    def pause(self, *, is_refused: bool) -> float:
        """Return the seconds until the next attempt."""
        self._attempts += 1
        if self._attempts == 1:
            return 0.0
        longest = min(_LONGEST_SECONDS, _FIRST_SECONDS * (1 << min(self._attempts - 2, 10)))
        if is_refused:
            longest = REFUSED_SECONDS
        # The bridges of a host must not come all at once.
        return longest * (0.5 + os.urandom(1)[0] / 512)

    def connect(self) -> tuple[socket.socket, bool]:
        """Begin to connect; return the socket, and whether it is connected already.

        Raises:
            OSError: Nobody listens there.
        """
        if self._access.needs_tunnel(self._place):
            from redstreamd.client.tunnel import begin_tunnel

            return begin_tunnel(self._place, self._access), True
        connection = socket.socket(self._family)
        try:
            connection.setblocking(False)
            tune(connection)
            outcome = connection.connect_ex(self._peer)
            if outcome == errno.EINPROGRESS:
                return connection, False
            if outcome:
                raise OSError(outcome, os.strerror(outcome))
            if not self._is_named and not is_safe_socket(self._path):
                raise PermissionError(errno.EPERM, "somebody else has made its directory")
        except OSError:
            connection.close()
            raise
        return connection, True


def tune(connection: socket.socket) -> None:
    """Notice over TCP that the peer has vanished, and send at once."""
    if connection.family != socket.AF_UNIX:
        for (level, option), value in _KEEPALIVE.items():
            connection.setsockopt(level, option, value)
