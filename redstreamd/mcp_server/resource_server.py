"""How MCP lists and reads resources, in both eras.

Owns the shape of listings and contents, paging, and the caching hints of revision 2026-07-28. Refuses to
know sockets, and what a resource says. Errors are `refusals`'.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

import mcp_types
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError

from redstreamd.errors import BusError
from redstreamd.mcp_server.mcp_errors import refused, refused_read, resource_not_found
from redstreamd.mcp_server.subscription_server import Subscriptions
from redstreamd.policy import Principal
from redstreamd.presentation.uris import stream_uri
from redstreamd.presentation.views import Views
from redstreamd.resources.definition import Content, Library, Reading, Resource

Context = ServerRequestContext[Principal]

#: Streams on one page of the listing: about 15 KB, and one look through all names for each page.
PAGE: Final = 100
#: Streams come and go at any time, and a client that listed a moment ago need not ask again.
_LIST_FRESH_MS: Final = 1_000


class Resources:
    """Answers ``resources/list``, ``resources/templates/list`` and ``resources/read``."""

    def __init__(self, library: Library, facts: Views, subscriptions: Subscriptions) -> None:
        """Serve `library` from `facts`; `subscriptions` is told who has listed."""
        self._library = library
        self._facts = facts
        self._subscriptions = subscriptions
        self._fixed = [_listed(each) for each in library if not each.is_template]
        self._templates = mcp_types.ListResourceTemplatesResult(
            resource_templates=[_listed_template(each) for each in library if each.is_template]
        )

    async def list(
        self, ctx: Context, params: mcp_types.PaginatedRequestParams | None
    ) -> mcp_types.ListResourcesResult:
        """List the fixed resources, then the streams by name, a page at a time.

        Groups and entries are not listed: they would cost a command for each stream. Their templates are.
        """
        after = _stream_after(params.cursor if params is not None else None)
        try:
            names = await self._facts.bus.lister.names("*")
            await self._subscriptions.has_listed(ctx, names)
        except BusError as error:
            raise refused(error) from error
        following = [name for name in names if after is None or name > after]
        page = following[:PAGE]
        streams = [
            mcp_types.Resource(uri=stream_uri(name), name=name, mime_type="application/json") for name in page
        ]
        return mcp_types.ListResourcesResult(
            resources=[*(self._fixed if after is None else ()), *streams],
            next_cursor=_cursor(page[-1]) if len(following) > len(page) else None,
            ttl_ms=_LIST_FRESH_MS,
            cache_scope="private",
        )

    async def list_templates(
        self, ctx: Context, params: mcp_types.PaginatedRequestParams | None
    ) -> mcp_types.ListResourceTemplatesResult:
        """List the templates, in one page."""
        if params is not None and params.cursor is not None:
            raise MCPError(mcp_types.INVALID_PARAMS, "Unknown cursor: the templates are listed in one page.")
        return self._templates

    async def read(
        self, ctx: Context, params: mcp_types.ReadResourceRequestParams
    ) -> mcp_types.ReadResourceResult:
        """Read one resource."""
        uri = params.uri
        found = self._library.find(uri)
        if found is None:
            raise resource_not_found(uri, ctx.protocol_version, "resources/templates/list says which exist.")
        try:
            content = await found.read(Reading(self._facts, ctx.lifespan_context))
        except BusError as error:
            raise refused_read(error, uri, ctx.protocol_version) from error
        return mcp_types.ReadResourceResult(
            contents=[contents(uri, content)],
            ttl_ms=int(found.resource.fresh_seconds * 1000),
            cache_scope="private",
        )


def contents(uri: str, content: Content) -> mcp_types.TextResourceContents | mcp_types.BlobResourceContents:
    """Return content as MCP has it: text as it is, bytes in base64."""
    if isinstance(content.body, bytes):
        blob = base64.b64encode(content.body).decode("ascii")
        return mcp_types.BlobResourceContents(uri=uri, mime_type=content.mime_type, blob=blob)
    return mcp_types.TextResourceContents(uri=uri, mime_type=content.mime_type, text=content.body)


def _listed(each: Resource) -> mcp_types.Resource:
    return mcp_types.Resource(
        uri=each.uri,
        name=each.name,
        title=each.title,
        description=each.description,
        mime_type=each.mime_type,
    )


def _listed_template(each: Resource) -> mcp_types.ResourceTemplate:
    return mcp_types.ResourceTemplate(
        uri_template=each.uri,
        name=each.name,
        title=each.title,
        description=each.description,
        mime_type=each.mime_type,
    )


def _cursor(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode("ascii")


def _stream_after(cursor: str | None) -> str | None:
    """Return the last stream of the page before; -32602 for what is no cursor."""
    if cursor is None:
        return None
    try:
        return base64.b64decode(cursor, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise MCPError(
            mcp_types.INVALID_PARAMS, "Unknown cursor: begin again without one, as the list may have changed."
        ) from None
