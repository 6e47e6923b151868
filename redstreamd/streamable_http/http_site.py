"""What is served over HTTP: which path, method and revision a request is of, and so who serves it.

Everything that the head of a request decides is decided here, before its body is read. `mcp_endpoint` serves
requests of revision 2026-07-28, `session_endpoint` those of the revisions with a handshake.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final, Protocol

import msgspec

from redstreamd.admission.accounts import Account
from redstreamd.mcpio import jsonrpc
from redstreamd.mcpio.early_kernels import REVISIONS as HANDSHAKE_REVISIONS
from redstreamd.mcpio.kernels import Kernels, TakeCall
from redstreamd.policy import Principal
from redstreamd.streamable_http.event_streams import EventTicker, Fields
from redstreamd.streamable_http.http_messages import (
    Answer,
    Client,
    Handler,
    RequestHead,
    Responder,
    Surroundings,
)
from redstreamd.streamable_http.http_sessions import HttpSessions
from redstreamd.streamable_http.mcp_endpoint import McpEndpoint
from redstreamd.streamable_http.media_types import EVENTS, JSON, accepted, is_json
from redstreamd.streamable_http.session_endpoint import SessionEndpoint
from redstreamd.streamable_http.standard_headers import (
    MODERN_REVISION,
    ToolHeaders,
    no_headers,
    unsupported,
)

#: Where a client of a revision with a handshake says which one was negotiated, if it says so.
_METHODS: Final = "GET, POST, DELETE, OPTIONS"
#: For how long a browser may remember what it may send.
_PREFLIGHT_SECONDS: Final = 600
_READABLE: Final = "Mcp-Session-Id, WWW-Authenticate, Retry-After"


class Access(Protocol):
    """Decides who may call; `http_access` is it."""

    def admit(self, head: RequestHead, client: Client) -> Principal | Answer | Awaitable[Principal | Answer]:
        """Return on whose behalf a request is made, or its refusal; awaited where that takes time."""
        ...

    def misplaced(self, head: RequestHead, client: Client) -> Answer | None:
        """Return the refusal of a request that is for another host, or from a foreign web page."""
        ...

    def origin_allowed(self, head: RequestHead) -> str | None:
        """Return the origin whose pages may read the response; None if none may."""
        ...

    def validity(self, head: RequestHead) -> Callable[[], bool]:
        """Return what tells whether the credential of a request that was admitted is valid still."""
        ...


class Page(msgspec.Struct, frozen=True):
    """What is served on a path beside the endpoint.

    Attributes:
        answer: Returns the response to a request.
        is_open: Whether it needs no credential.
    """

    answer: Callable[[RequestHead, Principal], Awaitable[Answer]]
    is_open: bool = False


class HttpSite:
    """What is served to all connections of the HTTP listeners.

    Attributes, beside the arguments:
        ticker: Attends to the responses of all connections.
        sessions: Of the revisions with a handshake; its `run` has to run.
    """

    def __init__(
        self,
        surroundings: Surroundings,
        kernels: Kernels,
        direct_path: TakeCall | None,
        access: Access,
        *,
        path: str = "/mcp",
        pages: Mapping[str, Page] | None = None,
        tool_headers: ToolHeaders = no_headers,
    ) -> None:
        """Serve MCP on a path.

        Args:
            surroundings: What all connections share.
            kernels: Serve requests.
            direct_path: Serves plain calls of tools; None: `kernels` serve them, too.
            access: Decides who may call.
            path: Of the endpoint.
            pages: What is served on other paths.
            tool_headers: Which arguments of tools have headers in revision 2026-07-28.
        """
        self.surroundings: Final = surroundings
        self.kernels: Final = kernels
        self.direct_path: Final = direct_path
        self.access: Final = access
        self.path: Final = path
        self.pages: Final = pages or {}
        self.tool_headers: Final = tool_headers
        self.ticker: Final = EventTicker(surroundings.http_limits)
        self.sessions: Final = HttpSessions(kernels, direct_path, surroundings, self.ticker)

    def connected(self, client: Client) -> Handler:
        """Return the handler for a new connection."""
        return _Handler(self, client)


_Serve = Callable[[RequestHead, bytes, Responder], Awaitable[None] | None]


class _Handler:
    """Serves the requests of one connection, one at a time."""

    __slots__ = (
        "_account",
        "_client",
        "_cors",
        "_modern",
        "_page",
        "_principal",
        "_serve",
        "_sessions",
        "_site",
        "_takes_events",
        "requests",
    )

    def __init__(self, site: HttpSite, client: Client) -> None:
        self._site = site
        self._client = client
        self._modern = McpEndpoint(
            site.surroundings,
            site.kernels,
            site.direct_path,
            site.ticker,
            client,
            site.sessions.draining,
            site.tool_headers,
        )
        self._sessions = SessionEndpoint(site.sessions, client)
        # Of the request that was checked last: what serves it; on whose behalf; the headers by which a web
        # page may read the response; whether the client takes a stream; the page; whose turn it is.
        self._serve: _Serve | None = None
        self._principal = client.principal
        self._cors: Fields = ()
        self._takes_events = False
        self._page: Page | None = None
        self._account: Account | None = None
        self.requests = 0

    @property
    def requests_in_flight(self) -> int:
        """How many requests of MCP are in flight on behalf of this connection."""
        return self._modern.requests_in_flight + self._sessions.requests_in_flight

    @property
    def account(self) -> Account | None:
        """Whose turn it is when the request that `check` took is served."""
        account = self._account
        if account is not None and account.is_closed:
            # The session has ended, and what comes for it still is its principal's as before.
            account = self._account = self._modern.account_of(self._principal)
        return account

    def check(self, head: RequestHead) -> Answer | Awaitable[Answer | None] | None:
        """Return the refusal of a request whose head was read, or None if its body may be read."""
        site = self._site
        self._serve = self._page = self._account = None
        self._cors = ()
        if head.path != site.path:
            page = self._page = site.pages.get(head.path)
            if page is None:
                return _refusal(404, f"there is nothing here; the endpoint of MCP is {site.path}")
            if head.fields.get("content-length", "0") != "0" or "transfer-encoding" in head.fields:
                return _refusal(413, "no body is read here")
            if page.is_open:
                # Probes ask by addresses that nobody has listed, and an open page tells nothing.
                return self._checked(head, self._client.principal)
        if "origin" in head.fields or head.method == "OPTIONS":
            if (misplaced := site.access.misplaced(head, self._client)) is not None:
                return misplaced
            self._cors = self._readable(head)
            if head.method == "OPTIONS":
                # Its body is not read: no credential was asked for.
                return self._preflight(head)
        admitted = site.access.admit(head, self._client)
        if isinstance(admitted, Principal) or isinstance(admitted, Answer):  # noqa: SIM101 - a union is slow
            return self._checked(head, admitted)
        return self._check_later(head, admitted)

    async def _check_later(
        self, head: RequestHead, admitting: Awaitable[Principal | Answer]
    ) -> Answer | None:
        return self._checked(head, await admitting)

    def _checked(self, head: RequestHead, admitted: Principal | Answer) -> Answer | None:
        refusal: Answer | None
        if isinstance(admitted, Answer):
            refusal = admitted
        else:
            self._principal = admitted
            if self._page is not None:
                self._serve = self._serve_page
                return None
            refusal = self._check_mcp(head)
        if refusal is None or not self._cors:
            return refusal
        return msgspec.structs.replace(refusal, fields=(*refusal.fields, *self._cors))

    def _check_mcp(self, head: RequestHead) -> Answer | None:
        fields, method = head.fields, head.method
        version = fields.get("mcp-protocol-version")
        has_sessions = version is None or version in HANDSHAKE_REVISIONS
        if method == "POST":
            takes = accepted(fields.get("accept"))
            if not takes & JSON:
                return _refusal(406, "the client has to accept application/json (header Accept)")
            if not is_json(fields.get("content-type")):
                return _refusal(415, "the body has to be application/json (header Content-Type)")
            self._takes_events = bool(takes & EVENTS)
            if has_sessions:
                self._serve = self._serve_in_session
                refusal = self._sessions.check(head, self._principal)
                self._account = self._sessions.account
                return refusal
            self._serve = self._serve_modern
            self._account = self._modern.account_of(self._principal)
            return None
        if not has_sessions and version != MODERN_REVISION:
            return Answer(400, unsupported(version or "", None).line())
        if not has_sessions or method not in ("GET", "DELETE"):
            allowed = _METHODS if has_sessions else "POST, OPTIONS"
            return _refusal(405, f"allowed here: {allowed}", (("Allow", allowed),))
        if method == "GET":
            if not accepted(fields.get("accept")) & EVENTS:
                return _refusal(406, "the client has to accept text/event-stream (header Accept)")
            self._serve = self._listen
        else:
            self._serve = self._end_session
        return self._sessions.check(head, self._principal)

    def _serve_modern(self, head: RequestHead, body: bytes, responder: Responder) -> Awaitable[None] | None:
        return self._modern.serve(
            head,
            body,
            responder,
            self._principal,
            takes_events=self._takes_events,
            fields=self._cors,
            validity=partial(self._site.access.validity, head),
        )

    def _serve_in_session(
        self, head: RequestHead, body: bytes, responder: Responder
    ) -> Awaitable[None] | None:
        return self._sessions.serve(
            head,
            body,
            responder,
            self._principal,
            takes_events=self._takes_events,
            fields=self._cors,
            validity=partial(self._site.access.validity, head),
        )

    def _listen(self, head: RequestHead, _body: bytes, responder: Responder) -> None:
        self._sessions.listen(head, responder, fields=self._cors, is_valid=self._site.access.validity(head))

    def _end_session(self, _head: RequestHead, _body: bytes, responder: Responder) -> None:
        self._sessions.end(responder, fields=self._cors)

    async def _serve_page(self, head: RequestHead, _body: bytes, responder: Responder) -> None:
        if self._page is not None:
            responder.answer(await self._page.answer(head, self._principal))

    def serve(self, head: RequestHead, body: bytes, responder: Responder) -> Awaitable[None] | None:
        """Serve a request that `check` took; the response may come after this has returned."""
        serve, self._serve = self._serve, None
        if serve is None:
            responder.answer(_refusal(500, "the request was not checked"))
            return None
        self.requests += 1
        return serve(head, body, responder)

    def drain(self) -> None:
        """Note that the daemon stops: requests are rejected from now on, and those that wait answer now."""
        self._site.sessions.drain()

    async def aclose(self) -> None:
        """Let go of the connection, which has ended."""
        await self._modern.aclose()

    def _readable(self, head: RequestHead) -> Fields:
        """Return the headers by which a web page of an allowed origin may read the response."""
        origin = self._site.access.origin_allowed(head)
        if origin is None:
            return ()
        return (
            ("Access-Control-Allow-Origin", origin),
            ("Access-Control-Expose-Headers", _READABLE),
            ("Vary", "Origin"),
        )

    def _preflight(self, head: RequestHead) -> Answer:
        """Tell a browser what the page of an allowed origin may send."""
        fields: Fields = (("Allow", _METHODS),)
        if self._cors:
            # Any header: which there are depends on the tools, and none of them proves anything by itself.
            asked = head.fields.get("access-control-request-headers")
            fields += (*self._cors, ("Access-Control-Allow-Methods", _METHODS))
            fields += (("Access-Control-Max-Age", str(_PREFLIGHT_SECONDS)),)
            if asked is not None and asked.isascii() and asked.isprintable():
                fields += (("Access-Control-Allow-Headers", asked),)
        return Answer(204, b"", None, fields)


def _refusal(status: int, why: str, fields: Fields = ()) -> Answer:
    """Return the refusal of what is no request of MCP, with an error that clients can show."""
    return Answer(status, jsonrpc.error(None, jsonrpc.INVALID_REQUEST, why), fields=fields)
