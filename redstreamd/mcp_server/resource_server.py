"""``resources/list``, ``resources/templates/list`` and ``resources/read``, in both eras.

Owns the shape of listings and contents, paging, and the caching hints of revision 2026-07-28.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final

import mcp_types
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError

from redstreamd.admission.turns import next_turn
from redstreamd.errors import BusError
from redstreamd.mcp_server.mcp_errors import (
    NONE_SUCH,
    check_one_page,
    request_error,
    resource_error,
    resource_hidden,
    resource_not_found,
)
from redstreamd.mcp_server.subscription_server import SubscriptionServer
from redstreamd.policy import Principal
from redstreamd.presentation.uris import stream_uri
from redstreamd.presentation.views import Views
from redstreamd.resources.definition import Content, Resource, ResourceRegistry
from redstreamd.visible_text import visible

Context = ServerRequestContext[Principal]

#: Streams on one page of the listing: about 15 KB.
PAGE: Final = 100
#: Milliseconds for which a client may use a listing. Streams are created and deleted at any time.
_LIST_FRESH_MS: Final = 1_000
#: Characters that are looked at for hidden ones in one step: 1 ms, or 4 of content that consists of such.
_AT_ONCE: Final = 16_384


class ResourceServer:
    """Answers ``resources/list``, ``resources/templates/list`` and ``resources/read``."""

    def __init__(self, resources: ResourceRegistry, views: Views, subscriptions: SubscriptionServer) -> None:
        """Serve `resources` from `views`; `subscriptions` is notified of each listing."""
        self._resources = resources
        self._views = views
        self._subscriptions = subscriptions

    async def list(
        self, ctx: Context, params: mcp_types.PaginatedRequestParams | None
    ) -> mcp_types.ListResourcesResult:
        """List what the caller may read: the fixed resources, then the streams by name, a page at a time.

        Groups and entries are not listed, because that would cost a command for each stream.
        """
        after = _stream_after(params.cursor if params is not None else None)
        views = self._views.seen_by(ctx.lifespan_context)
        try:
            listing = await views.bus.lister.names("*", goes_on=after is not None, readable=views.readable)
            await self._subscriptions.note_listing(ctx, listing.version)
            page, cursor, more = await views.bus.lister.name_page_of(
                listing, "*", cursor=after, count=PAGE, readable=views.readable
            )
        except BusError as error:
            raise request_error(error) from error
        fixed = [
            mcp_types.Resource(uri=each.uri, **_description(each))
            for each in self._resources
            if after is None and not each.is_template and views.offers(each.permission)
        ]
        streams = [
            # The URI names it; the name is what is shown.
            mcp_types.Resource(uri=stream_uri(name), name=visible(name), mime_type="application/json")
            for name in page
        ]
        return mcp_types.ListResourcesResult(
            resources=[*fixed, *streams],
            next_cursor=_cursor(cursor) if more else None,
            ttl_ms=_LIST_FRESH_MS,
            cache_scope="private",
        )

    async def list_templates(
        self, ctx: Context, params: mcp_types.PaginatedRequestParams | None
    ) -> mcp_types.ListResourceTemplatesResult:
        """List the templates that the caller may use, in one page."""
        check_one_page(params, "templates")
        views = self._views.seen_by(ctx.lifespan_context)
        return mcp_types.ListResourceTemplatesResult(
            resource_templates=[
                mcp_types.ResourceTemplate(uri_template=each.uri, **_description(each))
                for each in self._resources
                if each.is_template and views.offers(each.permission)
            ]
        )

    async def read(
        self, ctx: Context, params: mcp_types.ReadResourceRequestParams
    ) -> mcp_types.ReadResourceResult:
        """Read one resource.

        Raises:
            MCPError: "Resource not found"; see `resource_error` for others.
        """
        uri = params.uri
        views = self._views.seen_by(ctx.lifespan_context)
        found = self._resources.find(uri)
        if found is None:
            raise resource_not_found(uri, ctx.protocol_version, NONE_SUCH)
        if not found.is_offered(views):
            raise resource_hidden(uri, ctx.protocol_version, NONE_SUCH, found.streams)
        try:
            content = await found.read(views)
        except BusError as error:
            told = views.told(error)
            raise resource_error(told, uri, ctx.protocol_version, found.streams) from error
        if isinstance(content.body, str) and content.mime_type == "application/json":
            content = Content(await _visible_json(content.body), content.mime_type)
        return mcp_types.ReadResourceResult(
            contents=[contents(uri, content)],
            ttl_ms=int(found.resource.fresh_seconds * 1000),
            cache_scope="private",
        )


async def _visible_json(text: str) -> str:
    """Return JSON of the same value without hidden characters; others have their turn meanwhile.

    Args:
        text: As the encoder writes it, so that no control character stands in it but U+007F.
    """
    # At once where that is possible: who waits for a turn holds the whole text meanwhile.
    if text.isascii() and "\x7f" not in text:
        return text
    parts = []
    for start in range(0, len(text), _AT_ONCE):
        if start:
            await next_turn()
        parts.append(visible(text[start : start + _AT_ONCE]))
    return "".join(parts)


def contents(uri: str, content: Content) -> mcp_types.TextResourceContents | mcp_types.BlobResourceContents:
    """Return content in MCP's form: text as it is, bytes in base64."""
    if isinstance(content.body, bytes):
        blob = base64.b64encode(content.body).decode("ascii")
        return mcp_types.BlobResourceContents(uri=uri, mime_type=content.mime_type, blob=blob)
    return mcp_types.TextResourceContents(uri=uri, mime_type=content.mime_type, text=content.body)


def _description(each: Resource) -> dict[str, Any]:
    names = ("name", "title", "description", "mime_type")
    return {name: getattr(each, name) for name in names}


def _cursor(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode("ascii")


def _stream_after(cursor: str | None) -> str | None:
    """Decode a cursor, as `Lister.page` returned it; -32602 if it is not valid."""
    if cursor is None:
        return None
    try:
        return base64.b64decode(cursor, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise MCPError(
            mcp_types.INVALID_PARAMS, "Unknown cursor: begin again without one; the list may have changed."
        ) from None
