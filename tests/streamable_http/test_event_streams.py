"""Streams of events: what is kept, what is sent again, and what keeps them open; and what they take."""

from __future__ import annotations

import contextlib
import gc
import json
import re
import socket
import tracemalloc
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import attrs
import pytest
import trio
import trio.testing

from redstreamd.mcpio import jsonrpc
from redstreamd.streamable_http.event_streams import EventLog, EventStream, EventTicker
from redstreamd.streamable_http.http_limits import HttpLimits
from redstreamd.streamable_http.http_messages import Answer
from redstreamd.streamable_http.mcp_responses import HANDSHAKE_STATUSES, McpResponse
from redstreamd.streams.bus import Bus
from tests.mcpio.serving import virtual_time
from tests.streamable_http.mcp_peer import Message, parsed, running_site
from tests.support.buses import ON_REDIS
from tests.support.mcp_client import HANDSHAKE, enveloped
from tests.support.two_ways import MODERN

CONNECTIONS: Final = 60
#: What a connection may take: with an open stream in a session, or as a request that is kept open, and idle
#: before and after a call.
MOST_KIB: Final = {
    "listen_in_a_session": 14.5,
    "listen_without_session": 16,
    "say_nothing": 9.75,
    "call_once": 12.5,
}


@attrs.define(eq=False)
class Sent:
    """A response, as it was sent."""

    answers: list[Answer] = attrs.field(factory=list)
    fields: tuple[tuple[str, str], ...] = ()
    data: bytes = b""
    has_begun: bool = False
    is_over: bool = False
    on_gone: Callable[[], None] | None = None

    def answer(self, answer: Answer) -> None:
        assert not self.has_begun
        self.answers.append(answer)
        self.has_begun = self.is_over = True

    def begin_events(self, fields: tuple[tuple[str, str], ...] = ()) -> None:
        assert not self.has_begun
        self.has_begun, self.fields = True, fields

    def send_events(self, data: bytes, *, is_last: bool = False) -> None:
        assert self.has_begun
        assert not self.is_over
        self.data += data

    def end_events(self) -> None:
        assert self.has_begun
        assert not self.is_over
        self.is_over = True

    def leave(self) -> None:
        """Disconnect."""
        self.is_over = True
        on_gone, self.on_gone = self.on_gone, None
        if on_gone is not None:
            on_gone()

    @property
    def messages(self) -> list[Message]:
        """The events, but for comments."""
        events = map(parsed, self.data.decode().split("\n\n")[:-1])
        return [each for each in events if each.comment is None]

    @property
    def names(self) -> list[str | None]:
        return [each.id for each in self.messages]


def line(number: int, size: int = 0) -> bytes:
    return jsonrpc.notification("n", {"number": number, "text": "x" * size})


def log_of(replay_bytes: int = 10_000) -> EventLog:
    return EventLog(HttpLimits(replay_bytes=replay_bytes), lambda: None)


def stream_of(log: EventLog | None) -> EventStream:
    return EventStream(EventTicker(HttpLimits()), log)


def test_a_stream_goes_on_over_another_response() -> None:
    stream = stream_of(log_of())
    first, second, third = Sent(), Sent(), Sent()
    stream.send(line(1))
    stream.attach(first, primes=True)
    stream.send(line(2))
    assert first.names == ["0-0", "0-1", "0-2"]
    first.leave()
    stream.send(line(3))
    # What no response has had, or what came after an event that the client names.
    stream.attach(second, primes=True)
    assert second.names == ["0-2", "0-3"]
    stream.attach(third, after=1)
    assert second.is_over
    assert third.names == ["0-2", "0-3"]
    stream.send(line(4))
    assert third.messages[-1].json["params"]["number"] == 4
    stream.end()
    assert third.is_over


