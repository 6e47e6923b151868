"""Turns the lines of one peer into calls of handlers, and their outcomes into lines.

Owns what is answered to what, and is the one place where exceptions become errors on the wire. Knows
nothing of streams: lines are handed to it, and it hands lines back.

Where this differs from the SDK's dispatcher, on purpose: bad JSON is answered with -32700 instead of being
dropped, and a malformed message with -32600, as is an id that is null, no string or integer, or in flight
already; an exception that was not meant for the peer is -32603 without its text, in both eras; and
everything has a limit.
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
    Invalid,
    Message,
    Notification,
    Request,
)
from redstreamd.mcpio.limits import Limits
from redstreamd.mcpio.protocol_eras import HandshakeKernel, Kernel, ModernKernel, era_of, error_of
from redstreamd.mcpio.request_context import ConnectionHandle, ConnectionOutbound, RequestContext, Send
from redstreamd.mcpio.requests_in_flight import Call, InFlight
from redstreamd.policy import Principal

# Notifications ahead of the first request, which wait for it to decide the era; the SDK keeps as many. They
# are kept for as long as the peer likes, so the lines they came in may not be longer than this, together.
MAX_EARLY_NOTIFICATIONS: Final = 8
MAX_EARLY_BYTES: Final = 64 * 1024

# Requests that are served one after the other, in the order they came in: one takes the other back.
_IN_ORDER: Final = frozenset({"resources/subscribe", "resources/unsubscribe"})

Deliver = Callable[[bytes], Awaitable[None]]
"""Takes a line for the peer and may write it out; raises nothing but `trio.Cancelled`."""


class Dispatcher:
    """Serves the messages of one peer.

    Behaviour:
        Requests run concurrently and are answered in the order they finish; notifications and `initialize`
        are handled in the order they arrive, before the next message is looked at. Subscribing and
        unsubscribing keep their order, too, without holding up anything else. A request that the peer cancels
        is never answered. Any other is answered once. What came in a batch is answered in a batch of its own,
        as soon as it is done: a wait holds up no other answer.

    Attributes:
        in_flight: The requests that are being served.
        requests: How many requests arrived so far, refused ones included.
    """

    def __init__(
        self,
        server: Server[Principal],
        *,
        principal: Principal,
        limits: Limits,
        peer: ConnectionHandle,
        draining: trio.Event,
        send: Send,
        deliver: Deliver,
        report: EventHook,
        state: ConnectionState | None,
    ) -> None:
        """Serve with the handlers of `server`.

        Args:
            server: What is served.
            principal: On whose behalf the peer calls; handlers find it as their lifespan context.
            limits: Bounds of messages and of what is in flight.
            peer: What handlers may use of the connection; its id is named in events.
            draining: While it is set, requests are refused.
            send: Takes lines from tasks that must not wait for the peer.
            deliver: Takes lines from tasks that have nothing else to do.
            report: Told of handlers that failed.
            state: What to continue from, if anything.

        Raises:
            ValueError: The handshake that `state` remembers is not valid.
        """
        self._server = server
        self._principal = principal
        self._limits = limits
        self._peer = peer
        self._connection_id = peer.connection_id
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
        # The end of the last request of those that keep their order.
        self._last_in_order: trio.Event | None = None
        self.in_flight = InFlight(limits)
        self.requests = 0

    @property
    def era(self) -> Era | None:
        """The era the peer speaks; None until it has shown that."""
        return None if self._kernel is None or not self._kernel.settled else self._kernel.era

    async def take(self, line: bytes, nursery: trio.Nursery) -> None:
        """Handle one line from the peer; what takes longer goes on in `nursery`."""
        message = jsonrpc.decode(line, self._limits)
        if not isinstance(message, Batch):
            await self._take_message(message, len(line), nursery)
        elif self._kernel is None or not self._kernel.takes_batches:
            why = "batches are accepted in revision 2025-03-26 only: send one message on each line"
            self._refuse(Invalid(INVALID_REQUEST, why))
        else:
            for each in message.messages:
                await self._take_message(each, len(line) // len(message.messages), nursery, batched=True)
                # There may be thousands of them.
                await trio.lowlevel.checkpoint()

    def resume(self, state: ConnectionState, nursery: trio.Nursery) -> None:
        """Settle what a predecessor left in flight.

        Requests are answered with an error, because nobody knows how they ended. Listens and subscriptions
        are taken up again.
        """
        for request_id in state.in_flight:
            message = "the server was restarted meanwhile; whether the request took effect is unknown"
            self._refuse(Invalid(NOT_NOW, message, request_id))
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
        """Return what a successor needs to go on.

        Args:
            unread: What was read from the peer and not given to `take`.
        """
        # What waits for the era to be decided is read again by the successor.
        early = b"".join(jsonrpc.notification(message.method, message.params) for message in self._early)
        state = ConnectionState(self._connection_id)
        if self._kernel is not None and self._kernel.settled:
            state = self._kernel.state(self._connection_id)
        return attrs.evolve(
            state,
            in_flight=self.in_flight.unanswered(),
            listens=self.in_flight.listens(),
            subscriptions=dict(self._peer.subscriptions),
            unread=early + unread,
        )

    async def aclose(self) -> None:
        """Run what handlers left to do at the end; shielded, and bounded by the SDK to 5 s."""
        if self._kernel is not None:
            await self._kernel.aclose()

    async def _take_message(
        self, message: Message, size: int, nursery: trio.Nursery, *, batched: bool = False
    ) -> None:
        if isinstance(message, Request):
            await self._take_request(message, size, nursery, batched)
        elif isinstance(message, Notification):
            await self._take_notification(message, size)
        elif isinstance(message, Invalid):
            self._refuse(message, batched)

    async def _take_request(self, request: Request, size: int, nursery: trio.Nursery, batched: bool) -> None:
        self.requests += 1
        refusal = self.in_flight.refusal(request, size)
        if self._draining.is_set():
            refusal = Invalid(NOT_NOW, "the server is shutting down and takes no more requests", request.id)
        if batched and request.method == "initialize":
            refusal = Invalid(INVALID_REQUEST, "initialize must not be part of a batch", request.id)
        if refusal is not None:
            self._refuse(refusal, batched)
            return
        # Decided here and not where the request is served, because tasks start in no particular order.
        kernel = await self._kernel_for(request)
        if request.method == "initialize":
            # In line, so that a request sent right behind it finds the session initialized.
            line = await self._outcome(kernel, self._register(request, size))
            if line is not None:
                self._send(line)
            return
        call = self._register(request, size)
        call.batched = batched
        if request.method in _IN_ORDER:
            call.after, self._last_in_order = self._last_in_order, call.settled
        nursery.start_soon(self._answer, kernel, call)

    async def _take_notification(self, message: Notification, size: int) -> None:
        if message.method == "notifications/cancelled":
            self.in_flight.cancel(message.params)
        if self._kernel is not None:
            await self._notify(self._kernel, message)
        elif len(self._early) < MAX_EARLY_NOTIFICATIONS and self._early_bytes + size <= MAX_EARLY_BYTES:
            self._early.append(message)
            self._early_bytes += size

    async def _kernel_for(self, request: Request) -> Kernel:
        """Return the kernel that serves a request: the connection's, once the peer has shown its era."""
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
        """Begin to serve an era, and deliver what waited for that."""
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
            peer=self._peer,
        )

    async def _resubscribe(self, kernel: Kernel, uri: str, cursor: str) -> None:
        """Ask the handlers for a subscription that the peer asked a predecessor for."""
        if uri not in self._peer.subscriptions:
            # The peer has taken it back already.
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
        """Serve a call and return its answer, or None if it gets none.

        There is no checkpoint between the moment the call is settled and the return, so that a cancellation
        finds either the call or nothing.
        """
        request = call.request
        line = None
        try:
            with call.scope:
                if call.after is not None:
                    await call.after.wait()
                line = self._fitting(request, jsonrpc.result(request.id, await self._serve(kernel, call)))
        except Exception as exc:  # noqa: BLE001 - a handler may raise anything
            line = self._failure(request, exc)
        finally:
            self.in_flight.settle(call)
        if call.withdrawn:
            return None
        if line is None:
            # The scope took in the cancellation, and it was ours.
            message = "the connection is closing; whether the request took effect is unknown"
            line = jsonrpc.error(request.id, NOT_NOW, message)
        return line

    async def _serve(self, kernel: Kernel, call: Call) -> dict[str, Any]:
        """Pick the lane that serves a call, and return its result.

        Every request of either era passes here. There is one lane, the SDK's kernel; a faster one for calls
        of a shape that is fully understood belongs here, and leaves all others to the kernel.
        """
        return await kernel.serve(call.context, call.request.method, call.request.params)

    def _fitting(self, request: Request, line: bytes) -> bytes:
        """Return an answer, or an error in place of one so long that sending it would end the connection."""
        most = self._limits.max_outbox_bytes
        if len(line) <= most:
            return line
        message = f"the answer would be {len(line)} bytes long, and at most {most} can be sent: ask for less"
        return jsonrpc.error(request.id, INTERNAL_ERROR, message)

    def _failure(self, request: Request, exc: Exception) -> bytes:
        try:
            error = error_of(exc)
            if error is not None:
                return jsonrpc.error(request.id, **error)
        except Exception as unspeakable:  # noqa: BLE001 - an error's data may be anything
            # The error was meant for the peer, but carries data that JSON has no form for.
            exc = unspeakable
        self._report(RequestFailed(self._connection_id, self._principal, request.method, request.id, exc))
        return jsonrpc.error(request.id, INTERNAL_ERROR, "Internal error")

    def _refuse(self, refusal: Invalid, batched: bool = False) -> None:
        line = jsonrpc.error(refusal.id, refusal.code, refusal.message)
        self._send(jsonrpc.in_batch(line) if batched else line)
