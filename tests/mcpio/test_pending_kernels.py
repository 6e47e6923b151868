"""Clients that come before the SDK is imported: their requests wait, and end as any request in flight."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from redstreamd.mcpio import exchange
from redstreamd.mcpio.client_connection import EOF_GRACE_SECONDS, FINAL_WRITE_SECONDS, ClientConnection
from redstreamd.mcpio.connection_events import ConnectionClosed, Ending, Event
from redstreamd.mcpio.connection_state import ConnectionState, Era
from redstreamd.mcpio.jsonrpc import NOT_NOW
from redstreamd.mcpio.pending_kernels import PendingKernels
from redstreamd.mcpio.plain_calls import PlainCall
from redstreamd.mcpio.protocol_eras import Kernels
from redstreamd.mcpio.session import Session, Task
from tests.mcpio.serving import PRINCIPAL, Sink, Tools, make_server, make_session, socket_pair, virtual_time
from tests.mcpio.test_exchange import ENVELOPE, HANDSHAKE
from tests.support.waiting import until

LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": ENVELOPE}}


def take(session: Session, call: PlainCall, size: int, sink: exchange.Sink) -> bool:
    """Serve a call without the kernels."""
    request = exchange.Exchange(session, call.id, "tools/call", None, size, sink)
    if not session.settle_era(call.era) or not session.in_flight.add(request):
        return False
    request.answer(b'{"id":%d,"result":"direct"}\n' % request.id)
    return True


@attrs.define
class Client:
    """A client, its connection, and the kernels that it waits for.

    Attributes:
        connection: Serves it.
        kernels: Not ready at the start.
        tools: What the handlers did.
        events: What was reported.
    """

    connection: ClientConnection
    kernels: PendingKernels
    tools: Tools
    events: list[Event]
    _stream: trio.SocketStream
    _received: bytearray = attrs.field(factory=bytearray)

    async def send(self, *messages: dict[str, Any]) -> None:
        """Send messages, and wait until the first one is being served."""
        await self._stream.send_all(b"".join(json.dumps(each).encode() + b"\n" for each in messages))
        await trio.testing.wait_all_tasks_blocked()

    async def send_last(self, message: dict[str, Any], newline: str) -> None:
        """Send a message, and nothing more."""
        await self._stream.send_all((json.dumps(message) + newline).encode())
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Disconnect."""
        await self._stream.aclose()

    async def receive(self) -> list[Any]:
        """Return what is there, after all that can happen has happened."""
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0.01):
            while data := await self._stream.receive_some():
                self._received += data
        *lines, rest = bytes(self._received).split(b"\n")
        self._received[:] = rest
        return [json.loads(line) for line in lines]

    def provide(self) -> None:
        """Make the kernels ready."""
        self.kernels.provide(Kernels(make_server(self.tools)))

    def ending(self) -> ConnectionClosed:
        """Return what was reported of the end of the connection."""
        (closed,) = (event for event in self.events if isinstance(event, ConnectionClosed))
        return closed


@asynccontextmanager
async def connected() -> AsyncIterator[Client]:
    """Serve a client whose kernels are not ready."""
    kernels, events = PendingKernels(), list[Event]()
    ours, theirs = socket_pair()
    connection = ClientConnection(
        ours, kernels, direct_path=take, principal=PRINCIPAL, on_event=events.append
    )
    async with ours, theirs, trio.open_nursery() as nursery:
        await nursery.start(connection.run)
        yield Client(connection, kernels, Tools(), events, theirs)
        nursery.cancel_scope.cancel()


def request(request_id: int, method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}


@virtual_time()
async def test_messages_wait_in_order_for_the_kernels() -> None:
    async with connected() as client:
        await client.send(
            request(0, "initialize", **HANDSHAKE),
            {"jsonrpc": "2.0", "method": "notifications/initialized"},
            request(1, "tools/call", name="echo", arguments={"text": "a"}),
            request(2, "ping"),
        )
        assert await client.receive() == []
        assert client.connection.statistics().requests_in_flight == 1
        client.provide()
        hello, call, ping = await client.receive()
        assert (hello["id"], hello["result"]["protocolVersion"]) == (0, "2025-11-25")
        # Of a session that has begun, the direct path takes the plain calls.
        assert {call["id"]: call["result"], ping["id"]: ping["result"]} == {1: "direct", 2: {}}


