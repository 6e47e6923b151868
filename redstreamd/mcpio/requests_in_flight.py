"""The requests in flight in one session: their ids, limits and cancellation.

Knows nothing of how requests are served.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import trio

from redstreamd.admission.memory import STEP_BYTES, Share
from redstreamd.errors.remedies import setting
from redstreamd.mcpio import jsonrpc
from redstreamd.mcpio.connection_state import ListenRequest
from redstreamd.mcpio.exchange import Exchange
from redstreamd.mcpio.jsonrpc import INVALID_REQUEST, NOT_EXECUTED, NOT_NOW, Rejection, RequestId
from redstreamd.mcpio.limits import Limits

# The handshake's parameters are kept until the connection ends, so their limit is lower than that of other
# messages. A client's name, version, icons and capabilities take a kilobyte or two.
MAX_INITIALIZE_BYTES: Final = 64 * 1024


class RequestsInFlight:
    """The exchanges of one session, by request id.

    "7" and 7 are the same id, as in the SDK: some clients convert one into the other.
    """

    __slots__ = ("_bytes", "_empty", "_exchanges", "_limits", "_share", "held")

    def __init__(self, limits: Limits, share: Share | None = None) -> None:
        """Admit requests within `limits`.

        Args:
            limits: Bounds of one connection.
            share: Of the memory of all connections; None for no bound.
        """
        self._limits = limits
        self._share = share
        #: How many bytes are counted in the share.
        self.held = 0
        self._exchanges: dict[RequestId, Exchange] = {}
        # Invariant: the sum of the exchanges' sizes.
        self._bytes = 0
        # Made when somebody waits: at the end of the session.
        self._empty: trio.lowlevel.ParkingLot | None = None

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._exchanges)

    def add(self, exchange: Exchange) -> bool:
        """Register a request; False, without registering it, if `rejection` has a reason against that."""
        key, exchanges = exchange.id, self._exchanges
        if type(key) is not int:
            key = same_id(key)
        size = self._bytes + exchange.size
        if exchanges:
            # A single request always fits, so that no setting can exclude a message.
            limits = self._limits
            if (
                key in exchanges
                or len(exchanges) >= limits.max_requests_in_flight
                or size > limits.max_bytes_in_flight
            ):
                return False
        if exchange.size > MAX_INITIALIZE_BYTES and exchange.method == "initialize":
            return False
        if size - self.held >= STEP_BYTES and not self._may_hold(size):
            return False
        exchanges[key] = exchange
        self._bytes = size
        return True

    def rejection(self, exchange: Exchange) -> Rejection:
        """Return why `add` refused a request."""
        limits = self._limits
        if same_id(exchange.id) in self._exchanges:
            return Rejection(INVALID_REQUEST, "another request with this id is still in flight", exchange.id)
        if len(self._exchanges) >= limits.max_requests_in_flight:
            return Rejection(
                NOT_NOW,
                f"{limits.max_requests_in_flight} requests are in flight on this connection already, which "
                f"is the limit ({setting('limits.max_requests_in_flight')}); wait for an answer, or cancel "
                "one",
                exchange.id,
                NOT_EXECUTED,
            )
        if exchange.method == "initialize" and exchange.size > MAX_INITIALIZE_BYTES:
            message = f"initialize must not be longer than {MAX_INITIALIZE_BYTES} bytes"
            return Rejection(INVALID_REQUEST, message, exchange.id)
        # A single request is only refused for want of memory.
        if not self._exchanges or self._bytes + exchange.size <= limits.max_bytes_in_flight:
            if self._share is not None:
                self._share.holder.on_refused()
            message = f"{jsonrpc.memory_exceeded(limits)}; the request was not executed, send it again later"
            return Rejection(NOT_NOW, message, exchange.id, NOT_EXECUTED)
        return Rejection(
            NOT_NOW,
            f"the requests in flight on this connection would exceed {limits.max_bytes_in_flight} bytes; "
            "wait for an answer",
            exchange.id,
            NOT_EXECUTED,
        )

    def remove(self, exchange: Exchange) -> bool:
        """Remove a request, the work on which has ended; return whether none is left."""
        key = exchange.id
        del self._exchanges[key if type(key) is int else same_id(key)]
        self._bytes -= exchange.size
        if self.held:
            self._count()
        if self._exchanges:
            return False
        if self._empty is not None:
            self._empty.unpark_all()
        return True

    def cancel(self, params: Mapping[str, Any] | None) -> None:
        """Apply a `notifications/cancelled`; an unknown id is ignored.

        So is that of `initialize`, which the specification forbids to cancel.
        """
        request_id = None if params is None else params.get("requestId")
        if isinstance(request_id, int | str) and not isinstance(request_id, bool):
            exchange = self._exchanges.get(same_id(request_id))
            if exchange is not None and exchange.method != "initialize":
                exchange.drop()

    def cut_longest(self, why: str) -> bool:
        """Cut the longest request short, because of `why`; False if there is none."""
        exchange = max(
            (each for each in self._exchanges.values() if each.on_cancel is not None and each.size),
            key=lambda each: each.size,
            default=None,
        )
        if exchange is None:
            return False
        # It is as good as gone, and nobody else should pay for it meanwhile.
        self._bytes -= exchange.size
        exchange.size = 0
        self._count()
        exchange.why = why
        exchange.cut_short()
        return True

    def cut_off(self, *, drop: bool) -> int:
        """Cut every request short, and return how many clients wait for.

        These get an error answer, unless `drop` says to drop them.
        """
        exchanges = list(self._exchanges.values())
        awaited = sum(not exchange.is_dropped for exchange in exchanges)
        for exchange in exchanges:
            if drop:
                exchange.drop()
            exchange.cut_short()
        return awaited

    async def wait_empty(self) -> None:
        """Wait until there are none; return at once if so."""
        while self._exchanges:
            if self._empty is None:
                self._empty = trio.lowlevel.ParkingLot()
            await self._empty.park()

    def awaited_ids(self) -> tuple[RequestId, ...]:
        """Return the ids of the requests to be answered, except listens."""
        return tuple(each.id for each in self._awaited() if not _is_listen(each))

    def listens(self) -> tuple[ListenRequest, ...]:
        """Return the open `subscriptions/listen` requests."""
        return tuple(
            ListenRequest(each.id, each.params, each.cursors or {})
            for each in self._awaited()
            if _is_listen(each)
        )

    def _may_hold(self, size: int) -> bool:
        if self._share is not None:
            if not self._share.may_hold(size - self.held):
                return False
            self.held = size
        return True

    def _count(self) -> None:
        """Count less, if it has become much less."""
        size = self._bytes if self._bytes >= STEP_BYTES else 0
        if self._share is not None and (self.held - size >= STEP_BYTES or not size):
            less, self.held = size - self.held, size
            self._share.hold(less)

    def _awaited(self) -> list[Exchange]:
        return [each for each in self._exchanges.values() if not each.is_dropped]


def _is_listen(exchange: Exchange) -> bool:
    return exchange.method == "subscriptions/listen"


def same_id(request_id: RequestId) -> RequestId:
    """Return one key for ids that are the same id."""
    if isinstance(request_id, str):
        try:
            return int(request_id)
        except ValueError:
            pass
    return request_id
