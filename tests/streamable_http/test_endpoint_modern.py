"""Revision 2026-07-28 over HTTP: one request, one response, and headers that say what the body says."""

from __future__ import annotations

import base64
import json
from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio

from redstreamd.policy import Principal
from redstreamd.presentation.uris import stream_uri
from redstreamd.streamable_http.http_limits import HttpLimits
from redstreamd.streamable_http.http_messages import Answer, RequestHead
from redstreamd.streamable_http.http_site import Page
from redstreamd.streams.bus import Bus
from redstreamd.tools import progress_notifications
from tests.streamable_http.mcp_peer import running_site
from tests.support.buses import ON_REDIS, asleep
from tests.support.mcp_client import enveloped
from tests.support.two_ways import MODERN

pytestmark = ON_REDIS

HEADER_MISMATCH = -32020
UNSUPPORTED = -32022
VERSION = "io.modelcontextprotocol/protocolVersion"


def in_base64(text: str) -> str:
    return f"=?base64?{base64.b64encode(text.encode()).decode()}?="


def post(body: Any, **fields: str | None) -> dict[str, Any]:
    """Return what `HttpPeer.ask` is given for a POST."""
    return {"body": body if isinstance(body, bytes) else json.dumps(body).encode(), **fields}


def message(method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 7, "method": method, "params": enveloped(params)}


async def test_a_call_of_a_tool_is_answered_with_json(bus: Bus) -> None:
    async with running_site(bus) as served, served.connected() as client:
        added = await client.call("stream_add", stream="s", entries=[{"n": 1}])
        read = await client.call("stream_read", stream="s")
        assert [each["id"] for each in read["entries"]] == added["ids"]
        assert client.connection.statistics().requests == 2
        # The request is alone on its connection, and no session outlives it.
        assert served.site.sessions.statistics().sessions == 0


READ = {"name": "stream_read", "arguments": {"stream": "käse"}}
MATCHING = {"mcp_method": "tools/call", "mcp_name": "stream_read", "mcp_param_stream": in_base64("käse")}

#: Of a call of `stream_read`: what its headers are instead, and the code of the error; None: it is served.
HEADERS: list[tuple[dict[str, str | None], int | None]] = [
    ({}, None),
    ({"mcp_method": in_base64("tools/call")}, HEADER_MISMATCH),
    ({"mcp_method": None}, HEADER_MISMATCH),
    ({"mcp_method": "tools/list"}, HEADER_MISMATCH),
    ({"mcp_method": "Tools/Call"}, HEADER_MISMATCH),
    ({"mcp_name": None}, HEADER_MISMATCH),
    ({"mcp_name": "stream_add"}, HEADER_MISMATCH),
    ({"mcp_name": in_base64("stream_read")}, None),
    ({"mcp_name": in_base64("stream_add")}, HEADER_MISMATCH),
    ({"mcp_name": "=?base64?c3RyZWFtX3JlYWQ?="}, HEADER_MISMATCH),
    ({"mcp_param_stream": None}, HEADER_MISMATCH),
    ({"mcp_param_stream": "other"}, HEADER_MISMATCH),
    ({"mcp_param_stream": ""}, HEADER_MISMATCH),
    ({"mcp_param_stream": base64.b64encode("käse".encode()).decode()}, HEADER_MISMATCH),
    ({"mcp_param_stream": in_base64("käse").rstrip("?=") + "?="}, HEADER_MISMATCH),
    ({"mcp_param_stream": "=?base64?*?="}, HEADER_MISMATCH),
    ({"mcp_param_stream": "=?base64?/w==?="}, HEADER_MISMATCH),
    ({"mcp_param_other": "whatever"}, None),
    ({"mcp_protocol_version": "2027-01-01"}, HEADER_MISMATCH),
    ({"mcp_protocol_version": "2025-11-25"}, HEADER_MISMATCH),
    ({"mcp_protocol_version": None}, HEADER_MISMATCH),
    # What a session was called is not asked.
    ({"mcp_session_id": "unknown", "last_event_id": "1-1"}, None),
]


