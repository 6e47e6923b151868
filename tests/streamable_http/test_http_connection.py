"""A connection of HTTP over a socket pair: requests and responses, time, memory, and every way to end.

Time is virtual, and passes at once when everybody waits.
"""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from redstreamd.mcpio.connection_events import ConnectionClosed, ConnectionOpened, Ending
from redstreamd.streamable_http.http_messages import Answer
from tests.streamable_http.wire_peer import Pair, connected, request
from tests.support.limits import Deferred


@pytest.fixture
def anyio_backend() -> Any:
    """Let time pass at once when everybody waits."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


@pytest.fixture
def pair() -> Deferred[Pair]:
    """A connection with the default limits."""
    return Deferred(connected())


async def test_requests_of_a_connection_are_answered_one_after_the_other(pair: Pair) -> None:
    for number in range(3):
        head, body = await pair.ask(body=b"%d" % number)
        assert (head.status_code, body) == (200, b"%d" % number)
    fields = dict(head.headers)
    assert fields[b"content-type"] == b"text/plain"
    assert fields[b"server"] == b"redstreamd"
    assert b"date" in fields
    assert b"connection" not in fields
    await pair.peer.send_eof()
    assert await pair.rest() == b""
    ended = await pair.ended()
    assert (ended.ending, ended.requests, ended.cut_off) == (Ending.EOF, 3, 0)
    assert isinstance(pair.events[0], ConnectionOpened)
    assert pair.site.closed == 1


async def test_pipelined_requests_are_served_when_the_response_before_has_ended(pair: Pair) -> None:
    await pair.send(request("/first") + request("/second", b"x") + request(body=b"third"))
    first = await pair.until_served()
    await trio.testing.wait_all_tasks_blocked()
    assert len(pair.site.served) == 1
    first.responder.answer(Answer(200, b"1"))
    assert (await pair.response())[1] == b"1"
    second = await pair.until_served(2)
    assert second.body == b"x"
    second.responder.answer(Answer(200, b"2"))
    assert (await pair.response())[1] == b"2"
    assert (await pair.response())[1] == b"third"


async def test_a_client_that_disconnects_is_noticed_while_its_request_is_served(pair: Pair) -> None:
    await pair.send(request("/later"))
    served = await pair.until_served()
    await pair.peer.aclose()
    ended = await pair.ended()
    assert (served.is_gone, served.responder.is_over) == (True, True)
    assert (ended.ending, ended.cut_off) == (Ending.EOF, 1)
    assert isinstance(ended, ConnectionClosed)
