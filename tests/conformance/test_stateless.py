"""What the official conformance suite asks of a stateless server over HTTP, asked over the socket.

All of it is revision 2026-07-28, whose pages are those of
https://modelcontextprotocol.io/specification/2026-07-28/<page>. The suite's own scenario is server-stateless.
"""

from __future__ import annotations

from typing import Any

import mcp_types
import pytest
from mcp_types.version import LATEST_HANDSHAKE_VERSION, LATEST_MODERN_VERSION

from redstreamd.presentation.uris import stream_uri
from tests.support.daemon import Daemon
from tests.support.mcp_client import CLIENT_INFO, ENVELOPE, RawClient, raw_client
from tests.support.servers import Server

INVALID_PARAMS, METHOD_NOT_FOUND = -32602, -32601
MISSING_CAPABILITY, UNSUPPORTED_VERSION = -32021, -32022
#: Seconds any of these may take.
PATIENCE = 20
SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"


def envelope(**changes: Any) -> dict[str, Any]:
    """Return an envelope with other values, or without what is None here."""
    keys = {
        "version": mcp_types.PROTOCOL_VERSION_META_KEY,
        "client": mcp_types.CLIENT_INFO_META_KEY,
        "capabilities": mcp_types.CLIENT_CAPABILITIES_META_KEY,
    }
    changed = ENVELOPE | {keys[name]: value for name, value in changes.items()}
    return {key: value for key, value in changed.items() if value is not None}


async def answer(raw: RawClient, method: str, params: dict[str, Any] | None) -> dict[str, Any]:
    """Send a request with these parameters and no others, and return the answer."""
    request = {"jsonrpc": "2.0", "id": "as it is", "method": method}
    await raw.send(request if params is None else request | {"params": params})
    return await raw.answer_to("as it is")


async def test_a_stateless_server_needs_no_handshake_and_says_what_it_can_do(modern: RawClient) -> None:
    """server/discover: MUST implement it; versions, capabilities, and SHOULD say its name."""
    result = (await modern.call("server/discover"))["result"]
    assert LATEST_MODERN_VERSION in result["supportedVersions"]
    assert result["capabilities"].keys() >= {"tools", "resources", "prompts"}
    assert result["resultType"] == "complete"


async def test_what_is_declared_is_served(modern: RawClient) -> None:
    """server/tools#capabilities, server/prompts#capabilities, server/resources#capabilities: MUST both."""
    declared = (await modern.call("server/discover"))["result"]["capabilities"]
    assert declared.keys() == {"tools", "resources", "prompts", "completions"}
    for method in ("tools/list", "resources/list", "resources/templates/list", "prompts/list"):
        assert "result" in await modern.call(method)
    # They change when the settings are reloaded.
    assert declared["tools"]["listChanged"]
    assert declared["prompts"]["listChanged"]


async def test_every_result_says_that_it_is_complete_and_whose_it_is(modern: RawClient) -> None:
    """basic#resulttype: MUST; basic#meta: SHOULD identify itself in every result's `_meta`.

    basic/patterns/mrtr#supported-requests: these MUST NOT ask for input
    [input-required-result-unsupported-methods].
    """
    for method in ("server/discover", "tools/list", "resources/list", "prompts/list"):
        result = (await modern.call(method))["result"]
        assert result["resultType"] == "complete"
        server = result["_meta"][mcp_types.SERVER_INFO_META_KEY]
        assert server["name"] == "redstreamd"
        assert server["version"]


async def test_each_request_carries_its_own_envelope(modern: RawClient) -> None:
    """basic#statelessness: nothing is remembered from the request before."""
    assert "result" in await modern.call("tools/list")
    assert (await answer(modern, "tools/list", {}))["error"]["code"] == INVALID_PARAMS
    assert "result" in await modern.call("tools/list")


@pytest.mark.parametrize(
    "params",
    [
        None,
        {},
        {"_meta": {}},
        {"_meta": envelope(version=None)},
        {"_meta": envelope(capabilities=None)},
    ],
    ids=["no params", "no meta", "empty", "no version", "no capabilities"],
)
async def test_a_request_without_what_is_required_is_malformed(
    modern: RawClient, params: dict[str, Any] | None
) -> None:
    """basic#meta: MUST reject it with -32602."""
    assert "result" in await modern.call("server/discover")
    error = (await answer(modern, "server/discover", params))["error"]
    assert error["code"] == INVALID_PARAMS
    assert "_meta" in error["message"]


