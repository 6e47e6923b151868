"""What a handler can reach of its connection: the SDK's outbound protocols, over one peer's outbox.

Owns progress and notifications towards the peer. Requests towards the peer are refused, in both eras:
the modern one forbids them, and nothing redstreamd does needs them. Knows nothing of sockets.
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
"""Takes a line for the peer; never blocks and never raises."""

Task = Callable[[], Awaitable[None]]


class ConnectionHandle:
    """What handlers may use of the connection itself, for work that outlives their request.

    Attributes:
        connection_id: Names the connection, as events do.
        subscriptions: For `resources/subscribe` in the handshake era: each URI, and how far it was reported.
            Handlers keep it up to date, because it goes into the connection's state.
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
        """Start tasks with `start`, and wait with `flushed` for the peer to take what was sent to it."""
        self.connection_id = connection_id
        self.subscriptions = dict(subscriptions)
        self._start = start
        self._flushed = flushed

    def start_soon(self, task: Task) -> bool:
        """Run a task until it ends or the connection does; an exception in it ends the connection.

        Returns:
            False if the connection is about to end, and the task was not started.
        """
        return self._start(task)

    async def flushed(self) -> None:
        """Return once nothing waits for the peer to read it: the brake for whoever sends unasked."""
        await self._flushed()


class ConnectionOutbound:
    """The SDK's `Outbound` for what belongs to no request, such as list-changed notifications."""

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
        """Queue a notification; a checkpoint, but no wait for the peer to read it."""
        self._send(jsonrpc.notification(method, params))
        await trio.lowlevel.checkpoint()


class RequestContext:
    """The SDK's `DispatchContext` for one request or notification.

    Handlers find it as `ctx.request`, the SDK's place for what a transport attaches to a message. What they
    may use there beyond the SDK's protocol are the attributes below.

    Attributes:
        connection_id: Names the connection, as events do.
        draining: Set when the connection takes no further requests: a handler that waits should end its wait
            and answer.
        cursors: For `subscriptions/listen`: how far each stream was reported. A handler keeps it up to
            date, and finds it filled when the request was taken over from another process.
        peer: The connection beyond this request; None where the request is all there is.
    """

    __slots__ = (
        "_cancel_requested",
        "_cancelled",
        "_closed",
        "_progress_token",
        "_send",
        "connection_id",
        "cursors",
        "draining",
        "peer",
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
        peer: ConnectionHandle | None = None,
    ) -> None:
        """Write through `send`; `progress_token` is the peer's, None if it wants no progress."""
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
        self.peer = peer

    @property
    def can_send_request(self) -> bool:
        """False: see the module."""
        return False

    @property
    def message_metadata(self) -> ServerMessageMetadata:
        """What makes the SDK show this object to handlers as `ctx.request`."""
        return ServerMessageMetadata(request_context=self, can_send_request=False)

    @property
    def cancel_requested(self) -> anyio.Event:
        """Set once the peer cancelled the request; made when first asked for, which is hardly ever."""
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
        """Queue a progress notification, if the peer asked for progress; a checkpoint either way."""
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
        """Drop what is sent from here on: the request is settled."""
        self._closed = True

    def cancel(self) -> None:
        """Note that the peer cancelled the request, and wants to hear no more of it."""
        self._closed = self._cancelled = True
        if self._cancel_requested is not None:
            self._cancel_requested.set()