@pytest.mark.parametrize("has_direct_path", [True, False])
async def test_headers_are_held_against_the_body(bus: Bus, has_direct_path: bool) -> None:
    async with running_site(bus, has_direct_path=has_direct_path) as served, served.connected() as client:
        await client.call("stream_add", stream="s", entries=[{"n": 1}])
        for fields, code in HEADERS:
            reply = await client.ask(**post(message("tools/call", READ), **(MATCHING | fields)))
            assert (reply.status, reply.error) == (200 if code is None else 400, code), fields
            assert reply.json["id"] == 7
            assert "mcp-session-id" not in reply.fields
        without = message("tools/call", {"name": "stream_list", "arguments": {}})
        named = {"mcp_method": "tools/call", "mcp_name": "stream_list"}
        assert (await client.ask(**post(without, **named))).status == 200
        reply = await client.ask(**post(without, **named, mcp_param_stream="s"))
        # It has no such argument.
        assert reply.status == 200
        # What looks encoded is decoded, as a gateway would.
        literal = message("tools/call", {"name": "stream_read", "arguments": {"stream": in_base64("a")}})
        named["mcp_name"] = "stream_read"
        reply = await client.ask(**post(literal, **named, mcp_param_stream=in_base64("a")))
        assert reply.error == HEADER_MISMATCH
        assert (
            await client.ask(**post(literal, **named, mcp_param_stream=in_base64(in_base64("a"))))
        ).status == 200
        absent = message("tools/call", {"name": "stream_read", "arguments": {}})
        named["mcp_name"] = "stream_read"
        assert (await client.ask(**post(absent, **named))).status == 200
        assert (await client.ask(**post(absent, **named, mcp_param_stream="s"))).error == HEADER_MISMATCH


@pytest.mark.parametrize(
    "twice", ["Mcp-Method: tools/call", "Mcp-Name: stream_list", f"MCP-Protocol-Version: {MODERN}"]
)
async def test_a_header_that_gateways_route_by_comes_once(bus: Bus, twice: str) -> None:
    body = json.dumps(message("tools/call", {"name": "stream_list", "arguments": {}})).encode()
    fields = f"""Host: localhost
Accept: application/json, text/event-stream
Content-Type: application/json
Content-Length: {len(body)}
MCP-Protocol-Version: {MODERN}
Mcp-Method: tools/call
Mcp-Name: stream_list
{twice}
"""
    async with running_site(bus) as served, served.connected() as client:
        head = f"POST /mcp HTTP/1.1\n{fields}\n".replace("\n", "\r\n").encode()
        await client.stream.send_all(head + body)
        client.expect()
        reply = await client.reply()
        assert (reply.status, reply.error, reply.json["id"]) == (400, HEADER_MISMATCH, 7)
        assert "more than once" in reply.json["error"]["message"]


LIST = message("tools/list")
#: What is sent, the status, and the code of the error; None: there is none.
REQUESTS: list[tuple[str, dict[str, Any], int, int | None]] = [
    ("a request", post(LIST, mcp_method="tools/list"), 200, None),
    ("an unknown method", post(message("no/such"), mcp_method="no/such"), 404, -32601),
    *(
        (each, post(message(each), mcp_method=each), 404, -32601)
        for each in ("initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe")
    ),
    (
        "an unknown tool",
        post(message("tools/call", {"name": "x"}), mcp_method="tools/call", mcp_name="x"),
        400,
        -32602,
    ),
    ("no envelope", post({**LIST, "params": {}}, mcp_method="tools/list"), 400, -32602),
    (
        "no params",
        post({"jsonrpc": "2.0", "id": 7, "method": "tools/list"}, mcp_method="tools/list"),
        400,
        -32602,
    ),
    (
        "half an envelope",
        post({**LIST, "params": {"_meta": {VERSION: MODERN}}}, mcp_method="tools/list"),
        400,
        -32602,
    ),
    (
        "an unknown revision",
        post(
            {**LIST, "params": {"_meta": {**enveloped()["_meta"], VERSION: "2031-01-01"}}},
            mcp_method="tools/list",
            mcp_protocol_version="2031-01-01",
        ),
        400,
        UNSUPPORTED,
    ),
    ("no JSON", post(b"{"), 400, -32700),
    ("nothing", post(b""), 400, -32700),
    ("no message", post(b"7"), 400, -32600),
    ("a batch", post([LIST], mcp_method="tools/list"), 400, -32600),
    ("a response", post({"jsonrpc": "2.0", "id": 7, "result": {}}), 400, -32600),
    ("no id", post({**LIST, "id": None}, mcp_method="tools/list"), 400, -32600),
    ("no version of JSON-RPC", post({"id": 7, "method": "tools/list"}, mcp_method="tools/list"), 400, -32600),
    ("a notification", post({"jsonrpc": "2.0", "method": "notifications/cancelled"}), 202, None),
    (
        "a notification of an unknown revision",
        post({"jsonrpc": "2.0", "method": "notifications/x"}, mcp_protocol_version="2031-01-01"),
        400,
        UNSUPPORTED,
    ),
    ("plain text", post(LIST, mcp_method="tools/list", content_type="text/plain"), 415, -32600),
    ("no type", post(LIST, mcp_method="tools/list", content_type=None), 415, -32600),
    (
        "a charset",
        post(LIST, mcp_method="tools/list", content_type="Application/JSON; charset=utf-8"),
        200,
        None,
    ),
    *(
        (f"accept {accept}", post(LIST, mcp_method="tools/list", accept=accept), status, code)
        for accept, status, code in (
            ("application/json", 200, None),
            ("*/*", 200, None),
            ("application/*;q=0.1", 200, None),
            (None, 200, None),
            ("text/event-stream", 406, -32600),
            ("application/json;q=0, */*", 406, -32600),
            ("text/html", 406, -32600),
            ("", 406, -32600),
        )
    ),
    (
        "a stream refused",
        post(message("subscriptions/listen"), mcp_method="subscriptions/listen", accept="application/json"),
        406,
        -32600,
    ),
    ("GET", {"method": "GET"}, 405, -32600),
    ("DELETE", {"method": "DELETE"}, 405, -32600),
    ("PUT", {"method": "PUT"}, 405, -32600),
    ("GET of an unknown revision", {"method": "GET", "mcp_protocol_version": "1999-01-01"}, 400, UNSUPPORTED),
    ("another path", {"method": "GET", "target": "/"}, 404, -32600),
]


