"""The handlers of requests, by method, and what the server says of itself: what the SDK's kernel serves from.

The SDK's kernel (`mcp.server.runner`) does the work: validation by revision, the handshake, errors, the shape
of results. It asks an object for the handlers; in the SDK that is `mcp.server.lowlevel.Server`, whose module
imports two HTTP servers and a command line for some of its methods: a fifth of all that is imported of the
SDK. This one has only what the kernel asks for; tests/mcp_server/test_handlers.py holds it to the SDK's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import mcp_types
import msgspec
from mcp.server.caching import CacheHint
from mcp.server.context import ServerMiddleware, ServerRequestContext
from mcp.server.models import InitializationOptions
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel

from redstreamd.mcp_server.server_info import NAME, TITLE, implementation
from redstreamd.policy import Principal

Handler = Callable[[ServerRequestContext[Principal], Any], Awaitable[Any]]
"""``(context, params)``: returns the result of a request; params is the model of its method."""

_MINUTE: Final = 60_000
#: For how long clients of revision 2026-07-28 may cache listings (server/utilities/caching). They change when
#: the settings are reloaded, and a client may outlive the daemon. The tools may depend on the caller.
_CACHE_HINTS: Final[Mapping[str, CacheHint]] = {
    "tools/list": CacheHint(ttl_ms=_MINUTE, scope="private"),
    "prompts/list": CacheHint(ttl_ms=10 * _MINUTE, scope="public"),
    "resources/templates/list": CacheHint(ttl_ms=10 * _MINUTE, scope="public"),
}

#: The same where listings depend on the caller.
_PERSONAL_HINTS: Final[Mapping[str, CacheHint]] = {
    method: CacheHint(ttl_ms=hint.ttl_ms, scope="private") for method, hint in _CACHE_HINTS.items()
}

#: The model of a request's params, by method. `initialize` is the kernel's own.
_PARAMS: Final[Mapping[str, type[BaseModel]]] = {
    "ping": mcp_types.RequestParams,
    "server/discover": mcp_types.RequestParams,
    "prompts/list": mcp_types.PaginatedRequestParams,
    "prompts/get": mcp_types.GetPromptRequestParams,
    "resources/list": mcp_types.PaginatedRequestParams,
    "resources/templates/list": mcp_types.PaginatedRequestParams,
    "resources/read": mcp_types.ReadResourceRequestParams,
    "resources/subscribe": mcp_types.SubscribeRequestParams,
    "resources/unsubscribe": mcp_types.UnsubscribeRequestParams,
    "subscriptions/listen": mcp_types.SubscriptionsListenRequestParams,
    "tools/list": mcp_types.PaginatedRequestParams,
    "tools/call": mcp_types.CallToolRequestParams,
    "completion/complete": mcp_types.CompleteRequestParams,
}


class Entry(msgspec.Struct, frozen=True):
    """A handler, and the model that the params of its requests are validated against."""

    params_type: type[BaseModel]
    handler: Handler


class Handlers:
    """Every method that is served. Immutable, but for the middleware.

    Attributes:
        by_method: The handlers.
        middleware: Called around each handler, the first outermost.
        reconfigured: To be called when other tools are offered, or another policy applies: tells clients.
        instructions: Returns how a client may use the tools together.
    """

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        *,
        version: str,
        instructions: Callable[[Principal], str],
        is_personal: Callable[[], bool] = lambda: False,
    ) -> None:
        """Serve `handlers`, and ``ping`` and ``server/discover`` beside them.

        The SDK's own default middleware, which makes an OpenTelemetry span of every message, is left out:
        nothing here exports spans, and it takes 6 of the SDK's 40 µs for a call in the modern era, 11 of
        34 µs in the handshake era.

        Args:
            handlers: By method; each of these is a method that MCP defines for servers.
            version: The daemon's version, sent to clients.
            instructions: Returns how a client may use the tools together, which it is sent.
            is_personal: Returns whether listings depend on the caller.
        """
        own: dict[str, Handler] = {"ping": _ping, "server/discover": self._discover}
        self.by_method: Final = {
            method: Entry(_PARAMS[method], handler) for method, handler in (own | dict(handlers)).items()
        }
        self.middleware: list[ServerMiddleware[Principal]] = []
        self.reconfigured: Callable[[], Awaitable[None]] = _nothing_changed
        self._is_personal = is_personal
        self._version = version
        self.instructions: Final = instructions

    @property
    def cache_hints(self) -> Mapping[str, CacheHint]:
        """For how long clients may cache a result, by method."""
        return _PERSONAL_HINTS if self._is_personal() else _CACHE_HINTS

    def get_request_handler(self, method: str) -> Entry | None:
        """Return the handler of a request, if there is one."""
        return self.by_method.get(method)

    def get_notification_handler(self, method: str) -> Entry | None:
        """Return None: what clients notify of is handled by the kernel and by the session."""
        return None

    @property
    def server_info_stamp(self) -> dict[str, Any]:
        """Who serves, as a new value for ``_meta``."""
        return implementation(self._version)

    def create_initialization_options(self) -> InitializationOptions:
        """Return the content of the result of ``initialize``, without the instructions of the client."""
        return InitializationOptions(
            server_name=NAME,
            server_version=self._version,
            title=TITLE,
            capabilities=self.capabilities(),
        )

    def capabilities(self, protocol_version: str | None = None) -> mcp_types.ServerCapabilities:
        """Return the capabilities, which follow from the handlers.

        Notifications of changed lists are sent for all of them, in both eras. The SDK announces them for
        nothing in one era.

        Args:
            protocol_version: Of the request; None for the handshake era.
        """
        is_modern = protocol_version in MODERN_PROTOCOL_VERSIONS
        subscribing = "subscriptions/listen" if is_modern else "resources/subscribe"
        served = self.by_method
        return mcp_types.ServerCapabilities(
            prompts=mcp_types.PromptsCapability(list_changed=True) if "prompts/list" in served else None,
            resources=mcp_types.ResourcesCapability(subscribe=subscribing in served, list_changed=True)
            if "resources/list" in served
            else None,
            tools=mcp_types.ToolsCapability(list_changed=True) if "tools/list" in served else None,
            completions=mcp_types.CompletionsCapability() if "completion/complete" in served else None,
        )

    async def _discover(
        self, ctx: ServerRequestContext[Principal], params: mcp_types.RequestParams
    ) -> mcp_types.DiscoverResult:
        return mcp_types.DiscoverResult(
            supported_versions=list(MODERN_PROTOCOL_VERSIONS),
            capabilities=self.capabilities(ctx.protocol_version),
            instructions=self.instructions(ctx.lifespan_context),
        )


async def _ping(
    ctx: ServerRequestContext[Principal], params: mcp_types.RequestParams
) -> mcp_types.EmptyResult:
    return mcp_types.EmptyResult()


async def _nothing_changed() -> None: ...
