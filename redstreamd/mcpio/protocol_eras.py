"""The SDK's handler kernel ("kernel" and "era" are the SDK's terms) in both eras, behind one interface.

Owns which era a request belongs to, what is rejected across eras, and how exceptions become errors. The SDK
does the rest: validation by revision, the handshake, lookup, middleware, the shape of results. Knows
nothing of lines, requests in flight or sockets. tests/mcpio/test_sdk_contract.py pins what is used here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol, cast

from mcp.server.caching import CacheHint
from mcp.server.connection import Connection, NotifyOnlyOutbound
from mcp.server.models import InitializationOptions
from mcp.server.runner import ServerRunner, aclose_shielded, serve_one
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import InboundLadderRejection, classify_inbound_request
from mcp.shared.jsonrpc_dispatcher import handler_exception_to_error_data
from mcp_types import (
    INVALID_REQUEST,
    PROTOCOL_VERSION_META_KEY,
    UNSUPPORTED_PROTOCOL_VERSION,
    InitializeRequestParams,
)
from mcp_types.version import LATEST_MODERN_VERSION, MODERN_PROTOCOL_VERSIONS

from redstreamd.mcpio.connection_state import ConnectionState, Era
from redstreamd.mcpio.exchange import Exchange
from redstreamd.mcpio.jsonrpc import Params
from redstreamd.mcpio.kernels import Kernel
from redstreamd.mcpio.request_context import Outbound, RequestContext
from redstreamd.mcpio.session import Session

#: https://modelcontextprotocol.io/specification/2025-03-26/basic#batching
_BATCH_REVISION: Final = "2025-03-26"
#: Methods that only the modern era has: without an envelope they are malformed requests of that era.
_MODERN_ONLY: Final = frozenset({"server/discover", "subscriptions/listen"})
_DROPPED: Final = "dropped %r: malformed params"


def silence_dropped_notifications() -> None:
    """Keep the SDK from logging a warning for each malformed notification.

    A client can send any number of them, and the warning helps nobody who reads the log.
    """
    logging.getLogger("mcp.server.runner").addFilter(_is_useful)


def _is_useful(record: logging.LogRecord) -> bool:
    return record.msg != _DROPPED


class HandlerSource(Protocol):
    """What the SDK's kernel asks of its ``server``.

    The SDK types it as its own `Server`, whose module imports HTTP servers; `mcp_server.handlers` is another.
    """

    @property
    def middleware(self) -> Sequence[Any]:
        """Called around each handler, the first outermost."""
        ...

    @property
    def cache_hints(self) -> Mapping[str, CacheHint]:
        """For how long a client may cache a result, by method."""
        ...

    @property
    def server_info_stamp(self) -> dict[str, Any]:
        """Who serves, as a new value for ``_meta``."""
        ...

    def get_request_handler(self, method: str) -> Any:
        """Return ``params_type`` and ``handler`` of a request, or None."""
        ...

    def get_notification_handler(self, method: str) -> Any:
        """Return the same of a notification, or None."""
        ...

    def create_initialization_options(self) -> InitializationOptions:
        """Return the content of the result of ``initialize``."""
        ...


class Kernels:
    """Makes the kernels of sessions; see `kernels.Kernels`."""

    def __init__(self, server: HandlerSource) -> None:
        """Serve with the handlers of `server`, which find the principal as their lifespan context."""
        self._server = server

    async def ready(self) -> None:
        """Return at once."""

    def era_of(self, method: str, params: Params) -> Era:
        """Return the era of a request in a session that has not shown its era."""
        # The modern era has no `initialize`.
        if method == "initialize":
            return Era.HANDSHAKE
        return Era.MODERN if method in _MODERN_ONLY or _has_envelope(params) else Era.HANDSHAKE

    def open(self, era: Era, session: Session, state: ConnectionState | None) -> Kernel:
        """Begin a session of an era, or continue the one that `state` describes.

        Raises:
            ValueError: The handshake that `state` remembers is not valid.
        """
        make = ModernKernel if era is Era.MODERN else HandshakeKernel
        return make(self._server, session, state)

    def error_of(self, exc: Exception) -> dict[str, Any] | None:
        """Return the members of the JSON-RPC error for an exception; None if the client must not see it."""
        data = handler_exception_to_error_data(exc)
        return None if data is None else data.model_dump(mode="json", exclude_unset=True)


class HandshakeKernel:
    """The handshake era: `initialize` once, then a session."""

    era = Era.HANDSHAKE

    def __init__(
        self,
        server: HandlerSource,
        session: Session,
        state: ConnectionState | None = None,
    ) -> None:
        """Begin a session, or continue the one that `state` describes.

        Raises:
            ValueError: The handshake that `state` remembers is not valid.
        """
        self._session = session
        self._connection = Connection.for_loop(Outbound(session))
        self._runner = ServerRunner(cast("Any", server), self._connection, session.principal)
        self._initialize_params: Params = None
        if state is not None:
            if state.initialize_params is not None and state.protocol_version is not None:
                self._initialize_params = state.initialize_params
                self._connection.client_params = InitializeRequestParams.model_validate(
                    state.initialize_params, by_name=False
                )
                self._connection.protocol_version = state.protocol_version
            if state.initialized:
                self._connection.initialized.set()

    @property
    def settled(self) -> bool:
        """Whether `initialize` succeeded."""
        return self._initialize_params is not None

    @property
    def takes_batches(self) -> bool:
        """Whether 2025-03-26 was negotiated, the only revision with batches."""
        return self.settled and self._connection.protocol_version == _BATCH_REVISION

    def claim(self, method: str, params: Params) -> None:
        """Do nothing: only a successful `initialize` settles this era."""

    async def serve(self, exchange: Exchange) -> dict[str, Any]:
        """Run the handler of a request; after a handshake, one with an envelope is rejected."""
        method, params = exchange.method, exchange.params
        if method != "initialize" and _has_envelope(params):
            # The SDK's text, so that all transports answer the same.
            raise MCPError(
                code=INVALID_REQUEST,
                message="this connection serves the handshake protocol era; "
                f"requests carrying the {LATEST_MODERN_VERSION} envelope are not accepted on it",
            )
        result = await self._runner.on_request(RequestContext(self._session, exchange), method, params)
        if method == "initialize":
            self._initialize_params = params
        return result

    async def resubscribe(self, uri: str, cursor: str) -> None:
        """Subscribe again to what the client subscribed to before a hand-over."""
        context = RequestContext(self._session, cursors={uri: cursor})
        await self._runner.on_request(context, "resources/subscribe", {"uri": uri})

    async def notify(self, method: str, params: Params) -> None:
        """Run the handler of a notification; `notifications/initialized` before `initialize` is ignored."""
        if method != "notifications/initialized" or self.settled:
            await self._runner.on_notify(RequestContext(self._session), method, params)

    def state(self, connection_id: str) -> ConnectionState:
        """Return the result of the handshake."""
        return ConnectionState(
            connection_id=connection_id,
            era=self.era,
            initialize_params=self._initialize_params,
            protocol_version=None if self._initialize_params is None else self._connection.protocol_version,
            initialized=self._connection.initialized.is_set(),
        )

    async def aclose(self) -> None:
        """Close the SDK's connection."""
        await aclose_shielded(self._connection)


