"""How responses look on the wire; without I/O."""

from __future__ import annotations

import re
import time
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from redstreamd.mcpio import jsonrpc
from redstreamd.streamable_http.http_messages import Answer
from redstreamd.streamable_http.request_rules import Fault

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"
#: Seconds after which a client that was told 503 may come again.
RETRY_SECONDS: Final = 1

_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}
#: Statuses of responses that have no body, and no length (RFC 9110, sections 8.6 and 15.3.5).
_WITHOUT_BODY: Final = frozenset({204, 304})
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(r"[\t\x20-\x7e]*")

#: What nearly every response is.
JSON: Final = "application/json"
_JSON_LINE: Final = b"Content-Type: application/json\r\n"
_EVENTS_TYPE: Final = b"Content-Type: text/event-stream\r\nCache-Control: no-store, no-transform\r\n"


class _Clock:
    """Headers that are the same within a second."""

    def __init__(self) -> None:
        self._second = 0
        self._lines = b""

    def lines(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._lines = f"Date: {formatdate(second, usegmt=True)}\r\nServer: redstreamd\r\n".encode()
        return self._lines


_CLOCK: Final = _Clock()


def whole(answer: Answer, *, is_1_1: bool, keeps_alive: bool, is_head: bool = False) -> bytes:
    """Return a whole response.

    Args:
        answer: What it says.
        is_1_1: Whether the request was HTTP/1.1.
        keeps_alive: Whether another request may follow.
        is_head: Whether it answers ``HEAD``: then its body is left out, and only its length said.
    """
    status, body = answer.status, answer.body
    parts = [_STATUS_LINES[status], _CLOCK.lines()]
    if status not in _WITHOUT_BODY:
        if answer.content_type == JSON:
            parts.append(_JSON_LINE)
        elif answer.content_type is not None:
            parts.append(b"Content-Type: %b\r\n" % _checked("Content-Type", answer.content_type))
        parts.append(b"Content-Length: %d\r\n" % len(body))
    parts.append(_connection(is_1_1, keeps_alive))
    if answer.fields:
        parts.append(_fields(answer.fields))
    parts.append(b"\r\n")
    if not is_head and status not in _WITHOUT_BODY:
        parts.append(body)
    return b"".join(parts)


def events_head(fields: tuple[tuple[str, str], ...], *, is_1_1: bool, keeps_alive: bool) -> bytes:
    """Return the head of a response of events: in chunks, or in HTTP/1.0 up to the end of the connection."""
    coding = b"Transfer-Encoding: chunked\r\n" if is_1_1 else b""
    connection = _connection(is_1_1, keeps_alive)
    return b"".join(
        (_STATUS_LINES[200], _CLOCK.lines(), _EVENTS_TYPE, coding, connection, _fields(fields), b"\r\n")
    )


def chunk(data: bytes) -> bytes:
    """Return data as a chunk; there must be some, because an empty chunk is the last one."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def refusal(fault: Fault) -> Answer:
    """Return the answer to a request that cannot be served."""
    fields = fault.fields
    if fault.status == HTTPStatus.SERVICE_UNAVAILABLE:
        fields = (*fields, ("Retry-After", str(RETRY_SECONDS)))
    code = jsonrpc.INVALID_REQUEST if fault.status < HTTPStatus.INTERNAL_SERVER_ERROR else jsonrpc.NOT_NOW
    return Answer(fault.status, jsonrpc.error(None, code, fault.why), fields=fields, closes=True)


def _connection(is_1_1: bool, keeps_alive: bool) -> bytes:
    if not keeps_alive:
        return b"Connection: close\r\n"
    return b"" if is_1_1 else b"Connection: keep-alive\r\n"


def _fields(fields: tuple[tuple[str, str], ...]) -> bytes:
    lines = []
    for name, value in fields:
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"{name!r} is not the name of a header")
        lines.append(b"%b: %b\r\n" % (name.encode("ascii"), _checked(name, value)))
    return b"".join(lines)


def _checked(name: str, value: str) -> bytes:
    # A line break would let who can influence the value add headers, or a response.
    if _VALUE.fullmatch(value) is None:
        raise ValueError(f"the value of the header {name} is not printable ASCII")
    return value.encode("ascii")
