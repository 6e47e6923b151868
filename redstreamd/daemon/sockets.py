"""The daemon's listening sockets, inherited or from the settings, and the principal of each.

A client is identified by the socket it connects to, and where the settings say so, by its user or
certificate.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Final

import msgspec
import trio

from redstreamd.addresses import default_paths
from redstreamd.addresses.address_syntax import socket_path
from redstreamd.daemon.metrics_listeners import NAME as METRICS
from redstreamd.errors import SettingsError
from redstreamd.mcpio.connection_events import CertificateExpires, CredentialsNotRenewed, EventHook
from redstreamd.mcpio.listeners import ListenError, open_tcp_listeners, open_unix_listener
from redstreamd.policy import Principal
from redstreamd.protection.configured_demands import demands_of
from redstreamd.protection.listener_protection import Protection
from redstreamd.service.socket_activation import Activated
from redstreamd.settings import DaemonSettings, Kind, ListenAddress, Settings
from redstreamd.settings.http_checks import check_http_installed, check_http_protected
from redstreamd.settings.listener_demands import check_protected

#: The name of an inherited socket for Streamable HTTP, and of the principal of its clients.
HTTP: Final = "http"


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
    """Return the inherited sockets for MCP and those of the settings.

    If none of them carries lines, with the default socket, which `redstreamd status` and `reload` need.

    Raises:
        SettingsError: A socket is open to other hosts and demands nothing of them, or is for HTTP, which is
            not installed. What was opened is closed.
        ListenError: An address cannot be listened on.
    """
    listeners = [
        inherited_listener(entry.name, entry.listener)
        for entry in activated.listeners
        if entry.name != METRICS
    ]
    given = [each for each in settings.daemon.listen if each.kind is not Kind.METRICS]
    if all(each.kind is Kind.HTTP for each in (*(each.address for each in listeners), *given)):
        given.append(_default_address())
    for address in given:
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
    kinds = {each.address.kind for each in listeners}
    if Kind.HTTP in kinds:
        check_http_installed(str(next(each.address for each in listeners if each.address.kind is Kind.HTTP)))
    protections = {kind: protection for kind in kinds if (protection := _protection(kind, settings))}
    return [
        msgspec.structs.replace(each, protection=protections.get(each.address.kind))
        if each.address.host
        else each
        for each in listeners
    ]


def _protection(kind: Kind, settings: Settings) -> Protection | None:
    """Return what clients over TCP have to show before anything is read: of HTTP, tokens come later."""
    if kind is Kind.UNIX:
        return None
    demands = demands_of(settings.listeners)
    if kind is Kind.HTTP:
        demands = msgspec.structs.replace(demands, token_file=None)
    return Protection(demands) if demands else None


def report_credentials(listeners: Sequence[OpenListener], on_event: EventHook) -> None:
    """Have what listeners show and ask for report what is wrong with its files, from now on."""
    for each in listeners:
        if each.protection is not None:
            each.protection.on_problem = lambda cause: on_event(CredentialsNotRenewed(cause))
            each.protection.on_expiring = lambda path, left: on_event(
                CertificateExpires(path, max(left, 0), has_expired=left < 0)
            )
            each.protection.tell_expiring()


def _check_protected(each: OpenListener, settings: Settings) -> None:
    key, source = (
        ("ListenStream", "the socket unit") if each.is_inherited else ("daemon.listen", "the settings")
    )
    if each.address.kind is Kind.TCP:
        check_protected(each.address, each.address.host, settings.listeners, source=source, key=key)
    if each.address.kind is Kind.HTTP:
        check_http_protected(each.address, settings.http, settings.listeners, source=source, key=key)


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

    With a socket unit and a group for each role, a host can separate rights. One that is named ``http`` is
    for Streamable HTTP.
    """
    kind = Kind.HTTP if name == HTTP else None
    return msgspec.structs.replace(_listener(listener, listener.socket, name, kind), is_inherited=True)


async def _open(address: ListenAddress) -> list[OpenListener]:
    if address.path:
        listener = await open_unix_listener(address.path)
        return [_listener(listener, listener.socket, address.kind.value, address.kind)]
    listeners = await open_tcp_listeners(address.host, address.port)
    return [_listener(each, each.socket, address.kind.value, address.kind) for each in listeners]


def principals_of(settings: DaemonSettings) -> set[str]:
    """Return the names of the principals that these settings make, and of those that the units make."""
    given = (each.kind for each in settings.listen if each.kind is not Kind.METRICS)
    # The socket units', of the default socket, of `redstreamd stdio` with and without a listening socket.
    return {*map(str, given), "mcp", HTTP, "unix", "stdio", "stdin"}


def _listener(
    listener: trio.abc.Listener[trio.SocketStream],
    socket: trio.socket.SocketType,
    principal: str,
    kind: Kind | None,
) -> OpenListener:
    """Return a listener; of a kind without which its family says what it is."""
    name = socket.getsockname()
    is_unix = socket.family == trio.socket.AF_UNIX
    kind = kind or (Kind.UNIX if is_unix else Kind.TCP)
    address = ListenAddress(kind, path=name) if is_unix else ListenAddress(kind, host=name[0], port=name[1])
    return OpenListener(listener, Principal(principal, kind.value), address)


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
