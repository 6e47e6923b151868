"""The response to a POST of MCP: one JSON message, or a stream of events once there is more to send.

It is JSON if the answer comes before anything else. It becomes a stream with the first notification of the
request, or when the answer takes about a second, so that clients and proxies see that somebody works on it.
A client that does not take a stream gets no notifications. Knows nothing of what is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from redstreamd.mcpio import jsonrpc
from redstreamd.mcpio.jsonrpc import INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, PARSE_ERROR, RequestId
from redstreamd.streamable_http.event_streams import EventLog, EventStream, EventTicker, Fields
from redstreamd.streamable_http.http_messages import Answer, Responder
from redstreamd.streamable_http.standard_headers import HEADER_MISMATCH, UNSUPPORTED_VERSION

#: The code for a request that its client has cancelled, and whose response has to end; as the SDK says it.
REQUEST_CANCELLED: Final = -32800
#: MCP: the client lacks a capability that the request needs.
_MISSING_CAPABILITY: Final = -32021

Validity = Callable[[], Callable[[], bool]]
"""Returns what tells whether the client may still read a response that stays open."""
Statuses = Mapping[int, int]
"""The status of a response by the code of its error; 200 for others, of which MCP demands none."""

MODERN_STATUSES: Final[Statuses] = {
    PARSE_ERROR: 400,
    INVALID_REQUEST: 400,
    INVALID_PARAMS: 400,
    METHOD_NOT_FOUND: 404,
    HEADER_MISMATCH: 400,
    UNSUPPORTED_VERSION: 400,
    _MISSING_CAPABILITY: 400,
}
#: In revisions with a handshake, whose clients read the error of a response with status 200 only: other
#: statuses are for what is no request.
HANDSHAKE_STATUSES: Final[Statuses] = {PARSE_ERROR: 400, INVALID_REQUEST: 400}


class McpResponse:
    """The sink of one request.

    Attributes:
        fields: Headers of the response.
        takes_events: Whether the client takes a stream; False if there may be none any more.
        is_over: Whether the request has ended.
    """

    __slots__ = (
        "_log",
        "_on_gone",
        "_primes",
        "_responder",
        "_statuses",
        "_stream",
        "_ticker",
        "_validity",
        "fields",
        "is_over",
        "takes_events",
    )

    def __init__(
        self,
        responder: Responder,
        ticker: EventTicker,
        statuses: Statuses,
        *,
        takes_events: bool,
        fields: Fields = (),
        on_gone: Callable[[], None] | None = None,
        log: EventLog | None = None,
        primes: bool = False,
        validity: Validity | None = None,
    ) -> None:
        """Answer by `responder`.

        Args:
            responder: The response.
            ticker: Makes a stream of it if the answer takes long.
            statuses: Its status by the code of its error.
            takes_events: Whether the client takes a stream.
            fields: Its headers.
            on_gone: Called if the client disconnects before the request has ended.
            log: Keeps its events for a client that comes back; None: that is not possible.
            primes: See `EventStream.attach`.
            validity: Asked when it becomes a stream.
        """
        self._responder = responder
        self._ticker = ticker
        self._statuses = statuses
        self.takes_events = takes_events
        self.fields = fields
        self._on_gone = responder.on_gone = on_gone
        self._log = log
        self._primes = primes
        self._validity = validity
        self._stream: EventStream | None = None
        self.is_over = False
        if takes_events:
            ticker.await_answer(self)

    def send(self, line: bytes, *, is_last: bool = False) -> None:
        """Send a notification of the request, if the client takes any."""
        self.become_stream()
        if self._stream is not None:
            self._stream.send(line, is_last=is_last)

    def answer(self, line: bytes, *, is_last: bool = False) -> None:
        """Send the answer; the request has ended."""
        self.is_over = True
        self._validity = None
        if self.takes_events:
            self._ticker.answered(self)
        if self._stream is not None:
            self._stream.send(line)
            self._stream.end()
        elif not self._responder.is_over:
            self._responder.on_gone = None
            code = jsonrpc.error_code(line)
            status = 200 if code is None else self._statuses.get(code, 200)
            self._responder.answer(Answer(status, line, fields=self.fields))

    def take_place(self) -> bool:
        """Make sure that it can become a stream; False if there are too many."""
        return self._ticker.take_place(self)

    def finish(self, answer: Answer) -> None:
        """Send a response that is no answer to a request."""
        self.is_over = True
        self._ticker.answered(self)
        if self._stream is not None:
            self._stream.end()
        else:
            self._responder.on_gone = None
            self._responder.answer(msgspec.structs.replace(answer, fields=(*answer.fields, *self.fields)))

    def of_batch(self, answers: int) -> BatchResponse:
        """Return what stands for this one until so many answers have come; called before the first."""
        self._ticker.answered(self)
        on_gone = self._responder.on_gone
        response = BatchResponse(
            self._responder,
            self._ticker,
            self._statuses,
            takes_events=self.takes_events,
            fields=self.fields,
            on_gone=self._on_gone,
            log=self._log,
            primes=self._primes,
            validity=self._validity,
        )
        self._responder.on_gone = on_gone
        response.expect(answers, self._stream)
        return response

    @property
    def is_awaited(self) -> bool:
        """Whether its client waits for it."""
        return not self.is_over and not self._responder.is_over

    def unanswered(self, request_id: RequestId) -> None:
        """Answer a request that its client has cancelled, if the client still waits for the response."""
        self.answer(jsonrpc.error(request_id, REQUEST_CANCELLED, "Request cancelled"))

    def become_stream(self) -> None:
        """Begin a response of events, if the client takes it and there may be one more. Idempotent."""
        if self._stream is not None or self.is_over or not self.takes_events:
            return
        has_place = self._ticker.has_place(self)
        self._ticker.answered(self)
        if self._responder.is_over or not has_place:
            # It stays one message, if there is somebody to send it to.
            self.takes_events = False
            return
        self._stream = EventStream(self._ticker, self._log, self._on_gone)
        is_valid = None if self._validity is None else self._validity()
        # What it is made of is not kept for as long as the stream is open.
        self._validity = None
        self._stream.attach(self._responder, self.fields, primes=self._primes, is_valid=is_valid)


class BatchResponse(McpResponse):
    """The sink of the requests of one batch; as JSON, their answers are a batch, too."""

    __slots__ = ("_answers", "_awaited")

    def expect(self, answers: int, stream: EventStream | None) -> None:
        """Be over after so many answers; to be called before the first, with the stream that has begun."""
        self._stream = stream
        self._awaited = answers
        self._answers: list[bytes] = []

    def answer(self, line: bytes, *, is_last: bool = False) -> None:
        """Send an answer, which is a batch of one; after the last the response is over."""
        self._awaited -= 1
        self._answers.append(line[1:-2])
        if self._stream is not None:
            self._send_answers()
            if not self._awaited:
                self.is_over = True
                self._stream.end()
        elif not self._awaited:
            super().answer(b"[%b]\n" % b",".join(self._answers))

    def unanswered(self, request_id: RequestId) -> None:
        """As `McpResponse.unanswered`."""
        self.answer(jsonrpc.in_batch(jsonrpc.error(request_id, REQUEST_CANCELLED, "Request cancelled")))

    def become_stream(self) -> None:
        """Begin a response of events, with the answers that there are already."""
        super().become_stream()
        self._send_answers()

    def _send_answers(self) -> None:
        if self._stream is not None:
            answers, self._answers = self._answers, []
            for answer in answers:
                self._stream.send(answer + b"\n")