def test_events_are_found_as_long_as_they_are_kept() -> None:
    log = log_of(2_000)
    one, other = stream_of(log), stream_of(log)
    for number in range(1, 31):
        one.send(line(number))
        other.send(line(number))
        assert log.size <= 2_000
    assert one.kept + other.kept >= 8
    assert log.find("0-30") == (one, 30)
    assert log.find(f"0-{30 - one.kept}") == (one, 30 - one.kept)
    assert log.find(f"0-{29 - one.kept}") is None
    assert [
        log.find(each) for each in ("0-31", "2-1", "0", "0-", "-1", "0--1", "0-1-1", "a-b", "²-1", "")
    ] == [None] * 10
    # A stream that has ended is forgotten with its events.
    one.end()
    assert log.find("0-30") == (one, 30)
    for number in range(30):
        other.send(line(number))
    assert log.find("0-30") is None
    other.send(line(0, 5_000))
    assert (log.size, log.find("1-60")) == (0, None)
    assert log.find("1-61") == (other, 61)
    assert not log.clear()


def test_a_stream_without_a_log_has_no_names() -> None:
    stream, sent = stream_of(None), Sent()
    stream.attach(sent, primes=True)
    stream.send(line(1))
    assert sent.names == [None]


@virtual_time()
async def test_comments_keep_silent_streams_open() -> None:
    limits = HttpLimits(event_pause_seconds=15)
    ticker = EventTicker(limits)
    silent, busy = EventStream(ticker), EventStream(ticker)
    responses = Sent(), Sent()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ticker.run)
        for stream, sent in zip((silent, busy), responses, strict=True):
            stream.attach(sent)
        for _ in range(12):
            await trio.sleep(10)
            busy.send(line(1))
        assert 6 <= responses[0].data.count(b":\n\n") <= 8
        assert len(responses[1].messages) == 12
        assert b":\n\n" not in responses[1].data
        # Who has gone, and what has ended, is left alone.
        responses[0].leave()
        busy.end()
        assert ticker.open_streams == 0
        await trio.sleep(100)
        nursery.cancel_scope.cancel()


@virtual_time()
async def test_an_answer_that_takes_long_makes_a_stream() -> None:
    ticker = EventTicker(HttpLimits())
    waits = [Sent() for _ in range(100)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ticker.run)
        make = partial(McpResponse, ticker=ticker, statuses=HANDSHAKE_STATUSES)
        slow = [make(each, takes_events=True) for each in waits]
        quick, plain = Sent(), Sent()
        soon, kept = make(quick, takes_events=True), make(plain, takes_events=False)
        await trio.sleep(0.9)
        assert not any(each.has_begun for each in waits)
        soon.answer(jsonrpc.result(1, {}))
        await trio.sleep(1)
        assert all(each.has_begun for each in waits)
        assert (quick.answers[0].status, plain.has_begun) == (200, False)
        for each in slow:
            each.answer(jsonrpc.error(1, -32600, "no"))
        kept.answer(jsonrpc.error(1, -32600, "no"))
        assert plain.answers[0].status == 400
        assert {len(each.messages) for each in waits} == {1}
        assert all(each.is_over for each in waits)
        assert ticker.open_streams == 0
        nursery.cancel_scope.cancel()


def test_a_batch_may_have_become_a_stream_before_it_was_decoded() -> None:
    ticker, sent = EventTicker(HttpLimits()), Sent()
    response = McpResponse(sent, ticker, HANDSHAKE_STATUSES, takes_events=True, log=log_of(), primes=True)
    response.become_stream()
    batch = response.of_batch(2)
    batch.answer(jsonrpc.in_batch(jsonrpc.result(1, {})))
    batch.send(line(7))
    assert not sent.is_over
    batch.answer(jsonrpc.in_batch(jsonrpc.result(2, {})))
    assert sent.is_over
    assert [each.json.get("id") for each in sent.messages[1:]] == [1, None, 2]


def test_what_comes_after_the_end_of_a_session_is_dropped() -> None:
    log = log_of()
    stream, sent = stream_of(log), Sent()
    stream.attach(sent)
    log.close()
    stream.send(line(1))
    assert (log.size, sent.data, sent.is_over) == (0, b"", True)
    assert not log.clear()


