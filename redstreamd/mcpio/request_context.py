"""What a handler can use of its connection: the SDK's outbound protocols, over one client's outbox.

Owns progress and notifications to the client. Requests to the client are errors in both eras: the modern one
forbids them, and redstreamd needs none. Knows nothing of sockets.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NoReturn

import anyio
import trio
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import NoBackChannelError
from mcp.shared.message import ServerMessageMetadata
from mcp.shared.transport_context import TransportContext

from redstreamd.mcpio import jsonrpc
from redstreamd.mcpio.jsonrpc import RequestId

Send = Callable[[bytes], None]
"""Queues a line for the client; never blocks and never raises."""

Task = Callable[[], Awaitable[None]]


class ConnectionHandle:
    """What handlers may use of the connection, for work that outlives their request.

    Attributes:
        connection_id: The connection's name in events.
        subscriptions: Each URI of `resources/subscribe` in the handshake era, with the last version reported.
            Handlers keep it up to date, because it is part of the connection's state.
    """

    __slots__ = ("_flushed", "_start", "connection_id", "subscriptions")

    def __init__(
        self,
        connection_id: str,
        *,
        start: Callable[[Task], bool],
        flushed: Callable[[], Awaitable[None]],
        subscriptions: Mapping[str, str],
    ) -> None:
        """Start tasks with `start`, and wait with `flushed` until the client has read everything."""
        self.connection_id = connection_id
        self.subscriptions = dict(subscriptions)
        self._start = start
        self._flushed = flushed

    def start_soon(self, task: Task) -> bool:
        """Run a task until it ends or the connection does; an exception in it ends the connection.

        Returns:
            False if the connection is closing; then the task is not started.
        """
        return self._start(task)

    async def flushed(self) -> None:
        """Wait until the client has read everything; for senders of notifications, to limit their rate."""
        await self._flushed()


class ConnectionOutbound:
    """The SDK's `Outbound` for notifications outside of requests, such as list-changed."""

    def __init__(self, send: Send) -> None:
        """Write through `send`."""
        self._send = send

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> NoReturn:
        """Refuse with `NoBackChannelError`."""
        await trio.lowlevel.checkpoint()
        raise NoBackChannelError(method)

    async def notify(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> None:
        """Queue a notification; a checkpoint, but does not wait for the client."""
        self._send(jsonrpc.notification(method, params))
        await trio.lowlevel.checkpoint()


class RequestContext:
    """The SDK's `DispatchContext` for one request or notification.

    Handlers find it as `ctx.request`. Beyond the SDK's protocol they may use the attributes below.

    Attributes:
        connection_id: The connection's name in events.
        draining: Set when the connection takes no further requests: a handler that waits should answer now.
        cursors: For `subscriptions/listen`: the last position reported of each stream. A handler keeps it up
            to date; it is not empty at the start if the request was handed over.
        connection: The connection, for work that outlives the request; None if the transport has none.
    """

    __slots__ = (
        "_cancel_requested",
        "_cancelled",
        "_closed",
        "_progress_token",
        "_send",
        "connection",
        "connection_id",
        "cursors",
        "draining",
        "request_id",
        "transport",
    )

    def __init__(
        self,
        send: Send,
        *,
        transport: TransportContext,
        connection_id: str,
        draining: trio.Event,
        request_id: RequestId | None = None,
        progress_token: RequestId | None = None,
        cursors: Mapping[str, str] | None = None,
        connection: ConnectionHandle | None = None,
    ) -> None:
        """Write through `send`; `progress_token` is None if the client wants no progress."""
        self._send = send
        self._progress_token = progress_token
        self._closed = False
        self._cancelled = False
        self._cancel_requested: anyio.Event | None = None
        self.transport = transport
        self.connection_id = connection_id
        self.draining = draining
        self.request_id = request_id
        self.cursors = dict(cursors or {})
        self.connection = connection

    @property
    def can_send_request(self) -> bool:
        """False, in both eras."""
        return False

    @property
    def message_metadata(self) -> ServerMessageMetadata:
        """The SDK passes its `request_context` to handlers as `ctx.request`."""
        return ServerMessageMetadata(request_context=self, can_send_request=False)

    @property
    def cancel_requested(self) -> anyio.Event:
        """Set once the client cancelled the request; created on first use, because it is rarely used."""
        if self._cancel_requested is None:
            self._cancel_requested = anyio.Event()
            if self._cancelled:
                self._cancel_requested.set()
        return self._cancel_requested

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> NoReturn:
        """Refuse with `NoBackChannelError`."""
        await trio.lowlevel.checkpoint()
        raise NoBackChannelError(method)

    async def notify(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> None:
        """Queue a notification, unless the request is answered or cancelled; a checkpoint either way."""
        if not self._closed:
            self._send(jsonrpc.notification(method, params))
        await trio.lowlevel.checkpoint()

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """Queue a progress notification, if the client asked for progress; a checkpoint either way."""
        if self._progress_token is None:
            await trio.lowlevel.checkpoint()
            return
        params: dict[str, Any] = {"progressToken": self._progress_token, "progress": progress}
        if total is not None:
            params["total"] = total
        if message is not None:
            params["message"] = message
        await self.notify("notifications/progress", params)

    def close(self) -> None:
        """Drop notifications from now on: the request is finished."""
        self._closed = True

    def cancel(self) -> None:
        """Note that the client cancelled the request; drop notifications from now on."""
        self._closed = self._cancelled = True
        if self._cancel_requested is not None:
            self._cancel_requested.set()
