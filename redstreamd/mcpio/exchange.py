"""The requests of a client: each from its place among those in flight to its one answer.

Owns their ids, limits, cancellation and ends. Knows nothing of how they are served.

A `Session` is what lasts; an exchange is one request of it. The transport gives each message a sink. Over a
byte stream all messages have the same; over Streamable HTTP each request has a response of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
import trio

from redstreamd.admission.memory import STEP_BYTES, Share
from redstreamd.errors.remedies import setting
from redstreamd.mcpio import jsonrpc
from redstreamd.mcpio.connection_state import ListenRequest
from redstreamd.mcpio.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    NOT_EXECUTED,
    NOT_NOW,
    STOPPING,
    UNKNOWN_OUTCOME,
    Rejection,
    RequestId,
)
from redstreamd.mcpio.limits import Limits

if TYPE_CHECKING:
    from redstreamd.mcpio.session import Session

# The handshake's parameters are kept until the connection ends, so their limit is lower than that of other
# messages. A client's name, version, icons and capabilities take a kilobyte or two.
MAX_INITIALIZE_BYTES: Final = 64 * 1024

_encode = msgspec.json.Encoder().encode
_OPENING: Final = b'{"jsonrpc":"2.0","id":'
_RESULT: Final = b',"result":'
_CLOSING: Final = "the connection is closing"


class Sink(Protocol):
    """Where the messages of an exchange go. Nothing here blocks or raises."""

    def send(self, line: bytes, *, is_last: bool = False) -> None:
        """Queue one notification, with its newline.

        `is_last` says that no other is expected soon, so that it need not wait for others to be sent with.
        """
        ...

    def answer(self, line: bytes, *, is_last: bool = False) -> None:
        """Queue the response to a request, as `send`."""
        ...

    def unanswered(self, request_id: RequestId) -> None:
        """Take note that a request has ended without a response."""
        ...


class Exchange(msgspec.Struct, eq=False):
    """A request in flight.

    Behaviour:
        It is answered at most once, and counts against the limits of its session until it has ended, also if
        the client has cancelled it.

        Who works on it ends it, by one of these: `answer…`; `end_unanswered`, where the work was ended from
        outside or cannot begin.

        Others ask for that, and the exchange goes on until the work has ended: by `cut_short`, at the end of
        the session or for want of memory, after which the answer is an error, unless the work has ended: not
        executed, where that is known, else an unknown outcome; by `drop`, where no answer is to be sent any
        more (the request was cancelled or is handed over, or the connection is closed). The first may follow
        on the second.

    Attributes:
        session: Whose request it is.
        id: The request's id, as the client wrote it.
        method: Its method.
        params: Its parameters; None if absent, or if they were not decoded as a whole.
        size: Bytes counted for it: its message, a share of its batch, or 0 (`resume`, `cut_longest`).
        sink: Where its answer and its notifications go.
        progress_token: From the client, if it wants progress notifications.
        batched: Whether it came in a batch; then the answer is a batch.
        cursors: For `subscriptions/listen`: the last position reported of each stream, kept by the handler.
        lasting: Set by a handler whose result is known, but whose request goes on without it: called with the
            response, or None if the work was cut short meanwhile; it ends the exchange.
        on_cancel: Ends the work early; set by whoever does it. Each is called at most once; while it is
            called it may set another, for a `cut_short` that follows on a `drop`.
        is_open: Whether the work on it has not ended.
        is_dropped: Whether no answer is to be sent.
        why: Why the work on it was cut short, for the client; None if the connection is closing.
    """

    session: Session
    id: RequestId
    method: str
    params: dict[str, Any] | None
    size: int
    sink: Sink
    progress_token: RequestId | None = None
    batched: bool = False
    cursors: dict[str, str] | None = None
    lasting: Callable[[bytes | None], None] | None = None
    on_cancel: Callable[[], None] | None = None
    is_open: bool = True
    is_dropped: bool = False
    why: str | None = None

    def answer(self, line: bytes, tail: bytes | None = None, *, at_once: bool = True) -> None:
        """End the exchange, and send the answer unless it was dropped; nothing if it has ended.

        Args:
            line: The response; with `tail`, an encoded result without its closing bytes.
            tail: The closing bytes of the result and of the message.
            at_once: Whether it may be sent alone, if nothing is expected to follow.
        """
        if not self.is_open:
            return
        session = self.session
        is_last = session.in_flight.remove(self)
        if self.is_dropped:
            self.sink.unanswered(self.id)
            return
        if tail is not None:
            line = b"".join((_OPENING, _encode(self.id), _RESULT, line, tail))
        most = session.limits.max_outbox_bytes
        if len(line) > most:
            message = f"the answer has {len(line)} bytes, and at most {most} can be sent; ask for less"
            line = jsonrpc.error(self.id, INTERNAL_ERROR, message)
        if self.batched:
            line = jsonrpc.in_batch(line)
        # To name an argument takes Python as long again as the call.
        if is_last and at_once:
            self.sink.answer(line, is_last=True)
        else:
            self.sink.answer(line)

    def answer_unknown(self) -> None:
        """As `answer`, after the work was cut short: what it did is not known."""
        message = f"{self.why or _CLOSING}; whether the request took effect is unknown"
        self.answer(jsonrpc.error(self.id, NOT_NOW, message, data=UNKNOWN_OUTCOME))

    def answer_not_executed(self) -> None:
        """As `answer`, if the work had not begun."""
        data = STOPPING if self.why is None else NOT_EXECUTED
        message = f"{self.why or _CLOSING}; the request was not executed, send it again"
        self.answer(jsonrpc.error(self.id, NOT_NOW, message, data=data))

    def end_unanswered(self) -> None:
        """End the exchange without an answer: the work on it has ended."""
        if self.is_open:
            self.session.in_flight.remove(self)
            self.sink.unanswered(self.id)

    def send(self, line: bytes) -> None:
        """Send a notification that belongs to the request; nothing once it is answered or dropped."""
        if self.is_open and not self.is_dropped:
            self.sink.send(line)

    def progress(self, progress: float, total: float | None, message: str | None) -> None:
        """Send a progress notification, if the client asked for progress."""
        if self.progress_token is None:
            return
        params: dict[str, Any] = {"progressToken": self.progress_token, "progress": progress}
        if total is not None:
            params["total"] = total
        if message is not None:
            params["message"] = message
        self.send(jsonrpc.notification("notifications/progress", params))

    def drop(self) -> None:
        """Have the work ended early, and give no answer: the sink has its own end for that."""
        if not self.is_dropped:
            self.is_dropped = True
            self.cut_short()

    def cut_short(self) -> None:
        """Have the work ended early; whoever does it ends the exchange."""
        on_cancel, self.on_cancel = self.on_cancel, None
        if on_cancel is not None:
            on_cancel()


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
        if size - self.held >= STEP_BYTES and not self._may_hold(size - self.held):
            return False
        exchanges[key] = exchange
        # Not `size`: to make room for it, others of this connection may have been ended.
        self._bytes += exchange.size
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
        """End a request, the work on which has ended; return whether none is left."""
        exchange.is_open = False
        exchange.on_cancel = None
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

    def _may_hold(self, more: int) -> bool:
        if self._share is not None:
            if not self._share.may_hold(more):
                return False
            # What was given back meanwhile is not in it any more.
            self.held += more
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