class ModernKernel:
    """The modern era: every request has an envelope and an SDK connection of its own."""

    era = Era.MODERN
    takes_batches = False

    def __init__(
        self,
        server: HandlerSource,
        session: Session,
        state: ConnectionState | None = None,
    ) -> None:
        """Serve requests with an envelope; with a `state`, the era is settled."""
        self.settled = state is not None
        self._server = server
        self._session = session
        # A modern client gets change notifications only through subscriptions/listen.
        self._outbound = NotifyOnlyOutbound(Outbound(session))

    def claim(self, method: str, params: Params) -> None:
        """Settle the era if the request has an envelope of a supported revision."""
        if not self.settled:
            route = classify_inbound_request({"method": method, "params": params})
            self.settled = not isinstance(route, InboundLadderRejection)

    async def serve(self, exchange: Exchange) -> dict[str, Any]:
        """Run the handler of a request; `initialize` is rejected."""
        method, params = exchange.method, exchange.params
        if method == "initialize":
            raise MCPError(
                code=UNSUPPORTED_PROTOCOL_VERSION,
                message=f"connection is serving the {LATEST_MODERN_VERSION} protocol; "
                "the initialize handshake is not accepted",
                data=_served_versions(params),
            )
        route = classify_inbound_request({"method": method, "params": params})
        if isinstance(route, InboundLadderRejection):
            raise MCPError(code=route.code, message=route.message, data=route.data)
        connection = Connection.from_envelope(
            route.protocol_version, route.client_info, route.client_capabilities, outbound=self._outbound
        )
        return await serve_one(
            cast("Any", self._server),
            RequestContext(self._session, exchange),
            method,
            params,
            connection=connection,
            lifespan_state=self._session.principal,
        )

    async def resubscribe(self, uri: str, cursor: str) -> None:
        """Do nothing: this era has subscriptions/listen only."""

    async def notify(self, method: str, params: Params) -> None:
        """Run the handler of a notification; it has no envelope, so it gets the latest revision."""
        connection = Connection.from_envelope(LATEST_MODERN_VERSION, None, None, outbound=self._outbound)
        try:
            runner = ServerRunner(cast("Any", self._server), connection, self._session.principal)
            await runner.on_notify(RequestContext(self._session), method, params)
        finally:
            await aclose_shielded(connection)

    def state(self, connection_id: str) -> ConnectionState:
        """Return the era; there is no session."""
        return ConnectionState(connection_id=connection_id, era=self.era)

    async def aclose(self) -> None:
        """Do nothing: each request closes its own SDK connection."""


def _has_envelope(params: Params) -> bool:
    """Return whether a request names a protocol version in its `_meta`, as the modern era does."""
    meta = params.get("_meta") if params else None
    return isinstance(meta, Mapping) and PROTOCOL_VERSION_META_KEY in meta


def _served_versions(params: Params) -> dict[str, Any]:
    """Return the error data of an `initialize` in the modern era: supported and requested versions."""
    data: dict[str, Any] = {"supported": list(MODERN_PROTOCOL_VERSIONS)}
    requested = params.get("protocolVersion") if params else None
    if isinstance(requested, str):
        data["requested"] = requested
    return data
