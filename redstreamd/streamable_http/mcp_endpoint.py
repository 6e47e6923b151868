"""Requests of revision 2026-07-28 over HTTP: each says by itself all that it needs.

There is no session to begin, but an `mcpio.Session` that holds the requests of one connection and principal:
so many things hang on it, the direct path among them. A client that disconnects has cancelled its request.
Of plain calls of tools nothing is decoded twice: what `plain_calls` has found is held against the headers.
"""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial
from itertools import count
from typing import Any, Final

import trio

from redstreamd.admission.accounts import Account, Held
from redstreamd.admission.memory import Share
from redstreamd.admission.turns import ACCOUNT, turns
from redstreamd.errors.remedies import setting
from redstreamd.mcpio import jsonrpc, plain_calls
from redstreamd.mcpio.connection_events import MemoryExceeded
from redstreamd.mcpio.connection_state import Era
from redstreamd.mcpio.jsonrpc import INVALID_REQUEST, NOT_NOW, Notification, Rejection, Request, RequestId
from redstreamd.mcpio.kernels import Kernels, TakeCall
from redstreamd.mcpio.late_event import LateEvent
from redstreamd.mcpio.plain_calls import PlainCall
from redstreamd.mcpio.session import LONG_MESSAGE, Session, Task
from redstreamd.policy import Principal
from redstreamd.streamable_http.event_streams import EventTicker, Fields
from redstreamd.streamable_http.http_messages import Answer, Client, RequestHead, Responder, Surroundings
from redstreamd.streamable_http.mcp_responses import MODERN_STATUSES, McpResponse, Validity
from redstreamd.streamable_http.standard_headers import (
    MODERN_REVISION,
    ToolHeaders,
    call_problem,
    no_headers,
    request_problem,
    unsupported,
)

#: The one request that only a stream can answer.
_LISTEN: Final = "subscriptions/listen"
#: When a client may try again that found too many streams.
_RETRY_SECONDS: Final = 5
_NUMBERS: Final = count()


class _Caller:
    """The requests of one connection on behalf of one principal; also who holds their memory."""

    __slots__ = ("_around", "_client", "account", "session", "share")

    def __init__(
        self,
        around: Surroundings,
        kernels: Kernels,
        direct_path: TakeCall | None,
        client: Client,
        principal: Principal,
        draining: LateEvent,
    ) -> None:
        self._around = around
        self._client = client
        # The connection itself has an account of the principal of its listener.
        name = f"{client.connection_id} {next(_NUMBERS)}"
        self.account: Account = around.accounts.open(principal, client.peer, name)
        self.account.hold(Held.CONNECTIONS, -1)
        self.share: Share = around.memory.open(self.account, self)
        self.session = Session(
            kernels,
            connection_id=client.connection_id,
            principal=principal,
            account=self.account,
            limits=around.limits,
            sink=_NoRequest(client),
            start_soon=self._start_soon,
            flushed=client.outbox.wait_written,
            draining=draining,
            report=around.report,
            direct_path=direct_path,
            share=self.share,
        )

    def drop(self) -> None:
        """Cancel what is in flight: the client has gone."""
        self.session.in_flight.cut_off(drop=True)

    def close(self) -> None:
        """Let go of all."""
        session = self.session
        self.drop()
        self.share.close()
        self._around.accounts.close(self.account)
        # What is left has no cycle of references, and so is freed at once.
        session.detach()
        self.share.detach()

    def give_back(self) -> bool:
        """Free the largest thing that the client makes us hold: all clients together hold too much."""
        self.on_refused()
        return self.session.in_flight.cut_longest(jsonrpc.memory_exceeded(self._around.limits))

    def on_refused(self) -> None:
        """Report that a message was refused, because all clients together hold too much."""
        limit, held = self._around.limits.max_memory_bytes, self.account.held[Held.BYTES]
        client, principal = self._client, self.session.principal
        self._around.report(MemoryExceeded(client.connection_id, principal, limit, held, client.peer))

    def _start_soon(self, task: Task) -> bool:
        return self._client.start_soon(partial(_run_for, self.account, task))


async def _run_for(account: Account, task: Task) -> None:
    ACCOUNT.set(account)
    await task()


class _NoRequest:
    """The sink of what belongs to no request: there is no such thing in this revision."""

    __slots__ = ("_client",)

    def __init__(self, client: Client) -> None:
        self._client = client

    @property
    def size(self) -> int:
        """Bytes that the client's socket has not accepted yet."""
        return self._client.outbox.size

    def send(self, line: bytes, *, is_last: bool = False) -> None:
        """Do nothing."""

    def answer(self, line: bytes, *, is_last: bool = False) -> None:
        """Do nothing."""

    def unanswered(self, request_id: RequestId) -> None:
        """Do nothing."""


