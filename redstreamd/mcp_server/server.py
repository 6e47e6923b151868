"""What MCP clients are served: tools, resources, prompts and completion as the SDK's one server object.

Owns which handler answers which method, and what the server says that it can do. Refuses to know sockets
and framing, and what any of the parts does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import mcp_types
from mcp.server.caching import CacheableMethod, CacheHint
from mcp.server.lowlevel import NotificationOptions, Server

from redstreamd.mcp_server.completion import Completion
from redstreamd.mcp_server.prompt_server import PromptServer
from redstreamd.mcp_server.resource_server import Resources
from redstreamd.mcp_server.subscription_server import Subscriptions
from redstreamd.mcp_server.tool_server import Toolbox, ToolServer
from redstreamd.policy import Principal
from redstreamd.presentation.suggestions import Suggester
from redstreamd.presentation.views import Views
from redstreamd.prompts.definition import Prompts
from redstreamd.resources.definition import Library
from redstreamd.streams.subscriptions.updates import Updates

_MINUTE: Final = 60_000
#: How long clients of revision 2026-07-28 may go without listing again (server/utilities/caching). None of
#: these changes while the daemon runs, but a client may outlive it. Which tools there are may come to
#: depend on who asks; the others are the same for all.
_HINTS: Final[Mapping[CacheableMethod, CacheHint]] = {
    "tools/list": CacheHint(ttl_ms=_MINUTE, scope="private"),
    "prompts/list": CacheHint(ttl_ms=10 * _MINUTE, scope="public"),
    "resources/templates/list": CacheHint(ttl_ms=10 * _MINUTE, scope="public"),
}


class _Server(Server[Principal]):
    """The SDK's server, except that it promises only what it does.

    The SDK promises list-changed notifications of everything in one era if there are listens, and of
    nothing in the other. Ours come for resources, in both; tools and prompts do not change.
    """

    def get_capabilities(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
        *,
        protocol_version: str | None = None,
    ) -> mcp_types.ServerCapabilities:
        """Return what the SDK derives from the handlers, corrected."""
        derived = super().get_capabilities(
            notification_options, experimental_capabilities, extensions, protocol_version=protocol_version
        )
        corrections: dict[str, Any] = {}
        for name in ("tools", "prompts", "resources"):
            if (capability := getattr(derived, name)) is not None:
                changes = {"list_changed": name == "resources"}
                corrections[name] = capability.model_copy(update=changes)
        return derived.model_copy(update=corrections)


def build_server(
    toolbox: Toolbox[Any],
    library: Library,
    prompts: Prompts,
    facts: Views,
    updates: Updates,
    *,
    version: str,
    instructions: str,
) -> Server[Principal]:
    """Return the SDK server with everything that redstreamd offers.

    A connection that runs the server's kernel gives it the principal of its door as the lifespan
    state; whatever is done is done on behalf of that.

    Args:
        toolbox: The tools.
        library: The resources.
        prompts: The prompts.
        facts: Where resources, prompts and completion find out what is the case.
        updates: Tells subscribers of changes.
        version: The daemon's, told to clients.
        instructions: How to use the tools together, told to clients once.
    """
    tools = ToolServer(toolbox)
    subscriptions = Subscriptions(library, facts, updates)
    resources = Resources(library, facts, subscriptions)
    prompting = PromptServer(prompts, facts)
    completion = Completion(
        Suggester(facts),
        templates={each.uri: each.parameters for each in library if each.is_template},
        prompts={each.name: tuple(argument.name for argument in each.arguments) for each in prompts},
    )
    return make_server(
        version=version,
        instructions=instructions,
        on_list_tools=tools.list,
        on_call_tool=tools.call,
        on_list_resources=resources.list,
        on_list_resource_templates=resources.list_templates,
        on_read_resource=resources.read,
        on_subscribe_resource=subscriptions.subscribe,
        on_unsubscribe_resource=subscriptions.unsubscribe,
        on_subscriptions_listen=subscriptions.listen,
        on_list_prompts=prompting.list,
        on_get_prompt=prompting.get,
        on_completion=completion.complete,
    )


def make_server(
    *, version: str, instructions: str, own_principal: Principal | None = None, **handlers: Any
) -> Server[Principal]:
    """Return an SDK server that answers with `handlers` and nothing else.

    Args:
        version: The daemon's, told to clients.
        instructions: Told to clients once.
        own_principal: On whose behalf calls are made where the SDK itself drives a connection
            (`Server.run`, an in-process `mcp.Client`). Without it such a connection is refused.
        handlers: As the SDK's `Server` takes them, by their ``on_`` names.
    """

    @asynccontextmanager
    async def own_lifespan(_: Server[Principal]) -> AsyncIterator[Principal]:
        if own_principal is None:
            raise RuntimeError("this server has no principal of its own; connections bring theirs")
        yield own_principal

    server = _Server(
        "redstreamd",
        title="Redis Streams for agents",
        version=version,
        instructions=instructions,
        lifespan=own_lifespan,
        cache_hints=_HINTS,
        **handlers,
    )
    # The SDK's one default middleware makes an OpenTelemetry span of every message. Nothing here
    # exports spans, and it takes a sixth to a third of the kernel's time for a call (6 of 40 µs in
    # the modern era, 11 of 34 µs in the handshake era).
    server.middleware.clear()
    return server
