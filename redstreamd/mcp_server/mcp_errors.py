"""Converts a `BusError` to the JSON-RPC error of a request other than ``tools/call``.

A failed tool call is a result, because the model has to read it. Other requests fail with a JSON-RPC error,
as the specification demands. Its `data` holds the code, the cause and the next step.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import mcp_types
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from redstreamd.errors import BusError, Code

#: "Resource not found" up to revision 2025-11-25
#: (https://modelcontextprotocol.io/specification/2025-11-25/server/resources#error-handling). From 2026-07-28
#: on it is INVALID_PARAMS (SEP-2164), and this code is not to be used again.
RESOURCE_NOT_FOUND: Final = -32002

#: Why there is no such resource.
NONE_SUCH: Final = "resources/templates/list shows which exist."

#: Codes that become INVALID_PARAMS: the caller named something that does not exist or is not valid.
_INVALID_PARAMS = frozenset(
    {
        Code.STREAM_NOT_FOUND,
        Code.GROUP_NOT_FOUND,
        Code.INVALID_STREAM,
        Code.INVALID_GROUP,
        Code.INVALID_START,
        Code.INVALID_ARGUMENT,
        Code.WRONG_TYPE,
    }
)


class RefusedError(MCPError):
    """The policy refuses a request. To the client it is any other error.

    Attributes:
        streams: What the request was about, as far as that is known.
    """

    streams: tuple[str, ...] = ()

    def about(self, streams: Iterable[str]) -> RefusedError:
        """Return this error, with what the request was about."""
        self.streams = tuple(streams)
        return self


def resource_not_found(uri: str, version: str, why: str, **more: Any) -> MCPError:
    """Return the error for a resource that does not exist.

    Args:
        uri: The URI of the request.
        version: The protocol revision of the request; it determines the code.
        why: The reason, as whole sentences.
        more: Further members of the error's data.
    """
    return MCPError(*_not_found(uri, version, why, **more))


def resource_hidden(uri: str, version: str, why: str, streams: Iterable[str]) -> RefusedError:
    """Return the error for a resource that the policy does not offer: that of one that does not exist."""
    return RefusedError(*_not_found(uri, version, why)).about(streams)


def _not_found(uri: str, version: str, why: str, **more: Any) -> tuple[int, str, dict[str, Any]]:
    code = mcp_types.INVALID_PARAMS if version in MODERN_PROTOCOL_VERSIONS else RESOURCE_NOT_FOUND
    return code, f"Resource not found. {why}", {"uri": uri, **more}


def resource_error(error: BusError, uri: str, version: str, streams: Iterable[str] = ()) -> MCPError:
    """Return the error for a resource of these streams that could not be read or subscribed to."""
    if error.code is Code.PERMISSION_DENIED:
        data = {"uri": uri, **_data(error)}
        return RefusedError(mcp_types.INTERNAL_ERROR, _message(error), data).about(streams)
    if error.code in _INVALID_PARAMS:
        why = _message(error)
        return resource_not_found(uri, version, why, code=str(error.code), next_step=error.next_step)
    return MCPError(mcp_types.INTERNAL_ERROR, _message(error), {"uri": uri, **_data(error)})


def request_error(error: BusError, streams: Iterable[str] = ()) -> MCPError:
    """Return the error for any other request about these streams."""
    if error.code is Code.PERMISSION_DENIED:
        return RefusedError(mcp_types.INTERNAL_ERROR, _message(error), _data(error)).about(streams)
    code = mcp_types.INVALID_PARAMS if error.code in _INVALID_PARAMS else mcp_types.INTERNAL_ERROR
    return MCPError(code, _message(error), _data(error))


def check_one_page(params: mcp_types.PaginatedRequestParams | None, what: str) -> None:
    """Refuse a cursor for a listing that has one page.

    Raises:
        MCPError: -32602.
    """
    if params is not None and params.cursor is not None:
        raise MCPError(mcp_types.INVALID_PARAMS, f"Unknown cursor: the {what} are listed in one page.")


def _message(error: BusError) -> str:
    return f"{error.message}{' ' if error.message.endswith('.') else ': '}{error.cause}"


def _data(error: BusError) -> dict[str, str | float]:
    data: dict[str, str | float] = {
        "code": str(error.code),
        "cause": error.cause,
        "next_step": error.next_step,
    }
    if error.retry_after_seconds is not None:
        data["retry_after_seconds"] = error.retry_after_seconds
    return data
