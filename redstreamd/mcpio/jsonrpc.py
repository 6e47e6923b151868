"""JSON-RPC 2.0 messages: decoding and encoding of single lines, without I/O.

Knows nothing of connections, of MCP's methods or of the SDK. JSON is RFC 8259: NaN and Infinity are errors.
A message that names a member twice, at any depth, is refused; but for the arguments of a tool, whose check
is part of the call. There, objects with repeated names are `DuplicateNames`. What else I-JSON (RFC 7493)
excludes is left to the callers: lone surrogates and numbers beyond a double are decoded as Python's json
module does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

import attrs
import msgspec

from redstreamd.errors.remedies import setting, shortened
from redstreamd.json_cost import measure_structure
from redstreamd.mcpio.limits import Limits
from redstreamd.mcpio.undecoded import id_in_beginning, id_in_line, is_response
from redstreamd.strict_json import LONG, repeated_name, what_is_wrong
from redstreamd.strict_json import DuplicateNames as DuplicateNames  # may occur in arguments
from redstreamd.strict_json import decode as decode_json
from redstreamd.visible_text import visible

RequestId = int | str
Params = dict[str, Any] | None

# https://www.jsonrpc.org/specification#error_object
PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
# The first of the codes that JSON-RPC and MCP leave to servers. The request may be sent again later.
NOT_NOW: Final = -32000
#: The data of an error with the code `NOT_NOW`, if the request had certainly no effect.
NOT_EXECUTED: Final[Mapping[str, Any]] = {"executed": False}
#: The same if it is not known whether the request had an effect.
UNKNOWN_OUTCOME: Final[Mapping[str, Any]] = {"executed": None}
#: The same as `NOT_EXECUTED`, of a server that stops or a connection that closes: send it over another.
STOPPING: Final[Mapping[str, Any]] = {"executed": False, "stopping": True}


class Request(msgspec.Struct, frozen=True):
    """A message that needs an answer.

    Attributes:
        id: As the client wrote it; the answer repeats it.
        method: The method's name.
        params: The parameters; None if absent or null.
    """

    id: RequestId
    method: str
    params: dict[str, Any] | None


class Notification(msgspec.Struct, frozen=True):
    """A message without an answer."""

    method: str
    params: dict[str, Any] | None


@attrs.frozen
class Response:
    """An answer from the client, well formed or not; ignored, because the server sends no requests."""


class Rejection(msgspec.Struct, frozen=True):
    """The error that answers a message which is not accepted.

    Attributes:
        code: `PARSE_ERROR`, `INVALID_REQUEST`, `INVALID_PARAMS` or `NOT_NOW`.
        message: What is wrong, one sentence.
        id: The request's id; None if it is unknown, as JSON-RPC requires.
        data: The member `data` of the error; None for none.
    """

    code: int
    message: str
    id: RequestId | None = None
    data: Mapping[str, Any] | None = None

    def line(self) -> bytes:
        """Encode the line of the error."""
        more = {} if self.data is None else {"data": self.data}
        return error(self.id, self.code, self.message, **more)


def refused_while_stopping(request_id: RequestId) -> Rejection:
    """Return the error for a request to a server that stops; its successor may be asked again."""
    message = "the server is shutting down; the request was not executed, send it again"
    return Rejection(NOT_NOW, message, request_id, STOPPING)


Message = Request | Notification | Response | Rejection


class Batch(msgspec.Struct, frozen=True):
    """Several messages on one line, at least one."""

    messages: tuple[Message, ...]


def decode(line: bytes, limits: Limits) -> Message | Batch:
    """Decode one line; never raises.

    Args:
        line: A line without its newline.
        limits: `max_nesting` and `max_values` are applied here.
    """
    problem = structure_error(line, limits)
    if problem is not None:
        return Rejection(INVALID_REQUEST, problem, _request_id(id_in_line(line)))
    try:
        message = decode_json(line)
    except UnicodeDecodeError as exc:
        return Rejection(PARSE_ERROR, f"the message is not valid UTF-8 at byte {exc.start}")
    except json.JSONDecodeError as exc:
        return Rejection(PARSE_ERROR, f"the message is not valid JSON: {what_is_wrong(exc)}")
    except RecursionError:
        # Only if max_nesting is set higher than the interpreter's stack allows.
        return Rejection(INVALID_REQUEST, "the message is nested too deeply", _request_id(id_in_line(line)))
    except ValueError as exc:
        return Rejection(PARSE_ERROR, f"the message is not valid JSON: {exc}")
    if isinstance(message, list) and message:
        return Batch(tuple(map(_classify, message)))
    return _classify(message)


def too_long(beginning: bytes, limits: Limits) -> bytes | None:
    """Return the answer to a message that exceeded `max_message_bytes`; None if it is an answer itself.

    Args:
        beginning: Its first bytes; the error has its id if that is among them.
        limits: The bound that it exceeded.
    """
    if is_response(beginning):
        return None
    bound = f"{limits.max_message_bytes} bytes ({setting('limits.max_message_bytes')})"
    why = f"a message must not be longer than {bound}; this one was skipped, and the next is read"
    return error(_request_id(id_in_beginning(beginning)), INVALID_REQUEST, why)


def memory_exceeded(limits: Limits) -> str:
    """Return why the client that holds most has to give back."""
    return (
        f"all clients together hold more than {limits.max_memory_bytes} bytes "
        f"({setting('limits.max_memory_bytes')}), and this one holds most"
    )


def given_up(beginning: bytes, limits: Limits) -> bytes | None:
    """Return the answer to a message that was dropped for want of memory; None if it is an answer itself.

    Args:
        beginning: Its first bytes; the error has its id if that is among them.
        limits: Name the budget.
    """
    if is_response(beginning):
        return None
    why = f"{memory_exceeded(limits)}; this message was dropped and not executed, send it again later"
    return error(_request_id(id_in_beginning(beginning)), NOT_NOW, why, data=NOT_EXECUTED)


def progress_token(params: Params) -> RequestId | None:
    """Return the token by which a client asks for progress notifications; None if it does not."""
    meta = None if params is None else params.get("_meta")
    return _request_id(meta.get("progressToken")) if isinstance(meta, dict) else None


def result(request_id: RequestId, value: Mapping[str, Any]) -> bytes:
    """Encode the line of a result.

    Raises:
        TypeError: `value` cannot be encoded as JSON; also as ValueError.
    """
    return _encode({"jsonrpc": "2.0", "id": request_id, "result": value})


def error(request_id: RequestId | None, code: int, message: str, **data: Any) -> bytes:
    """Encode the line of an error.

    Args:
        request_id: None if it is unknown.
        code: The JSON-RPC error code.
        message: One sentence.
        data: At most the member `data`.

    Raises:
        TypeError: `data` cannot be encoded as JSON; also as ValueError.
    """
    return _encode(
        {"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": visible(message), **data}}
    )


def error_code(line: bytes) -> int | None:
    """Return the code of an error that `error` has encoded; None for the line of a result, or a batch."""
    if line[:1] != b"{":
        return None
    # In a text, such as a long id, neither can occur: quotation marks are escaped there.
    result_at = line.find(b',"result":')
    error_at = line.find(_ERROR) if result_at < 0 else line.find(_ERROR, 0, result_at)
    found = None if error_at < 0 else _CODE(line, error_at + len(_ERROR))
    return None if found is None else int(found[0])


def notification(method: str, params: Mapping[str, Any] | None) -> bytes:
    """Encode the line of a notification; `params` is left out if None, since JSON-RPC forbids null.

    Raises:
        TypeError: `params` cannot be encoded as JSON; also as ValueError.
    """
    if params is None:
        return _encode({"jsonrpc": "2.0", "method": method})
    return _encode({"jsonrpc": "2.0", "method": method, "params": params})


def encode_value(value: Any) -> bytes:
    """Encode a JSON value on one line, without a newline.

    Raises:
        TypeError: `value` cannot be encoded as JSON; also as ValueError.
    """
    try:
        return _ENCODER.encode(value)
    except (UnicodeEncodeError, OverflowError):
        # A lone surrogate, or an integer that older msgspec releases reject. Both can be received, so both
        # must be encodable; the standard library writes them in ASCII.
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def in_batch(line: bytes) -> bytes:
    """Return the line of an answer as a batch of one."""
    return b"[" + line[:-1] + b"]\n"


def _encode(message: dict[str, Any]) -> bytes:
    return encode_value(message) + b"\n"


_ENCODER: Final = msgspec.json.Encoder()
_ERROR: Final = b',"error":{"code":'
_CODE: Final = re.compile(rb"-?\d+").match

# Between two objects of a list, as most clients write it.
_BETWEEN: Final = (b"},{", b"}, {")


def structure_error(line: bytes, limits: Limits) -> str | None:
    """Return why a line has too many values or is nested too deeply; None if neither."""
    if len(line) <= LONG:
        openings = line.count(b"{") + line.count(b"[")
        # Of two objects side by side at most one is open at any place.
        nesting = openings if openings <= limits.max_nesting else openings - sum(map(line.count, _BETWEEN))
        # A byte counts as three values at most.
        if nesting <= limits.max_nesting and (
            3 * len(line) <= limits.max_values
            # The last is for the digits of long numbers.
            or 3 * (openings + line.count(b":")) + line.count(b",") + line.count(b"\\") + len(line) // 16
            <= limits.max_values
        ):
            return None
    # An exact count, which ignores what is inside strings.
    values, nesting = measure_structure(line, limits.max_values)
    if values > limits.max_values:
        bound = setting("limits.max_message_values")
        return (
            f"the message costs more to decode than {limits.max_values} JSON values ({bound}); an array, an "
            "object or the name of a member counts as three, sixteen escaped characters as one, and so do "
            "sixteen digits of a number beyond its first 24"
        )
    if nesting > limits.max_nesting:
        bound = setting("limits.max_nesting")
        return f"the message is nested more than {limits.max_nesting} levels deep ({bound})"
    return None


def _classify(message: Any) -> Message:
    if not isinstance(message, dict):
        if message == []:
            return Rejection(INVALID_REQUEST, "a batch must hold a message")
        return Rejection(INVALID_REQUEST, "a message must be a JSON object")
    if isinstance(message, DuplicateNames):
        request_id = None if message.name == "id" else _request_id(message.get("id"))
        return _named_twice(shortened(message.name), request_id)
    if "method" not in message and ("result" in message or "error" in message):
        # A malformed response is not answered either: two sides that did would never stop.
        return Response()
    request_id = _request_id(message.get("id"))
    if "id" in message and request_id is None:
        return Rejection(INVALID_REQUEST, "a request's id must be a string or an integer")
    if message.get("jsonrpc") != "2.0":
        return Rejection(
            INVALID_REQUEST, 'a message must have the member "jsonrpc" with the value "2.0"', request_id
        )
    method = message.get("method")
    if not isinstance(method, str):
        return Rejection(INVALID_REQUEST, "a message must have a method, which is a string", request_id)
    params = message.get("params")
    if isinstance(params, list):
        why = "params must be an object, not an array: MCP gives parameters by name"
        return Rejection(INVALID_PARAMS, why, request_id)
    if params is not None and not isinstance(params, dict):
        return Rejection(INVALID_REQUEST, "a message's params must be an object", request_id)
    arguments = params.get("arguments") if params is not None and method == "tools/call" else None
    if (repeated := repeated_name(message, but=arguments)) is not None:
        return _named_twice(repeated, request_id)
    if request_id is None:
        return Notification(method, params)
    return Request(request_id, method, params)


def _named_twice(member: str, request_id: RequestId | None) -> Rejection:
    return Rejection(INVALID_REQUEST, f"the message names its member {member!r} twice", request_id)


def _request_id(value: Any) -> RequestId | None:
    """Return a decoded value if it is a request id, else None; a bool is not an integer here."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    return value
