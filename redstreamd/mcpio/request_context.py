"""What a handler finds of its request: the SDK's outbound protocols, over exchanges and sessions.

Requests to the client are errors in both eras: the modern one forbids them, and redstreamd needs none. Knows
nothing of sockets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NoReturn

import anyio
import trio
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import NoBackChannelError
from mcp.shared.message import ServerMessageMetadata
from mcp.shared.transport_context import TransportContext

from redstreamd.mcpio import jsonrpc
from redstreamd.mcpio.exchange import Exchange
from redstreamd.mcpio.jsonrpc import RequestId
from redstreamd.mcpio.session import Session


class Outbound:
    """The SDK's `Outbound` for notifications outside of requests, such as list-changed."""

    def __init__(self, session: Session) -> None:
        """Send to the client of `session`."""
        self.session: Final = session

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

    def _send(self, line: bytes) -> None:
        self.session.sink.send(line)


class RequestContext(Outbound):
    """The SDK's `DispatchContext` for one request or notification.

    Handlers find it as `ctx.request`. Beyond the SDK's protocol they may use the attributes below.

    Attributes:
        session: The client's session, for work that outlives the request.
        exchange: The request; None for a notification and for what the session does by itself.
        draining: Set when the session takes no further requests: a handler that waits should answer now.
        cursors: For `subscriptions/listen`: the last position reported of each stream. A handler keeps it up
            to date; it is not empty at the start if the request was handed over.
    """

    def __init__(
        self, session: Session, exchange: Exchange | None = None, cursors: dict[str, str] | None = None
    ) -> None:
        """Describe a request; without an exchange, a notification or what the session does by itself."""
        super().__init__(session)
        self.exchange: Final = exchange
        self._cancel_requested: anyio.Event | None = None
        self.draining = session.draining
        self.transport = TransportContext(kind=session.principal.transport, can_send_request=False)
        self.cursors = {} if cursors is None else cursors
        if exchange is not None:
            if exchange.cursors is None:
                exchange.cursors = self.cursors
            self.cursors = exchange.cursors

    @property
    def request_id(self) -> RequestId | None:
        """The request's id; None for a notification."""
        return None if self.exchange is None else self.exchange.id

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
        """Set once the client cancelled the request, if this was asked for before; else if it has."""
        exchange = self.exchange
        if self._cancel_requested is None:
            self._cancel_requested = anyio.Event()
            if exchange is not None:
                cancel = exchange.on_cancel

                def cancelled() -> None:
                    if exchange.is_dropped and self._cancel_requested is not None:
                        self._cancel_requested.set()
                    if cancel is not None:
                        cancel()

                exchange.on_cancel = cancelled
        if exchange is not None and exchange.is_dropped:
            self._cancel_requested.set()
        return self._cancel_requested

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """Queue a progress notification, if the client asked for progress; a checkpoint either way."""
        if self.exchange is not None:
            self.exchange.progress(progress, total, message)
        await trio.lowlevel.checkpoint()

    def _send(self, line: bytes) -> None:
        if self.exchange is None:
            super()._send(line)
        else:
            self.exchange.send(line)
