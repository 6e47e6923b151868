"""Puts tools, resources, prompts and completion together as the handlers that the SDK's kernel serves.

Owns which handler answers which method. Does not know sockets or framing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redstreamd.mcp_server.completion import CompletionServer
from redstreamd.mcp_server.handlers import Handlers
from redstreamd.mcp_server.listing_changes import ListingChanges
from redstreamd.mcp_server.prompt_server import PromptServer
from redstreamd.mcp_server.refusals import OnRefused, Refusals
from redstreamd.mcp_server.resource_server import ResourceServer
from redstreamd.mcp_server.subscribable import Subscribable
from redstreamd.mcp_server.subscription_server import MAX_URIS, SubscriptionServer
from redstreamd.mcp_server.tool_server import ToolServer
from redstreamd.policy import Principal
from redstreamd.presentation.views import Views
from redstreamd.prompts.definition import PromptRegistry
from redstreamd.resources.definition import ResourceRegistry
from redstreamd.streams.subscriptions.updates import Updates
from redstreamd.tools.toolbox import Toolbox


def build_server(
    toolbox: Toolbox[Any],
    resources: ResourceRegistry,
    prompts: PromptRegistry,
    views: Views,
    updates: Updates,
    *,
    version: str,
    instructions: Callable[[Principal], str] | None = None,
    max_uris: int = MAX_URIS,
    on_refused: OnRefused | None = None,
) -> Handlers:
    """Return the handlers of everything that redstreamd offers.

    A connection that serves with them passes the principal of its socket as the lifespan state. Requests are
    made on behalf of that principal.

    Args:
        toolbox: The tools.
        resources: The resources.
        prompts: The prompts.
        views: The current values for resources, prompts and completion.
        updates: Notifies subscribers of changes.
        version: The daemon's version, sent to clients.
        instructions: Returns how a client may use the tools together; None for what the toolbox says.
        max_uris: How many URIs a connection may subscribe to.
        on_refused: Is told of requests other than calls that the policy refuses.
    """
    refusals = Refusals(on_refused)
    changes = ListingChanges(
        {
            "tools": lambda principal: frozenset(each.name for each in toolbox.offered_to(principal)),
            "prompts": lambda principal: frozenset(
                each.name for each in prompts.offered(views.seen_by(principal))
            ),
        }
    )
    tools = ToolServer(toolbox, changes)
    subscribable = Subscribable(resources, views, refusals)
    subscriptions = SubscriptionServer(subscribable, updates, changes, max_uris=max_uris)
    resource_server = ResourceServer(resources, views, subscriptions)
    prompt_server = PromptServer(prompts, views, changes)
    completion = CompletionServer(views, resources, prompts)
    handlers = Handlers(
        {
            "tools/list": tools.list,
            "tools/call": tools.call,
            "resources/list": resource_server.list,
            "resources/templates/list": resource_server.list_templates,
            "resources/read": resource_server.read,
            "resources/subscribe": subscriptions.subscribe,
            "resources/unsubscribe": subscriptions.unsubscribe,
            "subscriptions/listen": subscriptions.listen,
            "prompts/list": prompt_server.list,
            "prompts/get": prompt_server.get,
            "completion/complete": completion.complete,
        },
        version=version,
        instructions=instructions or toolbox.instructions,
        is_personal=lambda: views.policy.restricts,
    )
    handlers.middleware.append(tools.encode_once)

    def tell_refusals() -> None:
        # Not where nothing is refused: it is one step more in the way of each request.
        if views.policy.restricts and refusals.tell_refused not in handlers.middleware:
            handlers.middleware.append(refusals.tell_refused)

    async def reconfigured() -> None:
        tools.forget_listings()
        tell_refusals()
        await subscriptions.reconfigure()
        await changes.tell()

    tell_refusals()
    handlers.reconfigured = reconfigured
    return handlers