@virtual_time()
async def test_plain_calls_are_served_before_the_kernels_are_ready() -> None:
    async with connected() as client, connected() as other:
        await other.send(LIST)
        await client.send(request(1, "tools/call", name="echo", _meta=ENVELOPE))
        assert await client.receive() == [{"id": 1, "result": "direct"}]
        # What follows a request that waits keeps its place.
        await client.send({**LIST, "id": 2}, request(3, "tools/call", name="echo", _meta=ENVELOPE))
        assert await client.receive() == []
        assert await other.receive() == []
        client.provide()
        assert sorted(each["id"] for each in await client.receive()) == [2, 3]


@virtual_time()
async def test_a_request_that_waits_for_the_kernels_is_answered_when_the_connection_is_drained() -> None:
    async with connected() as client:
        await client.send(LIST, {**LIST, "id": 2})
        async with trio.open_nursery() as nursery:

            async def drain() -> None:
                assert await client.connection.drain(30)

            nursery.start_soon(drain)
            await trio.sleep(20)
            assert await client.receive() == []
            client.provide()
        waited, refused = sorted(await client.receive(), key=lambda each: int(each["id"]))
        assert waited["result"]["tools"]
        assert refused["error"]["code"] == NOT_NOW
        assert client.ending().ending is Ending.DRAINED


@virtual_time()
async def test_a_request_that_waits_longer_than_a_drain_is_cut_off_with_an_error() -> None:
    async with connected() as client:
        await client.send(LIST)
        began = trio.current_time()
        assert not await client.connection.drain(5)
        assert 5 <= trio.current_time() - began <= 5 + FINAL_WRITE_SECONDS
        (answer,) = await client.receive()
        assert (answer["id"], answer["error"]["code"]) == (1, NOT_NOW)
        assert client.ending().cut_off == 1


@pytest.mark.parametrize("newline", ["", "\n"])
@virtual_time()
async def test_a_client_that_stops_sending_gets_the_answer_it_waits_for(newline: str) -> None:
    async with connected() as client:
        await client.send_last(LIST, newline)
        await trio.sleep(10 * EOF_GRACE_SECONDS)
        assert await client.receive() == []
        client.provide()
        (answer,) = await client.receive()
        assert answer["result"]["tools"]
        assert client.ending().cut_off == 0


@virtual_time()
async def test_a_client_that_disconnects_while_it_waits_leaves_nothing_behind() -> None:
    async with connected() as client:
        await client.send(request(1, "tools/call", name="sleep", arguments={"name": "it"}))
        await client.aclose()
        client.provide()
        await until(lambda: len(client.events) == 2)
        assert client.ending().requests == 1
        assert client.connection.statistics().requests_in_flight == 0
        assert client.tools.started == client.tools.ended


@virtual_time()
async def test_cancelling_a_connection_that_waits_for_the_kernels_closes_it() -> None:
    async with connected() as client:
        await client.send(LIST)
    assert client.ending().ending is Ending.CANCELLED


@virtual_time()
async def test_a_request_that_waits_when_its_connection_is_handed_over_is_named_in_the_state() -> None:
    async with connected() as client:
        await client.send(LIST, {**LIST, "id": 2})
        state = await client.connection.hand_over(1)
        assert state is not None
        assert state.in_flight == (1,)
        assert json.loads(state.unread)["id"] == 2
        assert await client.receive() == []


@virtual_time()
async def test_a_request_that_waits_is_cancelled_from_another_message_and_never_served() -> None:
    """Over a transport on which messages come side by side."""
    tools, kernels, sink = Tools(), PendingKernels(), Sink()
    async with trio.open_nursery() as nursery:

        def start_soon(task: Task) -> bool:
            nursery.start_soon(task)
            return True

        session = make_session(start_soon, sink, kernels=kernels)

        async def post(message: dict[str, Any]) -> None:
            await session.handle(json.dumps(message).encode(), sink)

        for number in (1, 2):
            arguments = {"name": str(number), "seconds": 1}
            call = request(number, "tools/call", name="sleep", arguments=arguments, _meta=ENVELOPE)
            nursery.start_soon(post, call)
        await trio.testing.wait_all_tasks_blocked()
        await post({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}})
        kernels.provide(Kernels(make_server(tools)))
        await until(lambda: sink.messages)
        assert [each["id"] for each in sink.messages] == [2]
        assert tools.started == {"2"}
        assert len(session.in_flight) == 0
        nursery.cancel_scope.cancel()


async def test_a_connection_cannot_be_continued_before_the_kernels_are_ready() -> None:
    ours, theirs = socket_pair()
    async with ours, theirs:
        state = ConnectionState("c", era=Era.MODERN)
        with pytest.raises(RuntimeError, match="not ready"):
            ClientConnection(ours, PendingKernels(), principal=PRINCIPAL, state=state)
