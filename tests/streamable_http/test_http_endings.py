"""How connections of HTTP end: by the client, by us, and what becomes of requests in progress.

Time is virtual, and passes at once when everybody waits.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from typing import Any

import pytest
import trio
import trio.testing

from redstreamd.mcpio.client_connection import EOF_GRACE_SECONDS, FINAL_WRITE_SECONDS, FIRST_REQUEST_SECONDS
from redstreamd.mcpio.closing import LINGER_SECONDS
from redstreamd.mcpio.connection_events import ConnectionClosed, Ending
from redstreamd.mcpio.limits import Limits
from redstreamd.streamable_http.http_connection import LAST_ANSWER_SECONDS
from redstreamd.streamable_http.http_messages import Answer
from redstreamd.streamable_http.lingering import UPLOAD_SECONDS
from tests.streamable_http.wire_peer import Pair, Served, connected, request
from tests.support.limits import Deferred

KIB = 1024
MIB = 1024 * KIB


@pytest.fixture
def anyio_backend() -> Any:
    """Let time pass at once when everybody waits."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


@pytest.fixture
def pair() -> Deferred[Pair]:
    """A connection with the default limits."""
    return Deferred(connected())


async def seconds_to_drain(pair: Pair, timeout_seconds: float) -> tuple[float, bool]:
    """Drain, and return how long that took, and whether all was answered."""
    began = trio.current_time()
    whole = await pair.connection.drain(timeout_seconds)
    return trio.current_time() - began, whole


async def sends_for_ever(pair: Pair, data: bytes, every_seconds: float) -> None:
    """Send the same over and over, until the connection is closed."""
    with contextlib.suppress(trio.BrokenResourceError):
        while True:
            await trio.sleep(every_seconds)
            await pair.send(data)


async def reads_slowly(pair: Pair, size: int, every_seconds: float) -> None:
    """Read so many bytes at a time, until the connection is closed."""
    while True:
        if not await pair.peer.receive_some(size):
            break
        await trio.sleep(every_seconds)


# By the client


async def test_a_client_that_disconnects_is_noticed_while_its_request_is_served(pair: Pair) -> None:
    await pair.send(request("/later"))
    served = await pair.until_served()
    await pair.peer.aclose()
    ended = await pair.ended()
    assert (served.is_gone, served.responder.is_over) == (1, True)
    assert (ended.ending, ended.cut_off) == (Ending.EOF, 1)
    served.responder.answer(Answer(200, b"too late"))


async def test_a_reset_is_noticed_at_once() -> None:
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    client = socket.create_connection(listener.socket.getsockname())
    async with listener, connected(served=await listener.accept()) as pair:
        client.sendall(request("/later"))
        served = await pair.until_served()
        began = trio.current_time()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        assert (await pair.ended()).ending is Ending.BROKEN
        assert trio.current_time() - began < EOF_GRACE_SECONDS
        assert served.is_gone == 1


async def test_a_client_that_stops_sending_gets_a_response_that_comes_soon(pair: Pair) -> None:
    await pair.send(request("/later"))
    await pair.peer.send_eof()
    served = await pair.until_served()
    await trio.sleep(EOF_GRACE_SECONDS / 2)
    served.responder.answer(Answer(200, b"just in time"))
    head, body = await pair.response()
    assert (dict(head.headers)[b"connection"], body) == (b"close", b"just in time")
    ended = await pair.ended()
    assert (ended.ending, ended.cut_off, served.is_gone) == (Ending.EOF, 0, 0)


async def test_requests_that_were_sent_before_the_end_are_served(pair: Pair) -> None:
    await pair.send(request(body=b"1") + request(body=b"2"))
    await pair.peer.send_eof()
    assert (await pair.response())[1] == b"1"
    assert (await pair.response())[1] == b"2"


async def test_events_end_with_their_client(pair: Pair) -> None:
    await pair.send(request("/events"))
    served = await pair.until_served()
    served.responder.begin_events()
    await pair.peer.send_eof()
    began = trio.current_time()
    await pair.ended()
    assert served.is_gone == 1
    assert trio.current_time() - began == pytest.approx(EOF_GRACE_SECONDS, abs=0.1)


@pytest.mark.parametrize("part", [1, 30, -1])
async def test_a_request_that_is_cut_off_is_not_served(pair: Pair, part: int) -> None:
    await pair.send(request(body=b"x" * 10)[:part])
    await pair.peer.send_eof()
    assert await pair.rest() == b""
    assert (await pair.ended()).ending is Ending.EOF
    assert pair.site.served == []


async def test_nothing_is_left_of_a_connection_that_ended(pair: Pair) -> None:
    await pair.send(request("/later", b"x" * 100))
    await pair.until_served()
    await pair.peer.aclose()
    await pair.ended()
    assert pair.accounts.all.held == [0, 0, 0, 0]
    assert pair.accounts.all.members == {}
    assert pair.counts.connections == 0
    assert pair.site.closed == 1
    assert not pair.site.connected_clients[0].start_soon(trio.sleep_forever)


