"""The Python SDK's application for Streamable HTTP, with one tool that adds an entry by XADD.

    REDIS_SOCKET=... hypercorn --worker-class trio sdk_app:app
    REDIS_SOCKET=... uvicorn --http httptools sdk_app:app

It speaks to Redis over anyio, since no client of Redis runs on both event loops.
"""

from __future__ import annotations

import os
from typing import Any

import anyio
import anyio.abc
import hiredis
import mcp_types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server

_SCHEMA = {
    "type": "object",
    "properties": {
        "stream": {"type": "string"},
        "entries": {"type": "array", "items": {"type": "object", "additionalProperties": {"type": "string"}}},
    },
    "required": ["stream", "entries"],
}
#: Connections to Redis that nobody uses.
_idle: list[anyio.abc.ByteStream] = []


async def _add(stream: str, entry: dict[str, str]) -> str:
    connection = _idle.pop() if _idle else await anyio.connect_unix(os.environ["REDIS_SOCKET"])
    words = ["XADD", stream, "*", *(word for pair in entry.items() for word in pair)]
    await connection.send(hiredis.pack_command(tuple(words)))
    reader = hiredis.Reader(encoding="utf-8")
    while (reply := reader.gets()) is False:
        reader.feed(await connection.receive())
    _idle.append(connection)
    if isinstance(reply, Exception):
        raise reply
    return str(reply)


async def list_tools(ctx: ServerRequestContext[Any], params: Any) -> mcp_types.ListToolsResult:
    """List the tool."""
    return mcp_types.ListToolsResult(tools=[mcp_types.Tool(name="stream_add", input_schema=_SCHEMA)])


async def call_tool(
    ctx: ServerRequestContext[Any], params: mcp_types.CallToolRequestParams
) -> mcp_types.CallToolResult:
    """Add the entries."""
    arguments = params.arguments or {}
    ids = [await _add(arguments["stream"], entry) for entry in arguments["entries"]]
    result = {"stream": arguments["stream"], "ids": ids}
    return mcp_types.CallToolResult(
        content=[mcp_types.TextContent(type="text", text=str(result))], structured_content=result
    )


server: Server[Any] = Server("peer", version="1", on_list_tools=list_tools, on_call_tool=call_tool)
app = server.streamable_http_app(json_response=True, stateless_http=True)
