"""The SDK's handler kernel ("kernel" and "era" are the SDK's terms) in both eras, behind one interface.

Owns which era a request belongs to, what is rejected across eras, and how exceptions become errors. The SDK
does the rest: validation by revision, the handshake, lookup, middleware, the shape of results. Knows
nothing of lines, requests in flight or sockets. tests/mcpio/test_sdk_contract.py pins what is used here.
"""

from __future__ import annotations

import functools
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol, cast

import attrs
from mcp.server.caching import CacheHint
from mcp.server.connection import Connection, NotifyOnlyOutbound
from mcp.server.models import InitializationOptions
from mcp.server.runner import ServerRunner, aclose_shielded
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import InboundLadderRejection, classify_inbound_request
from mcp.shared.jsonrpc_dispatcher import handler_exception_to_error_data
from mcp_types import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    PROTOCOL_VERSION_META_KEY,
    UNSUPPORTED_PROTOCOL_VERSION,
    InitializeRequestParams,
)
from mcp_types.version import LATEST_MODERN_VERSION, MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

from redstreamd.errors.remedies import shortened
from redstreamd.mcpio import invalid_params
from redstreamd.mcpio.connection_state import ConnectionState, Era
from redstreamd.mcpio.exchange import Exchange
from redstreamd.mcpio.jsonrpc import Params, encode_value
from redstreamd.mcpio.kernels import Kernel
from redstreamd.mcpio.request_context import Outbound, RequestContext
from redstreamd.mcpio.session import Session
from redstreamd.policy import Principal

#: https://modelcontextprotocol.io/specification/2025-03-26/basic#batching
_BATCH_REVISION: Final = "2025-03-26"
#: Methods that only the modern era has: without an envelope they are malformed requests of that era.
_MODERN_ONLY: Final = frozenset({"server/discover", "subscriptions/listen"})
#: Handshakes that are shared by the clients that send them, and the longest of them. The clients of a host
#: are of a few kinds.
_HANDSHAKES: Final = 64
_SHARED_BYTES: Final = 1_024
#: How much a handshake takes as long as the connection is open: its text, and its decoded values.
_KEPT_TIMES: Final = 3
#: Longer texts in errors are cut. They repeat something of the request, such as an unknown method.
_LONGEST_TEXT: Final = 2_048


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

    def __init__(self, server: HandlerSource, instructions: Callable[[Principal], str] | None = None) -> None:
        """Serve with the handlers of `server`, which find the principal as their lifespan context.

        Args:
            server: See above.
            instructions: Returns what a client is told by ``initialize``; None for what `server` says.
        """
        self._server = server
        self._instructions = instructions

    async def ready(self, method: str, params: Params) -> None:
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
        if era is Era.MODERN:
            return ModernKernel(self._server, session, state)
        return HandshakeKernel(self._server, session, state, self._instructions)

    def error_of(self, exc: Exception) -> dict[str, Any] | None:
        """Return the members of the JSON-RPC error for an exception; None if the client must not see it."""
        data = handler_exception_to_error_data(exc)
        if data is None:
            return None
        members: dict[str, Any] = _cut(data.model_dump(mode="json", exclude_unset=True))
        return members


@attrs.frozen
class _Handshake:
    """The parameters of a handshake.

    Attributes:
        text: Their JSON text.
        params: The same, validated.
    """

    text: bytes
    params: InitializeRequestParams


@functools.lru_cache(_HANDSHAKES)
def _handshake(text: bytes) -> _Handshake:
    """Return the handshake with these parameters, one for all clients that send the same.

    Raises:
        ValueError: They are not valid.
    """
    return _Handshake(text, InitializeRequestParams.model_validate(json.loads(text), by_name=False))


@asynccontextmanager
async def _runner(
    server: HandlerSource, connection: Connection, session: Session
) -> AsyncIterator[ServerRunner[Any]]:
    """Run one request or notification for the block, as the SDK's drivers do."""
    runner: ServerRunner[Any] = ServerRunner(cast("Any", server), connection, session.principal)
    try:
        yield runner
    finally:
        await aclose_shielded(connection)
        # It caches its own bound methods: cycles of some 16 objects, which only the collector would free.
        vars(runner).clear()