class McpEndpoint:
    """Serves the requests of one connection, one at a time."""

    __slots__ = (
        "_around",
        "_caller",
        "_client",
        "_decode",
        "_direct_path",
        "_draining",
        "_kernels",
        "_ticker",
        "_tool_headers",
    )

    def __init__(
        self,
        surroundings: Surroundings,
        kernels: Kernels,
        direct_path: TakeCall | None,
        ticker: EventTicker,
        client: Client,
        draining: LateEvent,
        tool_headers: ToolHeaders = no_headers,
    ) -> None:
        """Serve the requests of a client; `draining` is set once the daemon stops. See `HttpSite`."""
        self._around = surroundings
        self._kernels = kernels
        self._direct_path = direct_path
        # A direct path may be a plain function; then it decodes the arguments for itself.
        self._decode: Any = getattr(direct_path, "decode", None)
        self._ticker = ticker
        self._client = client
        self._tool_headers = tool_headers
        self._draining = draining
        self._caller: _Caller | None = None

    @property
    def requests_in_flight(self) -> int:
        """How many requests are in flight."""
        return 0 if self._caller is None else len(self._caller.session.in_flight)

    def serve(
        self,
        head: RequestHead,
        body: bytes,
        responder: Responder,
        principal: Principal,
        *,
        takes_events: bool,
        fields: Fields = (),
        validity: Validity | None = None,
    ) -> Awaitable[None] | None:
        """Serve a message.

        Args:
            head: With ``MCP-Protocol-Version``, which is of no revision with a handshake.
            body: The message.
            responder: The response.
            principal: On whose behalf it is sent.
            takes_events: Whether the client takes a stream.
            fields: Headers of the response.
            validity: See `McpResponse`.
        """
        caller = self._caller_of(principal)
        response = McpResponse(
            responder,
            self._ticker,
            MODERN_STATUSES,
            takes_events=takes_events,
            fields=fields,
            on_gone=caller.drop,
            validity=validity,
        )
        if len(body) >= LONG_MESSAGE:
            return self._serve_long(head, body, response, caller)
        if self._take(head, self._plain(body), len(body), response, caller):
            return None
        return self._serve_other(head, body, response, caller)

    async def aclose(self) -> None:
        """Let go of the connection."""
        caller, self._caller = self._caller, None
        if caller is not None:
            caller.drop()
            with trio.CancelScope(shield=True):
                await caller.session.aclose()
            caller.close()

    def account_of(self, principal: Principal) -> Account:
        """Return where it is counted what requests on behalf of a principal use."""
        return self._caller_of(principal).account

    def _caller_of(self, principal: Principal) -> _Caller:
        caller = self._caller
        if caller is not None:
            known = caller.session.principal
            if known is principal or known == principal:
                return caller
            # Nothing of it is in flight: its last request was answered. Kernels of this revision keep nothing
            # from one request to the next that they would have to close.
            caller.close()
        caller = self._caller = _Caller(
            self._around, self._kernels, self._direct_path, self._client, principal, self._draining
        )
        return caller

    def _plain(self, body: bytes) -> PlainCall | None:
        call = plain_calls.decode(body, self._around.limits)
        return None if call is None or call.era is not Era.MODERN or self._decode is None else call

    def _take(
        self, head: RequestHead, call: PlainCall | None, size: int, response: McpResponse, caller: _Caller
    ) -> bool:
        """Serve a plain call, or refuse it for its headers; False if it is to be served as other messages."""
        if call is not None and call.decoded is None:
            call = self._decode(call)
        if call is None:
            return False
        problem = call_problem(head, call, self._tool_headers)
        if problem is not None:
            response.answer(problem.line())
            return True
        session = caller.session
        return session.take_directly(session, call, size, response)

    async def _serve_long(
        self, head: RequestHead, body: bytes, response: McpResponse, caller: _Caller
    ) -> None:
        """Serve a long message in steps, between which others are served."""
        call = self._plain(body)
        await turns().part(caller.account)
        if call is not None:
            call = self._decode(call)
            await turns().part(caller.account)
        # It may have been given up meanwhile, and then was told so.
        if response.is_awaited and not self._take(head, call, len(body), response, caller):
            await self._serve_other(head, body, response, caller)

    async def _serve_other(
        self, head: RequestHead, body: bytes, response: McpResponse, caller: _Caller
    ) -> None:
        if not response.is_awaited:
            # It was given up while it waited for its turn, and was told so.
            return
        decoded = jsonrpc.decode(body, self._around.limits)
        if isinstance(decoded, Request):
            problem = request_problem(head, decoded, self._tool_headers)
            if problem is not None:
                response.answer(problem.line())
            elif decoded.method != _LISTEN or self._may_listen(decoded, response):
                await caller.session.handle_decoded(decoded, len(body), response)
        elif isinstance(decoded, Rejection):
            response.answer(decoded.line())
        elif not isinstance(decoded, Notification):
            why = "the body must be one request or notification"
            response.answer(Rejection(INVALID_REQUEST, why).line())
        elif (version := head.fields.get("mcp-protocol-version", "")) != MODERN_REVISION:
            response.answer(unsupported(version, None).line())
        else:
            # None has a meaning in this revision: a client cancels by disconnecting.
            response.finish(Answer(202, b"", None))

    def _may_listen(self, request: Request, response: McpResponse) -> bool:
        """Return whether a client may have a stream that it asks for; else it is refused."""
        fields: Fields = ()
        if not response.takes_events:
            status, code, why = (
                406,
                INVALID_REQUEST,
                "only a stream of events can answer: accept text/event-stream",
            )
        elif not response.take_place():
            status, code = 503, NOT_NOW
            why = f"too many streams of events are open ({setting('http.max_event_streams')}); try later"
            fields = (("Retry-After", str(_RETRY_SECONDS)),)
        else:
            return True
        response.finish(Answer(status, jsonrpc.error(request.id, code, why), fields=fields))
        return False
