"""The requests of one connection that are being served: which ids are taken, and how each one ends.

Owns admission, cancellation by the peer and cutting off by us. Knows nothing of how requests are served.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs
import trio
from mcp.shared.dispatcher import coerce_request_id
from mcp.shared.jsonrpc_dispatcher import cancelled_request_id_from_params

from redstreamd.errors.remedies import setting
from redstreamd.mcpio.connection_state import Listen
from redstreamd.mcpio.jsonrpc import INVALID_REQUEST, NOT_NOW, Invalid, Request, RequestId
from redstreamd.mcpio.limits import Limits
from redstreamd.mcpio.request_context import RequestContext

# The handshake's parameters are kept for as long as the connection lives, so they have a lower limit than
# other messages have. A client's name, version, icons and capabilities take a kilobyte or two.
MAX_INITIALIZE_BYTES: Final = 64 * 1024


@attrs.define(eq=False)
class Call:
    """One request that is being served.

    Attributes:
        request: What the peer sent.
        size: Length of the line it came in, in bytes.
        context: What its handler is given.
        scope: Cancels its handler.
        batched: It came in a batch, and so does its answer.
        after: Its handler does not begin before this is set.
        withdrawn: Nobody waits for an answer any more, so none is sent.
        settled: Set once its handler is done, however it ended.
    """

    request: Request
    size: int
    context: RequestContext
    batched: bool = False
    after: trio.Event | None = None
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    withdrawn: bool = False
    settled: trio.Event = attrs.field(factory=trio.Event)

    def withdraw(self) -> None:
        """Cancel it, and never answer it."""
        self.withdrawn = True
        self.context.cancel()
        self.scope.cancel()


class InFlight:
    """The calls of one connection, by request id.

    "7" and 7 are one id, as they are for the SDK: some clients turn one into the other on the way back.
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

    def refusal(self, request: Request, size: int) -> Invalid | None:
        """Say why a request cannot be served now, if it cannot."""
        limits = self._limits
        if coerce_request_id(request.id) in self._calls:
            return Invalid(INVALID_REQUEST, "another request with this id is still in flight", request.id)
        if len(self._calls) >= limits.max_requests_in_flight:
            return Invalid(
                NOT_NOW,
                f"{limits.max_requests_in_flight} requests are in flight on this connection already, which "
                f"is the limit ({setting('limits.max_requests_in_flight')}); wait for an answer, or cancel "
                "one",
                request.id,
            )
        # A request that has the connection to itself always fits, so that no setting can lock a message out.
        if self._calls and self._bytes + size > limits.max_bytes_in_flight:
            return Invalid(
                NOT_NOW,
                f"the requests in flight on this connection would exceed {limits.max_bytes_in_flight} bytes; "
                "wait for an answer",
                request.id,
            )
        if request.method == "initialize" and size > MAX_INITIALIZE_BYTES:
            message = f"initialize must not be longer than {MAX_INITIALIZE_BYTES} bytes"
            return Invalid(INVALID_REQUEST, message, request.id)
        return None

    def add(self, call: Call) -> None:
        """Register a call for which there was no `refusal`."""
        self._calls[coerce_request_id(call.request.id)] = call
        self._bytes += call.size

    def settle(self, call: Call) -> None:
        """Forget a call: its handler is done, however it ended."""
        call.context.close()
        call.settled.set()
        del self._calls[coerce_request_id(call.request.id)]
        self._bytes -= call.size
        if not self._calls:
            self._empty.unpark_all()

    def cancel(self, params: Mapping[str, Any] | None) -> None:
        """Apply a `notifications/cancelled`; one for an unknown id comes too late and means nothing.

        The specification forbids clients to cancel `initialize`, so that is ignored as well.
        """
        request_id = cancelled_request_id_from_params(params)
        if request_id is not None:
            call = self._calls.get(coerce_request_id(request_id))
            if call is not None and call.request.method != "initialize":
                call.withdraw()

    def cut_off(self, *, silently: bool) -> int:
        """Cancel every call, to be answered with an error unless `silently`; return how many there were."""
        for call in self._calls.values():
            if silently:
                call.withdraw()
            else:
                call.scope.cancel()
        return len(self._calls)

    async def wait_empty(self) -> None:
        """Wait until every call is settled; returns at once if so already."""
        while self._calls:
            await self._empty.park()

    def unanswered(self) -> tuple[RequestId, ...]:
        """Return the ids that a successor has to answer, except open listens."""
        return tuple(call.request.id for call in self._owed() if not _is_listen(call))

    def listens(self) -> tuple[Listen, ...]:
        """Return the open `subscriptions/listen` requests, for a successor to take up."""
        return tuple(
            Listen(call.request.id, call.request.params, call.context.cursors)
            for call in self._owed()
            if _is_listen(call)
        )

    def _owed(self) -> list[Call]:
        return [call for call in self._calls.values() if not call.withdrawn]


def _is_listen(call: Call) -> bool:
    return call.request.method == "subscriptions/listen"
