"""What can be subscribed to: the topic of a resource, for those who may read it."""

from __future__ import annotations

from collections.abc import Iterable

import mcp_types
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError

from redstreamd.errors import BusError, Code
from redstreamd.mcp_server.mcp_errors import NONE_SUCH, resource_error, resource_hidden, resource_not_found
from redstreamd.mcp_server.refusals import Refusals
from redstreamd.policy import Principal
from redstreamd.presentation.views import Views
from redstreamd.resources.definition import ResolvedResource, ResourceRegistry
from redstreamd.streams.subscriptions.topics import ListTopic, Topic

Context = ServerRequestContext[Principal]


class Subscribable:
    """Finds the topics of URIs."""

    def __init__(self, resources: ResourceRegistry, views: Views, refusals: Refusals) -> None:
        """Find those of `resources`; `refusals` is told of the others that the policy refuses."""
        self._resources = resources
        self._views = views
        self._refusals = refusals

    def list_for(self, principal: Principal) -> ListTopic:
        """Return the list of the streams that a principal may read."""
        return ListTopic(self._views.seen_by(principal).readable)

    def find(self, ctx: Context, uri: str) -> Topic:
        """Return the topic of one URI.

        Raises:
            MCPError: "Resource not found"; INVALID_PARAMS if it is never another; see `resource_error`.
        """
        views = self._views.seen_by(ctx.lifespan_context)
        found = self._resources.find(uri)
        if found is None:
            raise resource_not_found(uri, ctx.protocol_version, NONE_SUCH)
        if not found.is_offered(views):
            raise resource_hidden(uri, ctx.protocol_version, NONE_SUCH, found.streams)
        try:
            topic = _topic(found, views)
        except BusError as error:
            raise resource_error(error, uri, ctx.protocol_version, found.streams) from error
        if topic is None:
            raise MCPError(mcp_types.INVALID_PARAMS, "This resource cannot be subscribed to.", {"uri": uri})
        return topic

    def find_all(self, ctx: Context, uris: Iterable[str], most: int) -> dict[str, Topic]:
        """Return the topics of those URIs that have one; the policy's refusals are told of.

        If these are more than `most`, it ends with the first beyond, and tells of nothing.
        """
        views = self._views.seen_by(ctx.lifespan_context)
        topics: dict[str, Topic] = {}
        refused: dict[str, None] = {}
        for uri in uris:
            found = self._resources.find(uri)
            if found is not None and not found.is_offered(views):
                refused |= dict.fromkeys(found.streams)
            elif found is not None:
                try:
                    topic = _topic(found, views)
                except BusError as error:
                    if error.code is Code.PERMISSION_DENIED:
                        refused |= dict.fromkeys(found.streams)
                    continue
                if topic is not None:
                    topics[uri] = topic
                    if len(topics) > most:
                        return topics
        if refused:
            # The client is told by what the acknowledgement leaves out.
            self._refusals.tell(ctx, tuple(refused))
        return topics

    def is_permitted(self, principal: Principal, uri: str) -> bool:
        """Return whether a principal may subscribe to a URI now."""
        views = self._views.seen_by(principal)
        found = self._resources.find(uri)
        if found is None or not found.is_offered(views):
            return False
        try:
            return _topic(found, views) is not None
        except BusError:
            return False


def _topic(found: ResolvedResource, views: Views) -> Topic | None:
    """Return what is watched of a resource; None if subscribing to it is not possible.

    Raises:
        BusError: INVALID_STREAM, INVALID_GROUP, PERMISSION_DENIED.
    """
    found.authorise(views)
    for stream in found.streams:
        views.check(stream, found.variables.get("group"))
    topic = found.topic
    return ListTopic(views.readable) if isinstance(topic, ListTopic) else topic
