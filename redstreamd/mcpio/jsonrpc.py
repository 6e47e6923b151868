"""JSON-RPC 2.0 messages, from one line of bytes and back; without I/O.

Owns which lines are messages, and the shapes of what we write. Knows nothing of connections, of MCP's
methods or of the SDK. JSON means what RFC 8259 allows: NaN and Infinity are refused. What I-JSON
(RFC 7493) excludes beyond that is left for those who know what a value is for: lone surrogates and
numbers beyond a double arrive as Python's json module gives them, repeated names as `DuplicateNames`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

import attrs
import msgspec

from redstreamd.errors.remedies import setting
from redstreamd.mcpio.limits import Limits
from redstreamd.strict_json import DuplicateNames as DuplicateNames  # what decoding can put into params
from redstreamd.strict_json import decode as decode_json
from redstreamd.strict_json import measured

RequestId = int | str

# https://www.jsonrpc.org/specification#error_object
PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
INTERNAL_ERROR: Final = -32603
# The first of the codes that JSON-RPC and MCP leave to servers; what was refused may be sent again later.
NOT_NOW: Final = -32000


@attrs.frozen
class Request:
    """A message that wants an answer.

    Attributes:
        id: As the peer wrote it; the answer repeats it verbatim.
        method: What is asked for.
        params: The parameters, None if absent or null.
    """

    id: RequestId
    method: str
    params: dict[str, Any] | None


@attrs.frozen
class Notification:
    """A message that wants no answer."""

    method: str
    params: dict[str, Any] | None


@attrs.frozen
class Response:
    """An answer from the peer, well formed or not: nothing is asked of peers, so nobody waits for it."""


@attrs.frozen
class Invalid:
    """A line that is no message we accept, and the error that says so.

    Attributes:
        code: `PARSE_ERROR` or `INVALID_REQUEST`.
        message: What is wrong, one sentence.
        id: The request's id where one could be told, else None, as JSON-RPC asks.
    """

    code: int
    message: str
    id: RequestId | None = None


Message = Request | Notification | Response | Invalid


@attrs.frozen
class Batch:
    """Several messages on one line, at least one."""

    messages: tuple[Message, ...]


def decode(line: bytes, limits: Limits) -> Message | Batch:
    """Turn one line into a message or a batch; never raises, whatever the bytes are.

    Args:
        line: A line without its newline.
        limits: `max_nesting` and `max_values` are applied here.
    """
    openings = line.count(b"{") + line.count(b"[")
    if openings > limits.max_nesting or openings + line.count(b",") > limits.max_values:
        # Only now look closer: brackets and commas inside strings count for nothing.
        problem = _excess(line, limits)
        if problem is not None:
            return Invalid(INVALID_REQUEST, problem, _id_at_an_end(line))
    try:
        message = decode_json(line.decode())
    except UnicodeDecodeError as exc:
        return Invalid(PARSE_ERROR, f"the message is not valid UTF-8 at byte {exc.start}")
    except json.JSONDecodeError as exc:
        return Invalid(PARSE_ERROR, f"the message is not valid JSON: {exc.msg} at character {exc.pos}")
    except RecursionError:
        # Only where max_nesting is set beyond what the interpreter's stack holds.
        return Invalid(INVALID_REQUEST, "the message is nested too deeply", _id_at_an_end(line))
    except ValueError as exc:
        return Invalid(PARSE_ERROR, f"the message is not valid JSON: {exc}")
    if isinstance(message, list) and message:
        return Batch(tuple(map(_classify, message)))
    return _classify(message)


def result(request_id: RequestId, value: Mapping[str, Any]) -> bytes:
    """Encode the line that answers a request.

    Raises:
        TypeError: `value` holds something that JSON has no form for; also as ValueError.
    """
    return _encode({"jsonrpc": "2.0", "id": request_id, "result": value})


def error(request_id: RequestId | None, code: int, message: str, **data: Any) -> bytes:
    """Encode the line that refuses a request, or a line that was none.

    Args:
        request_id: None where no id could be told.
        code: The JSON-RPC error code.
        message: One sentence.
        data: At most the member `data`, written only where it is given.

    Raises:
        TypeError: `data` holds something that JSON has no form for; also as ValueError.
    """
    return _encode({"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": message, **data}})


def notification(method: str, params: Mapping[str, Any] | None) -> bytes:
    """Encode a line that wants no answer; `params` is left out where it is None, since JSON-RPC forbids null.

    Raises:
        TypeError: `params` holds something that JSON has no form for; also as ValueError.
    """
    if params is None:
        return _encode({"jsonrpc": "2.0", "method": method})
    return _encode({"jsonrpc": "2.0", "method": method, "params": params})


def encode_value(value: Any) -> bytes:
    """Encode a JSON value on one line, without a newline.

    Raises:
        TypeError: `value` holds something that JSON has no form for; also as ValueError.
    """
    try:
        return _ENCODER.encode(value)
    except (UnicodeEncodeError, OverflowError):
        # A lone surrogate, or an integer that older msgspec releases refuse: both can be read, so both can be
        # echoed, and the standard library writes them in ASCII.
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def in_batch(line: bytes) -> bytes:
    """Return the line of an answer as that of a batch which holds nothing else."""
    return b"[" + line[:-1] + b"]\n"


def _encode(message: dict[str, Any]) -> bytes:
    return encode_value(message) + b"\n"


_ENCODER: Final = msgspec.json.Encoder()

# Beside the members that a client writes around it. Only the end of the outermost object ends the line.
_ID: Final = rb'"id"\s*:\s*(-?(?:0|[1-9][0-9]{0,18})|"[\x20\x21\x23-\x5b\x5d-\x7e]{0,100}")'
_ID_FIRST: Final = re.compile(rb'\s*\{\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?' + _ID + rb"\s*,")
_ID_LAST: Final = re.compile(rb",\s*" + _ID + rb'\s*(?:,\s*"jsonrpc"\s*:\s*"2\.0"\s*)?\}\s*\Z')
_LAST_BYTES: Final = 256


def _excess(line: bytes, limits: Limits) -> str | None:
    """Say what is too much about the structure of a line, if anything."""
    values, nesting = measured(line, limits.max_values)
    if values > limits.max_values:
        return f"the message holds more than {limits.max_values} JSON values"
    if nesting > limits.max_nesting:
        bound = setting("limits.max_nesting")
        return f"the message is nested more than {limits.max_nesting} levels deep ({bound})"
    return None


def _id_at_an_end(line: bytes) -> RequestId | None:
    """Return the id of a request that must not be decoded, if it stands where clients write it."""
    match = _ID_FIRST.match(line) or _ID_LAST.search(line[-_LAST_BYTES:])
    return None if match is None else _request_id(json.loads(match[1]))


def _classify(message: Any) -> Message:
    if not isinstance(message, dict):
        if message == []:
            return Invalid(INVALID_REQUEST, "a batch must hold a message")
        return Invalid(INVALID_REQUEST, "a message must be a JSON object")
    if isinstance(message, DuplicateNames):
        request_id = None if message.name == "id" else _request_id(message.get("id"))
        return Invalid(INVALID_REQUEST, f"the message names its member {message.name!r} twice", request_id)
    if "method" not in message and ("result" in message or "error" in message):
        # Even a malformed response is never answered: two peers that did would never stop.
        return Response()
    request_id = _request_id(message.get("id"))
    if "id" in message and request_id is None:
        return Invalid(INVALID_REQUEST, "a request's id must be a string or an integer")
    if message.get("jsonrpc") != "2.0":
        return Invalid(
            INVALID_REQUEST, 'a message must have the member "jsonrpc" with the value "2.0"', request_id
        )
    method = message.get("method")
    if not isinstance(method, str):
        return Invalid(INVALID_REQUEST, "a message must have a method, which is a string", request_id)
    params = message.get("params")
    if params is not None and not isinstance(params, dict):
        return Invalid(INVALID_REQUEST, "a message's params must be an object", request_id)
    if request_id is None:
        return Notification(method, params)
    return Request(request_id, method, params)


def _request_id(value: Any) -> RequestId | None:
    """Narrow a decoded value to a request id; True is no id, although Python calls it an integer."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    return value
