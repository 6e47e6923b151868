"""Takes over the sockets that whoever started us has already opened: systemd's, or inetd's.

Owns the two ways in which a socket arrives, sd_listen_fds(3) and standard input, and the
hygiene of inherited descriptors: matched by name and never by position, closed on exec,
gone from the environment. Refuses to know what is served on them.

What comes from a service manager's configuration can be wrong there, so what cannot be
served is a `SettingsError` that names the socket unit's part.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from collections.abc import MutableMapping
from pathlib import Path

import attrs
import trio

from redstreamd.errors import SettingsError

# SD_LISTEN_FDS_START in sd-daemon.h.
_FIRST_DESCRIPTOR = 3

# Against nonsense in the environment; far more than any unit has sockets, with the
# connections that a file descriptor store may hold (it is configured with a limit, too).
_MAX_DESCRIPTORS = 65_536

_ENVIRONMENT = "the environment"

# What sd_listen_fds_with_names(3) calls a descriptor that was given no name.
UNNAMED = "unknown"


@attrs.frozen
class ActivatedListener:
    """A listening stream socket from the service manager.

    Attributes:
        name: Its ``FileDescriptorName=``; several sockets may share one.
        listener: Ready to be accepted on; whoever takes it closes it.
    """

    name: str
    listener: trio.SocketListener


@attrs.frozen
class ActivatedConnection:
    """A connected stream socket: one client, handed over with its connection open.

    Attributes:
        name: Its name; systemd calls it ``connection`` unless the unit says otherwise.
        stream: The client; whoever takes it closes it.
    """

    name: str
    stream: trio.SocketStream


@attrs.frozen
class Activated:
    """Everything that was handed over, in the service manager's order.

    Attributes:
        listeners: The listening stream sockets.
        connections: The connected stream sockets.
        others: Names and descriptors of whatever is no stream socket, such as what the daemon
            itself put into the file descriptor store; untouched, except that they are closed on exec.
    """

    listeners: tuple[ActivatedListener, ...] = ()
    connections: tuple[ActivatedConnection, ...] = ()
    others: tuple[tuple[str, int], ...] = ()

    def named(self, name: str) -> tuple[trio.SocketListener, ...]:
        """Return the listeners of one name, in order; none if nothing of that name was handed over."""
        return tuple(entry.listener for entry in self.listeners if entry.name == name)


def adopt_sockets(environ: MutableMapping[str, str] = os.environ) -> Activated:
    """Take over the descriptors that sd_listen_fds(3) describes, and remove the description.

    The descriptors belong to us only if LISTEN_PID is our process: without it, or with
    another's, the variables were inherited from a parent that they were meant for. (The
    units of the original Red-Stream set LISTEN_FDS=1 by hand and pass the socket as
    standard input; that is what `adopt_standard_input` is for.)

    Args:
        environ: Where the variables are; they are deleted there.

    Raises:
        SettingsError: The number of descriptors or of names is wrong, a descriptor is not
            open, or a socket is of a kind that cannot be served.
    """
    pid = environ.pop("LISTEN_PID", "")
    count = environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", None)
    # Newer versions describe the process by its pidfd as well.
    environ.pop("LISTEN_PIDFDID", None)
    if pid != str(os.getpid()) or not count:
        return Activated()
    named = _named_descriptors(count, names)
    # Everything is checked before anything is taken over, and no program that we start may
    # inherit any of it.
    for name, descriptor in named:
        try:
            os.set_inheritable(descriptor, False)
        except OSError as exc:
            allowed = f"open descriptors; {descriptor}: {exc.strerror}"
            raise SettingsError("LISTEN_FDS", value=count, source=_ENVIRONMENT, allowed=allowed) from exc
        if _is_socket(descriptor):
            _check_kind(descriptor, f"socket {name}")
    listeners: list[ActivatedListener] = []
    connections: list[ActivatedConnection] = []
    others: list[tuple[str, int]] = []
    for name, descriptor in named:
        if not _is_socket(descriptor):
            others.append((name, descriptor))
            continue
        adopted = _adopted(descriptor)
        if isinstance(adopted, trio.SocketListener):
            listeners.append(ActivatedListener(name, adopted))
        else:
            connections.append(ActivatedConnection(name, adopted))
    return Activated(tuple(listeners), tuple(connections), tuple(others))


def adopt_standard_input() -> trio.SocketListener | trio.SocketStream | None:
    """Take over the socket that standard input is, if it is one to be served as such.

    ``StandardInput=socket`` passes a unit's socket as descriptor 0: without ``Accept=yes``
    the listening one, with it the connected one. SO_ACCEPTCONN (socket(7)) tells them apart.

    Afterwards descriptor 0 is empty, and descriptor 1, if it was the same socket, is standard
    error, so that nothing printed can get between the messages.

    Returns:
        A listener; or the one client, if standard output is the same socket; or None: then
        standard input and output are something else (pipes, a terminal, the two separate socket
        pairs that Node.js makes for a child process), and nothing was changed.

    Raises:
        SettingsError: It is the socket to be served, but no stream socket.
    """
    if not _is_socket(0):
        return None
    is_output_too = _is_same_file(0, 1)
    if not is_output_too and not _is_listening(0):
        return None
    _check_kind(0, "standard input")
    adopted = _adopted(fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, _FIRST_DESCRIPTOR))
    with Path(os.devnull).open("r+b", buffering=0) as null:
        # With StandardError=inherit even that is the socket, and prints have no place to go.
        printed_to = null.fileno() if _is_same_file(0, 2) else 2
        if is_output_too:
            os.dup2(printed_to, 1)
        os.dup2(null.fileno(), 0)
    return adopted


def _named_descriptors(count: str, names: str | None) -> list[tuple[str, int]]:
    if not (count.isascii() and count.isdigit() and int(count) <= _MAX_DESCRIPTORS):
        allowed = f"a number up to {_MAX_DESCRIPTORS}"
        raise SettingsError("LISTEN_FDS", value=count, source=_ENVIRONMENT, allowed=allowed)
    descriptors = range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + int(count))
    given = [UNNAMED] * len(descriptors) if names is None else names.split(":")
    if len(given) != len(descriptors):
        allowed = f"{len(descriptors)} names, as many as LISTEN_FDS says"
        raise SettingsError("LISTEN_FDNAMES", value=names, source=_ENVIRONMENT, allowed=allowed)
    return list(zip(given, descriptors, strict=True))


def _check_kind(descriptor: int, what: str) -> None:
    with socket.socket(fileno=os.dup(descriptor)) as probe:
        if probe.type != socket.SOCK_STREAM:
            kind = socket.SocketKind(probe.type).name
            allowed = "a stream socket (ListenStream=)"
            raise SettingsError(what, value=kind, source="the service manager", allowed=allowed)


def _adopted(descriptor: int) -> trio.SocketListener | trio.SocketStream:
    # This makes it non-blocking for everyone who holds it; the service manager only polls it.
    adopted = trio.socket.from_stdlib_socket(socket.socket(fileno=descriptor))
    return trio.SocketListener(adopted) if _is_listening(descriptor) else trio.SocketStream(adopted)


def _is_listening(descriptor: int) -> bool:
    with socket.socket(fileno=os.dup(descriptor)) as probe:
        return bool(probe.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _is_socket(descriptor: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError:
        return False


def _is_same_file(one: int, other: int) -> bool:
    try:
        return os.path.sameopenfile(one, other)
    except OSError:
        return False
