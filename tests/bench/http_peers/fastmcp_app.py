"""A FastMCP server with one tool that adds an entry by XADD, as its documentation has one written.

REDIS_SOCKET=... uvicorn --workers 2 fastmcp_app:app
"""

from __future__ import annotations

import os
from typing import Any

from fastmcp import FastMCP
from redis.asyncio import Redis

redis = Redis(unix_socket_path=os.environ["REDIS_SOCKET"], decode_responses=True)
server: FastMCP[Any] = FastMCP("peer")


@server.tool
async def stream_add(stream: str, entries: list[dict[str, str]]) -> dict[str, Any]:
    """Add the entries."""
    return {"stream": stream, "ids": [await redis.xadd(stream, entry) for entry in entries]}


app = server.http_app(json_response=True, stateless_http=True)
