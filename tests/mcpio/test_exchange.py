"""A second transport, the test's own: each request has a sink of its own, as over Streamable HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

import attrs
import pytest
import trio

from redstreamd.admission.memory import Share
from redstreamd.mcpio.exchange import Exchange, RequestsInFlight
from redstreamd.mcpio.limits import Limits
from redstreamd.mcpio.session import Session, Task
from tests.mcpio.serving import Sink, Tools, make_server, make_session, virtual_time
from tests.support.waiting import until

ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "tests", "version": "0"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
HANDSHAKE = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "tests", "version": "0"},
}


@attrs.define
class Transport:
    """A client over a transport that has a sink for each of its requests.

    Attributes:
        session: What serves it.
        rest: Where messages go that belong to no request.
        tools: What the handlers did.
    """

    session: Session
    rest: Sink
    tools: Tools

    async def post(self, method: str, params: dict[str, Any] | None = None, **more: Any) -> Sink:
        """Send one message and return its sink."""
        message = {
            "jsonrpc": "2.0",
            "method": method,
            **({} if params is None else {"params": params}),
            **more,
        }
        sink = Sink()
        line = json.dumps(message).encode()
        if not self.session.take(line, sink):
            await self.session.handle(line, sink)
        return sink

    async def call(self, tool: str, request_id: int, **arguments: Any) -> Sink:
        """Call a tool, with a token for progress, and return the sink."""
        meta = {
            "progressToken": f"token {request_id}",
            **(ENVELOPE if self.session.era != "handshake" else {}),
        }
        params = {"name": tool, "arguments": arguments, "_meta": meta}
        return await self.post("tools/call", params, id=request_id)


@asynccontextmanager
async def transport(era: str) -> AsyncIterator[Transport]:
    tools, rest = Tools(), Sink()
    async with trio.open_nursery() as nursery:

        def start_soon(task: Task) -> bool:
            nursery.start_soon(task)
            return True

        client = Transport(make_session(start_soon, rest, make_server(tools)), rest, tools)
        if era == "handshake":
            (answer,) = (await client.post("initialize", HANDSHAKE, id=0)).messages
            assert answer["result"]["protocolVersion"] == "2025-11-25"
            assert (await client.post("notifications/initialized")).messages == []
        yield client
        nursery.cancel_scope.cancel()
    await client.session.aclose()


both_eras = pytest.mark.parametrize("era", ["handshake", "modern"])


@both_eras
@virtual_time()
async def test_each_request_is_answered_where_it_came_from(era: str) -> None:
    async with transport(era) as client:
        slow = await client.call("sleep", 1, name="slow", seconds=5)
        quick = await client.call("sleep", 2, name="quick", seconds=1)
        await until(lambda: slow.messages and quick.messages)
        for sink, request_id, name in [(slow, 1, "slow"), (quick, 2, "quick")]:
            (answer,) = sink.messages
            assert answer["id"] == request_id
            assert answer["result"]["content"][0]["text"] == f"slept {name}"
        assert client.rest.messages == []


@both_eras
@virtual_time()
async def test_progress_goes_where_the_answer_goes(era: str) -> None:
    async with transport(era) as client:
        sinks = [await client.call("progress", each, steps=3) for each in (1, 2)]
        await until(lambda: all(len(sink.messages) == 4 for sink in sinks))
        for request_id, sink in enumerate(sinks, 1):
            *progress, answer = sink.messages
            assert [each["params"]["progressToken"] for each in progress] == [f"token {request_id}"] * 3
            assert answer["id"] == request_id
        assert client.rest.messages == []


@virtual_time()
async def test_what_belongs_to_no_request_goes_to_the_session() -> None:
    async with transport("handshake") as client:
        sink = await client.call("announce", 1)
        await until(lambda: sink.messages)
        assert [each["method"] for each in client.rest.messages] == ["notifications/tools/list_changed"]
        assert [each["id"] for each in sink.messages] == [1]


@both_eras
@virtual_time()
async def test_a_request_is_cancelled_from_another_message(era: str) -> None:
    async with transport(era) as client:
        sink = await client.call("sleep", 1, name="it")
        await client.tools.wait("started", "it")
        assert (await client.post("notifications/cancelled", {"requestId": 1})).messages == []
        await client.tools.wait("ended", "it")
        await client.session.in_flight.wait_empty()
        assert sink.messages == []


@both_eras
@virtual_time()
async def test_what_is_refused_is_answered_where_it_came_from(era: str) -> None:
    async with transport(era) as client:
        first = await client.call("sleep", 1, name="it")
        again = await client.call("sleep", 1, name="it")
        assert [each["error"]["code"] for each in again.messages] == [-32600]
        broken = Sink()
        await client.session.handle(b"{", broken)
        assert [each["error"]["code"] for each in broken.messages] == [-32700]
        assert first.messages == client.rest.messages == []


@both_eras
@virtual_time()
async def test_a_session_that_ends_answers_what_was_in_flight(era: str) -> None:
    async with transport(era) as client:
        sinks = [await client.call("sleep", each, name=str(each)) for each in (1, 2)]
        await client.tools.wait("started", "2")
        client.session.draining.set()
        late = await client.call("sleep", 3, name="3")
        assert [each["error"]["code"] for each in late.messages] == [-32000]
        assert client.session.in_flight.cut_off(drop=False) == 2
        await client.session.in_flight.wait_empty()
        for request_id, sink in enumerate(sinks, 1):
            (answer,) = sink.messages
            assert (answer["id"], answer["error"]["code"]) == (request_id, -32000)


class Asked:
    """A share that has other requests ended while it is asked for memory.

    Attributes:
        counted: Bytes that it counts.
        first: What is done when it is asked next.
    """

    def __init__(self) -> None:
        self.counted = 0
        self.first: Callable[[], object] = int

    def hold(self, more: int) -> None:
        self.counted += more

    def may_hold(self, more: int) -> bool:
        self.counted += more
        self.first()
        return True


def test_requests_that_end_while_another_asks_for_memory_are_not_counted_on() -> None:
    share = Asked()
    in_flight = RequestsInFlight(Limits(), cast("Share", share))
    session = make_session(lambda _: True, Sink())
    first, second = (
        Exchange(session, number, "tools/call", None, size, session.sink)
        for number, size in enumerate((100_000, 200_000))
    )
    assert in_flight.add(first)
    share.first = partial(in_flight.remove, first)
    assert in_flight.add(second)
    assert (share.counted, in_flight.held) == (200_000, 200_000)
    in_flight.remove(second)
    assert (share.counted, in_flight.held, in_flight._bytes) == (0, 0, 0)
