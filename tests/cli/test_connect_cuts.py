"""The daemon that ends at every point of an exchange: one answer for each request, in both eras.

The daemon is scripted: it speaks what the real one would, and breaks off where the case says.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from tests.cli.conftest import read_all
from tests.support.mcp_client import LineReader

META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}
ERAS = pytest.mark.parametrize("era", ["handshake", "modern"])
CURSORS = "redstreamd/cursors"


def line(**message: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", **message}, separators=(",", ":")).encode() + b"\n"


class Script:
    """A client, the bridge, and daemons that the test plays."""

    def __init__(
        self, era: str, process: trio.Process, accept: Callable[[], Awaitable[trio.SocketStream]]
    ) -> None:
        self.era = era
        self.process = process
        self.accept = accept
        self.answers = LineReader(process.stdout)
        self.stream: Any = None
        self.requests: Any = None

    async def daemon(self) -> None:
        """Take the next connection, and shake hands as that daemon."""
        self.stream = await self.accept()
        self.requests = LineReader(self.stream)

    async def greet(self) -> None:
        """Answer the greeting of the bridge."""
        greeting = await self.got()
        if self.era == "handshake":
            assert greeting["method"] == "initialize"
            assert greeting["id"] == 0
            await self.say(id=0, result={"protocolVersion": "2025-11-25"})
            assert (await self.got())["method"] == "notifications/initialized"
        else:
            assert greeting["method"] == "server/discover"
            await self.say(id=greeting["id"], result={})

    async def open(self) -> None:
        """Begin the session with a first daemon."""
        await self.daemon()
        if self.era == "handshake":
            await self.ask(0, "initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo={})
            await self.got()
            await self.say(id=0, result={"protocolVersion": "2025-11-25"})
            assert (await self.answer())["id"] == 0
            await self.process.stdin.send_all(line(method="notifications/initialized"))
            await self.got()

    async def ask(self, request_id: object, method: str, **params: Any) -> None:
        meta = {"_meta": META} if self.era == "modern" else {}
        await self.process.stdin.send_all(line(id=request_id, method=method, params={**params, **meta}))

    async def call(self, request_id: object, tool: str, **arguments: Any) -> None:
        await self.ask(request_id, "tools/call", name=tool, arguments=arguments)

    async def got(self) -> dict[str, Any]:
        """Return the next message that the daemon gets."""
        message: dict[str, Any] = json.loads(await self.requests.next_line())
        return message

    async def say(self, **message: Any) -> None:
        await self.stream.send_all(line(**message))

    async def answer(self) -> dict[str, Any]:
        """Return the next message that the client gets."""
        message: dict[str, Any] = json.loads(await self.answers.next_line())
        return message

    async def end(self, how: str = "closed") -> None:
        """End the daemon: closed, or reset, as after a kill, by what it has not read."""
        if how == "reset":
            await self.process.stdin.send_all(line(method="notifications/roots/list_changed"))
            await self.stream.socket.recv(1, trio.socket.MSG_PEEK)
        await self.stream.aclose()

    async def finish(self) -> list[dict[str, Any]]:
        """Close the client's side, and return what the client still gets."""
        await self.process.stdin.aclose()
        assert await read_all(self.stream) == b""
        await self.stream.aclose()
        rest = []
        while (text := await self.answers.next_line()) is not None:
            rest.append(json.loads(text))
        assert await self.process.wait() == 0
        return rest


@pytest.fixture
def begin(place, accept, redstreamd):
    async def begin(era: str) -> Script:
        script = Script(era, await redstreamd("connect", "--socket", str(place)), accept)
        await script.open()
        return script

    return begin


#: How far an exchange comes before the daemon ends.
POINTS = ("taken", "half answered", "answered")
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "read": ("stream_read", {"stream": "a"}),
    "add": ("stream_add", {"stream": "a", "entries": [{}]}),
    "keyed add": ("stream_add", {"stream": "a", "entries": [{}], "idempotency_key": "k"}),
}
#: Every pair of calls, each with how far it comes; what is half answered is the last that a daemon says.
CASES = [
    list(zip(calls, points, strict=True))
    for calls in itertools.product(CALLS, repeat=2)
    for points in itertools.product(POINTS, repeat=2)
    if points[0] != "half answered"
]


