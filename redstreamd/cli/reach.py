"""Finds the daemon's socket and connects to it; shared by the commands that are clients of it."""

from __future__ import annotations

import errno
import socket
import time

from redstreamd.paths import candidates_for_clients

RESTART_GRACE = 3.0
"""Seconds for which a socket that refuses is tried again: a daemon that restarts without socket
activation is away for the time its imports take, about one second."""

_RETRY = 0.05  # seconds; a twentieth of that absence, and nothing for the machine

_HINTS = {
    errno.ENOENT: "no such file",
    errno.ECONNREFUSED: "nobody is listening",
    errno.EACCES: "permission denied; members of the group redstreamd-clients may connect",
}


class UnreachableError(Exception):
    """No socket answers; the message says where it was looked for and how to start the daemon."""


def open_connection(named: str | None) -> socket.socket:
    """Connect to the daemon, blocking.

    Args:
        named: The one socket to try; without it, the usual places in their order.

    Raises:
        UnreachableError: None of them answers.
    """
    places = candidates_for_clients() if named is None else [named]
    deadline = time.monotonic() + RESTART_GRACE
    while True:
        refusals: dict[str, OSError] = {}
        for place in places:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(place)
            except OSError as refusal:
                connection.close()
                refusals[place] = refusal
            else:
                return connection
        restarting = any(refusal.errno == errno.ECONNREFUSED for refusal in refusals.values())
        if not restarting or time.monotonic() >= deadline:
            raise UnreachableError(_explained(refusals))
        time.sleep(_RETRY)


def _explained(refusals: dict[str, OSError]) -> str:
    looked = ", ".join(
        f"{place} ({_HINTS.get(refusal.errno or 0) or refusal.strerror or refusal})"
        for place, refusal in refusals.items()
    )
    return (
        f"no daemon answers at {looked}; start it with `systemctl start redstreamd.socket` or "
        "`redstreamd serve`, or name its socket with --socket or REDSTREAMD_SOCKET"
    )
