"""Through which doors clients come in: sockets that were handed over, or that the settings name.

Owns the rule which of them there are, and who a client is by the door it takes. What is served
behind them is the daemon's business.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

import attrs
import trio

from redstreamd.addresses import default_paths
from redstreamd.addresses.address_syntax import socket_path
from redstreamd.errors import SettingsError
from redstreamd.mcpio.acceptor import ServedListener
from redstreamd.mcpio.listeners import ListenError, open_tcp_listeners, open_unix_listener
from redstreamd.policy import Principal
from redstreamd.service.socket_activation import Activated
from redstreamd.settings import Kind, ListenAddress

#: Names of sockets that will be served some day, but not by MCP's line framing.
_RESERVED = frozenset({"http", "metrics"})


@attrs.frozen
class OpenListener:
    """A door and where it is.

    Attributes:
        served: What accepts clients.
        address: Where they find it.
    """

    served: ServedListener
    address: ListenAddress


async def open_listeners(addresses: Sequence[ListenAddress], activated: Activated) -> list[OpenListener]:
    """Return the sockets that systemd handed over and those of `addresses`; if neither, the default one.

    A socket that was handed over makes its name the principal: one socket unit and one group for
    each role is how rights are told apart on a host.

    Raises:
        SettingsError: A socket has a name that stands for something else.
        ListenError: An address cannot be listened on.
    """
    listeners = [adopted(entry.name, entry.listener) for entry in activated.listeners]
    for address in addresses or (() if listeners else (_default_address(),)):
        listeners += await _opened(address)
    return listeners


def adopted(name: str, listener: trio.SocketListener) -> OpenListener:
    """Return the door that a socket is which was handed over under `name`.

    Raises:
        SettingsError: The name stands for something else.
    """
    if name in _RESERVED:
        raise SettingsError(
            "FileDescriptorName",
            value=name,
            source="the socket unit",
            allowed="mcp or the name of a role; http and metrics are not served yet",
        )
    return _door(listener, listener.socket, name)


async def _opened(address: ListenAddress) -> list[OpenListener]:
    if address.kind is Kind.UNIX:
        listener = await open_unix_listener(address.path)
        return [_door(listener, listener.socket, "unix")]
    listeners = await open_tcp_listeners(address.host, address.port)
    return [_door(each, each.socket, "tcp") for each in listeners]


def _door(
    listener: trio.abc.Listener[trio.SocketStream], socket: trio.socket.SocketType, principal: str
) -> OpenListener:
    name = socket.getsockname()
    if socket.family == trio.socket.AF_UNIX:
        return OpenListener(
            ServedListener(listener, Principal(principal, "unix")), ListenAddress(Kind.UNIX, path=name)
        )
    address = ListenAddress(Kind.TCP, host=name[0], port=name[1])
    return OpenListener(ServedListener(listener, Principal(principal, "tcp")), address)


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
