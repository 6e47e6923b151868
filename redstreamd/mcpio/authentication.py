"""Clients of listeners that demand TLS or a token, until they have shown what is demanded.

They hold no place of a client: their number is bounded, and beyond it the oldest of the address that has most
is closed. Each has `AUTHENTICATION_SECONDS`. What follows sees a socket like any other, with the principal.

The token is the first line that a client sends, a notification of JSON-RPC, to which there is no answer. The
requests may follow at once::

    {"jsonrpc": "2.0", "method": "redstreamd/token", "params": {"token": "..."}}
"""

from __future__ import annotations

import contextlib
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import trio

from redstreamd.admission.accounts import Peer
from redstreamd.mcpio import jsonrpc
from redstreamd.mcpio.closing import discard_input, shut_down
from redstreamd.mcpio.connection_events import ClientRefused, ConnectionCrashed, EventHook
from redstreamd.mcpio.jsonrpc import NOT_EXECUTED, NOT_NOW, Notification, Request, RequestId
from redstreamd.mcpio.late_event import LateEvent
from redstreamd.mcpio.limits import Limits
from redstreamd.mcpio.newcomers import FIRST_REQUEST_SECONDS, MAX_ANSWERS, TRIED_FIRST
from redstreamd.mcpio.served_connection import OpenConnection
from redstreamd.mcpio.tls_relay import LINGER_SECONDS, end, relay, socket_pair
from redstreamd.policy import Principal
from redstreamd.protection.listener_protection import Credentials, Protection, name_in

#: For the handshake of TLS and the token together.
AUTHENTICATION_SECONDS: Final = 5.0
#: Clients at a time that have not shown yet what is demanded.
MAX_PENDING: Final = 64
TOKEN_METHOD: Final = "redstreamd/token"  # noqa: S105 - not a token, but the name of the method
#: A longer first line is no token.
_MAX_LINE_BYTES: Final = 16 * 1024
_READ_BYTES: Final = 16 * 1024
#: The first byte of TLS (RFC 8446, section 5.1).
_HANDSHAKE: Final = b"\x16"

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]
Admit = Callable[[trio.SocketStream, Principal, Peer], Awaitable[None]]


