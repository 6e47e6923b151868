"""Finds the daemon's socket and connects to it."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable
from typing import NamedTuple

from redstreamd.addresses.address_syntax import Address, parse_daemon_address, unquoted
from redstreamd.addresses.default_paths import SOCKET_VARIABLE, candidates_for_clients, is_safe_socket
from redstreamd.startup.unexpanded_variables import placeholder_in

RESTART_GRACE = 3.0
"""Seconds to wait for a daemon that seems to restart. Without socket activation it is absent while it imports
its modules, about one second. Claude Code restarts its bridge once, with the next call."""

_CONNECT_SECONDS = 5.0  # for a host that does not answer

_RETRY = 0.05  # seconds between attempts

_CAUSES = {
    errno.ENOENT: "no such file",
    errno.ECONNREFUSED: "nobody is listening",
    errno.EACCES: "permission denied",
}


class UnreachableError(Exception):
    """No socket answers; the message says which were tried and how to start the daemon.

    Attributes:
        exit_status: Exit status of the command: 75, or 78 if the given address is not valid.
    """

    exit_status = os.EX_TEMPFAIL


class NotAnAddressError(UnreachableError):
    """The address given for the daemon's socket is not valid."""

    exit_status = os.EX_CONFIG

    def __init__(self, source: str, why: str) -> None:
        """Name the option or variable; `why` must not repeat its value, which may be a secret."""
        super().__init__(f"{source} does not name the daemon's socket; {why}")


class AccessError(UnreachableError):
    """The daemon cannot be reached with the given certificates or token."""

    exit_status = os.EX_CONFIG


class Access(NamedTuple):
    """What is shown to a daemon over TCP, and what it has to show; paths.

    Attributes:
        ca_file: PEM file of the CAs to trust; None trusts the system's.
        certificate_file: PEM file of our certificate and its chain, if it asks for one.
        key_file: PEM file of its key; None if that is in `certificate_file`, too.
        server_name: The name that its certificate must bear; None for the host.
        token_file: File whose first line is the token that it asks for.
    """

    ca_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None
    server_name: str | None = None
    token_file: str | None = None

    def needs_tunnel(self, place: Address) -> bool:
        """Return whether a connection has to be more than a socket."""
        return place.kind == "tls" or (place.kind == "tcp" and self.token_file is not None)


#: Nothing is shown, and the system's CAs are trusted.
NO_ACCESS = Access()


class Found(NamedTuple):
    """A daemon.

    Attributes:
        connection: To it; blocking.
        place: Where it listens.
        is_named: Whether the place was named, by option or variable; else it is one of the usual ones.
        access: What it was shown.
    """

    connection: socket.socket
    place: Address
    is_named: bool
    access: Access = NO_ACCESS


def open_connection(
    named: str | None,
    access: Access = NO_ACCESS,
    *,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> socket.socket:
    """Connect to the daemon and return the connection, which is blocking; see `find_daemon`."""
    return find_daemon(named, access, now=now, sleep=sleep).connection


def find_daemon(
    named: str | None,
    access: Access = NO_ACCESS,
    *,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Found:
    """Find the daemon and connect to it.

    Args:
        named: The only address to try, see `parse_address`; without it the one of `SOCKET_VARIABLE`, and
            without that the usual places in their order. Who names a daemon is served by no other one.
        access: What is shown to it over TCP.
        now: A clock in seconds, and `sleep`, which waits by it.
        sleep: See above.

    Raises:
        UnreachableError: None of them answers.
        NotAnAddressError: The address is not valid.
        AccessError: The certificates or the token cannot be used, or the daemon's cannot be trusted.
    """
    option, variable = unquoted(named or ""), unquoted(os.environ.get(SOCKET_VARIABLE, ""))
    named = option or variable
    if named:
        addresses = {named: parse_address(named, "--socket" if option else SOCKET_VARIABLE)}
    else:
        addresses = {each: Address("unix", path=each) for each in candidates_for_clients(os.environ)}
    places = list(addresses)
    deadline = now() + RESTART_GRACE
    while True:
        refusals: dict[str, OSError] = {}
        for place in places:
            try:
                connection = connect_to(addresses[place], access)
            except OSError as refusal:
                refusals[place] = refusal
            else:
                if named or is_safe_socket(addresses[place].path):
                    return Found(connection, addresses[place], bool(named), access)
                connection.close()
                refusals[place] = PermissionError(errno.EPERM, "somebody else has made its directory")
        may_come_back = any(_may_come_back(addresses[place].path, why) for place, why in refusals.items())
        if now() >= deadline or not may_come_back:
            raise UnreachableError(_explained(refusals))
        sleep(_RETRY)


def parse_address(text: str, source: str) -> Address:
    """Parse the address of a daemon.

    Args:
        text: The address, see `parse_daemon_address`.
        source: The option or variable that gave it.

    Raises:
        NotAnAddressError: It is not valid. The message repeats nothing of it but a placeholder.
    """
    if (found := placeholder_in(text)) is not None:
        raise NotAnAddressError(
            source,
            f"{found} is a placeholder that was not expanded: give the path itself, or leave it out",
        )
    try:
        return parse_daemon_address(text)
    except ValueError as wrong:
        raise NotAnAddressError(
            source, f"it takes a path, unix:PATH, tcp:HOST:PORT or tls:HOST:PORT: {wrong}"
        ) from None


def connect_to(place: Address, access: Access = NO_ACCESS) -> socket.socket:
    """Connect to one address and return the connection, which is blocking.

    Raises:
        OSError: Nobody listens there.
        AccessError: The certificates or the token cannot be used, or the daemon's cannot be trusted.
    """
    if access.needs_tunnel(place):
        # Not for each start: it imports ssl.
        from redstreamd.client.tunnel import open_tunnel

        return open_tunnel(place, access)
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
    """Whether a daemon was there: a killed one leaves its socket, a stopped one the socket's directory."""
    if refusal.errno == errno.ENOENT:
        return bool(place) and os.path.isdir(os.path.dirname(place) or ".")  # noqa: PTH112, PTH120 - pathlib is slow to import
    return refusal.errno == errno.ECONNREFUSED


def _explained(refusals: dict[str, OSError]) -> str:
    # The next step comes first: clients truncate long messages (Claude Code at 200 characters), and paths can
    # be long.
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