async def test_every_request_has_its_status(bus: Bus) -> None:
    async with running_site(bus) as served, served.connected() as client:
        for name, sent, status, code in REQUESTS:
            await client.send(**{"method": "POST"} | sent)
            reply = await client.reply()
            assert (reply.status, reply.error) == (status, code), (name, reply)
            if status == 202:
                assert reply.body == b""
            if status == 405:
                assert reply.fields["allow"] == "POST, OPTIONS"
            if code == UNSUPPORTED:
                assert reply.json["error"]["data"]["supported"] == [MODERN]
        # None of them ended the connection.
        assert served.site.surroundings.counts.connections == 1


async def test_a_tool_says_which_argument_has_a_header(bus: Bus) -> None:
    async with running_site(bus) as served, served.connected() as client:
        tools = (await client.talk("tools/list")).json["result"]["tools"]
        streams = {each["name"]: each["inputSchema"]["properties"].get("stream") for each in tools}
        texts = {name for name, each in streams.items() if each is not None and each["type"] == "string"}
        assert "stream_add" in texts
        assert {
            name for name, each in streams.items() if each and each.get("x-mcp-header") == "Stream"
        } == texts


async def test_what_takes_long_is_a_stream_with_comments(bus: Bus) -> None:
    limits = HttpLimits(event_pause_seconds=0.5)
    async with running_site(bus, http_limits=limits) as served, served.connected() as client:
        wait = {"name": "stream_wait", "arguments": {"streams": ["s"], "timeout_seconds": 20}}
        await client.post("tools/call", wait)
        head = await client.head()
        assert (head.status, head.fields["content-type"]) == (200, "text/event-stream")
        assert head.fields["x-accel-buffering"] == "no"
        comment = await client.message()
        assert comment is not None
        assert (comment.comment, comment.id) == ("", None)
        async with served.connected() as other:
            added = await other.call("stream_add", stream="s", entries=[{"n": 1}])
        while (last := await client.message()) is None or last.comment is not None:
            pass
        assert [each["id"] for each in last.json["result"]["structuredContent"]["entries"]] == added["ids"]
        assert last.id is None
        assert await client.message() is None
        assert served.site.ticker.open_streams == 0
        # The connection goes on.
        await client.call("stream_list")


async def test_progress_makes_a_stream_at_once(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_notifications, "_INTERVAL", 0.05)
    async with running_site(bus) as served, served.connected() as client:
        call = {
            "name": "stream_wait",
            "arguments": {"streams": ["s"], "timeout_seconds": 0.6},
            "_meta": {"progressToken": "p"},
        }
        *progress, answer = (await client.talk("tools/call", call)).messages
        assert {each.json["method"] for each in progress} == {"notifications/progress"}
        assert {each.json["params"]["progressToken"] for each in progress} == {"p"}
        assert answer.json["result"]["structuredContent"]["entries"] == []
        # Who accepts JSON only is spared them.
        reply = await client.talk("tools/call", call, accept="application/json")
        assert reply.json["result"]["structuredContent"]["entries"] == []