def result(by: str) -> dict[str, Any]:
    return {"content": [], "isError": False, "by": by}


@ERAS
@pytest.mark.limit(60)
async def test_wherever_the_daemon_ends_each_request_is_answered_once(begin, era):
    script = await begin(era)
    for number, case in enumerate(CASES):
        if number % 6 == 5:
            # A bridge whose daemons end at once makes longer and longer pauses.
            assert await script.finish() == []
            script = await begin(era)
        expected = {}
        for place, (call, point) in enumerate(case):
            request_id = f"{number}.{place}"
            await script.call(request_id, CALLS[call][0], **CALLS[call][1])
            assert (await script.got())["id"] == request_id
            answer = line(id=request_id, result=result("first"))
            await script.stream.send_all(
                {"taken": b"", "half answered": answer[:-7], "answered": answer}[point]
            )
            if point == "answered":
                expected[request_id] = "first"
                assert (await script.answer())["result"]["by"] == "first"
            else:
                expected[request_id] = "OUTCOME_UNKNOWN" if call == "add" else "second"
        await script.end("reset" if number % 2 else "closed")
        await script.daemon()
        await script.greet()
        again = [request_id for request_id, by in expected.items() if by == "second"]
        for request_id in again:
            assert (await script.got())["id"] == request_id
            await script.say(id=request_id, result=result("second"))
            await script.say(id=request_id, result=result("nobody"))
        got = {}
        for _ in [by for by in expected.values() if by != "first"]:
            message = await script.answer()
            assert message["id"] not in got
            outcome = message["result"]
            got[message["id"]] = outcome.get("by") or outcome["structuredContent"]["code"]
            if "by" not in outcome:
                assert outcome["isError"] is True
                assert outcome["content"][0]["text"].startswith("OUTCOME_UNKNOWN: ")
                assert ("resultType" in outcome) == (era == "modern")
        assert got == {request_id: by for request_id, by in expected.items() if by != "first"}
    assert await script.finish() == []


@ERAS
async def test_a_daemon_that_stops_may_refuse_what_the_next_one_executes(begin, era):
    script = await begin(era)
    await script.call(1, "stream_add", stream="a", entries=[{}])
    await script.got()
    # What only says that it was not executed is the client's to repeat; a limit, say.
    await script.call(0, "stream_add", stream="a", entries=[{}])
    await script.got()
    await script.say(id=0, error={"code": -32000, "message": "a limit", "data": {"executed": False}})
    assert (await script.answer())["error"]["message"] == "a limit"
    cut = {"code": -32000, "message": "cut", "data": {"executed": None}}
    await script.call(3, "stream_read")
    await script.got()
    await script.say(id=3, error=cut)
    assert (await script.got())["id"] == 3
    await script.say(id=3, result=result("first"))
    assert (await script.answer())["result"]["by"] == "first"
    await script.call(4, "stream_add")
    await script.got()
    await script.say(id=4, error=cut)
    assert (await script.answer())["result"]["structuredContent"]["code"] == "OUTCOME_UNKNOWN"
    stopping = {"executed": False, "stopping": True}
    await script.say(id=1, error={"code": -32000, "message": "it stops", "data": stopping})
    await script.call(2, "stream_add", stream="a", entries=[{}])
    await script.end()
    await script.daemon()
    await script.greet()
    for request_id in (1, 2):
        assert (await script.got())["id"] == request_id
        await script.say(id=request_id, result=result("second"))
        assert (await script.answer())["result"]["by"] == "second"
    assert await script.finish() == []


async def test_a_daemon_that_cannot_serve_is_asked_again_and_named(begin):
    script = await begin("handshake")
    await script.end()
    await script.daemon()
    greeting = await script.got()
    await script.say(id=greeting["id"], error={"code": -32000, "message": "the settings are wrong"})
    assert await read_all(script.stream) == b""
    await script.call(1, "stream_list")
    await script.daemon()
    await script.greet()
    assert (await script.got())["id"] == 1
    await script.say(id=1, result=result("second"))
    assert (await script.answer())["id"] == 1
    assert await script.finish() == []
    reports = (await read_all(script.process.stderr)).decode().splitlines()
    assert [report.rpartition("mcp.sock ")[2] for report in reports] == [
        "closed the connection; waiting until it is back",
        "cannot serve: the settings are wrong",
        "is back",
    ]


