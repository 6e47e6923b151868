"""The requests in flight on one connection: their ids, limits and cancellation.

Knows nothing of how requests are served.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs
import trio
from mcp.shared.dispatcher import coerce_request_id
from mcp.shared.jsonrpc_dispatcher import cancelled_request_id_from_params

from redstreamd.errors.remedies import setting
from redstreamd.mcpio.connection_state import ListenRequest
from redstreamd.mcpio.jsonrpc import INVALID_REQUEST, NOT_NOW, Rejection, Request, RequestId
from redstreamd.mcpio.limits import Limits
from redstreamd.mcpio.request_context import RequestContext

# The handshake's parameters are kept until the connection ends, so their limit is lower than that of other
# messages. A client's name, version, icons and capabilities take a kilobyte or two.
MAX_INITIALIZE_BYTES: Final = 64 * 1024


@attrs.define(eq=False)
class Call:
    """One request in flight.

    Attributes:
        request: What the client sent.
        size: Length of its line, in bytes.
        context: What its handler is given.
        batched: Whether it came in a batch; then the answer is a batch.
        start_after: Its handler does not start before this is set.
        scope: Cancels its handler.
        dropped: Whether no answer is to be sent.
        finished: Set once its handler has ended.
    """

    request: Request
    size: int
    context: RequestContext
    batched: bool = False
    start_after: trio.Event | None = None
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    dropped: bool = False
    finished: trio.Event = attrs.field(factory=trio.Event)

    def drop(self) -> None:
        """Cancel the handler, and send no answer."""
        self.dropped = True
        self.context.cancel()
        self.scope.cancel()


class RequestsInFlight:
    """The calls of one connection, by request id.

    "7" and 7 are the same id, as in the SDK: some clients convert one into the other.
    """

    def __init__(self, limits: Limits) -> None:
        """Admit calls within `limits`."""
        self._limits = limits
        self._calls: dict[RequestId, Call] = {}
        # Invariant: the sum of the calls' sizes.
        self._bytes = 0
        self._empty = trio.lowlevel.ParkingLot()

    def __len__(self) -> int:
        """Return how many calls there are."""
        return len(self._calls)

    def rejection(self, request: Request, size: int) -> Rejection | None:
        """Return why a request cannot be served now; None if it can."""
        limits = self._limits
        if coerce_request_id(request.id) in self._calls:
            return Rejection(INVALID_REQUEST, "another request with this id is still in flight", request.id)
        if len(self._calls) >= limits.max_requests_in_flight:
            return Rejection(
                NOT_NOW,
                f"{limits.max_requests_in_flight} requests are in flight on this connection already, which "
                f"is the limit ({setting('limits.max_requests_in_flight')}); wait for an answer, or cancel "
                "one",
                request.id,
            )
        # A single request always fits, so that no setting can exclude a message.
        if self._calls and self._bytes + size > limits.max_bytes_in_flight:
            return Rejection(
                NOT_NOW,
                f"the requests in flight on this connection would exceed {limits.max_bytes_in_flight} bytes; "
                "wait for an answer",
                request.id,
            )
        if request.method == "initialize" and size > MAX_INITIALIZE_BYTES:
            message = f"initialize must not be longer than {MAX_INITIALIZE_BYTES} bytes"
            return Rejection(INVALID_REQUEST, message, request.id)
        return None

    def add(self, call: Call) -> None:
        """Register a call for which `rejection` returned None."""
        self._calls[coerce_request_id(call.request.id)] = call
        self._bytes += call.size

    def finish(self, call: Call) -> None:
        """Remove a call whose handler has ended."""
        call.context.close()
        call.finished.set()
        del self._calls[coerce_request_id(call.request.id)]
        self._bytes -= call.size
        if not self._calls:
            self._empty.unpark_all()

    def cancel(self, params: Mapping[str, Any] | None) -> None:
        """Apply a `notifications/cancelled`; an unknown id is ignored.

        So is that of `initialize`, which the specification forbids to cancel.
        """
        request_id = cancelled_request_id_from_params(params)
        if request_id is not None:
            call = self._calls.get(coerce_request_id(request_id))
            if call is not None and call.request.method != "initialize":
                call.drop()

    def cut_off(self, *, unanswered: bool) -> int:
        """Cancel every call and return how many; they get an error answer unless `unanswered`."""
        for call in self._calls.values():
            if unanswered:
                call.drop()
            else:
                call.scope.cancel()
        return len(self._calls)

    async def wait_empty(self) -> None:
        """Wait until there are no calls; return at once if so."""
        while self._calls:
            await self._empty.park()

    def unanswered(self) -> tuple[RequestId, ...]:
        """Return the ids of the calls to be answered, except listens."""
        return tuple(call.request.id for call in self._unanswered_calls() if not _is_listen(call))

    def listens(self) -> tuple[ListenRequest, ...]:
        """Return the open `subscriptions/listen` requests."""
        return tuple(
            ListenRequest(call.request.id, call.request.params, call.context.cursors)
            for call in self._unanswered_calls()
            if _is_listen(call)
        )

    def _unanswered_calls(self) -> list[Call]:
        return [call for call in self._calls.values() if not call.dropped]


def _is_listen(call: Call) -> bool:
    return call.request.method == "subscriptions/listen"