async def test_a_client_need_not_say_who_it_is(daemon: Daemon) -> None:
    """basic#meta: the client's name is no required field."""
    async with raw_client(daemon.path) as raw:
        for method in ("server/discover", "tools/list"):
            assert "result" in await answer(raw, method, {"_meta": envelope(client=None)})


@pytest.mark.parametrize("version", ["2099-12-31", "v999.0.0", LATEST_HANDSHAKE_VERSION])
@pytest.mark.parametrize("settled", [False, True], ids=["first", "later"])
async def test_a_version_that_is_not_spoken_is_refused_with_those_that_are(
    daemon: Daemon, version: str, settled: bool
) -> None:
    """basic/versioning#protocol-version-negotiation: MUST list those it supports, with the one requested."""
    async with raw_client(daemon.path, era="modern") as raw:
        if settled:
            assert "result" in await raw.call("tools/list")
        for method in ("server/discover", "tools/list"):
            error = (await answer(raw, method, {"_meta": envelope(version=version)}))["error"]
            assert error["code"] == UNSUPPORTED_VERSION
            assert error["data"]["requested"] == version
            supported = (await raw.call("server/discover"))["result"]["supportedVersions"]
            assert error["data"]["supported"] == supported


@pytest.mark.parametrize(
    "method", ["ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe", "unknown/method"]
)
async def test_a_method_of_the_older_revisions_is_not_found(modern: RawClient, method: str) -> None:
    """changelog#major-changes, which removes them; basic#error-responses: MUST include the request's id."""
    found = await modern.call(method, {"uri": "redstream://streams", "level": "info"}, request_id=500)
    assert (found["id"], found["error"]["code"]) == (500, METHOD_NOT_FOUND)


async def test_initialize_is_no_method_of_a_stateless_server(modern: RawClient) -> None:
    """basic/versioning#backward-compatibility-with-initialization-based-versions: SHOULD name versions."""
    assert "result" in await modern.call("tools/list")
    params = {
        "protocolVersion": LATEST_HANDSHAKE_VERSION,
        "capabilities": {},
        "clientInfo": CLIENT_INFO,
    }
    error = (await modern.call("initialize", params))["error"]
    assert LATEST_MODERN_VERSION in error["data"]["supported"]
    assert "result" in await modern.call("tools/list")


async def test_no_tool_needs_a_capability_of_its_caller(modern: RawClient) -> None:
    """basic#meta: MUST NOT rely on what the client has not declared; this one declares nothing."""
    assert ENVELOPE[mcp_types.CLIENT_CAPABILITIES_META_KEY] == {}
    tools = [tool["name"] for tool in (await modern.call("tools/list"))["result"]["tools"]]
    for tool in tools:
        # Whatever is missing here is told as a tool's failure, and nothing is asked back.
        assert (await modern.call_tool(tool))["result"]["resultType"] == "complete"
    assert modern.passed_over == []


async def test_a_subscription_is_acknowledged_named_and_brings_what_was_asked_for(
    modern: RawClient, redis_server: Server
) -> None:
    """basic/patterns/subscriptions: acknowledged first; its id in each message; nothing not requested."""
    asked, other = "told:of:this", "nobody:asked:this"
    wanted = {"toolsListChanged": True, "resourceSubscriptions": [stream_uri(asked)]}
    request = modern.request("subscriptions/listen", {"notifications": wanted}, request_id="sub")
    await modern.send(request)
    first = await modern.receive()
    assert first["method"] == "notifications/subscriptions/acknowledged"
    assert first["params"]["_meta"] == {SUBSCRIPTION: "sub"}
    assert first["params"]["notifications"] == wanted
    redis_server.commands(["XADD", other, "*", "f", "v"], ["XADD", asked, "*", "f", "v"])
    told = await modern.receive()
    assert told["method"] == "notifications/resources/updated"
    assert told["params"] == {"uri": stream_uri(asked), "_meta": {SUBSCRIPTION: "sub"}}
    await modern.cancel("sub")
    assert "result" in await modern.call("tools/list")
    assert modern.passed_over == []
