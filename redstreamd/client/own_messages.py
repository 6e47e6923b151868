"""Messages that a bridge writes itself, in the form of the daemon's.

A failed call of a tool is a result, which the model reads; other requests fail with a JSON-RPC error.
"""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

from redstreamd import __version__
from redstreamd.client.single_request import request_meta

#: The first of the codes that JSON-RPC leaves to servers, as of the daemon: not now.
NOT_NOW: Final = -32000
INVALID_REQUEST: Final = -32600
_SERVER: Final = {"io.modelcontextprotocol/serverInfo": {"name": "redstreamd", "version": __version__}}


class Failure(NamedTuple):
    """What a client is told; see `errors.BusError`."""

    code: str
    message: str
    cause: str
    next_step: str


def not_executed(cause: str) -> Failure:
    """Return what a client is told of a request that certainly was not executed."""
    return Failure("CONNECTION_ERROR", "The request was not executed.", cause, "Repeat it in a moment.")


def failed_call(request_id: bytes, failure: Failure, *, modern: bool) -> bytes:
    """Return the line that answers a ``tools/call``.

    Args:
        request_id: JSON text.
        failure: What happened, in whole sentences.
        modern: Whether the client speaks revision 2026-07-28.
    """
    text = f"{failure.code}: {failure.message} Cause: {failure.cause} Next step: {failure.next_step}"
    result: dict[str, Any] = {
        "content": [{"type": "text", "text": text}],
        "structuredContent": failure._asdict(),
        "isError": True,
    }
    if modern:
        result |= {"resultType": "complete", "_meta": _SERVER}
    return answer_line(request_id, {"result": result})


def failed_request(request_id: bytes, failure: Failure) -> bytes:
    """Return the line that answers any other request."""
    data = {"code": failure.code, "cause": failure.cause, "next_step": failure.next_step}
    message = f"{failure.message} {failure.cause}"
    return answer_line(request_id, {"error": {"code": NOT_NOW, "message": message, "data": data}})


def refused(request_id: bytes, message: str) -> bytes:
    """Return the line that answers an invalid request."""
    return answer_line(request_id, {"error": {"code": INVALID_REQUEST, "message": message}})


def answer_line(request_id: bytes, outcome: dict[str, Any]) -> bytes:
    """Return the line of an answer; `outcome` has the one member ``result`` or ``error``."""
    return b'{"jsonrpc":"2.0","id":%b,%b\n' % (request_id, _compact(outcome)[1:])


def request(request_id: bytes, method: str, params: dict[str, Any] | None) -> bytes:
    """Return the line of a request."""
    rest: dict[str, Any] = {"method": method} if params is None else {"method": method, "params": params}
    return answer_line(request_id, rest)


def notification(method: str, params: dict[str, Any] | None) -> bytes:
    """Return the line of a notification."""
    rest: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    return _compact(rest if params is None else {**rest, "params": params}) + b"\n"


def probe(request_id: bytes, *, modern: bool) -> bytes:
    """Return the line of a request that every daemon answers, and that changes nothing."""
    if modern:
        return request(request_id, "server/discover", {"_meta": request_meta("redstreamd-connect")})
    return request(request_id, "ping", None)


def in_batch(line: bytes) -> bytes:
    """Return the line of a message as a batch of one."""
    return b"[" + line[:-1] + b"]\n"


def _compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