async def test_a_revision_that_the_next_daemon_does_not_speak_is_reported(begin):
    script = await begin("handshake")
    await script.end()
    await script.daemon()
    await script.got()
    await script.say(id=0, result={"protocolVersion": "2025-06-18"})
    await script.got()
    await script.finish()
    assert b"now speaks MCP 2025-06-18, but the client was told 2025-11-25" in await read_all(
        script.process.stderr
    )


URI = "redstream://streams/a"


async def test_subscriptions_of_the_handshake_era_go_on_from_their_cursors(begin):
    script = await begin("handshake")
    for uri, cursor in ((URI, "v1"), ("redstream://b", None), ("redstream://c", "v1")):
        await script.ask(uri, "resources/subscribe", uri=uri)
        assert (await script.got())["params"]["_meta"] == {CURSORS: {}}
        told = {} if cursor is None else {"_meta": {CURSORS: {uri: cursor}}}
        await script.say(id=uri, result=told)
        assert (await script.answer())["result"] == {}
    await script.ask("u", "resources/unsubscribe", uri="redstream://c")
    await script.got()
    await script.say(id="u", result={})
    await script.answer()
    changed = {"uri": URI, "_meta": {CURSORS: {URI: "v2"}}}
    await script.say(method="notifications/resources/updated", params=changed)
    assert (await script.answer())["params"] == {"uri": URI}
    await script.ask("l", "resources/list")
    await script.got()
    await script.say(id="l", result={"resources": []})
    await script.answer()
    await script.end()
    await script.daemon()
    await script.greet()
    assert (await script.answer())["method"] == "notifications/resources/list_changed"
    for uri, cursors in ((URI, {URI: "v2"}), ("redstream://b", {})):
        again = await script.got()
        assert again["method"] == "resources/subscribe"
        assert again["params"] == {"uri": uri, "_meta": {CURSORS: cursors}}
        await script.say(id=again["id"], result={"_meta": {CURSORS: {uri: "v3"}}})
    # Where no cursor was known the client is told once, after the subscription is in place.
    note = await script.answer()
    assert (note["method"], note["params"]) == ("notifications/resources/updated", {"uri": "redstream://b"})
    assert await script.finish() == []


async def test_a_listen_goes_on_from_its_cursors_and_is_acknowledged_once(begin):
    script = await begin("modern")
    wanted = {"resourceSubscriptions": [URI, "redstream://b"], "resourcesListChanged": True}
    await script.ask("l", "subscriptions/listen", notifications=wanted)
    assert (await script.got())["params"]["_meta"][CURSORS] == {}
    ours = {"io.modelcontextprotocol/subscriptionId": "l"}
    acknowledged = "notifications/subscriptions/acknowledged"
    meta = {**ours, CURSORS: {URI: "v1", "resources/list": "v1"}}
    await script.say(method=acknowledged, params={"notifications": wanted, "_meta": meta})
    assert (await script.answer())["params"] == {"notifications": wanted, "_meta": ours}
    await script.say(
        method="notifications/resources/updated", params={"uri": URI, "_meta": {**ours, CURSORS: {URI: "v2"}}}
    )
    assert (await script.answer())["params"] == {"uri": URI, "_meta": ours}
    # A daemon that stops ends its listens; the client's goes on.
    await script.say(id="l", result={"_meta": ours})
    await script.end()
    await script.daemon()
    await script.greet()
    again = await script.got()
    assert again["id"] == "l"
    assert again["params"]["_meta"][CURSORS] == {URI: "v2", "resources/list": "v1"}
    await script.say(method=acknowledged, params={"notifications": wanted, "_meta": meta})
    note = await script.answer()
    assert note["params"] == {"uri": "redstream://b", "_meta": ours}
    # Cancelled, it is not taken up again.
    await script.process.stdin.send_all(line(method="notifications/cancelled", params={"requestId": "l"}))
    assert (await script.got())["method"] == "notifications/cancelled"
    await script.end()
    await script.daemon()
    await script.greet()
    assert await script.finish() == []