async def test_a_listen_is_a_stream_until_the_daemon_stops(bus: Bus) -> None:
    uri = stream_uri("s")
    async with running_site(bus) as served, served.connected() as client, served.connected() as other:
        await other.call("stream_add", stream="s", entries=[{"n": 1}])
        await client.post("subscriptions/listen", {"notifications": {"resourceSubscriptions": [uri]}}, "l")
        assert (await client.head()).status == 200
        first = await client.message()
        assert first is not None
        assert first.json["method"] == "notifications/subscriptions/acknowledged"
        assert first.json["params"]["notifications"]["resourceSubscriptions"] == [uri]
        await other.call("stream_add", stream="s", entries=[{"n": 2}])
        update = await client.message()
        assert update is not None
        assert update.json["params"]["uri"] == uri
        served.surface.updates.drain()
        last = await client.message()
        assert last is not None
        assert last.json["id"] == "l"
        assert "result" in last.json
        assert await client.message() is None


async def test_beyond_the_limit_nobody_gets_a_stream(bus: Bus) -> None:
    limits = HttpLimits(max_event_streams=1)
    wanted = {"notifications": {"resourcesListChanged": True}}
    async with running_site(bus, http_limits=limits) as served:
        async with served.connected() as client, served.connected() as other:
            await client.post("subscriptions/listen", wanted)
            assert (await client.head()).status == 200
            refused = await other.talk("subscriptions/listen", wanted, "l")
            assert (refused.status, refused.error, refused.json["id"]) == (503, -32000, "l")
            assert refused.fields["retry-after"] == "5"
            # A wait that would become a stream is answered with JSON.
            wait = {"name": "stream_wait", "arguments": {"streams": ["s"], "timeout_seconds": 1.7}}
            assert (await other.talk("tools/call", wait)).json["result"]["structuredContent"]["entries"] == []
        while served.site.ticker.open_streams:  # noqa: ASYNC110 - nobody announces it
            await trio.sleep(0.001)
        async with served.connected() as client:
            await client.post("subscriptions/listen", wanted)
            assert (await client.head()).status == 200


@pytest.mark.parametrize("has_direct_path", [True, False])
@pytest.mark.parametrize("accept", ["application/json", "application/json, text/event-stream"])
async def test_who_disconnects_has_cancelled(bus: Bus, has_direct_path: bool, accept: str) -> None:
    async with running_site(bus, has_direct_path=has_direct_path) as served:
        async with served.connected() as client:
            wait = {"name": "stream_wait", "arguments": {"streams": ["s"], "timeout_seconds": 20}}
            await client.post("tools/call", wait, accept=accept)
            await asleep(bus)
            assert client.connection.statistics().requests_in_flight == 1
        while served.surface.ended[-1:] == []:  # noqa: ASYNC110 - nobody announces it
            await trio.sleep(0.001)
        (ended,) = served.surface.ended
        assert (ended.tool, ended.outcome) == ("stream_wait", "cancelled")
        while served.accounts.all.members:  # noqa: ASYNC110 - nobody announces it
            await trio.sleep(0.001)
        assert served.site.ticker.open_streams == 0


async def test_listens_that_come_at_once_are_counted_before_they_begin(bus: Bus) -> None:
    wanted = {"notifications": {"resourcesListChanged": True}}
    async with (
        running_site(bus, http_limits=HttpLimits(max_event_streams=2)) as served,
        AsyncExitStack() as stack,
    ):
        clients = [await stack.enter_async_context(served.connected()) for _ in range(5)]
        for client in clients:
            body, fields = client.request("subscriptions/listen", wanted)
            await client.send("POST", body, **fields)
        statuses = sorted([(await client.head()).status for client in clients])
        assert statuses == [200, 200, 503, 503, 503]
        assert served.site.ticker.open_streams == 2


async def test_a_listen_that_is_refused_leaves_its_place(bus: Bus) -> None:
    limits = HttpLimits(max_event_streams=1)
    async with running_site(bus, http_limits=limits) as served, served.connected() as client:
        for _ in range(3):
            reply = await client.talk("subscriptions/listen", {"notifications": 7})
            assert (reply.status, reply.error) == (400, -32602)
        await client.post("subscriptions/listen", {"notifications": {"resourcesListChanged": True}})
        assert (await client.head()).status == 200


