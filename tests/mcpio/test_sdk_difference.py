"""The same lines, sent to us and to the SDK's own loop, get the same answers; where not, it is on purpose."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import mcp_types
import pytest
import trio
import trio.testing
from mcp.server.runner import serve_dual_era_loop
from mcp.shared.message import SessionMessage

from tests.mcpio.serving import PRINCIPAL, Tools, connection_pair, make_server
from tests.support.mcp_client import ENVELOPE, HANDSHAKE, enveloped

Line = bytes
Talk = Callable[[Line], Awaitable[list[Any]]]


@asynccontextmanager
async def ours() -> AsyncIterator[Talk]:
    """Talk to a connection of ours: send a line, and return the messages that it causes."""
    async with connection_pair() as pair:
        pair.tools.odd = "plain"

        async def talk(line: Line) -> list[Any]:
            await pair.peer.send_all(line + b"\n")
            # What is sent over a socket pair is there at once, so that silence is the end of it.
            await trio.testing.wait_all_tasks_blocked(0.005)
            try:
                received = os.read(pair.peer.socket.fileno(), 1 << 20)
            except BlockingIOError:
                return []
            return [json.loads(each) for each in received.splitlines()]

        yield talk


@asynccontextmanager
async def theirs() -> AsyncIterator[Talk]:
    """Talk to the SDK's loop, decoding lines as its stdio transport does."""
    to_server, read_stream = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    write_stream, from_server = anyio.create_memory_object_stream[SessionMessage](100)

    async def talk(line: Line) -> list[Any]:
        try:
            message = mcp_types.jsonrpc_message_adapter.validate_json(line, by_name=False)
        except ValueError as exc:
            await to_server.send(exc)
        else:
            await to_server.send(SessionMessage(message))
        await trio.testing.wait_all_tasks_blocked(0.005)
        received = []
        while True:
            try:
                answer = from_server.receive_nowait().message
            except anyio.WouldBlock:
                return received
            received.append(json.loads(answer.model_dump_json(by_alias=True, exclude_unset=True)))

    async with to_server, from_server, trio.open_nursery() as nursery:

        async def serve() -> None:
            server = make_server(Tools(odd="plain"))
            await serve_dual_era_loop(server, read_stream, write_stream, lifespan_state=PRINCIPAL)

        nursery.start_soon(serve)
        yield talk
        nursery.cancel_scope.cancel()


def request(method: str, params: Any = None, request_id: Any = 1, **more: Any) -> Line:
    """Build a request's line; without `params` if that is None."""
    message = {"jsonrpc": "2.0", "id": request_id, "method": method, **more}
    return json.dumps(message if params is None else {**message, "params": params}).encode()


def notification(method: str, params: Any = None) -> Line:
    """Build a notification's line."""
    message = {"jsonrpc": "2.0", "method": method}
    return json.dumps(message if params is None else {**message, "params": params}).encode()


def call(name: str, arguments: Any = None, *, modern: bool = False, request_id: Any = 1, **meta: Any) -> Line:
    """Build the line of a tool's call."""
    params = {"name": name, "arguments": arguments or {}}
    if meta:
        params["_meta"] = meta
    return request("tools/call", enveloped(params) if modern else params, request_id)


HELLO = request("initialize", HANDSHAKE, "hello")
READY = notification("notifications/initialized")