@ERAS
async def test_a_wait_without_a_cursor_goes_on_where_it_began(begin, era):
    script = await begin(era)
    await script.call(1, "stream_wait", streams=["a"], timeout_seconds=50, filter={"b": 1})
    position = await script.got()
    assert position["params"]["arguments"] == {"streams": ["a"], "timeout_seconds": 0}
    answered = {"entries": [], "next_cursor": "5-0", "timed_out": True}
    await script.say(
        id=position["id"], result={"content": [], "structuredContent": answered, "isError": False}
    )
    wait = await script.got()
    assert wait["id"] == 1
    assert wait["params"]["arguments"] == {"streams": ["a"], "timeout_seconds": 50, "filter": {"b": 1}}
    # One whose position the daemon did not give.
    await script.call(2, "stream_wait", streams=["a"])
    position = await script.got()
    await script.say(id=position["id"], error={"code": -32602, "message": "no"})
    assert (await script.got())["id"] == 2
    await script.end()
    unknown = (await script.answer())["result"]["structuredContent"]
    assert unknown["code"] == "CONNECTION_ERROR"
    assert "stream_read and start 20" in unknown["next_step"]
    await script.daemon()
    await script.greet()
    again = await script.got()
    assert again["id"] == 1
    arguments = again["params"]["arguments"]
    assert arguments.pop("timeout_seconds") < 50
    assert arguments == {"streams": ["a"], "cursor": "5-0", "filter": {"b": 1}}
    await script.say(id=1, result=result("second"))
    assert (await script.answer())["id"] == 1
    assert await script.finish() == []


async def test_each_message_of_a_batch_is_answered_in_a_batch_of_one(place, accept, redstreamd):
    script = Script("handshake", await redstreamd("connect", "--socket", str(place)), accept)
    await script.daemon()
    await script.ask(0, "initialize", protocolVersion="2025-03-26")
    await script.got()
    await script.say(id=0, result={"protocolVersion": "2025-03-26"})
    await script.answer()
    calls = [
        {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": {"name": name, "arguments": {}}}
        for number, name in enumerate(("stream_add", "stream_list"), 1)
    ]
    await script.process.stdin.send_all(json.dumps(calls).encode() + b"\n")
    assert [await script.got(), await script.got()] == [[call] for call in calls]
    await script.end()
    ((unknown,)) = await script.answer()
    assert (unknown["id"], unknown["result"]["structuredContent"]["code"]) == (1, "OUTCOME_UNKNOWN")
    await script.daemon()
    assert (await script.got())["method"] == "initialize"
    await script.say(id=0, result={"protocolVersion": "2025-03-26"})
    assert await script.got() == [calls[1]]
    await script.stream.send_all(b'[{"jsonrpc":"2.0","id":2,"result":{}}]\n')
    assert await script.answer() == [{"jsonrpc": "2.0", "id": 2, "result": {}}]
    assert await script.finish() == []


async def test_a_long_line_that_was_cut_is_not_executed_and_the_next_one_is(begin):
    script = await begin("modern")
    await script.call(0, "stream_list")
    await script.got()
    await script.say(id=0, result=result("first"))
    await script.answer()
    text = line(id=1, method="tools/call", params={"name": "stream_add", "arguments": {"x": "y" * 4_000_000}})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(script.process.stdin.send_all, text)
        assert b'"id":1' in await script.stream.receive_some(1_000)
        await script.stream.aclose()
    told = (await script.answer())["result"]["structuredContent"]
    assert told["code"] == "CONNECTION_ERROR"
    await script.daemon()
    await script.greet()
    await script.call(2, "stream_list")
    assert (await script.got())["id"] == 2
    async with trio.open_nursery() as nursery:
        nursery.start_soon(script.process.stdin.send_all, text)
        assert (await script.requests.next_line()) + b"\n" == text
    await script.say(id=1, result=result("second"))
    assert (await script.answer())["id"] == 1
    await script.say(id=2, result=result("second"))
    assert (await script.answer())["id"] == 2
    assert await script.finish() == []
