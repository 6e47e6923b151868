"""The response to one request, from whoever serves it to the connection; knows nothing of sockets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from redstreamd.streamable_http.http_counts import HttpCounts
from redstreamd.streamable_http.http_messages import Answer
from redstreamd.streamable_http.http_responses import LAST_CHUNK, chunk, events_head, whole
from redstreamd.streamable_http.request_rules import RequestStart


class Carrier(Protocol):
    """The connection that a response goes over."""

    @property
    def keeps_alive(self) -> bool:
        """Whether it may go on after a response."""
        ...

    @property
    def counts(self) -> HttpCounts:
        """Where responses are counted."""
        ...

    def send(self, data: bytes, *, is_last: bool) -> None:
        """Send bytes; never blocks."""
        ...

    def events_begin(self) -> None:
        """Note that the response in progress is one of events, which may be open for hours."""
        ...

    def response_ended(self, *, closes: bool) -> None:
        """Note that the response has ended, and whether the connection ends with it."""
        ...


class HttpResponder:
    """A `Responder`.

    Attributes:
        on_gone: Called once if the client disconnects before the response has ended.
        has_begun: Whether something of the response was sent.
        is_over: Whether it has ended, or the client has gone.
    """

    __slots__ = ("_carrier", "_closes", "_is_1_1", "_is_head", "has_begun", "is_over", "on_gone")

    def __init__(self, carrier: Carrier, start: RequestStart) -> None:
        """Answer the request that begins with `start`."""
        self._carrier = carrier
        # Not the head itself, which takes more than a response of events that is open for hours.
        self._is_head = start.head.method == "HEAD"
        self._is_1_1 = start.is_1_1
        self._closes = not start.keeps_alive
        self.on_gone: Callable[[], None] | None = None
        self.has_begun = self.is_over = False

    def answer(self, answer: Answer) -> None:
        """Send the whole response."""
        if self.is_over or self.has_begun:
            return
        closes = self._closes or answer.closes or not self._carrier.keeps_alive
        self._carrier.counts.note(answer.status)
        data = whole(answer, is_1_1=self._is_1_1, keeps_alive=not closes, is_head=self._is_head)
        self._end(data, closes, is_last=True)

    def begin_events(self, fields: tuple[tuple[str, str], ...] = ()) -> None:
        """Begin a response of events."""
        if self.is_over or self.has_begun:
            return
        # In HTTP/1.0 its end is the end of the connection.
        self._closes = self._closes or not self._is_1_1 or not self._carrier.keeps_alive
        data = events_head(fields, is_1_1=self._is_1_1, keeps_alive=not self._closes)
        self._carrier.counts.note(200)
        if self._is_head:
            self._end(data, self._closes, is_last=True)
            return
        self.has_begun = True
        self._carrier.events_begin()
        self._carrier.send(data, is_last=False)

    def send_events(self, data: bytes, *, is_last: bool = False) -> None:
        """Send events or comments."""
        if self.is_over or not self.has_begun or not data:
            return
        self._carrier.send(chunk(data) if self._is_1_1 else data, is_last=is_last)

    def end_events(self) -> None:
        """End the response of events."""
        if self.is_over or not self.has_begun:
            return
        closes = self._closes or not self._carrier.keeps_alive
        self._end(LAST_CHUNK if self._is_1_1 else b"", closes, is_last=False)

    def _end(self, data: bytes, closes: bool, *, is_last: bool) -> None:
        self.has_begun = self.is_over = True
        self.on_gone = None
        if data:
            self._carrier.send(data, is_last=is_last)
        self._carrier.response_ended(closes=closes)

    def cut(self, refusal: Answer | None) -> None:
        """Note that the client has gone, or is answered no more.

        Args:
            refusal: What it is told, if nothing of the response was sent.
        """
        on_gone, self.on_gone = self.on_gone, None
        if refusal is not None:
            self.answer(refusal)
        self.is_over = True
        if on_gone is not None:
            on_gone()
