"""Requests of the revisions with a handshake over HTTP: each is one of a session, which it names.

Knows how HTTP says which session, and what it answers without one; `http_sessions` has the sessions.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from redstreamd.admission.accounts import Account
from redstreamd.errors.remedies import setting
from redstreamd.mcpio import jsonrpc
from redstreamd.mcpio.jsonrpc import (
    INVALID_REQUEST,
    NOT_EXECUTED,
    NOT_NOW,
    Batch,
    Message,
    Rejection,
    Request,
    refused_while_stopping,
)
from redstreamd.mcpio.session import LONG_MESSAGE
from redstreamd.policy import Principal
from redstreamd.streamable_http.event_streams import Fields
from redstreamd.streamable_http.http_messages import Answer, Client, RequestHead, Responder
from redstreamd.streamable_http.http_sessions import HttpSession, HttpSessions
from redstreamd.streamable_http.mcp_responses import HANDSHAKE_STATUSES, McpResponse, Validity
from redstreamd.streamable_http.standard_headers import HEADER_MISMATCH, VERSION_KEY, version_differs

#: The revision of a request that does not name one, the first with this transport.
_DEFAULT_REVISION: Final = "2025-03-26"
#: Clients from this revision on understand an event without data, by which they know where they are.
_PRIMED_SINCE: Final = "2025-11-25"
#: When a client may try again that found too many sessions or streams.
_RETRY_AFTER: Final = ("Retry-After", "5")
_SESSION: Final = "mcp-session-id"
_SESSION_HEADER: Final = "Mcp-Session-Id"
_NO_SESSION: Final = "the header Mcp-Session-Id is missing; begin a session with initialize"
_ENDED: Final = "the session has ended; begin one with initialize"
_ACCEPTED: Final = Answer(202, b"", None)


class SessionEndpoint:
    """Serves the requests of one connection, one at a time."""

    __slots__ = ("_client", "_in_flight", "_session", "_sessions")

    def __init__(self, sessions: HttpSessions, client: Client) -> None:
        """Serve a client in `sessions`, with others that come over other connections."""
        self._sessions = sessions
        self._client = client
        # Of the request that was checked, until it is served.
        self._session: HttpSession | None = None
        # The response to the last request that was served.
        self._in_flight: McpResponse | None = None

    @property
    def requests_in_flight(self) -> int:
        """How many requests are in flight whose response goes over this connection."""
        return int(self._in_flight is not None and self._in_flight.is_awaited)

    @property
    def account(self) -> Account | None:
        """Where it is counted what the session uses that was found for the last request."""
        return None if self._session is None else self._session.account

    def check(self, head: RequestHead, principal: Principal) -> Answer | None:
        """Find the session of a request; return the refusal if there is none where one is needed."""
        name = head.fields.get(_SESSION)
        if name is None:
            self._session = None
            # The first request of a session has none. What it is, its body says.
            return None if head.method == "POST" else _refusal(400, _NO_SESSION)
        self._session = self._sessions.find(name, principal)
        if self._session is None:
            return _refusal(404, "there is no such session, or it has ended; begin one with initialize")
        return None

    def serve(
        self,
        head: RequestHead,
        body: bytes,
        responder: Responder,
        principal: Principal,
        *,
        takes_events: bool,
        fields: Fields,
        validity: Validity,
    ) -> Awaitable[None] | None:
        """Serve a message; for the arguments see `McpEndpoint.serve`."""
        session, self._session = self._session, None
        if session is None:
            return self._begin(head, body, responder, principal, takes_events, fields, validity)
        if session.is_ended:
            responder.answer(_refusal(404, _ENDED, fields))
            return None
        response = self._response(session, head, responder, takes_events, fields, validity)
        if len(body) < LONG_MESSAGE and session.session.take(body, response):
            return None
        return self._serve_other(session, body, response)

    def listen(
        self, head: RequestHead, responder: Responder, *, fields: Fields, is_valid: Callable[[], bool]
    ) -> None:
        """Begin a stream for what belongs to no request, or go on with a stream that was lost."""
        session, self._session = self._session, None
        # The stream may stay open for hours.
        self._in_flight = None
        if session is None or session.is_ended:
            responder.answer(_refusal(404, _ENDED, fields))
        elif self._sessions.draining.is_set():
            responder.answer(_refusal(503, "the server is shutting down", (*fields, _RETRY_AFTER)))
        elif (found := session.find_stream(head.fields.get("last-event-id"))) is None:
            why = "what came after this event is not kept any more; begin another session"
            responder.answer(_refusal(404, why, fields))
        elif self._sessions.ticker.is_full and not found[0].is_attached:
            why = f"too many streams of events are open ({setting('http.max_event_streams')}); try later"
            responder.answer(_refusal(503, why, (*fields, _RETRY_AFTER)))
        else:
            primes = _is_primed(head)
            session.attach(found, self._client, responder, fields, primes=primes, is_valid=is_valid)

    def end(self, responder: Responder, *, fields: Fields) -> None:
        """End the session, as its client wishes."""
        session, self._session = self._session, None
        if session is not None:
            self._sessions.end(session)
        responder.answer(Answer(204, b"", None, fields))

    def _response(
        self,
        session: HttpSession,
        head: RequestHead,
        responder: Responder,
        takes_events: bool,
        fields: Fields,
        validity: Validity,
        kind: type[McpResponse] = McpResponse,
    ) -> McpResponse:
        response = self._in_flight = kind(
            responder,
            self._sessions.ticker,
            HANDSHAKE_STATUSES,
            takes_events=takes_events,
            fields=fields,
            log=session.log,
            primes=_is_primed(head),
            validity=validity,
        )
        return response

    async def _begin(
        self,
        head: RequestHead,
        body: bytes,
        responder: Responder,
        principal: Principal,
        takes_events: bool,
        fields: Fields,
        validity: Validity,
    ) -> None:
        """Begin a session by the message, which names none."""
        decoded = jsonrpc.decode(body, self._sessions.surroundings.limits)
        if not isinstance(decoded, Request) or decoded.method != "initialize":
            responder.answer(Answer(400, _without_session(head, decoded).line(), fields=fields))
            return
        if self._sessions.draining.is_set():
            stopping = refused_while_stopping(decoded.id).line()
            responder.answer(Answer(503, stopping, fields=(*fields, _RETRY_AFTER)))
            return
        session = self._sessions.open(principal, self._client.peer)
        if session is None:
            why = f"too many sessions are open ({setting('http.max_sessions')}); try later"
            error = jsonrpc.error(decoded.id, NOT_NOW, why, data=NOT_EXECUTED)
            responder.answer(Answer(503, error, fields=(*fields, _RETRY_AFTER)))
            return
        own = (*fields, (_SESSION_HEADER, session.name))
        response = self._response(session, head, responder, takes_events, own, validity, _Greeting)
        try:
            await session.session.handle_decoded(decoded, len(body), response)
        finally:
            if not session.is_ended and session.session.era is None:
                self._sessions.end(session)

    async def _serve_other(self, session: HttpSession, body: bytes, response: McpResponse) -> None:
        """Serve what is no plain call."""
        served = session.session
        if len(body) >= LONG_MESSAGE and await served.take_long(body, response):
            return
        if session.is_ended:
            response.finish(_refusal(404, _ENDED))
            return
        if not response.is_awaited:
            # It was given up meanwhile, and was told so.
            return
        decoded = jsonrpc.decode(body, served.limits)
        awaited = sum(isinstance(each, Request | Rejection) for each in _messages(decoded))
        if isinstance(decoded, Batch):
            if not served.takes_batches:
                why = "batches are accepted in revision 2025-03-26 only: send each message by itself"
                response.answer(Rejection(INVALID_REQUEST, why).line())
                return
            response = response.of_batch(awaited)
            self._in_flight = response
        await served.handle_decoded(decoded, len(body), response)
        if not awaited:
            response.finish(_ACCEPTED)


class _Greeting(McpResponse):
    """The response to `initialize`: it names the session, if there is one."""

    __slots__ = ()

    def answer(self, line: bytes, *, is_last: bool = False) -> None:
        if jsonrpc.error_code(line) is not None:
            self.fields = tuple(each for each in self.fields if each[0] != _SESSION_HEADER)
        super().answer(line, is_last=is_last)


def _messages(decoded: Message | Batch) -> tuple[Message, ...]:
    return decoded.messages if isinstance(decoded, Batch) else (decoded,)


def _is_primed(head: RequestHead) -> bool:
    return head.fields.get("mcp-protocol-version", _DEFAULT_REVISION) >= _PRIMED_SINCE


def _without_session(head: RequestHead, decoded: Message | Batch) -> Rejection:
    """Return the error for a message that begins no session, and names none."""
    if isinstance(decoded, Rejection):
        return decoded
    if not isinstance(decoded, Request):
        return Rejection(INVALID_REQUEST, _NO_SESSION)
    meta = (decoded.params or {}).get("_meta")
    if isinstance(meta, dict) and VERSION_KEY in meta:
        return Rejection(HEADER_MISMATCH, version_differs(head), decoded.id)
    return Rejection(INVALID_REQUEST, _NO_SESSION, decoded.id)


def _refusal(status: int, why: str, fields: Fields = ()) -> Answer:
    return Answer(status, jsonrpc.error(None, INVALID_REQUEST, why), fields=fields)
