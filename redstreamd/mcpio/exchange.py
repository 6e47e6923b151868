"""One request of a client, and where its answer goes.

A `Session` is what lasts; an exchange is one message of it. The transport gives each message a sink. Over a
byte stream all messages have the same; over Streamable HTTP each request has a response of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from redstreamd.mcpio import jsonrpc
from redstreamd.mcpio.jsonrpc import (
    INTERNAL_ERROR,
    NOT_EXECUTED,
    NOT_NOW,
    STOPPING,
    UNKNOWN_OUTCOME,
    RequestId,
)

if TYPE_CHECKING:
    from redstreamd.mcpio.session import Session

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
        outside or cannot begin; `discard`, where another exchange is to be made for the same request.

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

    def answer(self, line: bytes, tail: bytes | None = None) -> None:
        """End the exchange, and send the answer unless it was dropped; nothing if it has ended.

        Args:
            line: The response; with `tail`, an encoded result without its closing bytes.
            tail: The closing bytes of the result and of the message.
        """
        if not self.is_open:
            return
        session = self.session
        self.is_open = False
        self.on_cancel = None
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
        self.sink.answer(jsonrpc.in_batch(line) if self.batched else line, is_last=is_last)

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
            self.discard()
            self.sink.unanswered(self.id)

    def discard(self) -> None:
        """End the exchange, and tell nobody."""
        self.is_open = False
        self.on_cancel = None
        self.session.in_flight.remove(self)

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