async def test_tasks_of_a_connection_end_with_it(pair: Pair) -> None:
    ended = trio.Event()

    async def task() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    client = pair.site.connected_clients[0]
    assert client.start_soon(task)
    await pair.peer.aclose()
    await ended.wait()


# Closing so that the client gets the answer


async def test_a_client_that_uploads_for_long_gets_its_refusal_and_one_that_never_stops_is_cut() -> None:
    async with connected(limits=Limits(max_message_bytes=KIB)) as pair:
        await pair.send(request(body=b"x" * MIB)[:KIB])
        for _ in range(int(UPLOAD_SECONDS / LINGER_SECONDS)):
            await trio.sleep(0.9 * LINGER_SECONDS)
            await pair.send(b"x" * KIB)
        assert (await pair.response())[0].status_code == 413
        began = trio.current_time()
        await sends_for_ever(pair, b"x" * KIB, 0.9 * LINGER_SECONDS)
        assert trio.current_time() - began < UPLOAD_SECONDS
        assert isinstance(await pair.ended(), ConnectionClosed)


async def test_a_client_that_neither_sends_nor_closes_is_waited_for_a_moment(pair: Pair) -> None:
    await pair.send(b"garbage\r\n\r\n")
    began = trio.current_time()
    assert (await pair.response())[0].status_code == 501
    await pair.ended()
    assert trio.current_time() - began == pytest.approx(LINGER_SECONDS, abs=0.1)


async def test_a_long_last_answer_is_written_for_as_long_as_the_client_reads() -> None:
    async with connected(limits=Limits(unread_seconds=5)) as pair:
        pair.site.serves["/much"] = lambda served: served.responder.answer(Answer(200, b"x" * (2 * MIB)))
        await pair.send(request("/much", connection="close"))
        got = 0
        while part := await pair.peer.receive_some(64 * KIB):
            got += len(part)
            await trio.sleep(1)
        assert got > 2 * MIB
        assert (await pair.ended()).ending is Ending.ANSWERED


async def test_a_client_that_reads_its_last_answer_slowly_does_not_keep_the_daemon_from_stopping() -> None:
    async with connected() as pair, trio.open_nursery() as nursery:
        pair.site.serves["/much"] = lambda served: served.responder.answer(Answer(200, b"x" * (4 * MIB)))
        await pair.send(request("/much", connection="close"))
        await pair.until_served()
        nursery.start_soon(reads_slowly, pair, 20 * KIB, 0.25)
        await trio.sleep(1)
        seconds, _ = await seconds_to_drain(pair, 1.5)
        assert seconds < 1.5 + FINAL_WRITE_SECONDS + LINGER_SECONDS + 0.1


async def test_a_last_answer_that_is_read_for_ever_is_cut() -> None:
    async with connected() as pair, trio.open_nursery() as nursery:
        pair.site.serves["/much"] = lambda served: served.responder.answer(Answer(200, b"x" * (15 * MIB)))
        await pair.send(request("/much", connection="close"))
        began = trio.current_time()
        nursery.start_soon(reads_slowly, pair, 64 * KIB, 5)
        await pair.ended()
        assert trio.current_time() - began == pytest.approx(LAST_ANSWER_SECONDS, abs=1)
        nursery.cancel_scope.cancel()


# By us


async def test_idle_connections_are_closed_at_once_when_the_daemon_stops(pair: Pair) -> None:
    await pair.ask(body=b"x")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.rest)
        seconds, whole = await seconds_to_drain(pair, 100)
    assert (seconds < LINGER_SECONDS + 0.1, whole, pair.site.is_drained) == (True, True, True)
    assert (await pair.ended()).ending is Ending.DRAINED


async def test_a_request_in_progress_is_answered_and_the_connection_ends_with_that(pair: Pair) -> None:
    await pair.send(request("/later") + request("/never"))
    served = await pair.until_served()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(seconds_to_drain, pair, 100)
        await trio.sleep(50)
        served.responder.answer(Answer(200, b"done"))
        head, body = await pair.response()
        assert (dict(head.headers)[b"connection"], body) == (b"close", b"done")
        assert await pair.rest() == b""
    assert len(pair.site.served) == 1
    assert (await pair.ended()).cut_off == 0


async def test_a_request_that_is_on_its_way_is_served_before_the_daemon_stops(pair: Pair) -> None:
    await pair.ask(body=b"x")
    await pair.send(request("/later", b"x" * 100)[:-50])
    await trio.testing.wait_all_tasks_blocked()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(seconds_to_drain, pair, 100)
        await trio.sleep(1)
        await pair.send(b"x" * 50)
        (await pair.until_served(2)).responder.answer(Answer(200, b"done"))
        assert (await pair.response())[1] == b"done"