class HandshakeKernel:
    """The handshake era: `initialize` once, then a session.

    Of a session only its facts are kept. The SDK's objects, some kilobytes, are made for each request. So
    what a handler leaves in the SDK's connection, such as an exit callback, ends with the request.
    """

    era = Era.HANDSHAKE

    def __init__(
        self,
        server: HandlerSource,
        session: Session,
        state: ConnectionState | None = None,
        instructions: Callable[[Principal], str] | None = None,
    ) -> None:
        """Begin a session, or continue the one that `state` describes.

        Raises:
            ValueError: The handshake that `state` remembers is not valid.
        """
        self._server: Any = server
        self._session = session
        self._instructions = instructions
        # Both are set once `initialize` has succeeded.
        self._handshake: _Handshake | None = None
        self._protocol_version: str | None = None
        self._initialized = False
        if state is not None:
            if state.initialize_params is not None and state.protocol_version is not None:
                self._remember(state.initialize_params, state.protocol_version)
            self._initialized = state.initialized

    @property
    def settled(self) -> bool:
        """Whether `initialize` succeeded."""
        return self._handshake is not None

    @property
    def takes_batches(self) -> bool:
        """Whether 2025-03-26 was negotiated, the only revision with batches."""
        return self._protocol_version == _BATCH_REVISION

    def claim(self, method: str, params: Params) -> None:
        """Do nothing: only a successful `initialize` settles this era."""

    async def serve(self, exchange: Exchange) -> dict[str, Any]:
        """Run the handler of a request; after a handshake, one with an envelope is rejected."""
        method, params = exchange.method, exchange.params
        if method == "initialize" and self.settled:
            raise MCPError(
                code=INVALID_REQUEST,
                message="the session is initialized already; open another connection for another session",
            )
        if method != "initialize" and _has_envelope(params):
            # The SDK's text, so that all transports answer the same.
            raise MCPError(
                code=INVALID_REQUEST,
                message="this connection serves the handshake protocol era; "
                f"requests carrying the {LATEST_MODERN_VERSION} envelope are not accepted on it",
            )
        context = RequestContext(self._session, exchange)
        try:
            result, connection = await self._request(context, method, params)
        except ValidationError as error:
            raise _invalid_params(error, params) from None
        except MCPError as error:
            if self.settled or error.error.message != invalid_params.INVALID_PARAMS:
                raise
            why = f"{invalid_params.INVALID_PARAMS}: the session is not initialized; send initialize first"
            raise MCPError(code=error.error.code, message=why, data=error.error.data) from None
        if method == "initialize":
            self._remember(params, connection.protocol_version)
            if self._instructions is not None:
                result["instructions"] = self._instructions(self._session.principal)
        return result

    async def resubscribe(self, uri: str, cursor: str) -> None:
        """Subscribe again to what the client subscribed to before a hand-over."""
        context = RequestContext(self._session, cursors={uri: cursor})
        await self._request(context, "resources/subscribe", {"uri": uri})

    async def notify(self, method: str, params: Params) -> None:
        """Run the handler of a notification; `notifications/initialized` before `initialize` is ignored."""
        if method == "notifications/initialized" and not self.settled:
            return
        connection = self._connection()
        async with _runner(self._server, connection, self._session) as runner:
            await runner.on_notify(RequestContext(self._session), method, params)
        self._initialized = self._initialized or connection.initialized.is_set()

    def state(self, connection_id: str) -> ConnectionState:
        """Return the result of the handshake."""
        handshake = self._handshake
        return ConnectionState(
            connection_id=connection_id,
            era=self.era,
            initialize_params=None if handshake is None else json.loads(handshake.text),
            protocol_version=self._protocol_version,
            initialized=self._initialized,
        )

    async def aclose(self) -> None:
        """Do nothing: each request closes its own SDK connection."""

    def _remember(self, params: Params, protocol_version: str) -> None:
        text = encode_value(params)
        # A longer one is not shared.
        make = _handshake if len(text) <= _SHARED_BYTES else _handshake.__wrapped__
        self._handshake, self._protocol_version = make(text), protocol_version
        if len(text) > _SHARED_BYTES and self._session.share is not None:
            self._session.share.hold(_KEPT_TIMES * len(text))

    def _connection(self) -> Connection:
        connection = Connection.for_loop(Outbound(self._session))
        if self._handshake is not None and self._protocol_version is not None:
            connection.client_params = self._handshake.params
            connection.protocol_version = self._protocol_version
        if self._initialized:
            connection.initialized.set()
        return connection

    async def _request(
        self, context: RequestContext, method: str, params: Params
    ) -> tuple[dict[str, Any], Connection]:
        connection = self._connection()
        async with _runner(self._server, connection, self._session) as runner:
            return await runner.on_request(context, method, params), connection


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
        try:
            async with _runner(self._server, connection, self._session) as runner:
                return await runner.on_request(RequestContext(self._session, exchange), method, params)
        except ValidationError as error:
            raise _invalid_params(error, params) from None

    async def resubscribe(self, uri: str, cursor: str) -> None:
        """Do nothing: this era has subscriptions/listen only."""

    async def notify(self, method: str, params: Params) -> None:
        """Run the handler of a notification; it has no envelope, so it gets the latest revision."""
        connection = Connection.from_envelope(LATEST_MODERN_VERSION, None, None, outbound=self._outbound)
        async with _runner(self._server, connection, self._session) as runner:
            await runner.on_notify(RequestContext(self._session), method, params)

    def state(self, connection_id: str) -> ConnectionState:
        """Return the era; there is no session."""
        return ConnectionState(connection_id=connection_id, era=self.era)

    async def aclose(self) -> None:
        """Do nothing: each request closes its own SDK connection."""


def _has_envelope(params: Params) -> bool:
    """Return whether a request names a protocol version in its `_meta`, as the modern era does."""
    meta = params.get("_meta") if params else None
    return isinstance(meta, Mapping) and PROTOCOL_VERSION_META_KEY in meta


def _invalid_params(error: ValidationError, params: Params) -> MCPError:
    """Return the SDK's error for params that do not fit, with what is wrong."""
    count = error.error_count()
    if count > invalid_params.MAX_ERRORS:
        message = f"{invalid_params.INVALID_PARAMS}: {count} values do not fit"
    else:
        found: Any = error.errors(include_url=False, include_context=False, include_input=False)
        message = invalid_params.describe(found, params)
    return MCPError(code=INVALID_PARAMS, message=message, data="")


def _cut(value: Any) -> Any:
    """Return the members of an error with long texts cut."""
    if isinstance(value, str):
        return shortened(value, _LONGEST_TEXT)
    if isinstance(value, dict):
        return {name: _cut(member) for name, member in value.items()}
    return [_cut(item) for item in value] if isinstance(value, list) else value


def _served_versions(params: Params) -> dict[str, Any]:
    """Return the error data of an `initialize` in the modern era: supported and requested versions."""
    data: dict[str, Any] = {"supported": list(MODERN_PROTOCOL_VERSIONS)}
    requested = params.get("protocolVersion") if params else None
    if isinstance(requested, str):
        data["requested"] = requested
    return data
