"""What the official conformance suite asks over HTTP, asked over the socket.

Pages are those of https://modelcontextprotocol.io/specification/<revision>/<page>; each test names the
revision and the page, and a test of both eras the older one's if the newer one has it under the same name.
The names in square brackets are the suite's own scenarios; test_stateless.py has another one.
"""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest
import trio
from mcp_types.methods import CLIENT_REQUESTS, validate_server_result
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, LATEST_HANDSHAKE_VERSION, LATEST_MODERN_VERSION

from tests.support.daemon import Daemon
from tests.support.mcp_client import EraName, RawClient, raw_client
from tests.support.servers import Server

INVALID_PARAMS, METHOD_NOT_FOUND = -32602, -32601
RESOURCE_NOT_FOUND_BEFORE_2026 = -32002
#: Seconds any of these may take.
PATIENCE = 20
ABSENT = "redis://streams/nothing-of-this-name"
STREAM = "shop:orders:paid"
#: A request for each method that is served in one era or both, but for those in OTHERS.
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("ping", {}),
    ("server/discover", {}),
    ("tools/list", {}),
    ("tools/call", {"name": "stream_read", "arguments": {"stream": STREAM}}),
    ("tools/call", {"name": "stream_read", "arguments": {"stream": "nothing-of-this-name"}}),
    ("resources/list", {}),
    ("resources/templates/list", {}),
    ("resources/read", {"uri": "redstream://health"}),
    ("resources/subscribe", {"uri": "redstream://streams"}),
    ("resources/unsubscribe", {"uri": "redstream://streams"}),
    ("prompts/list", {}),
    ("prompts/get", {"name": "design-stream", "arguments": {"purpose": "Orders."}}),
    (
        "completion/complete",
        {
            "ref": {"type": "ref/resource", "uri": "redstream://streams/{stream}"},
            "argument": {"name": "stream", "value": "shop"},
        },
    ),
]
#: The handshake itself, a request without an end, and what is not offered.
OTHERS = {"initialize", "subscriptions/listen", "logging/setLevel"}


@pytest.mark.parametrize("version", HANDSHAKE_PROTOCOL_VERSIONS)
async def test_initialize_answers_with_version_capabilities_and_name(daemon: Daemon, version: str) -> None:
    """2025-11-25, basic/lifecycle#initialization [server-initialize]: the server MUST answer with these."""
    async with raw_client(daemon.path) as raw:
        result = await raw.initialize(version)
        assert result["protocolVersion"] == version
        assert result["serverInfo"].keys() >= {"name", "version"}
        assert result["capabilities"].keys() >= {"tools", "resources", "prompts"}


@pytest.mark.parametrize("version", ["1999-01-01", "2099-12-31"])
async def test_an_unknown_version_is_answered_with_one_that_is_spoken(daemon: Daemon, version: str) -> None:
    """2025-11-25, basic/lifecycle#version-negotiation: MUST respond with another version it supports."""
    async with raw_client(daemon.path) as raw:
        assert (await raw.initialize(version))["protocolVersion"] == LATEST_HANDSHAKE_VERSION
        assert "result" in await raw.call("tools/list")


async def test_before_initialize_only_ping_is_answered(daemon: Daemon) -> None:
    """2025-11-25, basic/lifecycle#initialization: other than pings, not yet."""
    async with raw_client(daemon.path) as raw:
        assert (await raw.call("ping"))["result"] == {}
        assert "error" in await raw.call("tools/list")
        await raw.initialize()
        assert "result" in await raw.call("tools/list")


async def test_the_end_of_the_connection_is_the_end_of_the_session(daemon: Daemon) -> None:
    """2025-11-25, basic/lifecycle#shutdown [server-session-lifecycle]: so ends a session without HTTP."""
    async with raw_client(daemon.path, initialize=True) as raw:
        await raw.stream.send_eof()  # type: ignore[attr-defined]
        assert await raw.receive_rest() == []
    async with raw_client(daemon.path) as raw:
        assert "error" in await raw.call("tools/list")


