"""How connections end: by the peer, by a broken socket, by a peer that does not read, by us.

Time is virtual, and passes at once when everybody waits. So what is said of it holds exactly, however busy
the machine is.
"""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

import pytest
import trio
import trio.testing

from redstreamd.mcpio.acceptor import Acceptor
from redstreamd.mcpio.client_connection import (
    EOF_GRACE_SECONDS,
    FINAL_WRITE_SECONDS,
    FIRST_REQUEST_SECONDS,
    ClientConnection,
)
from redstreamd.mcpio.closing import LINGER_SECONDS
from redstreamd.mcpio.connection_events import ConnectionClosed, ConnectionOpened, Ending, Event
from redstreamd.mcpio.limits import Limits
from redstreamd.mcpio.listeners import open_tcp_listeners
from redstreamd.mcpio.outbox import UNREAD_BYTES
from redstreamd.mcpio.protocol_eras import Kernels
from redstreamd.mcpio.served_listener import ServedListener
from tests.mcpio.serving import (
    PRINCIPAL,
    Pair,
    Service,
    Tools,
    connection_pair,
    make_server,
    socket_pair,
)
from tests.support.mcp_client import RawClient, raw_client

MIB = 1024 * 1024


@pytest.fixture
def anyio_backend() -> Any:
    """Let time pass at once when everybody waits."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


async def greeted(pair: Pair) -> RawClient:
    """Do the handshake over a pair."""
    raw = RawClient(pair.peer)
    await raw.initialize()
    return raw


async def ending_of(pair: Pair) -> ConnectionClosed:
    """Wait for the connection to end, and return what was reported of it."""
    await pair.connection.drain(0)
    (event,) = [event for event in pair.events if isinstance(event, ConnectionClosed)]
    return event


async def test_a_peer_that_stops_sending_gets_the_answers_to_what_it_sent(pair: Pair) -> None:
    raw = await greeted(pair)
    await raw.send(raw.tool_call("sleep", {"name": "a", "seconds": 0.1}, request_id="a"))
    await pair.peer.send_eof()
    (answer,) = await raw.receive_rest()
    assert answer["result"]["content"][0]["text"] == "slept a"
    assert (await ending_of(pair)).ending is Ending.EOF


async def test_a_last_line_without_a_newline_counts(pair: Pair) -> None:
    await pair.peer.send_all(b'{"jsonrpc":"2.0","id":1,"method":"ping"}')
    await pair.peer.send_eof()
    assert await RawClient(pair.peer).receive_rest() == [{"jsonrpc": "2.0", "id": 1, "result": {}}]


async def test_half_a_message_at_the_end_is_a_parse_error(pair: Pair) -> None:
    await pair.peer.send_all(b'{"jsonrpc":"2.0","id":1,"meth')
    await pair.peer.send_eof()
    (answer,) = await RawClient(pair.peer).receive_rest()
    assert (answer["error"]["code"], answer["id"]) == (-32700, None)


async def test_what_takes_longer_than_the_grace_is_cut_off_with_an_error(pair: Pair) -> None:
    raw = await greeted(pair)
    await raw.send(raw.tool_call("sleep", {"name": "a"}, request_id="a"))
    await pair.tools.wait("started", "a")
    began = trio.current_time()
    await pair.peer.send_eof()
    (answer,) = await raw.receive_rest()
    assert trio.current_time() - began == pytest.approx(EOF_GRACE_SECONDS)
    assert (answer["id"], answer["error"]["code"]) == ("a", -32000)
    assert "a" in pair.tools.ended
    event = await ending_of(pair)
    assert (event.ending, event.requests, event.cut_off) == (Ending.EOF, 2, 1)


async def test_the_waits_of_a_peer_that_is_gone_are_freed_after_the_grace(service: Service) -> None:
    async with raw_client(service.path, initialize=True) as raw:
        await raw.send(raw.tool_call("sleep", {"name": "a"}))
        await service.tools.wait("started", "a")
    began = trio.current_time()
    await service.tools.wait("ended", "a")
    assert trio.current_time() - began == pytest.approx(EOF_GRACE_SECONDS)


async def test_a_broken_socket_frees_its_waits_at_once(pair: Pair) -> None:
    raw = await greeted(pair)
    await raw.send(raw.tool_call("sleep", {"name": "a"}))
    await raw.send(raw.tool_call("echo", {"text": "unread"}))
    await pair.tools.wait("started", "a")
    await pair.peer.socket.recv(1, socket.MSG_PEEK)
    began = trio.current_time()
    # Closed with something unread, a Unix socket is reset (unix_release_sock in the kernel).
    await pair.peer.aclose()
    await pair.tools.wait("ended", "a")
    assert (await ending_of(pair)).ending is Ending.BROKEN
    assert trio.current_time() == began


# In real time: TCP may hand over what was sent when everybody seems to wait for good.
@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_a_peer_that_hangs_up_by_tcp_reset_gets_no_grace() -> None:
    tools, events = Tools(), list[Event]()
    (listener,) = await open_tcp_listeners("127.0.0.1", 0)
    acceptor = Acceptor(
        [ServedListener(listener, PRINCIPAL)], Kernels(make_server(tools)), on_event=events.append
    )
    async with listener, trio.open_nursery() as nursery:
        await nursery.start(acceptor.run)
        stream = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
        raw = RawClient(stream)
        await raw.initialize()
        await raw.send(raw.tool_call("sleep", {"name": "a"}))
        await tools.wait("started", "a")
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.aclose()
        await tools.wait("ended", "a")
        while acceptor.statistics().connections:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    # Nobody waited for the peer to go on reading, which is another ending.
    (closed,) = [event for event in events if isinstance(event, ConnectionClosed)]
    assert closed.ending is Ending.BROKEN


async def test_a_peer_that_does_not_read_is_disconnected_and_its_waits_are_freed() -> None:
    limits = Limits(max_outbox_bytes=4 * MIB)
    async with connection_pair(limits) as pair:
        raw = await greeted(pair)
        await raw.send(raw.tool_call("sleep", {"name": "a"}))
        await pair.tools.wait("started", "a")
        most = 0
        began = trio.current_time()
        try:
            for _ in range(100):
                await raw.send(raw.tool_call("big", {"bytes": 256 * 1024}))
                # A client does not wait to be served before it asks for more.
                for _ in range(20):
                    await trio.lowlevel.checkpoint()
                most = max(most, pair.connection.statistics().outbox_bytes)
        except trio.BrokenResourceError:
            pass
        else:
            pytest.fail("the peer could go on sending")
        await pair.tools.wait("ended", "a")
        assert trio.current_time() == began
        event = await ending_of(pair)
        assert event.ending is Ending.OVERFLOW
        # It filled up, and nothing beyond the limit was kept.
        assert 3 * MIB < most <= 4 * MIB
        assert pair.connection.statistics().requests_in_flight == 0
        # Nor until the garbage collector comes by.
        assert pair.connection.statistics().outbox_bytes == 0


@pytest.mark.parametrize("much", [True, False])
async def test_a_peer_that_reads_nothing_is_disconnected_after_a_time_if_much_waits(much: bool) -> None:
    async with connection_pair(Limits(unread_seconds=50)) as pair:
        raw = await greeted(pair)
        # More and more, until the socket takes no more.
        while not pair.connection.statistics().outbox_bytes:
            await raw.send(raw.tool_call("big", {"bytes": MIB if much else 10_000}))
            await trio.testing.wait_all_tasks_blocked()
        unread = pair.connection.statistics().outbox_bytes
        assert (unread > UNREAD_BYTES) == much
        await trio.sleep(49)
        assert not [event for event in pair.events if isinstance(event, ConnectionClosed)]
        if much:
            await trio.sleep(2)
            (event,) = [event for event in pair.events if isinstance(event, ConnectionClosed)]
            assert event.ending is Ending.UNREAD
            assert event.unread_bytes == unread
            assert event.open_seconds == pytest.approx(50, abs=0.5)
        else:
            await trio.sleep(500)
            assert not [event for event in pair.events if isinstance(event, ConnectionClosed)]


async def test_a_connection_that_has_ended_keeps_nothing_of_what_it_read() -> None:
    async with connection_pair(Limits(max_message_bytes=MIB)) as pair:
        await pair.peer.send_all(b"x" * 100_000)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert len(pair.connection.state().unread) == 100_000
    assert pair.connection.state().unread == b""


async def test_a_peer_that_reads_slowly_gets_everything() -> None:
    async with connection_pair(Limits(max_outbox_bytes=8 * MIB)) as pair:
        raw = await greeted(pair)
        for number in range(20):
            await raw.send(raw.tool_call("big", {"bytes": 300_000}, request_id=f"{number}"))
        await trio.testing.wait_all_tasks_blocked()
        assert pair.connection.statistics().requests_in_flight == 0
        assert pair.connection.statistics().outbox_bytes > MIB
        received = bytearray()
        while received.count(b"\n") < 20:
            received += await pair.peer.receive_some(10_000)
            await trio.lowlevel.checkpoint()
        assert len(received) > 20 * 300_000
        assert pair.connection.statistics().outbox_bytes == 0


async def test_answers_that_were_under_way_arrive_before_the_close(pair: Pair) -> None:
    raw = await greeted(pair)
    for number in range(10):
        await raw.send(raw.tool_call("big", {"bytes": 200_000}, request_id=f"{number}"))
    await pair.peer.send_eof()
    assert len(await raw.receive_rest()) == 10


async def drained(pair: Pair, timeout_seconds: float) -> tuple[bool, list[dict[str, Any]]]:
    """Drain a connection whose peer reads to the end and then closes: the outcome, and what the peer read."""
    outcomes: list[bool] = []

    async def drain() -> None:
        outcomes.append(await pair.connection.drain(timeout_seconds))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain)
        answers = await RawClient(pair.peer).receive_rest()
        await pair.peer.aclose()
    return outcomes[0], answers


async def test_a_drained_connection_answers_what_is_in_flight_and_refuses_the_rest() -> None:
    async with connection_pair() as pair, trio.open_nursery() as nursery:
        raw = await greeted(pair)
        await raw.send(raw.tool_call("sleep", {"name": "a", "seconds": 0.2}, request_id="a"))
        await pair.tools.wait("started", "a")
        outcomes: list[bool] = []

        async def drain() -> None:
            outcomes.append(await pair.connection.drain(5))

        nursery.start_soon(drain)
        await trio.testing.wait_all_tasks_blocked()
        await raw.send(raw.tool_call("echo", request_id="late"))
        rejection, answer = await raw.receive_rest()
        assert (rejection["id"], rejection["error"]["code"]) == ("late", -32000)
        assert "shutting down" in rejection["error"]["message"]
        assert (answer["id"], answer["result"]["content"][0]["text"]) == ("a", "slept a")
    assert outcomes == [True]
    assert (await ending_of(pair)).ending is Ending.DRAINED


async def test_a_handler_that_waits_can_end_its_wait_when_the_connection_is_drained(pair: Pair) -> None:
    raw = await greeted(pair)
    await raw.send(raw.tool_call("drained", request_id="a"))
    await pair.tools.wait("started", "drained")
    began = trio.current_time()
    is_clean, (answer,) = await drained(pair, 60)
    assert is_clean
    assert trio.current_time() == began
    assert answer["result"]["content"][0]["text"] == "ended early"


async def test_what_outlasts_a_drain_is_cut_off_with_an_error(pair: Pair) -> None:
    raw = await greeted(pair)
    await raw.send(raw.tool_call("sleep", {"name": "a"}, request_id="a"))
    await pair.tools.wait("started", "a")
    began = trio.current_time()
    is_clean, (answer,) = await drained(pair, 0.2)
    assert not is_clean
    assert trio.current_time() - began == pytest.approx(0.2)
    assert (answer["id"], answer["error"]["code"]) == ("a", -32000)
    assert answer["error"]["data"] == {"executed": None}
    assert (await ending_of(pair)).cut_off == 1


async def test_an_idle_connection_is_drained_at_once_and_again_for_nothing(pair: Pair) -> None:
    await greeted(pair)
    began = trio.current_time()
    assert await drained(pair, 60) == (True, [])
    assert await pair.connection.drain(60)
    assert trio.current_time() == began


async def test_a_peer_that_stays_after_a_drain_is_left_soon(pair: Pair) -> None:
    raw = await greeted(pair)
    began = trio.current_time()
    assert await pair.connection.drain(60)
    assert trio.current_time() - began == pytest.approx(LINGER_SECONDS)
    assert await raw.receive_rest() == []


async def test_what_was_sent_before_a_drain_is_answered_and_what_comes_after_it_resets_nobody() -> None:
    async with connection_pair() as pair:
        raw = await greeted(pair)
        # More than is read at once, and not read yet when the drain begins.
        sent = [raw.tool_call("echo", {"text": "x" * 1_000}, request_id=number) for number in range(150)]
        await raw.send_bytes(b"".join(json.dumps(message).encode() + b"\n" for message in sent))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair.connection.drain, 60)
            answers = await raw.receive_rest()
            # It did not know better.
            await raw.send(raw.tool_call("echo", request_id="late"))
            await pair.peer.send_eof()
            assert await raw.receive_rest() == []
    assert sorted(answer["id"] for answer in answers) == list(range(150))


async def test_what_is_sent_while_a_call_outlasts_a_drain_is_answered() -> None:
    async with connection_pair() as pair:
        raw = await greeted(pair)
        await raw.send(raw.tool_call("outlast", request_id="a"))
        await pair.tools.wait("started", "outlast")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair.connection.drain, 1)
            await trio.sleep(1.5)
            # Nothing is read any more.
            await raw.send(raw.tool_call("echo", request_id="late"))
            answers = await raw.receive_rest()
            await pair.peer.aclose()
    assert {answer["id"]: answer["error"]["code"] for answer in answers} == {"a": -32000, "late": -32000}


async def test_a_drain_is_bounded_even_if_the_peer_does_not_read(pair: Pair) -> None:
    raw = await greeted(pair)
    for _ in range(20):
        await raw.send(raw.tool_call("big", {"bytes": 256 * 1024}))
    await trio.testing.wait_all_tasks_blocked()
    began = trio.current_time()
    await pair.connection.drain(0.3)
    assert trio.current_time() - began <= 0.3 + FINAL_WRITE_SECONDS


async def test_a_drain_that_comes_before_the_first_turn_of_a_connection_holds() -> None:
    ours, theirs = socket_pair()
    connection = ClientConnection(ours, Kernels(make_server()), principal=PRINCIPAL)
    async with theirs, trio.open_nursery() as nursery:
        nursery.start_soon(connection.drain, 60)
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
        nursery.start_soon(connection.run)
        assert await RawClient(theirs).receive_rest() == []
        assert trio.current_time() - began == pytest.approx(FIRST_REQUEST_SECONDS)
        await theirs.aclose()


async def test_the_first_request_of_a_peer_that_has_just_connected_is_answered_though_we_drain(
    pair: Pair,
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.connection.drain, 60)
        await trio.sleep(FIRST_REQUEST_SECONDS / 2)
        raw = RawClient(pair.peer)
        await raw.send(raw.tool_call("echo", request_id="first"))
        (rejection,) = await raw.receive_rest()
        await pair.peer.aclose()
        assert (rejection["id"], rejection["error"]["code"]) == ("first", -32000)
        assert trio.current_time() < FIRST_REQUEST_SECONDS


async def test_a_peer_that_says_nothing_is_drained_at_once_unless_it_has_just_connected(pair: Pair) -> None:
    await trio.sleep(FIRST_REQUEST_SECONDS)
    began = trio.current_time()
    assert await drained(pair, 60) == (True, [])
    assert trio.current_time() == began


async def test_cancelling_a_connection_closes_its_socket_and_cancels_its_handlers() -> None:
    async with connection_pair() as pair:
        raw = await greeted(pair)
        await raw.send(raw.tool_call("sleep", {"name": "a"}))
        await pair.tools.wait("started", "a")
    assert pair.tools.ended == {"a"}
    assert (await ending_of(pair)).ending is Ending.CANCELLED


async def test_the_life_of_a_connection_is_reported() -> None:
    async with connection_pair() as pair:
        raw = await greeted(pair)
        await raw.call_tool("echo")
        await raw.call("no/such")
        await trio.sleep(3)
        await pair.peer.aclose()
        await ending_of(pair)
    opened, closed = pair.events
    assert isinstance(opened, ConnectionOpened)
    assert isinstance(closed, ConnectionClosed)
    assert opened.connection_id == closed.connection_id == pair.connection.id
    assert (closed.requests, closed.cut_off) == (3, 0)
    assert closed.open_seconds == pytest.approx(3)
