"""How the changes of a subscriber go to its client, in each era.

A thousand clients may be told of one change, so an outlet finds beforehand all that is the same each time.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Final, Protocol

from redstreamd.mcp_server.update_lines import LIST, listen_line, update_line
from redstreamd.mcpio import jsonrpc
from redstreamd.mcpio.exchange import Exchange
from redstreamd.policy import Principal
from redstreamd.streams.subscriptions.updates import Subscriber


class UpdateSink(Protocol):
    """A queue of messages to a client."""

    @property
    def size(self) -> int:
        """Bytes that the client's socket has not accepted yet."""
        ...

    def send(self, line: bytes, *, is_last: bool = False) -> None:
        """Queue a message; never blocks. `is_last` says that no other is expected soon."""
        ...


class ConnectionHandle(Protocol):
    """A connection, for what outlives a request; `mcpio` provides it."""

    connection_id: str
    principal: Principal
    subscriptions: dict[str, str]

    @property
    def sink(self) -> UpdateSink:
        """Where messages to the client are queued."""
        ...

    def start_soon(self, task: Any) -> bool:
        """Run a task until the connection ends; False if it is closing."""
        ...

    def flushed(self) -> Awaitable[None]:
        """Return when the client has read all that was sent to it."""
        ...


class Outlet(Protocol):
    """Where a subscription ends that is not permitted any more.

    Attributes:
        keeps_list: Whether the list is told of again after that.
    """

    keeps_list: bool

    def send_last(self, name: str) -> None:
        """Notify of a topic that was removed."""
        ...


class _Told:
    """A client that is told of updates; what the outlets of both eras have in common."""

    __slots__ = ("_sink", "flushed", "start_soon")

    def __init__(self, connection: ConnectionHandle) -> None:
        """Tell the client of a connection."""
        self._sink = connection.sink
        self.flushed: Final = connection.flushed
        self.start_soon: Final = connection.start_soon

    def offer(self, name: str, version: str, *, is_last: bool) -> bool:
        """See `streams.subscriptions.updates.Outlet`."""
        if self._sink.size:
            return False
        self.send(name, version, is_last=is_last)
        return True

    def send(self, name: str, version: str, *, is_last: bool = False) -> None:
        """See `streams.subscriptions.updates.Outlet`."""
        raise NotImplementedError


class ConnectionOutlet(_Told):
    """Sends the updates of a connection of the handshake era.

    Attributes:
        subscriber: Whose updates they are.
        tells_cursors: Whether the client has asked for cursors.
    """

    __slots__ = ("_subscriptions", "subscriber", "tells_cursors")

    #: The client's next listing subscribes to the list again.
    keeps_list = False

    def __init__(self, connection: ConnectionHandle) -> None:
        """Send without cursors."""
        super().__init__(connection)
        self.subscriber: Subscriber
        # What the connection's successor is told, which begins as it was read.
        self._subscriptions = connection.subscriptions
        self.tells_cursors = False

    def send(self, name: str, version: str, *, is_last: bool = False) -> None:
        """See `streams.subscriptions.updates.Outlet`."""
        if name in self._subscriptions:
            self._subscriptions[name] = version
        elif name == LIST:
            self.subscriber.remove(LIST)
        self._sink.send(update_line(name, version if self.tells_cursors else None), is_last=is_last)

    def send_last(self, name: str) -> None:
        """See `Outlet`."""
        self._subscriptions.pop(name, None)
        self._sink.send(update_line(name, None))


class ListenOutlet(_Told):
    """Sends the updates of a listen."""

    __slots__ = ("_cursors", "_exchange", "_request_id", "_tells_cursors")

    keeps_list = True

    def __init__(
        self,
        connection: ConnectionHandle,
        exchange: Exchange,
        cursors: dict[str, str],
        *,
        tells_cursors: bool,
    ) -> None:
        """Send as notifications of the request, and keep `cursors` up to date."""
        super().__init__(connection)
        self._exchange = exchange
        self._request_id = jsonrpc.encode_value(exchange.id)
        self._cursors = cursors
        self._tells_cursors = tells_cursors

    def send(self, name: str, version: str, *, is_last: bool = False) -> None:
        """See `streams.subscriptions.updates.Outlet`."""
        self._cursors[name] = version
        self._tell(name, version if self._tells_cursors else None, is_last)

    def send_last(self, name: str) -> None:
        """See `Outlet`."""
        self._cursors.pop(name, None)
        self._tell(name, None)

    def send_list_changed(self, kind: str) -> None:
        """Notify that a list, such as of "tools", has changed."""
        self._tell(f"{kind}/list", None)

    def _tell(self, name: str, version: str | None, is_last: bool = False) -> None:
        exchange = self._exchange
        if exchange.is_open and not exchange.is_dropped:
            before, after = listen_line(name, version)
            exchange.sink.send(b"".join((before, self._request_id, after)), is_last=is_last)
