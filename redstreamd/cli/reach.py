"""Finds the daemon's socket and connects to it; shared by the commands that are clients of it."""

from __future__ import annotations

import errno
import os
import socket
import time

from redstreamd.paths import candidates_for_clients, is_safe_place

RESTART_GRACE = 3.0
"""Seconds for which a daemon that seems to restart is waited for: without socket activation it is away
for the time its imports take, about one second. Claude Code starts its bridge once more with the next
call, and goes without the bus if that fails."""

_RETRY = 0.05  # seconds; a twentieth of that absence, and nothing for the machine

_CAUSES = {
    errno.ENOENT: "no such file",
    errno.ECONNREFUSED: "nobody is listening",
    errno.EACCES: "permission denied",
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
                if named is not None or is_safe_place(place):
                    return connection
                connection.close()
                refusals[place] = PermissionError(errno.EPERM, "somebody else has made its directory")
        if time.monotonic() >= deadline or not any(map(_may_come_back, refusals, refusals.values())):
            raise UnreachableError(_explained(refusals))
        time.sleep(_RETRY)


def _may_come_back(place: str, refusal: OSError) -> bool:
    """Whether a daemon was there: killed, it left its socket behind; stopped, the directory of that."""
    if refusal.errno == errno.ENOENT:
        return os.path.isdir(os.path.dirname(place))  # noqa: PTH112, PTH120 - pathlib is slow to import
    return refusal.errno == errno.ECONNREFUSED


def _explained(refusals: dict[str, OSError]) -> str:
    # What to do comes first: clients cut long messages before their model reads them (Claude Code at 200
    # characters), and paths can be long.
    if any(refusal.errno == errno.EACCES for refusal in refusals.values()):
        next_step = "the daemon's socket is closed to you; join its group (redstreamd-clients)"
    else:
        next_step = (
            "no daemon answers; start it with `systemctl start redstreamd.socket` or `redstreamd serve`"
        )
    tried = ", ".join(
        f"{place} ({_CAUSES.get(refusal.errno or 0) or refusal.strerror or refusal})"
        for place, refusal in refusals.items()
    )
    return f"{next_step}, or name its socket with --socket or REDSTREAMD_SOCKET; tried {tried}"
