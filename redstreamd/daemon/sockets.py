"""The daemon's listening sockets, inherited or from the settings, and the principal of each.

A client is identified by the socket it connects to, and where the settings say so, by its user or
certificate.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

import msgspec
import trio

from redstreamd.addresses import default_paths
from redstreamd.addresses.address_syntax import socket_path
from redstreamd.daemon.metrics_listeners import NAME as METRICS
from redstreamd.errors import SettingsError
from redstreamd.mcpio.listeners import ListenError, open_tcp_listeners, open_unix_listener
from redstreamd.policy import Principal
from redstreamd.protection.configured_demands import demands_of
from redstreamd.protection.listener_protection import Protection
from redstreamd.service.socket_activation import Activated
from redstreamd.settings import DaemonSettings, Kind, ListenAddress, Settings
from redstreamd.settings.listener_demands import check_protected

#: Names of sockets that are not MCP with line framing; the first is not served yet, the second elsewhere.
_RESERVED = frozenset({"http", METRICS})


class OpenListener(msgspec.Struct, frozen=True):
    """A listener, the principal of its clients, and its address.

    Attributes:
        is_inherited: Whether the service manager holds the socket, too.
        protection: What its clients have to show first; None for nothing.
    """

    listener: trio.abc.Listener[trio.SocketStream]
    principal: Principal
    address: ListenAddress
    is_inherited: bool = False
    protection: Protection | None = None


async def open_listeners(settings: Settings, activated: Activated) -> list[OpenListener]:
    """Return the inherited sockets for MCP and those of the settings; if there are none, the default socket.

    Raises:
        SettingsError: An inherited socket has a reserved name, or a socket is open to other hosts and demands
            nothing of them. What was opened is closed.
        ListenError: An address cannot be listened on.
    """
    listeners = [
        inherited_listener(entry.name, entry.listener)
        for entry in activated.listeners
        if entry.name != METRICS
    ]
    given = tuple(each for each in settings.daemon.listen if each.kind is not Kind.METRICS)
    for address in given or (() if listeners else (_default_address(),)):
        listeners += await _open(address)
    try:
        return protected(listeners, settings)
    except SettingsError:
        for each in listeners:
            await each.listener.aclose()
        raise


def protected(listeners: Sequence[OpenListener], settings: Settings) -> list[OpenListener]:
    """Return listeners with what they demand of their clients.

    Raises:
        SettingsError: One is open to other hosts and demands nothing, or the files cannot be used.
    """
    for each in listeners:
        _check_protected(each, settings)
    if not any(each.address.kind is Kind.TCP for each in listeners):
        return list(listeners)
    demands = demands_of(settings.listeners)
    protection = Protection(demands) if demands else None
    return [
        msgspec.structs.replace(each, protection=protection) if each.address.kind is Kind.TCP else each
        for each in listeners
    ]


def _check_protected(each: OpenListener, settings: Settings) -> None:
    if each.address.kind is Kind.TCP:
        key, source = (
            ("ListenStream", "the socket unit") if each.is_inherited else ("daemon.listen", "the settings")
        )
        check_protected(each.address, each.address.host, settings.listeners, source=source, key=key)


def check_connection(stream: trio.SocketStream, settings: Settings) -> None:
    """Raise SettingsError if a connection that another program accepted may not be served as it is."""
    if stream.socket.family == trio.socket.AF_UNIX:
        return
    host, port = stream.socket.getsockname()[:2]
    address = ListenAddress(Kind.TCP, host=host, port=port)
    listeners, source = settings.listeners, "the service manager"
    check_protected(address, host, listeners, source=source, key="standard input")
    if listeners.certificate_file or listeners.token_file:
        allowed = "a Unix socket, or the daemon's own listener: only that asks clients for TLS or a token"
        raise SettingsError("standard input", value=str(address), source=source, allowed=allowed)


def inherited_listener(name: str, listener: trio.SocketListener) -> OpenListener:
    """Return an inherited socket as a listener; its name is the principal's.

    With a socket unit and a group for each role, a host can separate rights.

    Raises:
        SettingsError: The name is reserved.
    """
    if name in _RESERVED:
        raise SettingsError(
            "FileDescriptorName",
            value=name,
            source="the socket unit",
            allowed="mcp or the name of a role; http is not served yet, and metrics is a socket of its own",
        )
    return msgspec.structs.replace(_listener(listener, listener.socket, name), is_inherited=True)


async def _open(address: ListenAddress) -> list[OpenListener]:
    if address.kind is Kind.HTTP:
        raise SettingsError(
            "daemon.listen", value=str(address), source="the settings", allowed="no http: yet"
        )
    if address.kind is Kind.UNIX:
        listener = await open_unix_listener(address.path)
        return [_listener(listener, listener.socket, "unix")]
    listeners = await open_tcp_listeners(address.host, address.port)
    return [_listener(each, each.socket, "tcp") for each in listeners]


def principals_of(settings: DaemonSettings) -> set[str]:
    """Return the names of the principals that these settings make, and of those that the units make."""
    given = (each.kind for each in settings.listen if each.kind is not Kind.METRICS)
    made = {"unix" if kind is Kind.UNIX else "tcp" for kind in given}
    # The socket unit's, of the default socket, of `redstreamd stdio` with and without a listening socket.
    return made | {"mcp", "unix", "stdio", "stdin"}


def _listener(
    listener: trio.abc.Listener[trio.SocketStream], socket: trio.socket.SocketType, principal: str
) -> OpenListener:
    name = socket.getsockname()
    if socket.family == trio.socket.AF_UNIX:
        return OpenListener(listener, Principal(principal, "unix"), ListenAddress(Kind.UNIX, path=name))
    address = ListenAddress(Kind.TCP, host=name[0], port=name[1])
    return OpenListener(listener, Principal(principal, "tcp"), address)


def _default_address() -> ListenAddress:
    path = default_paths.default_socket()
    try:
        address = ListenAddress(Kind.UNIX, path=socket_path(path))
    except ValueError as wrong:
        allowed = (
            f"{wrong}; without the setting it follows from the environment variables RUNTIME_DIRECTORY and "
            "XDG_RUNTIME_DIR"
        )
        raise SettingsError("daemon.listen", value=path, source="default", allowed=allowed) from None
    try:
        default_paths.make_socket_directory(path)
    except OSError as error:
        number = error.errno or errno.EIO
        raise ListenError(number, f"cannot listen on {path}: {error.strerror or error}") from error
    return address
