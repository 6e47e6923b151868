"""What this package uses of the mcp package: names, signatures, meanings. Who changes one fails here first.

The SDK calls its dispatcher surface provisional within 2.x; pyproject.toml bounds it to one minor version.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any, Protocol
from unittest.mock import ANY

import mcp_types
import pytest
from mcp.server.connection import Connection, NotifyOnlyOutbound
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.runner import ServerRunner, aclose_shielded, serve_dual_era_loop, serve_one
from mcp.shared.dispatcher import DispatchContext, Outbound, coerce_request_id
from mcp.shared.exceptions import MCPError, NoBackChannelError
from mcp.shared.inbound import InboundLadderRejection, InboundModernRoute, classify_inbound_request
from mcp.shared.jsonrpc_dispatcher import (
    cancelled_request_id_from_params,
    handler_exception_to_error_data,
    progress_token_from_params,
)
from mcp.shared.message import ServerMessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, LATEST_MODERN_VERSION, MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel, ValidationError

from redstreamd.mcpio.exchange import Exchange, same_id
from redstreamd.mcpio.jsonrpc import progress_token
from redstreamd.mcpio.request_context import Outbound as OurOutbound
from redstreamd.mcpio.request_context import RequestContext
from tests.mcpio.serving import Sink, make_session
from tests.support.mcp_client import ENVELOPE


def parameters(function: Any) -> dict[str, Any]:
    """Return a function's parameters: name to default, `inspect.Parameter.empty` for none."""
    return {name: each.default for name, each in inspect.signature(function).parameters.items()}


def members(protocol: type) -> set[str]:
    """Return what a protocol asks for."""
    found: set[str] = set()
    for each in protocol.__mro__:
        if each not in (object, Protocol):
            found |= {name for name in vars(each) if not name.startswith("_")}
    return found


REQUIRED = inspect.Parameter.empty


def test_the_revisions_of_the_protocol_are_the_known_ones() -> None:
    assert HANDSHAKE_PROTOCOL_VERSIONS == ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
    assert MODERN_PROTOCOL_VERSIONS == ("2026-07-28",)
    assert LATEST_MODERN_VERSION == "2026-07-28"


def test_the_error_codes_are_the_known_ones() -> None:
    assert mcp_types.INVALID_REQUEST == -32600
    assert mcp_types.METHOD_NOT_FOUND == -32601
    assert mcp_types.INVALID_PARAMS == -32602
    assert mcp_types.UNSUPPORTED_PROTOCOL_VERSION == -32022


def test_our_contexts_have_all_that_the_protocols_ask_for() -> None:
    assert members(DispatchContext) == {
        "can_send_request",
        "cancel_requested",
        "message_metadata",
        "notify",
        "progress",
        "request_id",
        "send_raw_request",
        "transport",
    }
    assert members(Outbound) == {"notify", "send_raw_request"}
    for name in members(DispatchContext) - {"transport", "request_id"}:
        assert hasattr(RequestContext, name)
    for ours, theirs in [(RequestContext, DispatchContext), (OurOutbound, Outbound)]:
        for name in {"notify", "progress", "send_raw_request"} & members(theirs):
            assert parameters(getattr(ours, name)) == parameters(getattr(theirs, name))
    assert issubclass(OurOutbound, Outbound)


def test_the_kernel_is_made_and_run_as_we_do_it() -> None:
    runner = parameters(ServerRunner)
    assert list(runner)[:3] == ["server", "connection", "lifespan_state"]
    assert all(default is not REQUIRED for name, default in list(runner.items())[3:])
    for name in ("_on_request", "_on_notify"):
        assert list(parameters(getattr(ServerRunner, name))) == ["self", "dctx", "method", "params"]
    assert list(parameters(serve_one)) == [
        "server",
        "dctx",
        "method",
        "params",
        "connection",
        "lifespan_state",
    ]
    assert list(parameters(aclose_shielded)) == ["connection"]
    assert list(parameters(Connection.for_loop)) == ["outbound", "session_id", "protocol_version_hint"]
    assert list(parameters(Connection.from_envelope)) == [
        "protocol_version",
        "client_info",
        "client_capabilities",
        "outbound",
    ]
    assert list(parameters(NotifyOnlyOutbound)) == ["outbound"]
    assert {field.name: field.default for field in dataclasses.fields(TransportContext)} == {
        "kind": dataclasses.MISSING,
        "can_send_request": dataclasses.MISSING,
        "headers": None,
    }


async def test_a_session_can_be_rebuilt_in_the_middle() -> None:
    connection = Connection.for_loop(OurOutbound(ANY))
    assert not connection.initialize_accepted
    connection.client_params = mcp_types.InitializeRequestParams.model_validate(
        {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "a", "version": "1"}},
        by_name=False,
    )
    connection.protocol_version = "2025-06-18"
    assert connection.initialize_accepted
    assert not connection.initialized.is_set()
    assert connection.client_capabilities is not None