class _RefusedError(Exception):
    """A client has not shown what is demanded.

    Attributes:
        why: For the log; nothing that the client sent.
        told: What the client is told; empty if it cannot be told.
        first: The request that it has sent instead, if any.
    """

    def __init__(self, why: str, told: str = "", first: Request | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.told = told
        self.first = first


class _Lines:
    """The first lines of a client, read without anything that follows them where it cannot be put back.

    Attributes:
        rest: What was read beyond the lines; over TLS only.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.rest = b""

    async def read(self) -> bytes | None:
        """Return the next line; None if there is none, or it is too long."""
        line = b""
        while len(line) < _MAX_LINE_BYTES:
            if isinstance(self._stream, trio.SSLStream):
                data = self.rest or bytes(await self._stream.receive_some(_READ_BYTES))
                self.rest = b""
            else:
                data = await self._stream.socket.recv(_READ_BYTES, trio.socket.MSG_PEEK)
            if not data:
                return None
            head, newline, rest = data.partition(b"\n")
            if isinstance(self._stream, trio.SSLStream):
                self.rest = rest
            else:
                await self._stream.socket.recv(len(head) + len(newline))
            line += head
            if newline:
                return line
        return None


class _Pending(msgspec.Struct, eq=False):
    address: str
    scope: trio.CancelScope
    opens: OpenConnection | None
    is_admitted: bool = False


class Authentication:
    """Asks clients for what a listener demands, each in a task.

    Resource handling:
        Owns the streams until they are passed on; over TLS for as long as the connection lasts.

    Attributes:
        crashed: How many ended by an exception that is a defect.
    """

    def __init__(self, limits: Limits, *, report: EventHook) -> None:
        """Begin without clients.

        Args:
            limits: The bounds of a message, and of newcomers.
            report: Called with events.
        """
        self.crashed = 0
        self._limits = limits
        self._report = report
        self._most = min(MAX_PENDING, limits.max_newcomers)
        # In the order in which they came.
        self._pending: list[_Pending] = []
        self._left = trio.lowlevel.ParkingLot()
        # By the end that is served.
        self._relays: dict[trio.SocketStream, trio.CancelScope] = {}

    @property
    def relays(self) -> int:
        """How many connections are carried; each takes two descriptors more than another one."""
        return len(self._relays)

    @property
    def reserved(self) -> int:
        """How many descriptors are kept for clients that are asked."""
        return self._most

    async def begin(
        self,
        stream: trio.SocketStream,
        principal: Principal,
        protection: Protection,
        peer: Peer,
        nursery: trio.Nursery,
        admit: Admit,
        opens: OpenConnection | None = None,
    ) -> None:
        """Ask a client, in a task of its own; returns once there is a place for it.

        Args:
            stream: Its connection.
            principal: Of the listener.
            protection: What it demands.
            peer: Who connected.
            nursery: Where to run the task.
            admit: Called with a stream as of any other client, and the client's principal.
            opens: What its connection is opened by, which says how it is told that it is refused; None: the
                line transport.
        """
        pending = _Pending(peer.address, trio.CancelScope(), opens)
        try:
            while len(self._pending) >= self._most and not self._evict():
                await self._left.park()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        self._pending.append(pending)
        nursery.start_soon(self._ask, stream, principal, protection, peer, pending, nursery, admit)

    def closed(self, stream: trio.SocketStream) -> None:
        """Note that a stream that was passed on is closed: its client has a moment to read the rest."""
        if (scope := self._relays.get(stream)) is not None:
            scope.deadline = trio.current_time() + 2 * LINGER_SECONDS

    async def settle(self, seconds: float) -> None:
        """Wait until all that are asked have shown what is demanded; after so many seconds, close them."""
        with trio.move_on_after(seconds):
            while self._pending:
                await self._left.park()
        for pending in self._pending:
            pending.scope.cancel()
        while self._pending:
            await self._left.park()

    def _evict(self) -> bool:
        """Close the oldest client of the address that has most; False if all are shown in already."""
        waiting = [each for each in self._pending if not each.is_admitted]
        if not waiting:
            return False
        [(address, _)] = Counter(each.address for each in waiting).most_common(1)
        self._leave(first := next(each for each in waiting if each.address == address))
        first.scope.cancel()
        return True

    def _leave(self, pending: _Pending) -> None:
        if pending in self._pending:
            self._pending.remove(pending)
            self._left.unpark_all()

    async def _ask(
        self,
        stream: trio.SocketStream,
        principal: Principal,
        protection: Protection,
        peer: Peer,
        pending: _Pending,
        nursery: trio.Nursery,
        admit: Admit,
    ) -> None:
        passed_on = False
        why = ""
        try:
            with pending.scope:
                with trio.move_on_after(AUTHENTICATION_SECONDS) as asking:
                    demanded = await protection.current()
                    shown = await self._authenticate(stream, principal, demanded, pending.opens)
                if asking.cancelled_caught:
                    why = f"it did not show what is demanded within {AUTHENTICATION_SECONDS:.0f} s"
                elif isinstance(shown, str):
                    why = shown
                else:
                    pending.is_admitted = passed_on = True
                    await self._pass_on(*shown, peer, nursery, admit)
            if pending.scope.cancelled_caught and not passed_on:
                why = "it had not shown yet what is demanded when its place was needed"
            if why:
                self._report(ClientRefused(principal, why, peer))
        except* Exception as crash:  # noqa: BLE001 - any exception is a defect, and touches nobody else
            self.crashed += 1
            self._report(ConnectionCrashed("", principal, crash))
        finally:
            self._leave(pending)
            if not passed_on:
                with trio.CancelScope(shield=True):
                    await trio.aclose_forcefully(stream)

    async def _pass_on(
        self,
        stream: Stream,
        received: bytes,
        principal: Principal,
        peer: Peer,
        nursery: trio.Nursery,
        admit: Admit,
    ) -> None:
        if isinstance(stream, trio.SocketStream):
            await admit(stream, principal, peer)
            return
        try:
            served, inner = socket_pair()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        self._relays[served] = trio.CancelScope()
        nursery.start_soon(self._relay, stream, inner, received, served)
        await admit(served, principal, peer)

    async def _relay(
        self,
        tls: trio.SSLStream[trio.SocketStream],
        inner: trio.SocketStream,
        received: bytes,
        served: trio.SocketStream,
    ) -> None:
        try:
            with self._relays[served]:
                await relay(tls, inner, received)
        finally:
            del self._relays[served]

    async def _authenticate(
        self,
        raw: trio.SocketStream,
        principal: Principal,
        demanded: Credentials,
        opens: OpenConnection | None,
    ) -> tuple[Stream, bytes, Principal] | str:
        """Return the stream, what was read of it, and the client's principal; or why it is refused."""
        stream: Stream = raw
        lines = _Lines(raw)
        try:
            if demanded.context is not None:
                stream = await _handshake(raw, demanded.context)
                lines = _Lines(stream)
            if demanded.asks_certificate:
                name = name_in(stream.getpeercert() or {})  # type: ignore[union-attr]
                if name is None:
                    raise _RefusedError(
                        "its certificate has no name that can be used",
                        "the certificate of this client has no name that can be used: a DNS name, URI or "
                        "e-mail address in its subjectAltName, or one common name, in printable ASCII "
                        "without spaces",
                    )
                principal = principal.proved(f"cert:{name}")
            if demanded.digests:
                await self._take_token(lines, demanded)
        except _RefusedError as refused:
            await self._refuse(stream, lines, refused, opens)
            return refused.why
        except (trio.BrokenResourceError, OSError):
            return "it has disconnected"
        return stream, lines.rest, principal

    async def _take_token(self, lines: _Lines, demanded: Credentials) -> None:
        line = await lines.read()
        message = None if line is None else jsonrpc.decode(line, self._limits)
        token = None
        if isinstance(message, Notification) and message.method == TOKEN_METHOD:
            token = (message.params or {}).get("token")
        if not isinstance(token, str):
            told = (
                f"this listener asks for a token: the first line must be the notification {TOKEN_METHOD}; "
                "`redstreamd connect` and `call` send it with --token-file FILE"
            )
            first = message if isinstance(message, Request) else None
            raise _RefusedError("it sent no token", told, first)
        if not demanded.accepts(token):
            raise _RefusedError("its token is wrong", "the token of this client is wrong")

    async def _refuse(
        self, stream: Stream, lines: _Lines, refused: _RefusedError, opens: OpenConnection | None
    ) -> None:
        """Tell a client why it is refused, in answer to its request, and end the connection."""
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            if refused.told and opens is not None:
                await stream.send_all(opens.refusal(refused.told, is_temporary=False))
            elif refused.told:
                await self._answer(stream, lines, refused)
            if isinstance(stream, trio.SSLStream):
                await end(stream)
            else:
                ended = LateEvent()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(discard_input, stream, ended)
                    await shut_down(stream, ended)
                    nursery.cancel_scope.cancel()

    async def _answer(self, stream: Stream, lines: _Lines, refused: _RefusedError) -> None:
        request, answers = refused.first, 0
        with trio.move_on_after(FIRST_REQUEST_SECONDS):
            while answers < MAX_ANSWERS:
                if request is not None:
                    answers += 1
                    await stream.send_all(_error(request.id, refused.told))
                    if request.method != TRIED_FIRST:
                        return
                line = await lines.read()
                if line is None:
                    break
                message = jsonrpc.decode(line, self._limits)
                request = message if isinstance(message, Request) else None
        if not answers:
            await stream.send_all(_error(None, refused.told))


def _error(request_id: RequestId | None, told: str) -> bytes:
    data = {} if request_id is None else {"data": NOT_EXECUTED}
    return jsonrpc.error(request_id, NOT_NOW, told, **data)


async def _handshake(raw: trio.SocketStream, context: ssl.SSLContext) -> trio.SSLStream[trio.SocketStream]:
    first = await raw.socket.recv(1, trio.socket.MSG_PEEK)
    if not first:
        raise trio.BrokenResourceError("it has disconnected")
    if first != _HANDSHAKE:
        raise _RefusedError(
            "it does not speak TLS",
            "this listener speaks TLS, and so must its clients; `redstreamd connect` and `call` do with "
            "--socket tls:HOST:PORT, clients of HTTP with a URL that begins with https:",
        )
    tls = trio.SSLStream(raw, context, server_side=True)
    try:
        await tls.do_handshake()
    except trio.BrokenResourceError as broken:
        if not isinstance(broken.__cause__, ssl.SSLError):
            raise
        # Trio does not send the alert with which OpenSSL tells the client why.
        alert = tls._outgoing.read()  # noqa: SLF001
        if alert:
            await raw.send_all(alert)
        raise _RefusedError(f"its TLS handshake failed ({_reason(broken.__cause__)})") from None
    return tls


def _reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate: {error.verify_message}"
    if isinstance(error, ssl.SSLEOFError) or error.reason is None:
        return "it ended the connection"
    # OpenSSL names an alert of the peer by the version that introduced it, such as SSLV3_ALERT_UNKNOWN_CA.
    _, is_alert, told = error.reason.partition("_ALERT_")
    return f"it says: {_words(told)}" if is_alert else _words(error.reason)


def _words(reason: str) -> str:
    return reason.lower().replace("_", " ")
