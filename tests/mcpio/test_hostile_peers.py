"""Peers that are no clients: browsers on behalf of a web page, and those who send what fills a log."""

from __future__ import annotations

import json

import pytest
import trio
import trio.testing

from redstreamd.event_log.library_records import LibraryHandler
from redstreamd.mcpio.connection_events import ConnectionClosed, Ending
from redstreamd.service.log_record import Record
from tests.mcpio.serving import Pair, connection_pair
from tests.support.mcp_client import EraName, RawClient


@pytest.mark.parametrize(
    "request_line",
    [
        "POST / HTTP/1.1\r\n",
        "GET /a?b=%20c HTTP/1.0\r\n",
        "OPTIONS * HTTP/1.1\n",
        f"POST /{'x' * 100_000} HTTP/1.1\r\n",
        "PRI * HTTP/2.0\r\n",
    ],
)
async def test_what_a_web_page_has_a_browser_send_is_not_obeyed(pair: Pair, request_line: str) -> None:
    raw = RawClient(pair.peer, era="modern")
    call = json.dumps(raw.tool_call("echo", {"text": "from a web page"}))
    await pair.peer.send_all(f"{request_line}Host: localhost\r\n\r\n{call}\n{call}\n".encode())
    answer = await raw.receive()
    assert (answer["error"]["code"], answer["id"]) == (-32700, None)
    assert "HTTP" in answer["error"]["message"]
    with pytest.raises(EOFError):
        await raw.receive()
    await pair.peer.aclose()
    await pair.connection.drain(0)
    (event,) = [event for event in pair.events if isinstance(event, ConnectionClosed)]
    assert (event.ending, event.requests) == (Ending.HTTP, 0)
    assert pair.tools.raw_arguments is None


async def test_a_line_like_that_of_an_http_request_is_but_bad_json_to_those_who_speak_json(
    pair: Pair,
) -> None:
    raw = RawClient(pair.peer)
    await raw.initialize()
    await pair.peer.send_all(b"GET / HTTP/1.1\r\n")
    assert (await raw.receive())["error"]["code"] == -32700
    assert (await raw.call_tool("echo", {"text": "on"}))["result"]["content"][0]["text"] == "on"


@pytest.mark.parametrize("era", ["handshake", "modern"])
async def test_notifications_that_are_malformed_fill_no_log(
    era: EraName, caplog: pytest.LogCaptureFixture
) -> None:
    written: list[Record] = []
    async with connection_pair() as pair:
        raw = RawClient(pair.peer, era=era)
        if era == "handshake":
            await raw.initialize()
        for params in ({"requestId": [1]}, {"requestId": {}}, {"reason": 1}):
            await raw.notify("notifications/cancelled", params)
        await raw.call_tool("echo", {"text": "on"})
    # The SDK logs them, which this test would not notice if it did not any more.
    assert caplog.records
    handler = LibraryHandler(written.append)
    for record in caplog.records:
        handler.handle(record)
    assert written == []


async def test_notifications_ahead_of_the_first_request_are_kept_within_a_bound(pair: Pair) -> None:
    raw = RawClient(pair.peer)
    await raw.notify("notifications/small", {"kept": 1})
    for _ in range(20):
        await raw.notify("notifications/large", {"a": "x" * 1_000_000})
    await raw.notify("notifications/small", {"kept": 2})
    await trio.testing.wait_all_tasks_blocked(0.05)
    unread = pair.connection.state().unread
    assert [json.loads(line)["params"] for line in unread.splitlines()] == [{"kept": 1}, {"kept": 2}]
    await raw.initialize()
    assert (await raw.call_tool("echo", {"text": "on"}))["result"]["content"][0]["text"] == "on"
