"""What a listener demands of a client before it is served: TLS, a certificate, a token.

The token is the first line that a client sends, a notification of JSON-RPC, to which there is no answer. The
requests may follow at once::

    {"jsonrpc": "2.0", "method": "redstreamd/token", "params": {"token": "..."}}
"""

from __future__ import annotations

import contextlib
import ssl
from typing import Final

import trio

from redstreamd.mcpio import jsonrpc
from redstreamd.mcpio.closing import discard_input, shut_down
from redstreamd.mcpio.jsonrpc import NOT_EXECUTED, NOT_NOW, Notification, Request, RequestId
from redstreamd.mcpio.late_event import LateEvent
from redstreamd.mcpio.limits import Limits
from redstreamd.mcpio.newcomers import FIRST_REQUEST_SECONDS, MAX_ANSWERS, TRIED_FIRST
from redstreamd.mcpio.served_connection import OpenConnection
from redstreamd.mcpio.tls_relay import end
from redstreamd.policy import Principal
from redstreamd.protection.listener_protection import Credentials, name_in

TOKEN_METHOD: Final = "redstreamd/token"  # noqa: S105 - not a token, but the name of the method
#: A longer first line is no token.
_MAX_LINE_BYTES: Final = 16 * 1024
_READ_BYTES: Final = 16 * 1024
#: The first byte of TLS (RFC 8446, section 5.1).
_HANDSHAKE: Final = b"\x16"

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]


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


async def authenticate(
    raw: trio.SocketStream,
    principal: Principal,
    demanded: Credentials,
    limits: Limits,
    opens: OpenConnection | None,
) -> tuple[Stream, bytes, Principal] | str:
    """Ask a client for what is demanded; one that does not show it is told so, and its connection ended.

    Args:
        raw: Its connection.
        principal: Of the listener.
        demanded: What it demands.
        limits: The bounds of a message.
        opens: What its connection would be opened by, which says how it is told that it is refused; None: the
            line transport.

    Returns:
        The stream, what was read of it, and the client's principal; or why it is refused.
    """
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
            await _take_token(lines, demanded, limits)
    except _RefusedError as refused:
        await _refuse(stream, lines, refused, limits, opens)
        return refused.why
    except (trio.BrokenResourceError, OSError):
        return "it has disconnected"
    return stream, lines.rest, principal


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


async def _take_token(lines: _Lines, demanded: Credentials, limits: Limits) -> None:
    line = await lines.read()
    message = None if line is None else jsonrpc.decode(line, limits)
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
    stream: Stream, lines: _Lines, refused: _RefusedError, limits: Limits, opens: OpenConnection | None
) -> None:
    """Tell a client why it is refused, in answer to its request, and end the connection."""
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError, OSError):
        if refused.told and opens is not None:
            await stream.send_all(opens.refusal(refused.told, is_temporary=False))
        elif refused.told:
            await _answer(stream, lines, refused, limits)
        if isinstance(stream, trio.SSLStream):
            await end(stream)
        else:
            ended = LateEvent()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(discard_input, stream, ended)
                await shut_down(stream, ended)
                nursery.cancel_scope.cancel()


async def _answer(stream: Stream, lines: _Lines, refused: _RefusedError, limits: Limits) -> None:
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
            message = jsonrpc.decode(line, limits)
            request = message if isinstance(message, Request) else None
    if not answers:
        await stream.send_all(_error(None, refused.told))


def _error(request_id: RequestId | None, told: str) -> bytes:
    data = {} if request_id is None else {"data": NOT_EXECUTED}
    return jsonrpc.error(request_id, NOT_NOW, told, **data)
