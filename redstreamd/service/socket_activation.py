"""Sockets inherited from systemd (sd_listen_fds(3)) or inetd (standard input).

Inherited descriptors are matched by name, set close-on-exec, and removed from the environment. A socket that
cannot be served is a `SettingsError`, because the service manager's configuration is wrong.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from collections.abc import MutableMapping
from pathlib import Path

import msgspec
import trio

from redstreamd.errors import SettingsError

# SD_LISTEN_FDS_START in sd-daemon.h.
_FIRST_DESCRIPTOR = 3

# Against invalid environments; more than a unit's sockets and its file descriptor store together.
_MAX_DESCRIPTORS = 65_536

_ENVIRONMENT = "the environment"

# The name of an unnamed descriptor in sd_listen_fds_with_names(3).
UNNAMED = "unknown"


class ActivatedListener(msgspec.Struct, frozen=True):
    """A listening stream socket from the service manager.

    Attributes:
        name: Its ``FileDescriptorName=``; several sockets may share one.
        listener: The listener; the caller closes it.
    """

    name: str
    listener: trio.SocketListener


class ActivatedConnection(msgspec.Struct, frozen=True):
    """A connected stream socket: one client.

    Attributes:
        name: Its name; ``connection`` unless the unit gives another.
        stream: The connection; the caller closes it.
    """

    name: str
    stream: trio.SocketStream


class Activated(msgspec.Struct, frozen=True):
    """All inherited descriptors, in the service manager's order.

    Attributes:
        listeners: The listening stream sockets.
        connections: The connected stream sockets.
        others: Names and descriptors of files that are not sockets, such as those of the file descriptor
            store; only set close-on-exec.
    """

    listeners: tuple[ActivatedListener, ...] = ()
    connections: tuple[ActivatedConnection, ...] = ()
    others: tuple[tuple[str, int], ...] = ()

    def named(self, name: str) -> tuple[trio.SocketListener, ...]:
        """Return the listeners of one name, in order."""
        return tuple(entry.listener for entry in self.listeners if entry.name == name)


def adopt_sockets(environ: MutableMapping[str, str] = os.environ) -> Activated:
    """Take over the descriptors of sd_listen_fds(3), and remove its variables from `environ`.

    They come sorted by name and address: systemd passes on the sockets of several units in an order that
    changes from start to start.

    If LISTEN_PID is not our process, the variables are a parent's, and nothing is taken over. (The units of
    the original Red-Stream set LISTEN_FDS=1 and pass the socket as standard input; see
    `adopt_standard_input`.)

    Raises:
        SettingsError: The number of descriptors or names is wrong, a descriptor is not open, or a socket is
            not a stream socket.
    """
    pid = environ.pop("LISTEN_PID", "")
    count = environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", None)
    # Newer versions also set the process's pidfd.
    environ.pop("LISTEN_PIDFDID", None)
    if pid != str(os.getpid()) or not count:
        return Activated()
    named = _named_descriptors(count, names)
    # Everything is checked before anything is taken over.
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
    for name, descriptor in sorted(named, key=_place):
        if not _is_socket(descriptor):
            others.append((name, descriptor))
            continue
        adopted = _open(descriptor)
        if isinstance(adopted, trio.SocketListener):
            listeners.append(ActivatedListener(name, adopted))
        else:
            connections.append(ActivatedConnection(name, adopted))
    return Activated(tuple(listeners), tuple(connections), tuple(others))


def adopt_standard_input() -> trio.SocketListener | trio.SocketStream | None:
    """Take over the socket that is standard input.

    ``StandardInput=socket`` passes a unit's socket as descriptor 0: the connected one with ``Accept=yes``,
    else the listening one. Afterwards descriptor 0 is /dev/null, and descriptor 1, if it was the same socket,
    is standard error, so that printed text cannot get between the messages.

    Returns:
        A listener, or a connection if standard output is the same socket. None if standard input and output
        are something else, such as pipes, or Node.js's two socket pairs; then nothing was changed.

    Raises:
        SettingsError: It is not a stream socket.
    """
    if not _is_socket(0):
        return None
    is_output_too = _is_same_file(0, 1)
    if not is_output_too and not _is_listening(0):
        return None
    _check_kind(0, "standard input")
    adopted = _open(fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, _FIRST_DESCRIPTOR))
    with Path(os.devnull).open("r+b", buffering=0) as null:
        # With StandardError=inherit that is the socket, too.
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


def _place(named: tuple[str, int]) -> tuple[str, str]:
    """Return what a socket is sorted by: its name and its address."""
    name, descriptor = named
    if not _is_socket(descriptor):
        return name, ""
    with socket.socket(fileno=os.dup(descriptor)) as probe:
        return name, str(probe.getsockname())


def _check_kind(descriptor: int, what: str) -> None:
    with socket.socket(fileno=os.dup(descriptor)) as probe:
        if probe.type != socket.SOCK_STREAM:
            kind = socket.SocketKind(probe.type).name
            allowed = "a stream socket (ListenStream=)"
            raise SettingsError(what, value=kind, source="the service manager", allowed=allowed)


def _open(descriptor: int) -> trio.SocketListener | trio.SocketStream:
    # This makes it non-blocking for all processes that share it; the service manager only polls it.
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
