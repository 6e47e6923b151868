"""Our handlers in the SDK's own server, for the SDK's client in the same process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import mcp_types
from mcp.server.lowlevel import NotificationOptions, Server

from redstreamd.mcp_server.handlers import Handlers
from redstreamd.policy import Principal


def sdk_server(handlers: Handlers, principal: Principal) -> Server[Principal]:
    """Return a server that answers as `handlers` do; all its clients are `principal`."""
    options = handlers.create_initialization_options()

    @asynccontextmanager
    async def lifespan(_: Server[Principal]) -> AsyncIterator[Principal]:
        yield principal

    class Same(Server[Principal]):
        def get_capabilities(
            self,
            notification_options: NotificationOptions | None = None,
            experimental_capabilities: dict[str, dict[str, Any]] | None = None,
            extensions: dict[str, dict[str, Any]] | None = None,
            *,
            protocol_version: str | None = None,
        ) -> mcp_types.ServerCapabilities:
            return handlers.capabilities(protocol_version)

    server = Same(
        options.server_name,
        title=options.title,
        version=options.server_version,
        instructions=handlers.instructions(principal),
        lifespan=lifespan,
    )
    server.cache_hints = dict(handlers.cache_hints)
    server.middleware[:] = handlers.middleware
    for method, entry in handlers.by_method.items():
        server.add_request_handler(method, entry.params_type, entry.handler)
    return server
