"""The headers in which a request of revision 2026-07-28 repeats what its body says, and whether they agree.

Gateways route, limit and log by them, so a request whose headers say something else than its body is refused:
https://modelcontextprotocol.io/specification/2026-07-28/basic/transports. Both ways of a request, the plain
call and the decoded message, are held against the same checks. Knows nothing of sessions and responses.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any, Final

from redstreamd.errors.remedies import shortened
from redstreamd.mcpio.jsonrpc import INVALID_PARAMS, METHOD_NOT_FOUND, Rejection, Request
from redstreamd.mcpio.plain_calls import PlainCall
from redstreamd.streamable_http.http_messages import RequestHead

#: The revision without sessions.
MODERN_REVISION: Final = "2026-07-28"
#: Codes of MCP: a header is missing, repeated or says something else; a revision that is not served.
HEADER_MISMATCH: Final = -32020
UNSUPPORTED_VERSION: Final = -32022

VERSION_KEY: Final = "io.modelcontextprotocol/protocolVersion"
_CAPABILITIES_KEY: Final = "io.modelcontextprotocol/clientCapabilities"
_VERSION: Final = "mcp-protocol-version"
_METHOD: Final = "mcp-method"
_NAME: Final = "mcp-name"
#: The headers that every gateway may route by.
_ROUTING: Final = frozenset({_VERSION, _METHOD, _NAME})
#: The parameter that `Mcp-Name` repeats, by method.
_NAMED_BY: Final[Mapping[str, str]] = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
#: The header of a tool's argument, in lower case: this, and what `x-mcp-header` says.
_PARAMETER: Final = "mcp-param-"
_ENCODED: Final = ("=?base64?", "?=")

ToolHeaders = Callable[[str], Mapping[str, str]]
"""Returns what `x-mcp-header` says of the arguments of a tool, by argument; all of them are texts."""


def no_headers(_tool: str) -> Mapping[str, str]:
    """Return that no argument has a header."""
    return {}


def call_problem(head: RequestHead, call: PlainCall, tool_headers: ToolHeaders) -> Rejection | None:
    """Return what is wrong with the headers of a plain call, whose arguments are decoded; None if nothing."""
    headers = tool_headers(call.tool)
    arguments = {name: getattr(call.decoded, name) for name in headers} if headers else headers
    why = _mismatch(head, MODERN_REVISION, "tools/call", call.tool, headers, arguments)
    return None if why is None else Rejection(HEADER_MISMATCH, why, call.id)


def request_problem(head: RequestHead, request: Request, tool_headers: ToolHeaders) -> Rejection | None:
    """Return what is wrong with a request's envelope or its headers; None if nothing is."""
    params = request.params or {}
    meta = params.get("_meta")
    revision = head.fields.get(_VERSION, "")
    if revision != MODERN_REVISION and not (isinstance(meta, dict) and VERSION_KEY in meta):
        return unsupported(revision, request.id)
    if not isinstance(meta, dict):
        why = f'params._meta must be an object with the members "{VERSION_KEY}" and "{_CAPABILITIES_KEY}"'
        return Rejection(INVALID_PARAMS, why, request.id)
    if missing := [each for each in (VERSION_KEY, _CAPABILITIES_KEY) if each not in meta]:
        return Rejection(INVALID_PARAMS, f"params._meta lacks {', '.join(missing)}", request.id)
    method = request.method
    named = params.get(_NAMED_BY[method]) if method in _NAMED_BY else None
    arguments = params.get("arguments")
    headers = tool_headers(named) if method == "tools/call" and isinstance(named, str) else {}
    difference = _mismatch(
        head, meta[VERSION_KEY], method, named, headers, arguments if isinstance(arguments, dict) else {}
    )
    if difference is not None:
        return Rejection(HEADER_MISMATCH, difference, request.id)
    version: str = meta[VERSION_KEY]
    if version != MODERN_REVISION:
        return unsupported(version, request.id)
    if method == "initialize":
        why = f"revision {MODERN_REVISION} has no initialize: every request says by itself what it needs"
        return Rejection(METHOD_NOT_FOUND, why, request.id)
    return None


def unsupported(version: str, request_id: int | str | None) -> Rejection:
    """Return the error for a revision that is not served."""
    data = {"supported": [MODERN_REVISION], "requested": shortened(version)}
    return Rejection(UNSUPPORTED_VERSION, "Unsupported protocol version", request_id, data)


def decoded_header(value: str) -> str | None:
    """Return the text that a header stands for: ``=?base64?…?=`` is decoded; None if that is malformed."""
    beginning, end = _ENCODED
    if not (value.startswith(beginning) and value.endswith(end) and len(value) >= len(beginning) + len(end)):
        return value
    payload = value[len(beginning) : -len(end)]
    try:
        data = base64.b64decode(payload, validate=True)
        # One text has one form, so that all who read it read the same.
        return data.decode() if base64.b64encode(data).decode() == payload else None
    except (binascii.Error, ValueError):
        return None


def version_differs(head: RequestHead) -> str:
    """Return what to tell a client whose revision is another in the body than in the header."""
    return _differs(head.fields, _VERSION, f'"{VERSION_KEY}" in params._meta')


def _mismatch(
    head: RequestHead,
    version: object,
    method: str,
    named: object,
    headers: Mapping[str, str],
    arguments: Mapping[str, Any],
) -> str | None:
    """Return how the headers differ from a body that says this; None if they agree."""
    fields = head.fields
    if head.repeated and (twice := sorted(_ROUTING & head.repeated)):
        return f"the header {_shown(twice[0])} is given more than once"
    if fields.get(_VERSION) != version:
        return version_differs(head)
    if fields.get(_METHOD) != method:
        return _differs(fields, _METHOD, "the method")
    if named is not None and not _says(fields.get(_NAME), named):
        return _differs(fields, _NAME, f"the parameter {_NAMED_BY[method]}")
    for argument, header in headers.items():
        name = _PARAMETER + header.lower()
        given, value = fields.get(name), arguments.get(argument)
        if name in head.repeated:
            return f"the header {_shown(name)} is given more than once"
        # What is no text is refused with the other arguments.
        if (given is None) != (value is None) or (isinstance(value, str) and not _says(given, value)):
            return _differs(fields, name, f"the argument {argument}")
    return None


def _says(given: str | None, value: object) -> bool:
    """Return whether a header stands for a value, as a gateway would read it."""
    if given is None:
        return False
    return (decoded_header(given) if given.startswith(_ENCODED[0]) else given) == value


def _differs(fields: Mapping[str, str], name: str, what: str) -> str:
    if name not in fields:
        return f"the header {_shown(name)} is missing; it must repeat {what}"
    return f"the header {_shown(name)} differs from {what}, which it must repeat"


def _shown(name: str) -> str:
    """Return a header as it is usually written."""
    return "-".join(part.capitalize() for part in name.split("-")).replace("Mcp-Protocol", "MCP-Protocol")
