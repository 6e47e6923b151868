"""Turns the lines of one client into calls of handlers, and their results into lines.

The one place where exceptions become JSON-RPC errors. Knows nothing of byte streams.

It differs from the SDK's dispatcher on purpose. Invalid JSON is answered with -32700, not dropped. A
malformed message is answered with -32600, as is an id that is null, neither string nor integer, or already in
flight. An unexpected exception is answered with -32603 without its text, in both eras.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import attrs
import trio
from mcp.server.lowlevel import Server
from mcp.shared.jsonrpc_dispatcher import progress_token_from_params
from mcp.shared.transport_context import TransportContext

from redstreamd.mcpio import jsonrpc
from redstreamd.mcpio.connection_events import EventHook, RequestFailed
from redstreamd.mcpio.connection_state import ConnectionState, Era
from redstreamd.mcpio.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    NOT_NOW,
    Batch,
    Message,
    Notification,
    Rejection,
    Request,
)
from redstreamd.mcpio.limits import Limits
from redstreamd.mcpio.protocol_eras import HandshakeKernel, Kernel, ModernKernel, era_of, error_of
from redstreamd.mcpio.request_context import ConnectionHandle, ConnectionOutbound, RequestContext, Send
from redstreamd.mcpio.requests_in_flight import Call, RequestsInFlight
from redstreamd.policy import Principal

# Notifications before the first request are kept until that decides the era; the SDK keeps as many. The bound
# in bytes is for their lines together.
MAX_EARLY_NOTIFICATIONS: Final = 8
MAX_EARLY_BYTES: Final = 64 * 1024

# Requests that are handled one after the other, in order of arrival: one undoes the other.
_ORDERED_METHODS: Final = frozenset({"resources/subscribe", "resources/unsubscribe"})

Deliver = Callable[[bytes], Awaitable[None]]
"""Queues a line for the client and may wait to write it; raises nothing but `trio.Cancelled`."""


class Dispatcher:
    """Serves the messages of one client.

    Behaviour:
        Requests run concurrently and are answered in the order they finish. Notifications and `initialize`
        are handled before the next message is read. Subscribing and unsubscribing keep their order among
        each other. A request that the client cancels is not answered; every other is answered once. Each
        request of a batch is answered as soon as it is done, in a batch of one.

    Attributes:
        in_flight: The requests in flight.
        requests: How many requests arrived so far, rejected ones included.
    """

    def __init__(
        self,
        server: Server[Principal],
        *,
        principal: Principal,
        limits: Limits,
        connection: ConnectionHandle,
        draining: trio.Event,
        send: Send,
        deliver: Deliver,
        report: EventHook,
        state: ConnectionState | None,
    ) -> None:
        """Serve with the handlers of `server`.

        Args:
            server: What is served.
            principal: On whose behalf the client calls; handlers find it as their lifespan context.
            limits: Bounds of messages and of what is in flight.
            connection: What handlers may use of the connection.
            draining: While it is set, requests are rejected.
            send: Queues a line, and never waits.
            deliver: Queues a line, and may wait to write it.
            report: Called with a `RequestFailed` for each unexpected exception.
            state: The state to continue from, if any.

        Raises:
            ValueError: The handshake that `state` remembers is not valid.
        """
        self._server = server
        self._principal = principal
        self._limits = limits
        self._connection = connection
        self._connection_id = connection.connection_id
        self._draining = draining
        self._send = send
        self._deliver = deliver
        self._report = report
        self._transport = TransportContext(kind=principal.transport, can_send_request=False)
        self._kernel: Kernel | None = None
        if state is not None and state.era is not None:
            self._kernel = self._make_kernel(state.era, state)
        self._early: list[Notification] = []
        self._early_bytes = 0
        # Set when the last of the ordered requests is done.
        self._last_ordered: trio.Event | None = None
        self.in_flight = RequestsInFlight(limits)
        self.requests = 0

    @property
    def era(self) -> Era | None:
        """The era the client speaks; None until it has shown that."""
        return None if self._kernel is None or not self._kernel.settled else self._kernel.era

    async def handle_line(self, line: bytes, nursery: trio.Nursery) -> None:
        """Handle one line from the client; its requests run as tasks in `nursery`."""
        message = jsonrpc.decode(line, self._limits)
        if not isinstance(message, Batch):
            await self._handle_message(message, len(line), nursery)
        elif self._kernel is None or not self._kernel.takes_batches:
            why = "batches are accepted in revision 2025-03-26 only: send one message on each line"
            self._reject(Rejection(INVALID_REQUEST, why))
        else:
            for each in message.messages:
                await self._handle_message(each, len(line) // len(message.messages), nursery, batched=True)
                # A batch may have thousands of messages.
                await trio.lowlevel.checkpoint()

    def resume(self, state: ConnectionState, nursery: trio.Nursery) -> None:
        """Answer the requests that were in flight with an error; continue listens and subscriptions."""
        for request_id in state.in_flight:
            message = "the server was restarted meanwhile; whether the request took effect is unknown"
            self._reject(Rejection(NOT_NOW, message, request_id))
        kernel = self._kernel
        if kernel is None:
            return
        for listen in state.listens:
            params = None if listen.params is None else dict(listen.params)
            request = Request(listen.request_id, "subscriptions/listen", params)
            nursery.start_soon(self._answer, kernel, self._register(request, 0, listen.cursors))
        for uri, cursor in state.subscriptions.items():
            nursery.start_soon(self._resubscribe, kernel, uri, cursor)

    def state(self, unread: bytes) -> ConnectionState:
        """Return the state for a successor.

        Args:
            unread: What was received and not given to `handle_line`.
        """
        # The successor handles the early notifications again.
        early = b"".join(jsonrpc.notification(message.method, message.params) for message in self._early)
        state = ConnectionState(self._connection_id)
        if self._kernel is not None and self._kernel.settled:
            state = self._kernel.state(self._connection_id)
        return attrs.evolve(
            state,
            in_flight=self.in_flight.unanswered(),
            listens=self.in_flight.listens(),
            subscriptions=dict(self._connection.subscriptions),
            unread=early + unread,
        )

    async def aclose(self) -> None:
        """Run the exit callbacks of handlers; shielded from cancellation, and limited by the SDK to 5 s."""
        if self._kernel is not None:
            await self._kernel.aclose()

    async def _handle_message(
        self, message: Message, size: int, nursery: trio.Nursery, *, batched: bool = False
    ) -> None:
        if isinstance(message, Request):
            await self._handle_request(message, size, nursery, batched)
        elif isinstance(message, Notification):
            await self._handle_notification(message, size)
        elif isinstance(message, Rejection):
            self._reject(message, batched)

    async def _handle_request(
        self, request: Request, size: int, nursery: trio.Nursery, batched: bool
    ) -> None:
        self.requests += 1
        rejection = self.in_flight.rejection(request, size)
        if self._draining.is_set():
            rejection = Rejection(
                NOT_NOW, "the server is shutting down and takes no more requests", request.id
            )
        if batched and request.method == "initialize":
            rejection = Rejection(INVALID_REQUEST, "initialize must not be part of a batch", request.id)
        if rejection is not None:
            self._reject(rejection, batched)
            return
        # Decided before the task starts, because tasks start in no particular order.
        kernel = await self._kernel_for(request)
        if request.method == "initialize":
            # Not in a task, so that the next request finds the session initialized.
            line = await self._outcome(kernel, self._register(request, size))
            if line is not None:
                self._send(line)
            return
        call = self._register(request, size)
        call.batched = batched
        if request.method in _ORDERED_METHODS:
            call.start_after, self._last_ordered = self._last_ordered, call.finished
        nursery.start_soon(self._answer, kernel, call)

    async def _handle_notification(self, message: Notification, size: int) -> None:
        if message.method == "notifications/cancelled":
            self.in_flight.cancel(message.params)
        if self._kernel is not None:
            await self._notify(self._kernel, message)
        elif len(self._early) < MAX_EARLY_NOTIFICATIONS and self._early_bytes + size <= MAX_EARLY_BYTES:
            self._early.append(message)
            self._early_bytes += size

    async def _kernel_for(self, request: Request) -> Kernel:
        """Return the kernel for a request: the connection's, once the client has shown its era."""
        kernel = self._kernel
        if kernel is not None and kernel.settled:
            return kernel
        era = era_of(request.method, request.params)
        if kernel is None or kernel.era is not era:
            if kernel is not None:
                await kernel.aclose()
            kernel = await self._open(era)
        kernel.claim(request.method, request.params)
        return kernel

    async def _open(self, era: Era) -> Kernel:
        """Make the kernel of an era, and handle the early notifications."""
        self._kernel = kernel = self._make_kernel(era)
        early, self._early = self._early, []
        for message in early:
            await self._notify(kernel, message)
        return kernel

    def _make_kernel(self, era: Era, state: ConnectionState | None = None) -> Kernel:
        outbound = ConnectionOutbound(self._send)
        if era is Era.MODERN:
            return ModernKernel(self._server, self._principal, outbound, state)
        return HandshakeKernel(self._server, self._principal, outbound, state)

    def _context(
        self, request: Request | None = None, cursors: Mapping[str, str] | None = None
    ) -> RequestContext:
        return RequestContext(
            self._send,
            transport=self._transport,
            connection_id=self._connection_id,
            draining=self._draining,
            request_id=None if request is None else request.id,
            progress_token=None if request is None else progress_token_from_params(request.params),
            cursors=cursors,
            connection=self._connection,
        )

    async def _resubscribe(self, kernel: Kernel, uri: str, cursor: str) -> None:
        """Subscribe again to what the client subscribed to before the hand-over."""
        if uri not in self._connection.subscriptions:
            # The client has unsubscribed meanwhile.
            return
        method = "resources/subscribe"
        try:
            await kernel.serve(self._context(cursors={uri: cursor}), method, {"uri": uri})
        except Exception as exc:  # noqa: BLE001 - a subscription that is lost may not end the connection
            self._report(RequestFailed(self._connection_id, self._principal, method, None, exc))

    async def _notify(self, kernel: Kernel, message: Notification) -> None:
        try:
            await kernel.notify(self._context(), message.method, message.params)
        except Exception as exc:  # noqa: BLE001 - a notification may not end the connection
            self._report(RequestFailed(self._connection_id, self._principal, message.method, None, exc))

    def _register(self, request: Request, size: int, cursors: Mapping[str, str] | None = None) -> Call:
        call = Call(request, size, self._context(request, cursors))
        self.in_flight.add(call)
        return call

    async def _answer(self, kernel: Kernel, call: Call) -> None:
        line = await self._outcome(kernel, call)
        if line is not None:
            await self._deliver(jsonrpc.in_batch(line) if call.batched else line)

    async def _outcome(self, kernel: Kernel, call: Call) -> bytes | None:
        """Run a call and return the line of its answer, or None if it gets none.

        There is no checkpoint after `finish`, so a cancellation cannot arrive between it and the return.
        """
        request = call.request
        line = None
        try:
            with call.scope:
                if call.start_after is not None:
                    await call.start_after.wait()
                line = self._within_limit(
                    request, jsonrpc.result(request.id, await self._serve(kernel, call))
                )
        except Exception as exc:  # noqa: BLE001 - a handler may raise anything
            line = self._error_line(request, exc)
        finally:
            self.in_flight.finish(call)
        if call.dropped:
            return None
        if line is None:
            # The scope was cancelled by `cut_off`.
            message = "the connection is closing; whether the request took effect is unknown"
            line = jsonrpc.error(request.id, NOT_NOW, message)
        return line

    async def _serve(self, kernel: Kernel, call: Call) -> dict[str, Any]:
        """Run the handler of a request of either era, and return its result."""
        return await kernel.serve(call.context, call.request.method, call.request.params)

    def _within_limit(self, request: Request, line: bytes) -> bytes:
        """Return an answer, or an error in its place if the outbox could not hold it."""
        most = self._limits.max_outbox_bytes
        if len(line) <= most:
            return line
        message = f"the answer has {len(line)} bytes, and at most {most} can be sent; ask for less"
        return jsonrpc.error(request.id, INTERNAL_ERROR, message)

    def _error_line(self, request: Request, exc: Exception) -> bytes:
        try:
            error = error_of(exc)
            if error is not None:
                return jsonrpc.error(request.id, **error)
        except Exception as encoding_error:  # noqa: BLE001 - an error's data may be anything
            exc = encoding_error
        self._report(RequestFailed(self._connection_id, self._principal, request.method, request.id, exc))
        return jsonrpc.error(request.id, INTERNAL_ERROR, "Internal error")

    def _reject(self, rejection: Rejection, batched: bool = False) -> None:
        line = jsonrpc.error(rejection.id, rejection.code, rejection.message)
        self._send(jsonrpc.in_batch(line) if batched else line)