SEQUENCES: dict[str, list[Line]] = {
    "a session": [HELLO, READY, request("tools/list"), call("echo", {"text": "ä"}), request("ping")],
    **{
        f"a handshake for {version}": [request("initialize", {**HANDSHAKE, "protocolVersion": version})]
        for version in ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28", "1999-01-01")
    },
    "a session of the first revision": [
        request("initialize", {**HANDSHAKE, "protocolVersion": "2024-11-05"}),
        READY,
        call("echo", {"text": "a"}),
        request("tools/list"),
    ],
    "before the handshake": [
        request("ping"),
        request("tools/list"),
        call("echo"),
        request("no/such"),
    ],
    "notifications before the first request": [notification("notifications/x")] * 12
    + [READY, request("tools/list")],
    "a handshake that is not valid": [
        request("initialize"),
        request("initialize", {}),
        request("initialize", {**HANDSHAKE, "clientInfo": 5}),
        request("initialize", {**HANDSHAKE, "protocolVersion": 5}),
        request("tools/list"),
        HELLO,
        request("tools/list"),
    ],
    "an envelope in a session": [
        HELLO,
        READY,
        request("tools/list", enveloped()),
        call("echo", modern=True),
        request("no/such", enveloped()),
        request("server/discover", enveloped()),
        call("echo"),
    ],
    "a handshake with an envelope": [request("initialize", enveloped(HANDSHAKE)), READY, call("echo")],
    "the modern era": [
        request("server/discover", enveloped()),
        request("tools/list", enveloped()),
        call("echo", {"text": "ä"}, modern=True),
        call("refuse", modern=True),
        request("no/such", enveloped()),
        request("ping", enveloped()),
        request("logging/setLevel", enveloped({"level": "info"})),
    ],
    "a handshake in the modern era": [
        request("tools/list", enveloped()),
        HELLO,
        request("initialize"),
        request("initialize", {"protocolVersion": 5}),
        request("initialize", enveloped(HANDSHAKE)),
        READY,
        request("tools/list", enveloped()),
    ],
    "no envelope in the modern era": [
        request("tools/list", enveloped()),
        request("tools/list"),
        request("tools/list", {}),
        request("tools/list", {"_meta": {}}),
        request("tools/list", {"_meta": 5}),
        call("echo"),
    ],
    "envelopes that are not valid": [
        request("tools/list", {"_meta": {mcp_types.PROTOCOL_VERSION_META_KEY: "2026-07-28"}}),
        request("tools/list", {"_meta": {**ENVELOPE, mcp_types.PROTOCOL_VERSION_META_KEY: "2025-11-25"}}),
        request("tools/list", {"_meta": {**ENVELOPE, mcp_types.PROTOCOL_VERSION_META_KEY: "2099-01-01"}}),
        request("tools/list", {"_meta": {**ENVELOPE, mcp_types.PROTOCOL_VERSION_META_KEY: None}}),
        request("tools/list", {"_meta": {**ENVELOPE, mcp_types.CLIENT_CAPABILITIES_META_KEY: 5}}),
        request("tools/list", {"_meta": {**ENVELOPE, mcp_types.CLIENT_INFO_META_KEY: 5}}),
        request("tools/list", {"_meta": {**ENVELOPE, "progressToken": 1.5}}),
    ],
    "parameters that are not valid": [
        HELLO,
        READY,
        request("tools/call"),
        request("tools/call", {}),
        request("tools/call", {"name": 5}),
        request("tools/call", {"name": "echo", "arguments": []}),
        request("tools/call", {"name": "echo", "arguments": None}),
        request("tools/list", {"cursor": 5}),
        request("tools/list", {"_meta": 5}),
        request("tools/list", {"_meta": {"progressToken": []}}),
    ],
    "what handlers raise": [HELLO, READY, call("refuse"), call("no such tool")],
    "progress": [
        HELLO,
        READY,
        call("progress", {"steps": 3}, progressToken="t"),
        call("progress", {"steps": 1}, progressToken=7),
        call("progress", {"steps": 1}, progressToken=True),
        call("progress", {"steps": 1}),
    ],
    "what handlers raise in the modern era": [call("refuse", modern=True), call("ask", modern=True)],
    "progress in the modern era": [call("progress", {"steps": 3}, modern=True, progressToken="t")],
    "ids": [
        HELLO,
        READY,
        *(request("ping", request_id=each) for each in (0, -1, "", "7", "a", 2**53, "\u2028", "é")),
    ],
    "cancellation": [
        HELLO,
        READY,
        call("sleep", {"name": "a"}, request_id="a"),
        notification("notifications/cancelled", {"requestId": "a", "reason": "enough"}),
        call("sleep", {"name": "b"}, request_id=7),
        notification("notifications/cancelled", {"requestId": "7"}),
        notification("notifications/cancelled", {"requestId": "unknown"}),
        notification("notifications/cancelled", {}),
        notification("notifications/cancelled"),
        request("ping"),
    ],
    "cancellation in the modern era": [
        call("sleep", {"name": "a"}, request_id="a", modern=True),
        notification("notifications/cancelled", {"requestId": "a"}),
        call("echo", modern=True),
    ],
    "what needs no answer": [
        HELLO,
        READY,
        notification("notifications/roots/list_changed"),
        notification("notifications/nonsense", {"a": 1}),
        b'{"jsonrpc":"2.0","id":1,"result":{}}',
        b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"m"}}',
        b'{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"m"}}',
        request("ping"),
    ],
    "members that nobody knows": [
        request("ping", extra=1),
        b'{"jsonrpc":"2.0","id":2,"method":"ping","params":null}',
    ],
    "a method of our own": [HELLO, READY, request("test/custom", {"value": {"a": [1, 2.5, None]}})],
    "a method of our own in the modern era": [request("test/custom", enveloped({"value": 1}))],
    "notifications of the server's own": [HELLO, READY, call("announce")],
    "notifications of the server's own in the modern era": [call("announce", modern=True)],
}


#: What the SDK says of all params that do not fit; we say it, too, and then which member it is.
INVALID = "Invalid request parameters"


def without_detail(answers: list[Any]) -> list[Any]:
    """Return answers of ours as the SDK gives them."""
    for answer in answers:
        if answer.get("error", {}).get("code") == -32602:
            message, _, detail = answer["error"]["message"].partition(": ")
            if message == INVALID:
                assert detail
                answer["error"]["message"] = message
    return answers


@pytest.mark.parametrize("name", SEQUENCES)
async def test_the_same_lines_get_the_same_answers(name: str) -> None:
    async with ours() as talk_to_us, theirs() as talk_to_them:
        answered = 0
        for line in SEQUENCES[name]:
            answer = await talk_to_us(line)
            assert without_detail(answer) == await talk_to_them(line), line
            answered += len(answer)
        assert answered > 0


