"""What HTTP/1.1 demands of the head of a request beyond its syntax (RFC 9110, RFC 9112); without I/O.

The syntax is llhttp's. What is checked here is what two programs on a way could understand differently: whom
a request is for, where its body ends, and which value of a header counts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from redstreamd.errors.remedies import setting
from redstreamd.streamable_http.http_messages import RequestHead

#: The longest target of a request. RFC 9112, section 3, recommends to support 8,000 bytes at least.
MAX_TARGET_BYTES: Final = 8192

#: Headers that decide what a request is, where two values could be understood differently. Those of MCP are
#: told to the handler, which refuses them with an error of MCP.
_SINGLE: Final = frozenset(
    {"host", "content-length", "transfer-encoding", "content-type", "authorization"}
) | {
    "origin",
    "expect",
}
#: Methods that a handler is asked about. The others that llhttp knows are of WebDAV and other protocols.
_METHODS: Final = {
    name.encode(): name for name in ("GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "PATCH")
}
#: Known, and never allowed: the first would make a tunnel, the second would show a page its cookies.
_NOT_ALLOWED: Final = frozenset({b"CONNECT", b"TRACE"})
ALLOWED: Final = ", ".join(_METHODS.values())

#: Names of headers as clients usually write them, and some values. A head is kept for as long as its
#: connection waits for the next, so what many of them have is there once.
_NAMES: Final = {
    written.encode(): name
    for name in (
        *("accept", "accept-encoding", "accept-language", "authorization", "connection", "content-length"),
        *("content-type", "host", "mcp-method", "mcp-name", "mcp-protocol-version", "mcp-session-id"),
        *("mcp-param-stream", "origin", "sec-fetch-mode", "user-agent"),
    )
    for written in (name, name.title(), name.title().replace("Mcp-Protocol", "MCP-Protocol"))
}
_VALUES: Final = {
    value.encode(): value
    for value in (
        *("application/json", "application/json, text/event-stream", "text/event-stream", "*/*"),
        *("gzip, deflate", "gzip, deflate, br", "gzip, deflate, br, zstd", "keep-alive", "cors", "*"),
        *("2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28"),
        *("tools/call", "resources/read", "subscriptions/listen", "server/discover"),
    )
}

# RFC 3986, section 3.2.2; without user information, which RFC 9110, section 4.2.4, has a server distrust.
_AUTHORITY: Final = re.compile(
    r"(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._~!$&'()*+,;=%-]{1,255})(?::[0-9]{0,5})?"
)
_ABSOLUTE: Final = re.compile(r"(?i:https?)://([^/?#]*)([^#]*)")


class Fault(msgspec.Struct, frozen=True):
    """Why a request cannot be served. Nothing that follows it on the connection can be understood.

    Attributes:
        status: Of the answer.
        why: For the client and for administrators; nothing that the client sent.
        fields: Headers of the answer.
    """

    status: int
    why: str
    fields: tuple[tuple[str, str], ...] = ()


class RequestFaultError(Exception):
    """Raised with a `Fault` where parsing cannot go on."""

    def __init__(self, status: int, why: str, fields: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(why)
        self.fault = Fault(status, why, fields)


class RequestStart(msgspec.Struct, frozen=True):
    """The head of a request, and what it says of the connection.

    Attributes:
        head: What handlers get.
        content_length: How long its body is; None if it comes in chunks.
        is_1_1: Whether it is HTTP/1.1, not 1.0.
        keeps_alive: Whether another request may follow.
        expects_continue: Whether the client waits for a ``100 Continue`` before it sends the body.
    """

    head: RequestHead
    content_length: int | None
    is_1_1: bool
    keeps_alive: bool
    expects_continue: bool


def too_long(max_body_bytes: int) -> str:
    """Return why a body is refused that has more bytes."""
    bound = f"{max_body_bytes} bytes ({setting('limits.max_message_bytes')})"
    return f"the body of the request has more than {bound}; send less at a time"


def understood(
    method: bytes,
    target: bytes,
    version: str,
    lines: Sequence[tuple[bytes, bytes]],
    *,
    may_keep_alive: bool,
    max_body_bytes: int,
) -> RequestStart:
    """Return what a head says.

    Args:
        method: As it was sent.
        target: As it was sent.
        version: Such as ``1.1``.
        lines: Names and values of its headers, in order.
        may_keep_alive: Whether llhttp reads another request behind this one. It takes ``Proxy-Connection``
            for ``Connection``, too.
        max_body_bytes: The longest body.

    Raises:
        RequestFaultError: It is not served.
    """
    is_1_1 = version == "1.1"
    if not is_1_1 and version != "1.0":
        raise RequestFaultError(505, f"HTTP/{version} is not supported; use HTTP/1.1")
    name = _METHODS.get(method)
    if name is None:
        if method in _NOT_ALLOWED:
            raise RequestFaultError(405, "this method is never allowed", (("Allow", ALLOWED),))
        raise RequestFaultError(501, "this method is not known")
    fields: dict[str, str] = {}
    repeated: set[str] | None = None
    for raw_name, raw_value in lines:
        key = _NAMES.get(raw_name) or str(raw_name, "ascii").lower()
        # llhttp drops whitespace before the value only.
        value = _VALUES.get(raw_value) or str(raw_value, "latin-1").rstrip(" \t")
        if key not in fields:
            fields[key] = value
        elif key in _SINGLE:
            raise RequestFaultError(400, f"the header {key} is there more than once")
        else:
            fields[key] += ", " + value
            repeated = repeated or set()
            repeated.add(key)
    path, query, authority = _target(str(target, "latin-1"), fields.get("host"), is_1_1)
    length = _length(fields, is_1_1)
    if length is not None and length > max_body_bytes:
        raise RequestFaultError(413, too_long(max_body_bytes))
    connection = fields.get("connection")
    keeps_alive = is_1_1 and may_keep_alive
    if connection is not None:
        options = [option.strip() for option in connection.lower().split(",")]
        is_kept = is_1_1 or "keep-alive" in options
        keeps_alive = is_kept and may_keep_alive and "close" not in options
    expectation = fields.get("expect")
    if expectation is not None and is_1_1 and expectation.lower() != "100-continue":
        raise RequestFaultError(417, "the only expectation that is supported is 100-continue")
    return RequestStart(
        RequestHead(name, path, query, authority, fields, frozenset(repeated) if repeated else frozenset()),
        length,
        is_1_1,
        keeps_alive,
        expectation is not None and is_1_1,
    )


def _target(target: str, host: str | None, is_1_1: bool) -> tuple[str, str, str]:
    """Return path, query and authority of a request."""
    if host is None and is_1_1:
        raise RequestFaultError(400, "there is no Host header")
    if host is not None and _AUTHORITY.fullmatch(host) is None:
        raise RequestFaultError(400, "the Host header is not a host with an optional port")
    authority = host or ""
    if target[:1] == "/":
        if "#" in target:
            raise RequestFaultError(400, "the target of the request has a fragment")
        path, _, query = target.partition("?")
        return path, query, authority
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        raise RequestFaultError(400, "the target of the request must be a path, or a URL of http or https")
    # It counts, and not the header (RFC 9112, section 3.2.2).
    authority = absolute[1]
    if _AUTHORITY.fullmatch(authority) is None:
        raise RequestFaultError(400, "the URL of the request has no valid host")
    path, _, query = absolute[2].partition("?")
    return path or "/", query, authority


def _length(fields: dict[str, str], is_1_1: bool) -> int | None:
    """Return how long the body of a request is; None if it comes in chunks."""
    length = fields.get("content-length")
    coding = fields.get("transfer-encoding")
    if coding is None:
        # Digits only, else llhttp would have refused it.
        return 0 if length is None else int(length)
    if not is_1_1:
        raise RequestFaultError(400, "Transfer-Encoding is not part of HTTP/1.0")
    if coding.lower() != "chunked":
        raise RequestFaultError(400, "the only Transfer-Encoding that is supported is chunked")
    if length is not None:
        raise RequestFaultError(400, "Content-Length and Transfer-Encoding exclude each other")
    return None