async def test_ping_is_answered_with_an_empty_result(handshake: RawClient) -> None:
    """2025-11-25, basic/utilities/ping [ping]: the receiver MUST respond promptly with an empty response."""
    answer = await handshake.call("ping", request_id="alive?")
    assert answer == {"jsonrpc": "2.0", "id": "alive?", "result": {}}


@pytest.mark.parametrize("version", [*HANDSHAKE_PROTOCOL_VERSIONS, LATEST_MODERN_VERSION])
async def test_every_result_fits_the_schema_of_its_revision(daemon: Daemon, version: str) -> None:
    """All revisions, schema [wire-schema-valid]: as the SDK's types, made from the schema, have it."""
    era: EraName = "modern" if version == LATEST_MODERN_VERSION else "handshake"
    methods = {method for method, revision in CLIENT_REQUESTS if revision == version} - OTHERS
    requests = [(method, params) for method, params in REQUESTS if method in methods]
    assert {method for method, _ in requests} == methods
    async with raw_client(daemon.path, era=era) as raw:
        if era == "handshake":
            validate_server_result("initialize", version, await raw.initialize(version))
        for method, params in requests:
            answer = await raw.call(method, params)
            assert answer.keys() == {"jsonrpc", "id", "result"}, answer
            assert answer["jsonrpc"] == "2.0"
            validate_server_result(method, version, answer["result"])


async def test_an_unknown_method_is_not_found(client: RawClient) -> None:
    """2025-11-25, basic#responses; JSON-RPC 2.0, section 5.1: -32601, with the request's id."""
    answer = await client.call("no/such/method", request_id="x")
    assert (answer["id"], answer["error"]["code"]) == ("x", METHOD_NOT_FOUND)


@pytest.mark.parametrize("version", HANDSHAKE_PROTOCOL_VERSIONS)
async def test_what_is_not_declared_is_not_found(daemon: Daemon, version: str) -> None:
    """2025-11-25, basic/lifecycle#operation [logging-set-level]: only capabilities that were negotiated."""
    async with raw_client(daemon.path) as raw:
        assert not (await raw.initialize(version))["capabilities"].keys() & {"logging", "tasks"}
        for method, params in (("logging/setLevel", {"level": "info"}), ("tasks/list", {})):
            assert (await raw.call(method, params))["error"]["code"] == METHOD_NOT_FOUND


async def test_each_tool_has_a_name_a_description_and_schemas_that_are_schemas(client: RawClient) -> None:
    """2025-11-25, server/tools#tool and #tool-names [tools-list]: both schemas are of type object."""
    tools = (await client.call("tools/list"))["result"]["tools"]
    names = [tool["name"] for tool in tools]
    assert names
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]{1,128}", name) for name in names)
    for tool in tools:
        assert tool["description"]
        for schema in (tool["inputSchema"], tool["outputSchema"]):
            jsonschema.Draft202012Validator.check_schema(schema)
            assert schema["type"] == "object"


async def test_what_is_listed_and_its_order_stay_the_same(client: RawClient, daemon: Daemon) -> None:
    """2026-07-28, server/tools#capabilities [tools-list]: SHOULD keep the order, whatever the connection."""
    for method, member in (("tools/list", "tools"), ("prompts/list", "prompts")):
        first = (await client.call(method))["result"][member]
        assert len(first) > 1
        assert (await client.call(method))["result"][member] == first
        async with raw_client(daemon.path, era="modern") as other:
            names = [each["name"] for each in (await other.call(method))["result"][member]]
        assert names == [each["name"] for each in first]


