"""Finds the daemon's socket and connects to it; shared by the commands that are clients of it."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable

from redstreamd.addresses.address_syntax import Address, parse_daemon_address, unquoted
from redstreamd.addresses.default_paths import SOCKET_VARIABLE, candidates_for_clients, is_safe_socket
from redstreamd.startup.unexpanded_variables import placeholder_in

RESTART_GRACE = 3.0
"""Seconds for which a daemon that seems to restart is waited for: without socket activation it is away
for the time its imports take, about one second. Claude Code starts its bridge once more with the next
call, and goes without the bus if that fails."""

_CONNECT_SECONDS = 5.0  # for a host that does not answer; a socket of this host answers at once

_RETRY = 0.05  # seconds; a twentieth of that absence, and nothing for the machine

_CAUSES = {
    errno.ENOENT: "no such file",
    errno.ECONNREFUSED: "nobody is listening",
    errno.EACCES: "permission denied",
}


class UnreachableError(Exception):
    """No socket answers; the message says where it was looked for and how to start the daemon.

    Attributes:
        exit_status: That of the command: 75, or 78 if the socket that was named cannot be one.
    """

    exit_status = os.EX_TEMPFAIL


class NotAnAddressError(UnreachableError):
    """What was given as the daemon's socket is no address."""

    exit_status = os.EX_CONFIG

    def __init__(self, source: str, why: str) -> None:
        """Say what is wrong with what `source` gave; `why` holds nothing of it."""
        super().__init__(f"{source} does not name the daemon's socket; {why}")


def open_connection(
    named: str | None,
    *,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> socket.socket:
    """Connect to the daemon, blocking.

    Args:
        named: The one address to try, see `address`; without it, the usual places in their order.
        now: A clock in seconds, and `sleep`, which waits by it.
        sleep: See above.

    Raises:
        UnreachableError: None of them answers.
        NotAnAddressError: What is named is no address.
    """
    named = unquoted(named or "")
    if named:
        addresses = {named: address(named, "--socket")}
    else:
        variable = unquoted(os.environ.get(SOCKET_VARIABLE, ""))
        addresses = {variable: address(variable, SOCKET_VARIABLE)} if variable else {}
        usual = candidates_for_clients({**os.environ, SOCKET_VARIABLE: ""})
        addresses |= {each: Address("unix", path=each) for each in usual}
    places = list(addresses)
    deadline = now() + RESTART_GRACE
    while True:
        refusals: dict[str, OSError] = {}
        for place in places:
            try:
                connection = _connected(addresses[place])
            except OSError as refusal:
                refusals[place] = refusal
            else:
                if named or is_safe_socket(addresses[place].path):
                    return connection
                connection.close()
                refusals[place] = PermissionError(errno.EPERM, "somebody else has made its directory")
        may_come_back = any(_may_come_back(addresses[place].path, why) for place, why in refusals.items())
        if now() >= deadline or not may_come_back:
            raise UnreachableError(_explained(refusals))
        sleep(_RETRY)


def address(text: str, source: str) -> Address:
    """Read the address of a daemon.

    Args:
        text: The address, see `parse_daemon_address`.
        source: The option or variable that gave it.

    Raises:
        NotAnAddressError: It is none. The message shows nothing of it but the placeholder that it may be.
    """
    if (found := placeholder_in(text)) is not None:
        raise NotAnAddressError(
            source,
            f"{found} is a placeholder that nobody has expanded: give the path itself, or leave it out",
        )
    try:
        return parse_daemon_address(text)
    except ValueError as wrong:
        raise NotAnAddressError(source, f"it takes a path, unix:PATH or tcp:HOST:PORT: {wrong}") from None


def _connected(place: Address) -> socket.socket:
    if place.kind == "tcp":
        connection = socket.create_connection((place.host, place.port), timeout=_CONNECT_SECONDS)
        connection.settimeout(None)
        return connection
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(place.path)
    except OSError:
        connection.close()
        raise
    return connection


def _may_come_back(place: str, refusal: OSError) -> bool:
    """Whether a daemon was there: killed, it left its socket behind; stopped, the directory of that."""
    if refusal.errno == errno.ENOENT:
        return bool(place) and os.path.isdir(os.path.dirname(place))  # noqa: PTH112, PTH120 - pathlib is slow to import
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