async def test_the_connection_of_a_modern_request_is_ready_at_birth() -> None:
    connection = Connection.from_envelope("2026-07-28", None, {}, outbound=OurOutbound(ANY))
    assert connection.initialize_accepted
    assert connection.initialized.is_set()


def test_ids_that_look_like_integers_are_integers() -> None:
    # The last is longer than Python turns into integers without being told to.
    for given, key in [("7", 7), (7, 7), (" 7", 7), ("a", "a"), ("1" * 5000, "1" * 5000)]:
        assert coerce_request_id(given) == same_id(given) == key


@pytest.mark.parametrize(
    ("params", "token", "cancelled"),
    [
        (None, None, None),
        ({}, None, None),
        ({"_meta": {"progressToken": "t"}, "requestId": "a"}, "t", "a"),
        ({"_meta": {"progressToken": 7}, "requestId": 7}, 7, 7),
        ({"_meta": {"progressToken": True}, "requestId": True}, None, None),
        ({"_meta": {"progressToken": 1.5}, "requestId": 1.5}, None, None),
        ({"_meta": 5, "requestId": [1]}, None, None),
    ],
)
def test_tokens_and_ids_are_found_in_parameters(params: Any, token: Any, cancelled: Any) -> None:
    assert progress_token_from_params(params) == progress_token(params) == token
    assert cancelled_request_id_from_params(params) == cancelled


def test_exceptions_become_errors_or_nothing() -> None:
    class Model(BaseModel):
        number: int

    with pytest.raises(ValidationError) as invalid:
        Model.model_validate({"number": "x"})
    for exception, expected in [
        (MCPError(1, "m"), {"code": 1, "message": "m"}),
        (MCPError(1, "m", data={"a": 1}), {"code": 1, "message": "m", "data": {"a": 1}}),
        (NoBackChannelError("ping"), {"code": -32600, "message": str(NoBackChannelError("ping"))}),
        (invalid.value, {"code": -32602, "message": "Invalid request parameters", "data": ""}),
    ]:
        error = handler_exception_to_error_data(exception)
        assert error is not None
        assert error.model_dump(mode="json", exclude_unset=True) == expected
    assert handler_exception_to_error_data(RuntimeError("m")) is None


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (None, -32602),
        ({}, -32602),
        ({"_meta": []}, -32602),
        ({"_meta": {mcp_types.PROTOCOL_VERSION_META_KEY: "2026-07-28"}}, -32602),
        ({"_meta": {**ENVELOPE, mcp_types.PROTOCOL_VERSION_META_KEY: 5}}, -32602),
        ({"_meta": {**ENVELOPE, mcp_types.PROTOCOL_VERSION_META_KEY: "2099-01-01"}}, -32022),
        ({"_meta": ENVELOPE}, "2026-07-28"),
    ],
)
def test_envelopes_are_told_apart(params: Any, expected: Any) -> None:
    route = classify_inbound_request({"method": "tools/list", "params": params})
    if isinstance(route, InboundLadderRejection):
        assert route.code == expected
        assert route.message
    else:
        assert isinstance(route, InboundModernRoute)
        assert route.protocol_version == expected


async def test_what_the_transport_attaches_reaches_handlers() -> None:
    found: list[ServerRequestContext[Any]] = []

    async def call_tool(
        ctx: ServerRequestContext[Any], params: mcp_types.CallToolRequestParams
    ) -> mcp_types.CallToolResult:
        found.append(ctx)
        return mcp_types.CallToolResult(content=[])

    server: Server[Any] = Server("s", on_call_tool=call_tool)
    session = make_session(lambda _: False, Sink())
    params = {"name": "t", "arguments": {"a": 1}, "_meta": ENVELOPE}
    context = RequestContext(session, Exchange(session, "r", "tools/call", params, 0, Sink()))
    assert isinstance(context.message_metadata, ServerMessageMetadata)
    connection = Connection.from_envelope("2026-07-28", None, {}, outbound=OurOutbound(session))
    result = await serve_one(
        server, context, "tools/call", params, connection=connection, lifespan_state="principal"
    )
    assert result["resultType"] == "complete"
    assert result["_meta"][mcp_types.SERVER_INFO_META_KEY]["name"] == "s"
    (ctx,) = found
    assert ctx.request is context
    assert ctx.lifespan_context == "principal"
    # The very objects that were decoded, with whatever marks they carry.
    assert ctx.params is params


async def test_a_server_can_be_asked_to_make_no_traces() -> None:
    server: Server[Any] = Server("s")
    assert [type(each).__name__ for each in server.middleware] == ["OpenTelemetryMiddleware"]


def test_the_loop_that_we_are_compared_with_takes_what_we_give_it() -> None:
    given = ["server", "read_stream", "write_stream", "lifespan_state"]
    assert list(parameters(serve_dual_era_loop))[:4] == given
