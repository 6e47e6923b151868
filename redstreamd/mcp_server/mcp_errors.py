"""What a request that is no tool call fails with: the one place where errors of the domain become JSON-RPC's.

A failed tool call is a result, because the model has to read it; reading a resource, getting a prompt or
subscribing fails with an error, as the specification has it. What happened, why and the next step go into
its `data`, in the same words as a tool's failure.
"""

from __future__ import annotations

from typing import Any, Final

import mcp_types
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from redstreamd.errors import BusError, Code

#: "Resource not found" up to revision 2025-11-25
#: (https://modelcontextprotocol.io/specification/2025-11-25/server/resources#error-handling). From 2026-07-28
#: on it is INVALID_PARAMS (SEP-2164), and this code is not to be used again.
RESOURCE_NOT_FOUND: Final = -32002

#: The caller named something that is not there or cannot be.
_MISTAKEN = frozenset(
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


def resource_not_found(uri: str, version: str, why: str, **more: Any) -> MCPError:
    """Return the error for a resource that does not exist.

    Args:
        uri: What was asked for.
        version: The protocol revision of the request, which decides the code.
        why: A sentence or two.
        more: Further members of the error's data.
    """
    code = mcp_types.INVALID_PARAMS if version in MODERN_PROTOCOL_VERSIONS else RESOURCE_NOT_FOUND
    return MCPError(code, f"Resource not found. {why}", {"uri": uri, **more})


def refused_read(error: BusError, uri: str, version: str) -> MCPError:
    """Return the error of a resource that could not be read, or subscribed to."""
    if error.code in _MISTAKEN:
        why = _told(error)
        return resource_not_found(uri, version, why, code=str(error.code), next_step=error.next_step)
    return MCPError(mcp_types.INTERNAL_ERROR, _told(error), {"uri": uri, **_parts(error)})


def refused(error: BusError) -> MCPError:
    """Return the error of any other request."""
    code = mcp_types.INVALID_PARAMS if error.code in _MISTAKEN else mcp_types.INTERNAL_ERROR
    return MCPError(code, _told(error), _parts(error))


def _told(error: BusError) -> str:
    """Return what happened and why; neither need be a whole sentence."""
    return f"{error.message}{' ' if error.message.endswith('.') else ': '}{error.cause}"


def _parts(error: BusError) -> dict[str, str]:
    return {"code": str(error.code), "cause": error.cause, "next_step": error.next_step}