@virtual_time()
async def test_a_stream_ends_when_its_client_may_not_read_any_more() -> None:
    ticker = EventTicker(HttpLimits())
    valid = True
    gone: list[str] = []
    stream, resumable = EventStream(ticker, None, lambda: gone.append("it")), EventStream(ticker, log_of())
    responses = Sent(), Sent()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ticker.run)
        stream.attach(responses[0], is_valid=lambda: valid)
        resumable.attach(responses[1], is_valid=lambda: valid)
        await trio.sleep(10)
        assert ticker.open_streams == 2
        valid = False
        resumable.send(line(1))
        assert (responses[1].is_over, responses[1].data) == (True, b"")
        await trio.sleep(3)
        assert responses[0].is_over
        # As if the client had gone; what it could come back for is kept.
        assert gone == ["it"]
        assert resumable.kept == 1
        nursery.cancel_scope.cancel()


def post(message: dict[str, Any], fields: str) -> bytes:
    body = json.dumps(message).encode()
    head = f"""POST /mcp HTTP/1.1
Host: localhost
Accept: application/json, text/event-stream
Content-Type: application/json
Content-Length: {len(body)}
{fields}
"""
    return head.replace("\n", "\r\n").encode() + body


async def _response(client: socket.socket) -> bytes:
    await trio.lowlevel.wait_readable(client)
    return client.recv(65536)


async def listen_in_a_session(client: socket.socket) -> bytes:
    """Begin a session, and ask for what belongs to no request."""
    client.send(post({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HANDSHAKE}, ""))
    found = re.search(rb"Mcp-Session-Id: (\S+)", await _response(client))
    assert found is not None
    client.send(
        b"GET /mcp HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n"
        b"MCP-Protocol-Version: 2025-11-25\r\nMcp-Session-Id: %b\r\n\r\n" % found[1]
    )
    return await _response(client)


async def listen_without_session(client: socket.socket) -> bytes:
    """Ask for a stream of revision 2026-07-28."""
    params = enveloped({"notifications": {"resourcesListChanged": True}})
    message = {"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": params}
    client.send(post(message, f"MCP-Protocol-Version: {MODERN}\nMcp-Method: subscriptions/listen\n"))
    return await _response(client)


async def say_nothing(_client: socket.socket) -> bytes:
    """Connect, and wait."""
    return b""


async def call_once(client: socket.socket) -> bytes:
    """Call a tool, and keep the connection."""
    params = enveloped({"name": "stream_list", "arguments": {}})
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    client.send(
        post(message, f"MCP-Protocol-Version: {MODERN}\nMcp-Method: tools/call\nMcp-Name: stream_list\n")
    )
    return await _response(client)


@ON_REDIS
@pytest.mark.parametrize("does", [listen_in_a_session, listen_without_session, say_nothing, call_once])
async def test_an_open_connection_takes_little_memory(
    bus: Bus,
    does: Callable[[socket.socket], Awaitable[bytes]],
    record_property: Callable[[str, object], None],
) -> None:
    async with running_site(bus) as served:
        with contextlib.ExitStack() as stack:
            # The clients' ends are not what is measured.
            pairs = [socket.socketpair() for _ in range(CONNECTIONS + 10)]
            for _, theirs in pairs:
                stack.enter_context(theirs)
                theirs.setblocking(False)

            waiting = iter(pairs)

            async def connect() -> None:
                ours, theirs = next(waiting)
                await served.begin(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
                response = await does(theirs)
                if does is not say_nothing:
                    assert response.startswith(b"HTTP/1.1 200 OK\r\n")
                    assert (b"text/event-stream" in response) is (does is not call_once)

            async def held() -> int:
                await trio.testing.wait_all_tasks_blocked(0.01)
                gc.collect()
                return tracemalloc.get_traced_memory()[0]

            # What the first ones cause is there for all.
            for _ in range(10):
                await connect()
            tracemalloc.start()
            try:
                before = await held()
                for _ in range(CONNECTIONS):
                    await connect()
                each = (await held() - before) / CONNECTIONS
            finally:
                tracemalloc.stop()
            listens = does in (listen_in_a_session, listen_without_session)
            assert served.site.ticker.open_streams == (CONNECTIONS + 10 if listens else 0)
    record_property("figure", f"a connection, {does.__name__}: {each:,.0f} bytes")
    assert each < MOST_KIB[does.__name__] * 1024