async def test_a_tools_result_fits_its_output_schema_and_its_text_says_the_same(client: RawClient) -> None:
    """2025-11-25, server/tools#structured-content: MUST conform to the schema, SHOULD repeat it as text."""
    tools = {tool["name"]: tool for tool in (await client.call("tools/list"))["result"]["tools"]}
    result = (await client.call_tool("stream_read", {"stream": STREAM}))["result"]
    jsonschema.Draft202012Validator(tools["stream_read"]["outputSchema"]).validate(
        result["structuredContent"]
    )
    (text,) = result["content"]
    assert text["type"] == "text"
    assert json.loads(text["text"]) == result["structuredContent"]


async def test_an_unknown_tool_is_a_protocol_error_and_a_failed_call_is_a_result(client: RawClient) -> None:
    """2025-11-25, server/tools#error-handling: unknown tools are -32602, execution errors have isError."""
    assert (await client.call_tool("no_such_tool"))["error"]["code"] == INVALID_PARAMS
    failed = await client.call_tool("stream_read", {"stream": "nothing-of-this-name"})
    assert failed["result"]["isError"] is True


async def test_each_resource_that_is_listed_can_be_read(client: RawClient) -> None:
    """2025-11-25, server/resources#listing-resources [resources-list]: uri and name; contents of that uri."""
    resources = (await client.call("resources/list"))["result"]["resources"]
    assert resources
    for resource in resources:
        assert resource["name"]
        read = (await client.call("resources/read", {"uri": resource["uri"]}))["result"]
        assert [content["uri"] for content in read["contents"]] == [resource["uri"]]
        assert all(("text" in content) != ("blob" in content) for content in read["contents"])


async def test_each_prompt_that_is_listed_says_its_arguments(client: RawClient) -> None:
    """2025-11-25, server/prompts#listing-prompts [prompts-list]: its name, what it is for, what it takes."""
    prompts = (await client.call("prompts/list"))["result"]["prompts"]
    assert prompts
    for prompt in prompts:
        assert prompt["name"]
        assert prompt["description"]
        assert all(argument["name"] for argument in prompt.get("arguments", []))
    assert (await client.call("prompts/get", {"name": "no_such"}))["error"]["code"] == INVALID_PARAMS


async def test_an_unknown_cursor_is_invalid_params(client: RawClient) -> None:
    """2025-11-25, server/utilities/pagination#error-handling: invalid cursors SHOULD result in -32602."""
    for method in ("tools/list", "resources/list", "resources/templates/list", "prompts/list"):
        answer = await client.call(method, {"cursor": "!no cursor!"})
        assert answer["error"]["code"] == INVALID_PARAMS, method


@pytest.mark.parametrize("version", HANDSHAKE_PROTOCOL_VERSIONS)
async def test_a_resource_that_is_not_there_has_a_code_of_its_own_before_2026(
    daemon: Daemon, version: str
) -> None:
    """2025-11-25, server/resources#error-handling: resource not found is -32002, and never empty contents."""
    async with raw_client(daemon.path) as raw:
        await raw.initialize(version)
        answer = await raw.call("resources/read", {"uri": ABSENT})
        assert answer["error"]["code"] == RESOURCE_NOT_FOUND_BEFORE_2026


async def test_a_resource_that_is_not_there_is_invalid_params_from_2026_on(modern: RawClient) -> None:
    """2026-07-28, server/resources#error-handling; SEP-2164 [sep-2164-resource-not-found]: -32602."""
    answer = await modern.call("resources/read", {"uri": ABSENT})
    assert answer["error"]["code"] == INVALID_PARAMS
    assert answer["error"]["data"]["uri"] == ABSENT


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("tools/list", {}),
        ("prompts/list", {}),
        ("resources/list", {}),
        ("resources/templates/list", {}),
        ("resources/read", {"uri": "listed"}),
        ("server/discover", {}),
    ],
)
async def test_what_may_be_cached_says_for_how_long_and_for_whom(
    modern: RawClient, method: str, params: dict[str, Any]
) -> None:
    """2026-07-28, server/utilities/caching; SEP-2549 [caching]: ttlMs and cacheScope are required there."""
    if params:
        listed = (await modern.call("resources/list"))["result"]["resources"]
        params = {"uri": listed[0]["uri"]}
    result = (await modern.call(method, params))["result"]
    assert isinstance(result["ttlMs"], int)
    assert result["ttlMs"] >= 0
    assert result["cacheScope"] in ("public", "private")


