"""The SDK's handler kernel in both eras, behind one interface; the only module that runs it.

Owns which era a request belongs to, what is refused across eras, and how exceptions become errors. The SDK
does the rest: validation by revision, the handshake, lookup, middleware, the shape of results. Knows
nothing of lines, ids in flight or sockets. tests/mcpio/test_sdk_contract.py pins what is used here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final, Protocol

from mcp.server.connection import Connection, NotifyOnlyOutbound
from mcp.server.lowlevel import Server
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
from redstreamd.mcpio.request_context import ConnectionOutbound, RequestContext
from redstreamd.policy import Principal

Params = dict[str, Any] | None


#: https://modelcontextprotocol.io/specification/2025-03-26/basic#batching
_BATCH_REVISION: Final = "2025-03-26"
#: Methods that the handshake era does not have: without an envelope they are broken requests of the other.
_MODERN_ONLY: Final = frozenset({"server/discover", "subscriptions/listen"})
#: What the SDK logs, as a warning, for each notification that it drops: a mistake of the peer's, which may
#: send any number of them. Nobody who reads the log can do anything about it.
_DROPPED: Final = "dropped %r: malformed params"

logging.getLogger("mcp.server.runner").addFilter(lambda record: record.msg != _DROPPED)


def era_of(method: str, params: Params) -> Era:
    """Tell which era a request belongs to, as long as its connection is not settled on one."""
    # `initialize` does not exist in the modern era, so it belongs to the other one whatever it carries.
    if method == "initialize":
        return Era.HANDSHAKE
    return Era.MODERN if method in _MODERN_ONLY or _has_envelope(params) else Era.HANDSHAKE


def error_of(exc: Exception) -> dict[str, Any] | None:
    """Map an exception to the members of a JSON-RPC error, or None if it was not meant for the peer."""
    data = handler_exception_to_error_data(exc)
    return None if data is None else data.model_dump(mode="json", exclude_unset=True)


class Kernel(Protocol):
    """Runs the handlers of one connection, in one era."""

    @property
    def era(self) -> Era:
        """The era it serves."""
        ...

    @property
    def settled(self) -> bool:
        """Whether the peer has shown that it speaks this era, and no other will do from now on.

        A handshake that succeeded shows it, or a request with a valid envelope. One that has neither, such as
        a ping ahead of everything else, says nothing about those that follow.
        """
        ...

    @property
    def takes_batches(self) -> bool:
        """Whether the revision that the peer speaks has JSON-RPC's batches."""
        ...

    def claim(self, method: str, params: Params) -> None:
        """Note a request that is about to be served, which may settle the matter."""
        ...

    async def serve(self, context: RequestContext, method: str, params: Params) -> dict[str, Any]:
        """Run the handler of a request and return its result.

        Raises:
            Exception: Whatever the handler raised; see `error_of`.
        """
        ...

    async def notify(self, context: RequestContext, method: str, params: Params) -> None:
        """Run the handler of a notification, if there is one."""
        ...

    def state(self, connection_id: str) -> ConnectionState:
        """Return what the kernel remembers of the connection."""
        ...

    async def aclose(self) -> None:
        """Run what handlers left to do at the end; shielded, and bounded by the SDK to 5 s."""
        ...


class HandshakeKernel:
    """A session: `initialize` once, its outcome remembered."""

    era = Era.HANDSHAKE

    def __init__(
        self,
        server: Server[Principal],
        principal: Principal,
        outbound: ConnectionOutbound,
        state: ConnectionState | None = None,
    ) -> None:
        """Begin a session, or continue the one that `state` describes.

        Raises:
            ValueError: The handshake that `state` remembers is not valid.
        """
        self._connection = Connection.for_loop(outbound)
        self._runner = ServerRunner(server, self._connection, principal)
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
        """Only one revision has them: the one before knew none, and the one after dropped them."""
        return self.settled and self._connection.protocol_version == _BATCH_REVISION

    def claim(self, method: str, params: Params) -> None:
        """Do nothing: `initialize` settles the matter when it has succeeded."""

    async def serve(self, context: RequestContext, method: str, params: Params) -> dict[str, Any]:
        """Run the handler of a request; one that carries an envelope belongs to the other era."""
        # Such a one gets here only once the handshake was made.
        if method != "initialize" and _has_envelope(params):
            # Worded as the SDK words it, so that a client sees one server, whatever the transport.
            raise MCPError(
                code=INVALID_REQUEST,
                message="this connection serves the handshake protocol era; "
                f"requests carrying the {LATEST_MODERN_VERSION} envelope are not accepted on it",
            )
        result = await self._runner.on_request(context, method, params)
        if method == "initialize":
            self._initialize_params = params
        return result

    async def notify(self, context: RequestContext, method: str, params: Params) -> None:
        """Run the handler of a notification; nothing is initialized before `initialize`, whatever it says."""
        if method != "notifications/initialized" or self.settled:
            await self._runner.on_notify(context, method, params)

    def state(self, connection_id: str) -> ConnectionState:
        """Return the handshake's outcome."""
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
    """No session: every request brings its own envelope, and gets a connection of its own from the SDK."""

    era = Era.MODERN
    takes_batches = False

    def __init__(
        self,
        server: Server[Principal],
        principal: Principal,
        outbound: ConnectionOutbound,
        state: ConnectionState | None = None,
    ) -> None:
        """Serve requests that carry an envelope; a `state` of this era shows that the peer speaks it."""
        self.settled = state is not None
        self._server = server
        self._principal = principal
        # Change notifications reach a modern client through subscriptions/listen only.
        self._outbound = NotifyOnlyOutbound(outbound)

    def claim(self, method: str, params: Params) -> None:
        """Settle the matter if the request carries an envelope of a revision that is served."""
        if not self.settled:
            route = classify_inbound_request({"method": method, "params": params})
            self.settled = not isinstance(route, InboundLadderRejection)

    async def serve(self, context: RequestContext, method: str, params: Params) -> dict[str, Any]:
        """Run the handler of a request; `initialize` belongs to the other era."""
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
            self._server, context, method, params, connection=connection, lifespan_state=self._principal
        )

    async def notify(self, context: RequestContext, method: str, params: Params) -> None:
        """Run the handler of a notification, which carries no envelope and so gets the latest revision."""
        connection = Connection.from_envelope(LATEST_MODERN_VERSION, None, None, outbound=self._outbound)
        try:
            await ServerRunner(self._server, connection, self._principal).on_notify(context, method, params)
        finally:
            await aclose_shielded(connection)

    def state(self, connection_id: str) -> ConnectionState:
        """Return the era, which is all there is."""
        return ConnectionState(connection_id=connection_id, era=self.era)

    async def aclose(self) -> None:
        """Do nothing: each request closed its own."""


def _has_envelope(params: Params) -> bool:
    """Tell whether a request claims the modern era, for which its reserved key is evidence enough."""
    meta = params.get("_meta") if params else None
    return isinstance(meta, Mapping) and PROTOCOL_VERSION_META_KEY in meta


def _served_versions(params: Params) -> dict[str, Any]:
    """Build the data of an `initialize` in the wrong era: what is served and, if it can be told, asked."""
    data: dict[str, Any] = {"supported": list(MODERN_PROTOCOL_VERSIONS)}
    requested = params.get("protocolVersion") if params else None
    if isinstance(requested, str):
        data["requested"] = requested
    return data
