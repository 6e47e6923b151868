"""``tools/list`` and ``tools/call``: `tools.toolbox` as the SDK's server calls it.

An unknown name is the protocol error -32602, as the specification asks
(https://modelcontextprotocol.io/specification/2025-11-25/server/tools#error-handling); every other failure is
a result. Does not know sockets and framing (see ``mcpio``).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

import mcp_types
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from redstreamd.mcp_server.listing_changes import ListingChanges, told_of_changes
from redstreamd.mcp_server.mcp_errors import check_one_page
from redstreamd.policy import Principal
from redstreamd.tools.argument_headers import with_headers
from redstreamd.tools.definition import UnknownToolError
from redstreamd.tools.results import Result
from redstreamd.tools.toolbox import Toolbox

#: Where the handler of a request leaves a result whose bytes are to pass by the SDK's models.
_RESULTS: ContextVar[list[Result] | None] = ContextVar("_RESULTS", default=None)


class ToolServer:
    """Answers ``tools/list`` and ``tools/call``."""

    def __init__(self, toolbox: Toolbox[Any], changes: ListingChanges | None = None) -> None:
        """Serve the tools of `toolbox`, and note in `changes` who has listed them."""
        self._toolbox = toolbox
        self._changes = changes
        # By the tools that are listed, which the toolbox keeps.
        self._listings: dict[tuple[int, bool], mcp_types.ListToolsResult] = {}

    async def list(
        self, ctx: ServerRequestContext[Principal], params: mcp_types.PaginatedRequestParams | None
    ) -> mcp_types.ListToolsResult:
        """List the tools that the caller may use, in one page."""
        check_one_page(params, "tools")
        offered = self._toolbox.offered_to(ctx.lifespan_context)
        has_headers = _has_headers(ctx)
        listing = self._listings.get((id(offered), has_headers))
        if listing is None:
            toolbox = self._toolbox
            entries = [toolbox.listing[tool.name] for tool in offered]
            if has_headers:
                entries = [with_headers(each, toolbox.headers_of(each["name"])) for each in entries]
            listing = mcp_types.ListToolsResult.model_validate({"tools": entries})
            self._listings[id(offered), has_headers] = listing
        if self._changes is not None and (connection := told_of_changes(ctx)) is not None:
            self._changes.note("tools", connection)
        return listing

    def forget_listings(self) -> None:
        """Forget the listings, because other tools are offered."""
        self._listings.clear()

    async def call(
        self, ctx: ServerRequestContext[Principal], params: mcp_types.CallToolRequestParams
    ) -> Any:
        """Call a tool on behalf of the connection's principal.

        Raises:
            MCPError: -32602 for an unknown tool.
        """
        # None where the SDK itself drives the connection.
        account = None if ctx.request is None else ctx.request.session.account
        try:
            tool = self._toolbox.find(params.name, ctx.lifespan_context, account)
        except UnknownToolError as unknown:
            raise MCPError(mcp_types.INVALID_PARAMS, str(unknown)) from None
        # The raw arguments: the SDK's model is a copy that loses repeated member names.
        raw: Mapping[str, Any] = ctx.params or {}
        result = await self._toolbox.call(
            tool, raw.get("arguments"), ctx.lifespan_context, ctx.session.report_progress, account
        )
        # resultType is required from 2026-07-28 on; for older revisions the SDK removes it.
        results = _RESULTS.get()
        if results is None:
            return {**result.as_values(), "resultType": "complete"}
        results.append(result)
        return {"content": [], "isError": result.is_error, "resultType": "complete"}

    async def encode_once(self, ctx: ServerRequestContext[Principal], call_next: CallNext) -> HandlerResult:
        """Put the encoded content of a result into the envelope that the SDK made, as a middleware.

        The SDK would validate and copy the whole content, and then it would be encoded again. Only for our
        own connections, whose encoder takes such values.
        """
        request_id = ctx.request_id
        # An identifier with a lone surrogate takes another encoder.
        if (
            ctx.method != "tools/call"
            or ctx.request is None
            or (isinstance(request_id, str) and not request_id.isascii())
        ):
            return await call_next(ctx)
        results: list[Result] = []
        before = _RESULTS.set(results)
        try:
            envelope = await call_next(ctx)
        finally:
            _RESULTS.reset(before)
        if results and isinstance(envelope, dict):
            return {**envelope, **results[0].members()}
        return envelope


def _has_headers(ctx: ServerRequestContext[Principal]) -> bool:
    """Return whether a client repeats arguments in headers: over HTTP, in the revision that has these."""
    return (
        ctx.protocol_version in MODERN_PROTOCOL_VERSIONS
        and ctx.request is not None
        and ctx.lifespan_context.transport == "http"
    )