async def test_a_request_that_arrived_unread_is_served_before_the_daemon_stops(pair: Pair) -> None:
    await pair.ask(body=b"x")
    # Nobody reads it before the draining begins.
    pair.peer.socket._sock.send(request(body=b"unread"))  # type: ignore[attr-defined]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(seconds_to_drain, pair, 100)
        assert (await pair.response())[1] == b"unread"


async def test_a_new_connection_has_a_moment_for_its_first_request_when_the_daemon_stops(pair: Pair) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(seconds_to_drain, pair, 100)
        await trio.sleep(FIRST_REQUEST_SECONDS / 2)
        head, body = await pair.ask(body=b"first")
        assert (dict(head.headers)[b"connection"], body) == (b"close", b"first")
    async with connected() as silent:
        seconds, whole = await seconds_to_drain(silent, 100)
        assert whole
        assert seconds == pytest.approx(FIRST_REQUEST_SECONDS + LINGER_SECONDS, abs=0.1)


@pytest.mark.parametrize("takes_time", [False, True])
async def test_what_is_not_answered_in_time_is_cut_off_and_the_client_told(
    pair: Pair, takes_time: bool
) -> None:
    async def for_ever(_served: Served) -> None:
        await trio.sleep_forever()

    if takes_time:
        pair.site.serves["/later"] = for_ever
    await pair.send(request("/later"))
    served = await pair.until_served()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def read() -> None:
            head, body = await pair.response()
            assert head.status_code == 503
            assert "unknown" in json.loads(body)["error"]["message"]

        seconds, whole = await seconds_to_drain(pair, 10)
    assert not whole
    assert seconds < 10 + FINAL_WRITE_SECONDS + LINGER_SECONDS + 0.1
    assert served.is_gone == 1
    ended = await pair.ended()
    assert (ended.ending, ended.cut_off) == (Ending.DRAINED, 1)


async def test_a_request_that_is_not_whole_in_time_is_not_executed_and_the_client_told(pair: Pair) -> None:
    await pair.send(request(body=b"x" * 100)[:-50])
    await trio.testing.wait_all_tasks_blocked()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(seconds_to_drain, pair, 10)
        head, body = await pair.response()
        assert head.status_code == 503
        assert "not executed" in json.loads(body)["error"]["message"]
    assert pair.site.served == []


async def test_events_that_nobody_ends_are_cut_off_when_the_daemon_stops(pair: Pair) -> None:
    await pair.send(request("/events"))
    served = await pair.until_served()
    served.responder.begin_events()
    served.responder.send_events(b"data: 1\n\n")
    seconds, whole = await seconds_to_drain(pair, 10)
    assert (whole, served.is_gone) == (False, 1)
    assert seconds < 10 + FINAL_WRITE_SECONDS + LINGER_SECONDS + 0.1
    # It can be seen that these are not all.
    assert not (await pair.rest()).endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("kind", ["reads nothing", "sends for ever", "half a head", "half a body"])
async def test_no_client_keeps_the_daemon_from_stopping(kind: str) -> None:
    async with connected() as pair, trio.open_nursery() as nursery:
        if kind == "reads nothing":
            pair.site.serves["/much"] = lambda served: served.responder.answer(Answer(200, b"x" * (8 * MIB)))
            await pair.send(request("/much"))
            await pair.until_served()
        elif kind == "sends for ever":
            nursery.start_soon(sends_for_ever, pair, request(body=b"x" * KIB), 0.001)
        elif kind == "half a head":
            await pair.send(request()[:20])
        else:
            await pair.send(request(body=b"x" * 100)[:-50])
        await trio.sleep(2)
        seconds, _ = await seconds_to_drain(pair, 5)
        assert seconds < 5 + FINAL_WRITE_SECONDS + LINGER_SECONDS + 0.1
        nursery.cancel_scope.cancel()


async def test_a_drained_connection_that_was_not_run_yet_is_drained_when_it_is() -> None:
    async with connected(drains_first=True) as pair:
        assert pair.site.is_drained
        with trio.fail_after(FIRST_REQUEST_SECONDS + LINGER_SECONDS + 0.1):
            assert (await pair.ended()).ending is Ending.DRAINED


async def test_a_connection_that_gives_way_frees_its_place_at_once(pair: Pair) -> None:
    await pair.ask(body=b"x")
    pair.connection.give_way("for another client")
    assert pair.accounts.all.held[0] == 0
    assert await pair.rest() == b""
    assert (await pair.ended()).ending is Ending.GAVE_WAY


async def test_a_request_in_progress_is_refused_when_its_connection_gives_way(pair: Pair) -> None:
    await pair.send(request("/later"))
    served = await pair.until_served()
    assert pair.connection.load == 1
    pair.site.in_flight = 2
    assert pair.connection.load == 3
    pair.connection.give_way("this connection is closed for another client")
    head, body = await pair.response()
    assert head.status_code == 503
    assert "for another client" in json.loads(body)["error"]["message"]
    assert served.is_gone == 1
    assert (await pair.ended()).cut_off == 1