@pytest.mark.parametrize("method", ["tools/list", "prompts/list", "resources/list"])
async def test_older_revisions_get_no_caching_hints(handshake: RawClient, method: str) -> None:
    """2025-11-25, schema#listtoolsresult: members of the newer revision do not leak into the older one."""
    result = (await handshake.call(method))["result"]
    assert not result.keys() & {"ttlMs", "cacheScope", "resultType"}


async def test_a_cancelled_request_is_not_answered(client: RawClient) -> None:
    """2025-11-25, basic/utilities/cancellation#behavior-requirements: stop, free resources, send nothing.

    2026-07-28, basic/patterns/cancellation#behavior-requirements: the same.
    """
    waiting = {"streams": ["nothing:comes:here"], "timeout_seconds": 60}
    request = client.tool_call("stream_wait", waiting)
    await client.send(request)
    # Requests begin in the order in which they come: with this answer, the first one is under way.
    assert "result" in await client.call("tools/list")
    await client.cancel(request["id"])
    # Nor is one that is known no longer, or was never known, worth an answer.
    await client.cancel(request["id"])
    await client.cancel("never sent")
    assert "result" in await client.call("tools/list")
    assert client.passed_over == []


async def test_progress_goes_to_those_who_asked_grows_and_ends_with_the_answer(
    redis_server: Server, hasty: Daemon
) -> None:
    """2025-11-25, basic/utilities/progress#behavior-requirements: MUST increase, MUST then stop.

    2026-07-28, basic/patterns/progress#behavior-requirements: the same. A request whose `_meta` asks for
    nothing MUST NOT bring log messages (server/utilities/logging), and nothing it brings may be a request of
    the server's own (basic#message-patterns) [server-stateless].
    """
    stream = "comes:late"
    # From the beginning, so that the entry that ends the waits is seen by one that began after it.
    arguments = {"streams": [stream], "cursor": "0-0", "timeout_seconds": 60}
    waiting = {"name": "stream_wait", "arguments": arguments}

    async def wait(era: EraName, params: dict[str, Any], reports: list[Any], reported: trio.Event) -> None:
        async with raw_client(hasty.path, era=era, initialize=era == "handshake") as raw:
            request = raw.request("tools/call", params)
            await raw.send(request)
            while "_meta" in params and len(raw.passed_over) < 2:
                raw.passed_over.append(await raw.receive())
            reported.set()
            answer = await raw.answer_to(request["id"])
            assert len(answer["result"]["structuredContent"]["entries"]) == 1
            assert {message["method"] for message in raw.passed_over} <= {"notifications/progress"}
            assert not any("id" in message for message in raw.passed_over)
            reports += [message["params"] for message in raw.passed_over]
            raw.passed_over.clear()
            assert "result" in await raw.call("tools/list")
            assert raw.passed_over == []

    asked: list[list[Any]] = [[], []]
    not_asked: list[list[Any]] = [[], []]
    eras: tuple[EraName, EraName] = ("handshake", "modern")
    async with trio.open_nursery() as nursery:
        reported = [trio.Event() for _ in range(4)]
        for number, era in enumerate(eras):
            params = {**waiting, "_meta": {"progressToken": number}}
            nursery.start_soon(wait, era, params, asked[number], reported[number])
            nursery.start_soon(wait, era, waiting, not_asked[number], reported[number + 2])
        for each in reported:
            await each.wait()
        redis_server.command("XADD", stream, "*", "f", "v")
    redis_server.command("DEL", stream)
    for number, reports in enumerate(asked):
        assert {report["progressToken"] for report in reports} == {number}
        steps = [report["progress"] for report in reports]
        assert steps == sorted(set(steps))
    assert not_asked == [[], []]
