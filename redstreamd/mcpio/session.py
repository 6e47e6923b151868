"""What lasts of a client: its era, the requests in flight, its subscriptions.

Has plain calls served by the direct path, which makes exchanges of those that it takes. Makes all other
requests exchanges, and has the SDK's kernel serve them. The one place where exceptions become JSON-RPC
errors. Knows nothing of byte streams, nor of the SDK.

It differs from the SDK's dispatcher on purpose. Invalid JSON is answered with -32700, not dropped. A
malformed message is answered with -32600, as is an id that is null, neither string nor integer, or already in
flight. An unexpected exception, but of a tool, is answered with -32603 without its text, in both eras.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final

import msgspec
import trio

from redstreamd.admission.accounts import Account
from redstreamd.admission.memory import Share
from redstreamd.admission.turns import turns
from redstreamd.mcpio import jsonrpc, plain_calls
from redstreamd.mcpio.connection_events import EventHook, RequestFailed
from redstreamd.mcpio.connection_state import ConnectionState, Era
from redstreamd.mcpio.exchange import Exchange, RequestsInFlight, Sink
from redstreamd.mcpio.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    NOT_NOW,
    UNKNOWN_OUTCOME,
    Batch,
    Message,
    Notification,
    Rejection,
    Request,
    refused_while_stopping,
)
from redstreamd.mcpio.kernels import Kernel, Kernels, TakeCall
from redstreamd.mcpio.late_event import LateEvent
from redstreamd.mcpio.limits import Limits
from redstreamd.mcpio.plain_calls import PlainCall
from redstreamd.policy import Principal

# Notifications are kept until there is a kernel, as many as the SDK keeps before the first request. The rest
# are dropped, which nobody notices: our server has no handlers of them. The bytes are of all their lines.
MAX_EARLY_NOTIFICATIONS: Final = 8
MAX_EARLY_BYTES: Final = 64 * 1024
#: Messages of so many bytes are decoded and served in steps: an ASCII text of 8 MB takes some 3 ms in each.
#: What the kernel serves takes longer.
LONG_MESSAGE: Final = 131_072
LONG_FOR_THE_KERNEL: Final = 8_192

# Requests that are handled one after the other, in order of arrival: one undoes the other.
_ORDERED_METHODS: Final = frozenset({"resources/subscribe", "resources/unsubscribe"})

Task = Callable[[], Awaitable[None]]
StartSoon = Callable[[Task], bool]
"""Runs a task until it ends or the session does; False, without starting it, if the session is ending."""


class Session:
    """Serves the messages of one client.

    Behaviour:
        Requests run concurrently and are answered in the order they finish. `initialize` and, once there is a
        kernel, notifications are handled before the next message is read. Subscribing and unsubscribing keep
        their order. Each request of a batch is answered as soon as it is done, in a batch of one.

        A request is answered at most once. It is not if the client cancels it (HTTP has a response that says
        so), if it is handed over (its `state` says so, and the successor answers), or if the connection is
        closed before its work has ended.

    Attributes, beside the arguments:
        subscriptions: Each URI of `resources/subscribe` in the handshake era, with the last version reported.
            Handlers keep it up to date, because it is part of the connection's state.
        in_flight: The requests in flight.
        direct: How many requests the direct path took; it counts them.
        shown_era: The era of the plain calls that are taken; None until one is known, see `settle_era`.
        take_directly: The direct path; what it refuses is for `handle`.
    """

    __slots__ = (
        "__weakref__",
        "_decode_directly",
        "_early",
        "_early_bytes",
        "_handled",
        "_kernel",
        "_kernels",
        "_last_ordered",
        "_report",
        "account",
        "connection_id",
        "direct",
        "draining",
        "flushed",
        "in_flight",
        "limits",
        "principal",
        "share",
        "shown_era",
        "sink",
        "start_soon",
        "subscriptions",
        "take_directly",
    )

    def __init__(
        self,
        kernels: Kernels,
        *,
        connection_id: str,
        principal: Principal,
        account: Account,
        limits: Limits,
        sink: Sink,
        start_soon: StartSoon,
        flushed: Callable[[], Awaitable[None]],
        draining: LateEvent,
        report: EventHook,
        direct_path: TakeCall | None = None,
        state: ConnectionState | None = None,
        share: Share | None = None,
    ) -> None:
        """Begin a session, or continue one.

        Args:
            kernels: Serves what the direct path does not take.
            connection_id: Its name in events.
            principal: On whose behalf the client calls.
            account: What the client holds and uses is counted there.
            limits: Bounds of messages and of what is in flight.
            sink: Where messages go that belong to no request.
            start_soon: Starts a task that ends with the session.
            flushed: Waits until the client has read everything; for senders of notifications, to limit their
                rate.
            draining: While it is set, requests are rejected; a handler that waits should answer now.
            report: Called with a `RequestFailed` for each unexpected exception.
            direct_path: Serves calls of tools without the SDK; None for none.
            state: The state to continue from, if any.
            share: Of the memory of all connections; None for no bound.

        Raises:
            ValueError: The handshake that `state` remembers is not valid.
        """
        self.connection_id = connection_id
        self.principal = principal
        self.account = account
        self.limits = limits
        self.sink = sink
        self.start_soon = start_soon
        self.flushed = flushed
        self.draining = draining
        self.subscriptions = {} if state is None else dict(state.subscriptions)
        self.share = share
        self.in_flight = RequestsInFlight(limits, share)
        self.direct = self._handled = 0
        self._report = report
        # A bound method is called faster than an object that has `__call__`.
        self.take_directly: TakeCall = (
            _takes_none if direct_path is None else direct_path.__call__  # type: ignore[operator]
        )
        # A direct path may be a plain function.
        self._decode_directly: Callable[[PlainCall], PlainCall | None] | None = getattr(
            direct_path, "decode", None
        )
        self._kernels = kernels
        self._kernel: Kernel | None = None
        if state is not None and state.era is not None:
            self._kernel = kernels.open(state.era, self, state)
        self.shown_era: Era | None = None if state is None else state.era
        self._early: list[Notification] = []
        self._early_bytes = 0
        # Set when the last of the ordered requests is done.
        self._last_ordered: trio.Event | None = None

    @property
    def requests(self) -> int:
        """How many well-formed requests were taken up so far, also if they were rejected then."""
        return self.direct + self._handled

    @property
    def era(self) -> Era | None:
        """The era the client speaks; None until it has shown that."""
        kernel = self._kernel
        if self.shown_era is None and kernel is not None and kernel.settled:
            self.shown_era = kernel.era
        return self.shown_era

    @property
    def takes_batches(self) -> bool:
        """Whether the negotiated revision has JSON-RPC batches."""
        return self._kernel is not None and self._kernel.takes_batches

    def take(self, message: bytes, sink: Sink) -> bool:
        """Serve a message by the direct path if it is a plain call that may be served now; else False.

        Never blocks. Whatever it refuses (another message or era, a limit, the end of the session) is
        answered by `handle`, which is to be called then.
        """
        call = plain_calls.decode(message, self.limits)
        return call is not None and self.take_directly(self, call, len(message), sink)

    async def take_long(self, message: bytes, sink: Sink) -> bool:
        """Serve a long message as `take` does, in steps, between which others are served.

        Cancellation: nothing was done; the message can be served again.
        """
        if self.take_directly is _takes_none or self.draining.is_set():
            return False
        call = plain_calls.decode(message, self.limits)
        await turns().part(self.account)
        if call is not None and self._decode_directly is not None:
            call = self._decode_directly(call)
            await turns().part(self.account)
        return call is not None and self.take_directly(self, call, len(message), sink)

    def settle_era(self, era: Era) -> bool:
        """Let a valid envelope settle the era if nothing has yet; return whether calls of `era` are taken."""
        if self.shown_era is None and self.era is None and era is Era.MODERN and self._kernel is None:
            self.shown_era = era
        return self.shown_era is era

    async def handle(self, message: bytes, sink: Sink) -> None:
        """Serve a message that `take` did not; returns once the next one may be served.

        Args:
            message: One message or, where the revision has them, a batch.
            sink: Where answers go, and notifications that belong to a request.
        """
        await self.handle_decoded(jsonrpc.decode(message, self.limits), len(message), sink)

    async def decode(self, message: bytes) -> Message | Batch:
        """Decode a message for `handle_at_once`; of a long one, the rest is another part of work.

        Cancellation: nothing was done; the message can be decoded again.
        """
        decoded = jsonrpc.decode(message, self.limits)
        if len(message) >= LONG_FOR_THE_KERNEL:
            await turns().part(self.account)
        return decoded

    async def handle_decoded(self, decoded: Message | Batch, size: int, sink: Sink) -> None:
        """As `handle`, with what `jsonrpc.decode` has made of a message of so many bytes."""
        if size >= LONG_FOR_THE_KERNEL:
            await turns().part(self.account)
        await self.handle_at_once(decoded, size, sink)

    async def handle_at_once(self, decoded: Message | Batch, size: int, sink: Sink) -> None:
        """As `handle_decoded`, in the same part of work: nothing is waited for until it is in flight."""
        if not isinstance(decoded, Batch):
            await self._handle(decoded, size, sink)
        elif not self.takes_batches:
            why = "batches are accepted in revision 2025-03-26 only: send one message on each line"
            self._reject(Rejection(INVALID_REQUEST, why), sink)
        else:
            left = deque(decoded.messages)
            size //= len(left)
            try:
                while left:
                    await self._handle(left.popleft(), size, sink, batched=True)
                    # A batch may have thousands of messages.
                    await trio.lowlevel.checkpoint()
            except trio.Cancelled:
                for each in left:
                    if isinstance(each, Request):
                        self._reject(refused_while_stopping(each.id), sink, batched=True)
                raise

    def resume(self, state: ConnectionState) -> None:
        """Answer the requests that were in flight with an error; continue listens and subscriptions."""
        for request_id in state.in_flight:
            message = "the server was restarted meanwhile; whether the request took effect is unknown"
            self._reject(Rejection(NOT_NOW, message, request_id, UNKNOWN_OUTCOME), self.sink)
        kernel = self._kernel
        if kernel is None:
            return
        for listen in state.listens:
            params = None if listen.params is None else dict(listen.params)
            exchange = Exchange(self, listen.request_id, "subscriptions/listen", params, 0, self.sink)
            exchange.cursors = dict(listen.cursors)
            if self.in_flight.add(exchange):
                self._start(kernel, exchange)
            else:
                self._reject(self.in_flight.rejection(exchange), self.sink)
        for uri, cursor in state.subscriptions.items():
            self.start_soon(partial(self._resubscribe, kernel, uri, cursor))

    def state(self, unread: bytes) -> ConnectionState:
        """Return the state for a successor.

        Args:
            unread: What was received and not yet given to `take` or `handle`.
        """
        # The successor's kernel gets the early notifications.
        early = b"".join(jsonrpc.notification(message.method, message.params) for message in self._early)
        state = ConnectionState(self.connection_id, era=self.era)
        if self._kernel is not None and self._kernel.settled:
            state = self._kernel.state(self.connection_id)
        return msgspec.structs.replace(
            state,
            in_flight=self.in_flight.awaited_ids(),
            listens=self.in_flight.listens(),
            subscriptions=dict(self.subscriptions),
            unread=early + unread,
        )

    async def aclose(self) -> None:
        """Run the exit callbacks of handlers; shielded from cancellation, and limited by the SDK to 5 s."""
        if self._kernel is not None:
            await self._kernel.aclose()

    def detach(self) -> None:
        """Let go of the connection, which has ended, and of the kernel; no more tasks can be started."""
        self._kernel = None
        self.start_soon = _ended

    async def _handle(self, message: Message, size: int, sink: Sink, *, batched: bool = False) -> None:
        if isinstance(message, Request):
            await self._handle_request(message, size, sink, batched)
        elif isinstance(message, Notification):
            await self._handle_notification(message, size)
        elif isinstance(message, Rejection):
            self._reject(message, sink, batched)

    async def _handle_request(self, request: Request, size: int, sink: Sink, batched: bool) -> None:
        self._handled += 1
        exchange = Exchange(
            self,
            request.id,
            request.method,
            request.params,
            size,
            sink,
            jsonrpc.progress_token(request.params),
        )
        exchange.batched = batched
        if batched and request.method == "initialize":
            why = "initialize must not be part of a batch"
            self._reject(Rejection(INVALID_REQUEST, why, request.id), sink, batched)
            return
        if self.draining.is_set():
            self._reject(refused_while_stopping(request.id), sink, batched)
            return
        if not self.in_flight.add(exchange):
            self._reject(self.in_flight.rejection(exchange), sink, batched)
            return
        # Until somebody works on it. If the reading of messages is cancelled here, the request stays in
        # flight, and is cut off with the others.
        exchange.on_cancel = exchange.answer_not_executed
        # Decided before the task starts, because tasks start in no particular order.
        kernel = await self._kernel_for(exchange)
        if not exchange.is_open:
            return
        if request.method == "initialize":
            # Not in a task, so that the next request finds the session initialized.
            scope = trio.CancelScope()
            exchange.on_cancel = scope.cancel
            await self._serve(kernel, exchange, scope, None, None)
        elif request.method in _ORDERED_METHODS:
            before, self._last_ordered = self._last_ordered, trio.Event()
            self._start(kernel, exchange, before, self._last_ordered)
        else:
            self._start(kernel, exchange)

    async def _handle_notification(self, message: Notification, size: int) -> None:
        if message.method == "notifications/cancelled":
            self.in_flight.cancel(message.params)
        if self._kernel is not None:
            await self._notify(self._kernel, message)
        elif len(self._early) < MAX_EARLY_NOTIFICATIONS and self._early_bytes + size <= MAX_EARLY_BYTES:
            self._early.append(message)
            self._early_bytes += size

    async def _kernel_for(self, exchange: Exchange) -> Kernel:
        """Return the kernel for a request: the session's, once the client has shown its era."""
        if self._kernel is None:
            # The messages that follow wait meanwhile, so their order is kept.
            await self._kernels.ready(exchange.method, exchange.params)
        kernel = self._kernel
        if kernel is not None and kernel.settled:
            return kernel
        era = self.shown_era or self._kernels.era_of(exchange.method, exchange.params)
        if kernel is None or kernel.era is not era:
            if kernel is not None:
                await kernel.aclose()
            self._kernel = kernel = self._kernels.open(era, self, None)
            early, self._early = self._early, []
            for message in early:
                await self._notify(kernel, message)
        kernel.claim(exchange.method, exchange.params)
        return kernel

    def _start(
        self,
        kernel: Kernel,
        exchange: Exchange,
        start_after: trio.Event | None = None,
        done: trio.Event | None = None,
    ) -> None:
        scope = trio.CancelScope()
        exchange.on_cancel = scope.cancel
        if not self.start_soon(partial(self._serve, kernel, exchange, scope, start_after, done)):
            exchange.end_unanswered()

    async def _serve(
        self,
        kernel: Kernel,
        exchange: Exchange,
        scope: trio.CancelScope,
        start_after: trio.Event | None,
        done: trio.Event | None,
    ) -> None:
        """Run the handler of a request in the calling task, and answer, unless the request is `lasting`.

        No cancellation can arrive between the handler's end and the answer: the one checkpoint is shielded.

        Args:
            kernel: Runs it.
            exchange: The request.
            scope: Cancelled when the exchange is cut short.
            start_after: The handler does not start before this is set.
            done: Set once the handler has ended.
        """
        line = None
        try:
            with scope:
                if start_after is not None:
                    await start_after.wait()
                line = jsonrpc.result(exchange.id, await kernel.serve(exchange))
        except Exception as exc:  # noqa: BLE001 - a handler may raise anything
            line = self._error_line(exchange, exc)
        except BaseException:
            if exchange.method == "initialize":
                # It is served where messages are read, and is cut off with these; the client still waits.
                exchange.answer_unknown()
            exchange.end_unanswered()
            raise
        finally:
            if done is not None:
                if start_after is not None:
                    # Cancelled before its turn, it does not let the next one pass those before it.
                    with trio.CancelScope(shield=True):
                        await start_after.wait()
                done.set()
        if exchange.lasting is not None:
            exchange.lasting(line)
        elif line is None:
            exchange.answer_unknown()
        else:
            exchange.answer(line)

    async def _resubscribe(self, kernel: Kernel, uri: str, cursor: str) -> None:
        """Subscribe again to what the client subscribed to before the hand-over."""
        if uri not in self.subscriptions:
            # The client has unsubscribed meanwhile.
            return
        try:
            await kernel.resubscribe(uri, cursor)
        except Exception as exc:  # noqa: BLE001 - a subscription that is lost may not end the connection
            self._failed("resources/subscribe", None, exc)

    async def _notify(self, kernel: Kernel, message: Notification) -> None:
        try:
            await kernel.notify(message.method, message.params)
        except Exception as exc:  # noqa: BLE001 - a notification may not end the connection
            self._failed(message.method, None, exc)

    def _error_line(self, exchange: Exchange, exc: Exception) -> bytes:
        try:
            error: Mapping[str, Any] | None = self._kernels.error_of(exc)
            if error is not None:
                return jsonrpc.error(exchange.id, **error)
        except Exception as encoding_error:  # noqa: BLE001 - an error's data may be anything
            exc = encoding_error
        self._failed(exchange.method, exchange.id, exc)
        return jsonrpc.error(exchange.id, INTERNAL_ERROR, "Internal error")

    def _failed(self, method: str, request_id: jsonrpc.RequestId | None, exc: Exception) -> None:
        self._report(RequestFailed(self.connection_id, self.principal, method, request_id, exc))

    @staticmethod
    def _reject(rejection: Rejection, sink: Sink, batched: bool = False) -> None:
        line = rejection.line()
        sink.answer(jsonrpc.in_batch(line) if batched else line)


def _takes_none(_session: Session, _call: PlainCall, _size: int, _sink: Sink) -> bool:
    return False


def _ended(_task: Task) -> bool:
    return False