async def test_a_listen_ends_with_the_token_of_its_client(bus: Bus) -> None:
    """And with it what it subscribed to."""
    async with running_site(bus) as served, served.connected() as client:
        await client.post("subscriptions/listen", {"notifications": {"resourcesListChanged": True}})
        assert (await client.head()).status == 200
        assert (await client.message()) is not None
        assert client.connection.statistics().requests_in_flight == 1
        served.access.is_valid = False
        assert (await client.message()) is None
        while client.connection.statistics().requests_in_flight:  # noqa: ASYNC110 - nobody announces it
            await trio.sleep(0.001)


async def test_requests_of_several_principals_come_over_one_connection(bus: Bus) -> None:
    """As a proxy sends them, each with a token of its own."""
    async with running_site(bus) as served:
        people = [Principal(f"http/token:{name}", "http") for name in ("ann", "bob")]
        served.access.principals = {f"Bearer {each.name[-3:]}": each for each in people}
        async with served.connected() as client:
            for token in ("Bearer ann", "Bearer bob", "Bearer ann", "Bearer bob"):
                add = {"name": "stream_add", "arguments": {"stream": "s", "entries": [{}]}}
                reply = await client.talk("tools/call", add, authorization=token)
                assert reply.status == 200
            entries = (await client.call("stream_read", stream="s"))["entries"]
            assert [each["sender"] for each in entries] == [each.name for each in people] * 2
        while served.accounts.all.members:  # noqa: ASYNC110 - nobody announces it
            await trio.sleep(0.001)


async def test_a_long_call_is_held_against_its_headers(bus: Bus) -> None:
    async with running_site(bus) as served, served.connected() as client:
        entries = [{"text": "x" * 200_000}]
        await client.call("stream_add", stream="s", entries=entries)
        add = {"name": "stream_add", "arguments": {"stream": "s", "entries": entries}}
        reply = await client.talk("tools/call", add, mcp_param_stream="other")
        assert (reply.status, reply.error) == (400, HEADER_MISMATCH)
        assert len((await client.call("stream_read", stream="s"))["entries"]) == 1


async def test_pages_are_beside_the_endpoint(bus: Bus) -> None:
    async def answer(head: RequestHead, principal: Principal) -> Answer:
        return Answer(200, f"{head.query} {principal.name}".encode(), "text/plain")

    pages = {"/open": Page(answer, is_open=True), "/closed": Page(answer)}
    async with running_site(bus, pages=pages) as served, served.connected() as client:
        assert (await client.ask("GET", target="/open?q", host="10.0.0.1:80")).body == b"q http"
        assert (await client.ask("GET", target="/closed")).body == b" http"
        assert (await client.ask("GET", target="/closed", host="10.0.0.1:80")).status == 421
        assert (await client.ask("POST", b"x", target="/open")).status == 413


async def test_web_pages_of_allowed_origins_may_call(bus: Bus) -> None:
    origin = "https://app.example"
    async with running_site(bus, origins=(origin,)) as served, served.connected() as client:
        asked = {
            "origin": origin,
            "access_control_request_method": "POST",
            "access_control_request_headers": "content-type,mcp-method",
        }
        reply = await client.ask("OPTIONS", **asked)
        assert (reply.status, reply.body) == (204, b"")
        assert reply.fields["access-control-allow-origin"] == origin
        assert reply.fields["access-control-allow-headers"] == "content-type,mcp-method"
        assert "DELETE" in reply.fields["access-control-allow-methods"]
        assert (await client.ask("OPTIONS", b"x" * 9, **asked, content_length="9")).status == 204
        foreign = await client.ask("OPTIONS", **(asked | {"origin": "https://evil.example"}))
        assert foreign.status == 403
        assert "access-control-allow-origin" not in foreign.fields
        assert "access-control-allow-origin" not in (await client.ask("OPTIONS")).fields
        for sent in (post(LIST, mcp_method="tools/list"), post(b"{"), post(LIST, content_type="text/plain")):
            reply = await client.ask(**sent, origin=origin)
            assert reply.fields["access-control-allow-origin"] == origin
            assert "Mcp-Session-Id" in reply.fields["access-control-expose-headers"]