def error(code: int, message: str, request_id: Any = None, **data: Any) -> list[Any]:
    """Build what is received where one line is answered with an error."""
    return [{"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": message, **data}}]


# Where we differ from the SDK, on purpose: the lines before, the line, the SDK's answer, and of ours the id,
# the code and some words.
SESSION = [HELLO, READY]
DIFFERENCES: dict[str, tuple[list[Line], Line, list[Any], tuple[Any, int, str]]] = {
    "bad JSON is not dropped": (SESSION, b"{", [], (None, -32700, "not valid JSON")),
    "bad UTF-8 is not dropped": (SESSION, b"\xff", [], (None, -32700, "not valid UTF-8")),
    "NaN is no JSON": (
        SESSION,
        b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":NaN}}',
        [{"jsonrpc": "2.0", "id": 1, "result": {}}],
        (None, -32700, "NaN"),
    ),
    "an empty batch is not dropped": (SESSION, b"[]", [], (None, -32600, "batch")),
    "a batch is not dropped": (SESSION, b"[" + request("ping") + b"]", [], (None, -32600, "batches")),
    "id null is not dropped": (
        SESSION,
        request("ping", request_id=None),
        [],
        (None, -32600, "id"),
    ),
    "id 1.5 is not dropped": (SESSION, request("ping", request_id=1.5), [], (None, -32600, "id")),
    "id true is not dropped": (
        SESSION,
        request("ping", request_id=True),
        [],
        (None, -32600, "id"),
    ),
    "another JSON-RPC is not dropped": (
        SESSION,
        b'{"jsonrpc":"1.0","id":1,"method":"ping"}',
        [],
        (1, -32600, "jsonrpc"),
    ),
    "parameters by position are not dropped": (
        SESSION,
        request("ping", []),
        [],
        (1, -32602, "params"),
    ),
    "a repeated member is refused": (
        SESSION,
        b'{"jsonrpc":"2.0","id":1,"method":"ping","method":"ping"}',
        [{"jsonrpc": "2.0", "id": 1, "result": {}}],
        (1, -32600, "'method' twice"),
    ),
    "a member that is repeated further down is refused": (
        SESSION,
        b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"a":1,"a":2}}}',
        [{"jsonrpc": "2.0", "id": 1, "result": {}}],
        (1, -32600, "'params._meta.a' twice"),
    ),
    **{
        f"a second handshake is refused{how}": (
            SESSION,
            request("initialize", {**params, "protocolVersion": "2024-11-05"}),
            [
                {
                    "jsonrpc": "2.0",
                    "id": 1,
                    "result": {
                        "protocolVersion": "2024-11-05",
                        "capabilities": {"tools": {"listChanged": False}},
                        "serverInfo": {"name": "test-server", "version": "1.0"},
                    },
                }
            ],
            (1, -32600, "initialized already"),
        )
        for how, params in (("", HANDSHAKE), (", with an envelope, too", enveloped(HANDSHAKE)))
    },
    "an unknown method of megabytes is not echoed": (
        SESSION,
        request("x" * 1_000_000),
        error(-32601, "Method not found", 1, data="x" * 1_000_000),
        (1, -32601, "not found"),
    ),
    "deep nesting is refused": (
        SESSION,
        request("ping", {"a": json.loads("[" * 150 + "]" * 150)}),
        [{"jsonrpc": "2.0", "id": 1, "result": {}}],
        (1, -32600, "nested"),
    ),
    "an id in flight is refused": (
        [*SESSION, call("sleep", {"name": "a"}, request_id=7)],
        request("ping", request_id="7"),
        [{"jsonrpc": "2.0", "id": "7", "result": {}}],
        ("7", -32600, "in flight"),
    ),
    "a handler's request to the client is refused": (
        SESSION,
        call("ask"),
        [{"jsonrpc": "2.0", "id": 1, "method": "ping"}],
        (1, -32600, "no back-channel"),
    ),
    "an unforeseen exception keeps its text to itself": (
        SESSION,
        call("raise"),
        error(0, "the secret in the exception", 1),
        (1, -32603, "Internal error"),
    ),
    "and does so in the same words in the modern era": (
        [],
        call("raise", modern=True),
        error(-32603, "Internal server error", 1),
        (1, -32603, "Internal error"),
    ),
}


@pytest.mark.parametrize("name", DIFFERENCES)
async def test_where_we_differ_it_is_as_recorded(name: str) -> None:
    before, line, sdk_answer, (request_id, code, words) = DIFFERENCES[name]
    async with ours() as talk_to_us, theirs() as talk_to_them:
        for each in before:
            assert await talk_to_us(each) == await talk_to_them(each)
        theirs_is = await talk_to_them(line)
        assert theirs_is == sdk_answer
        (ours_is,) = await talk_to_us(line)
        assert ours_is["id"] == request_id
        assert ours_is["error"]["code"] == code
        assert words in ours_is["error"]["message"]
        assert [ours_is] != theirs_is
        # Neither is the worse for it.
        alive = call("echo", {"text": "alive"}, modern=not before, request_id="alive")
        assert await talk_to_us(alive) == await talk_to_them(alive)
