"""The daemon's listening sockets, inherited or from the settings, and the principal of each.

A client is identified by the socket it connects to.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

import msgspec
import trio

from redstreamd.addresses import default_paths
from redstreamd.addresses.address_syntax import socket_path
from redstreamd.errors import SettingsError
from redstreamd.mcpio.listeners import ListenError, open_tcp_listeners, open_unix_listener
from redstreamd.policy import Principal
from redstreamd.service.socket_activation import Activated
from redstreamd.settings import Kind, ListenAddress

#: Names of sockets that are not MCP with line framing; not served yet.
_RESERVED = frozenset({"http", "metrics"})


class OpenListener(msgspec.Struct, frozen=True):
    """A listener, the principal of its clients, and its address.

    Attributes:
        is_inherited: Whether the service manager holds the socket, too.
    """

    listener: trio.abc.Listener[trio.SocketStream]
    principal: Principal
    address: ListenAddress
    is_inherited: bool = False


async def open_listeners(addresses: Sequence[ListenAddress], activated: Activated) -> list[OpenListener]:
    """Return the inherited sockets and those of `addresses`; if there are none, the default socket.

    Raises:
        SettingsError: An inherited socket has a reserved name.
        ListenError: An address cannot be listened on.
    """
    listeners = [inherited_listener(entry.name, entry.listener) for entry in activated.listeners]
    for address in addresses or (() if listeners else (_default_address(),)):
        listeners += await _open(address)
    return listeners


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
            allowed="mcp or the name of a role; http and metrics are not served yet",
        )
    return msgspec.structs.replace(_listener(listener, listener.socket, name), is_inherited=True)


async def _open(address: ListenAddress) -> list[OpenListener]:
    if address.kind is Kind.UNIX:
        listener = await open_unix_listener(address.path)
        return [_listener(listener, listener.socket, "unix")]
    listeners = await open_tcp_listeners(address.host, address.port)
    return [_listener(each, each.socket, "tcp") for each in listeners]


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
