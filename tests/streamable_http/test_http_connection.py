"""A connection of HTTP over a socket pair: requests and responses, bounds of memory and time.

Time is virtual, and passes at once when everybody waits.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from redstreamd.admission.accounts import Account, Peer
from redstreamd.admission.turns import MAX_QUEUED, Turns, turns
from redstreamd.mcpio.connection_events import ConnectionOpened, Ending, MemoryExceeded
from redstreamd.mcpio.limits import Limits
from redstreamd.stream_io import flush_at_end_of_pass
from redstreamd.streamable_http import request_loop
from redstreamd.streamable_http.http_limits import HttpLimits
from redstreamd.streamable_http.http_messages import Answer, RequestHead
from redstreamd.streamable_http.request_loop import MAX_AHEAD_BYTES, MAX_SKIPPED_BYTES
from tests.streamable_http.wire_peer import PRINCIPAL, Pair, Served, connected, request
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


def answering(answer: Answer) -> Any:
    """Return what answers each request so, at once."""
    return lambda served: served.responder.answer(answer)


# Requests and responses


async def test_requests_of_a_connection_are_answered_one_after_the_other(pair: Pair) -> None:
    for number in range(3):
        head, body = await pair.ask(body=b"%d" % number)
        assert (head.status_code, body) == (200, b"%d" % number)
    fields = dict(head.headers)
    assert fields[b"content-type"] == b"text/plain"
    assert fields[b"content-length"] == b"1"
    assert fields[b"server"] == b"redstreamd"
    assert fields[b"date"].endswith(b" GMT")
    assert fields.keys() == {b"content-type", b"content-length", b"server", b"date"}
    await pair.peer.send_eof()
    assert await pair.rest() == b""
    ended = await pair.ended()
    assert (ended.ending, ended.requests, ended.cut_off) == (Ending.EOF, 3, 0)
    assert isinstance(pair.events[0], ConnectionOpened)
    assert pair.site.closed == 1
    assert pair.counts.responses[2] == 3


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


async def test_a_request_cut_anywhere_is_served(pair: Pair) -> None:
    for byte in request(body=b"slowly"):
        await pair.send(bytes([byte]))
        await trio.testing.wait_all_tasks_blocked()
    assert (await pair.response())[1] == b"slowly"


async def test_a_body_in_chunks_is_whole_when_it_is_served(pair: Pair) -> None:
    await pair.send(request(transfer_encoding="chunked") + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n")
    assert (await pair.response())[1] == b"abcde"


async def test_what_was_received_before_the_connection_is_served_first() -> None:
    async with connected(received=request(body=b"early")[:-2]) as pair:
        await pair.send(b"ly")
        assert (await pair.response())[1] == b"early"


@pytest.mark.parametrize(
    ("data", "says", "stays"),
    [
        (b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", b"close", False),
        (b"GET /echo HTTP/1.0\r\n\r\n", b"close", False),
        (b"GET /echo HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", b"keep-alive", True),
        (b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n", None, True),
    ],
)
async def test_a_connection_ends_with_a_response_if_the_client_wants_it(
    pair: Pair, data: bytes, says: bytes | None, stays: bool
) -> None:
    await pair.send(data)
    head, _ = await pair.response("GET")
    assert dict(head.headers).get(b"connection") == says
    if stays:
        await pair.send(data)
        assert (await pair.peer.receive_some(65536)).startswith(b"HTTP/1.1 200 OK\r\n")
    else:
        assert await pair.rest() == b""
        assert (await pair.ended()).ending is Ending.ANSWERED


async def test_to_head_the_length_is_said_and_no_body_sent(pair: Pair) -> None:
    pair.site.serves["/page"] = answering(Answer(200, b"hello", "text/plain", (("Allow", "GET"),)))
    head, body = await pair.ask("/page", method="HEAD")
    assert dict(head.headers)[b"content-length"] == b"5"
    assert dict(head.headers)[b"allow"] == b"GET"
    assert body == b""
    assert (await pair.ask(body=b"next"))[1] == b"next"


@pytest.mark.parametrize(("status", "length"), [(202, b"0"), (204, None)])
async def test_an_answer_without_a_body_has_no_type(pair: Pair, status: int, length: bytes | None) -> None:
    pair.site.serves["/noted"] = answering(Answer(status, content_type=None))
    head, body = await pair.ask("/noted")
    fields = dict(head.headers)
    assert (head.status_code, body, fields.get(b"content-length")) == (status, b"", length)
    assert b"content-type" not in fields
    assert (await pair.ask(body=b"next"))[1] == b"next"


async def test_events_are_chunks_and_the_connection_goes_on_behind_them(pair: Pair) -> None:
    await pair.send(request("/events"))
    served = await pair.until_served()
    responder = served.responder
    assert (responder.has_begun, responder.is_over) == (False, False)
    responder.begin_events((("Mcp-Session-Id", "s1"),))
    responder.send_events(b"data: 1\n\n")
    responder.send_events(b"data: 2\n\n")
    raw = await pair.peer.receive_some(65536)
    # One pass of the scheduler, one write.
    assert raw.endswith(b"\r\n\r\n9\r\ndata: 1\n\n\r\n9\r\ndata: 2\n\n\r\n")
    assert b"Transfer-Encoding: chunked\r\n" in raw
    assert b"Content-Type: text/event-stream\r\n" in raw
    assert b"Mcp-Session-Id: s1\r\n" in raw
    assert responder.has_begun
    responder.send_events(b"data: 3\n\n", is_last=True)
    responder.end_events()
    pair.h11.receive_data(raw)
    assert (await pair.response())[1] == b"data: 1\n\ndata: 2\n\ndata: 3\n\n"
    assert responder.is_over
    assert (await pair.ask(body=b"next"))[1] == b"next"


async def test_over_http_1_0_events_end_with_the_connection(pair: Pair) -> None:
    await pair.send(b"GET /events HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    responder = (await pair.until_served()).responder
    responder.begin_events()
    responder.send_events(b"data: 1\n\n")
    responder.end_events()
    head, _, body = (await pair.rest()).partition(b"\r\n\r\n")
    assert b"Connection: close" in head
    assert b"Transfer-Encoding" not in head
    assert body == b"data: 1\n\n"


async def test_once_a_response_has_ended_nothing_more_of_it_is_sent(pair: Pair) -> None:
    await pair.send(request("/later"))
    responder = (await pair.until_served()).responder
    responder.answer(Answer(200, b"1"))
    responder.answer(Answer(200, b"2"))
    responder.begin_events()
    responder.send_events(b"data: 3\n\n")
    responder.end_events()
    assert (await pair.response())[1] == b"1"
    assert (await pair.ask(body=b"next"))[1] == b"next"


@pytest.mark.parametrize(
    "field",
    [("X", "a\r\nSet-Cookie: b"), ("X", "a\nb"), ("X", "a\0"), ("X\r\nY", "a"), ("X Y", "a"), ("", "a")],
)
async def test_no_answer_can_add_headers_or_responses_of_its_own(pair: Pair, field: tuple[str, str]) -> None:
    pair.site.serves["/x"] = answering(Answer(200, b"body", fields=(field,)))
    await pair.send(request("/x"))
    head, _, body = (await pair.rest()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 500 ")
    assert b"Set-Cookie" not in head
    assert json.loads(body)["error"]["message"] == "internal error"
    await pair.ended()
    assert "header" in str(pair.crashes.pop())


async def test_a_client_that_waits_is_told_to_go_on_once_its_head_was_accepted(pair: Pair) -> None:
    await pair.send(request(body=b"x" * 5, expect="100-continue")[:-5])
    assert await pair.peer.receive_some(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
    await pair.send(b"hello")
    assert (await pair.response())[1] == b"hello"
    # What does not wait need not be told.
    assert (await pair.ask(body=b"x", expect="100-continue"))[1] == b"x"


async def test_a_client_that_waits_is_refused_before_it_sends_its_body(pair: Pair) -> None:
    pair.site.refusal["/secret"] = Answer(403, b"no")
    await pair.send(request("/secret", b"x" * 5, expect="100-continue")[:-5])
    raw = await pair.rest()
    assert raw.startswith(b"HTTP/1.1 403 ")
    assert b"Connection: close\r\n" in raw
    assert pair.site.served == []


async def test_a_refused_request_leaves_the_connection_to_the_next_one_if_its_body_is_short(
    pair: Pair,
) -> None:
    pair.site.refusal["/secret"] = Answer(401, b"who?", fields=(("WWW-Authenticate", "Bearer"),))
    for size in (0, 10, MAX_SKIPPED_BYTES):
        head, body = await pair.ask("/secret", b"x" * size)
        assert (head.status_code, body) == (401, b"who?")
    assert (await pair.ask(body=b"next"))[1] == b"next"
    assert len(pair.site.served) == 1
    await pair.send(request("/secret", b"x" * (MAX_SKIPPED_BYTES + 1)))
    raw = await pair.rest()
    assert raw.startswith(b"HTTP/1.1 401 ")
    assert b"Connection: close\r\n" in raw


async def test_a_check_may_take_time_before_the_body_is_read(pair: Pair) -> None:
    asked = trio.Event()
    decided = trio.Event()

    async def decide(verdict: Answer | None) -> Answer | None:
        asked.set()
        await decided.wait()
        return verdict

    def check(head: RequestHead) -> Any:
        return decide(Answer(403, b"no") if head.path == "/secret" else None)

    pair.site.check = check  # type: ignore[method-assign]
    await pair.send(request(body=b"x" * 5, expect="100-continue")[:-5])
    await asked.wait()
    # It waits for longer than a body may take.
    await trio.sleep(2 * pair.http_limits.body_seconds)
    decided.set()
    assert await pair.peer.receive_some(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
    await pair.send(b"hello")
    assert (await pair.response())[1] == b"hello"
    assert (await pair.ask("/secret", b"x"))[0].status_code == 403
    assert (await pair.ask(body=b"next"))[1] == b"next"


async def test_what_a_handler_waits_for_is_awaited_before_the_next_request(pair: Pair) -> None:
    gate = trio.Event()

    async def slowly(served: Served) -> None:
        await gate.wait()
        served.responder.answer(Answer(200, b"slow"))

    pair.site.serves["/slow"] = slowly
    await pair.send(request("/slow") + request(body=b"next"))
    await pair.until_served()
    await trio.sleep(2 * pair.http_limits.idle_seconds)
    assert len(pair.site.served) == 1
    gate.set()
    assert (await pair.response())[1] == b"slow"
    assert (await pair.response())[1] == b"next"


@pytest.mark.parametrize("where", ["check", "serve"])
async def test_a_defect_of_a_handler_is_answered_with_500_and_ends_the_connection(
    pair: Pair, where: str
) -> None:
    def defect(*_: object) -> None:
        raise RuntimeError("private details")

    if where == "check":
        pair.site.check = defect  # type: ignore[method-assign]
    else:
        pair.site.serves["/x"] = defect
    await pair.send(request("/x"))
    raw = await pair.rest()
    assert raw.startswith(b"HTTP/1.1 500 ")
    assert b"private" not in raw
    assert (await pair.ended()).ending is Ending.ANSWERED
    assert str(pair.crashes.pop()) == "private details"


async def test_what_is_no_request_is_answered_and_the_administrator_told_why(pair: Pair) -> None:
    await pair.send(b"GET / HTTP/1.1\r\n\r\n")
    head, body = await pair.response("GET")
    assert head.status_code == 400
    assert dict(head.headers)[b"content-type"] == b"application/json"
    assert json.loads(body)["error"] == {"code": -32600, "message": "there is no Host header"}
    assert await pair.rest() == b""
    ended = await pair.ended()
    assert (ended.ending, ended.why) == (Ending.BAD_REQUEST, "there is no Host header")
    assert pair.counts.responses == {1: 0, 2: 0, 3: 0, 4: 1, 5: 0}


async def test_requests_before_garbage_are_served(pair: Pair) -> None:
    await pair.send(request(body=b"good") + b"garbage\r\n\r\n")
    assert (await pair.response())[1] == b"good"
    assert (await pair.response())[0].status_code == 501
    assert (await pair.ended()).requests == 1


# Turns


async def test_a_client_with_many_commands_waiting_is_served_when_there_are_fewer(pair: Pair) -> None:
    account = pair.site.account = pair.accounts.open(PRINCIPAL, Peer(address="192.0.2.2"), "caller")
    account.queue(MAX_QUEUED)
    await pair.send(request(body=b"x"))
    # It waits for longer than the connection may be idle.
    await trio.sleep(2 * pair.http_limits.idle_seconds)
    assert pair.site.served == []
    account.queue(-1 - MAX_QUEUED // 2)
    turns().dequeued(account)
    assert (await pair.response())[1] == b"x"
    # Its time counts for who it was, and not for the connection.
    assert account.service > 0
    pair.accounts.close(account)


class Steps(trio.abc.Instrument):
    """Counts the steps of the task of a connection."""

    count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += task.name.endswith("connected.<locals>.run")


async def test_no_task_is_woken_for_a_plain_request(pair: Pair) -> None:
    steps = Steps()
    await pair.ask(body=b"1")
    trio.lowlevel.add_instrument(steps)
    for number in range(10):
        assert (await pair.ask(body=b"%d" % number))[1] == b"%d" % number
        await pair.send(request("/later"))
        served = await pair.until_served(3 + 2 * number)
        served.responder.answer(Answer(200, b"later"))
        assert (await pair.response())[1] == b"later"
    assert steps.count == 0

    async def serve() -> None:
        await trio.lowlevel.checkpoint()
        pair.site.served[-1].responder.answer(Answer(200, b"slow"))

    pair.site.serves["/slow"] = lambda _served: serve()
    assert (await pair.ask("/slow"))[1] == b"slow"
    # What takes time is done by the task.
    assert steps.count >= 2


async def test_what_a_task_was_to_do_is_dropped_with_its_connection(pair: Pair) -> None:
    begun = []

    async def serve() -> None:
        begun.append("serve")

    def end(_served: Any) -> Any:
        # What else happens in the same pass.
        pair.connection._end(Ending.OVERFLOW)
        return serve()

    pair.site.serves["/slow"] = end
    await pair.send(request("/slow"))
    assert (await pair.ended()).ending is Ending.OVERFLOW
    # Else Python warns of a coroutine that was never awaited, which fails the test.
    assert begun == []


async def test_what_is_refused_before_the_task_has_begun_it_is_not_done(pair: Pair) -> None:
    begun = []

    async def work() -> None:
        begun.append("work")

    def give_way() -> bool:
        # The task runs in the next pass.
        pair.connection.give_way("too many")
        return True

    def serve(_served: Served) -> Any:
        flush_at_end_of_pass(give_way)
        return work()

    pair.site.serves["/slow"] = serve
    assert (await pair.ask("/slow"))[0].status_code == 503
    assert (await pair.ended()).ending is Ending.GAVE_WAY
    assert begun == []


async def test_a_connection_is_read_for_whom_it_calls(pair: Pair) -> None:
    account = pair.site.account = pair.accounts.open(PRINCIPAL, Peer(address="192.0.2.2"), "caller")
    steps = Steps()
    # The first is read for the connection, before it is known on whose behalf it is.
    assert (await pair.ask(body=b"first"))[1] == b"first"
    trio.lowlevel.add_instrument(steps)
    for _ in range(5):
        assert (await pair.ask(body=b"x"))[1] == b"x"
    assert steps.count == 0
    assert account.service > 0
    pair.site.account = None
    assert (await pair.ask(body=b"x"))[1] == b"x"
    pair.accounts.close(account)


@pytest.mark.parametrize("address", ["192.0.2.1", "192.0.2.2"])
@pytest.mark.parametrize("next_one", ["/echo", "/refused"])
async def test_once_a_caller_has_gone_a_connection_is_read_for_itself(
    pair: Pair, address: str, next_one: str
) -> None:
    caller = pair.site.account = pair.accounts.open(PRINCIPAL, Peer(address=address), "caller")
    pair.site.refusal["/refused"] = Answer(403)
    read_for: list[str] = []
    check = pair.site.check

    def look(head: RequestHead) -> Any:
        account = turns().account
        read_for.append("nobody" if account is None else account.name)
        return check(head)

    pair.site.check = look  # type: ignore[method-assign]
    await pair.ask()
    await pair.ask()
    pair.site.account = None
    pair.accounts.close(caller)
    for _ in range(3):
        await pair.ask(next_one)
    own = pair.connection.id
    # It is known whose a request is when its head was read.
    assert read_for == [own, "caller", own, own, own]


@pytest.mark.parametrize("address", ["192.0.2.1", "192.0.2.2"])
async def test_a_body_under_way_is_read_for_somebody_who_is_there_once_its_caller_has_gone(
    pair: Pair, address: str
) -> None:
    caller = pair.site.account = pair.accounts.open(PRINCIPAL, Peer(address=address), "caller")
    head, body = b"POST /echo HTTP/1.1\r\nhost: h\r\ncontent-length: 300000\r\n\r\n", b"x" * 300_000
    await pair.send(head + body[:100_000])
    await trio.testing.wait_all_tasks_blocked()
    assert caller.service > 0
    # Whose it is from now on is for the site to say.
    pair.site.account = None
    pair.accounts.close(caller)
    # What is read next shows that it has gone.
    await pair.send(body[100_000:101_000])
    await trio.testing.wait_all_tasks_blocked()
    name = pair.connection.id
    own = next(each.members[name] for each in pair.accounts.processes() if name in each.members)
    before = caller.rank, own.rank
    await pair.send(body[101_000:])
    assert len((await pair.response())[1]) == len(body)
    assert caller.rank == before[0]
    assert own.rank > before[1]


async def test_what_takes_time_waits_for_a_turn_of_somebody_who_is_there_once_its_caller_has_gone(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = pair.site.account = pair.accounts.open(PRINCIPAL, Peer(address="192.0.2.1"), "caller")
    waited: list[str] = []

    async def take_turn(account: Account, *args: Any) -> None:
        assert not account.is_closed
        waited.append(account.name)
        await real(account, *args)

    real = request_loop.take_turn
    monkeypatch.setattr(request_loop, "take_turn", take_turn)

    async def answered_later(served: Served) -> None:
        served.responder.answer(Answer(200, b"later"))

    def serve(served: Served) -> Any:
        if len(pair.site.served) == 2:
            # The session ends in the same pass, before the task of the connection runs.
            pair.site.account = None
            pair.accounts.close(caller)
        return answered_later(served)

    pair.site.serves["/later"] = serve
    for _ in range(2):
        assert (await pair.ask("/later"))[1] == b"later"
    assert waited == ["caller", pair.connection.id]


class Passes(trio.abc.Instrument):
    """Counts the passes of the scheduler."""

    count = 0

    def before_io_wait(self, timeout: float) -> None:
        self.count += 1


async def test_requests_that_are_all_refused_leave_others_their_turns(pair: Pair) -> None:
    passes, seen = Passes(), Counter[int]()
    trio.lowlevel.add_instrument(passes)

    def check(_head: RequestHead) -> Answer:
        seen[passes.count] += 1
        return Answer(404)

    pair.site.check = check  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.send, request("/nothing") * 2000)
        while seen.total() < 2000:
            await pair.peer.receive_some(65536)
    trio.lowlevel.remove_instrument(passes)
    # As many as fit into the buffers would be answered at once.
    assert max(seen.values()) < 500, seen


# Memory


async def test_of_a_client_that_does_not_wait_for_responses_little_is_read(pair: Pair) -> None:
    await pair.send(request("/later"))
    served = await pair.until_served()
    sent = 0

    async def flood() -> None:
        nonlocal sent
        while True:
            await pair.send(b"x" * KIB)
            sent += KIB

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood)
        await trio.testing.wait_all_tasks_blocked(0.1)
        # Beyond what we keep it is kept by the kernel.
        assert pair.connection._parser.unparsed < 2 * MAX_AHEAD_BYTES
        before = sent
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert sent == before
        nursery.cancel_scope.cancel()
    served.responder.answer(Answer(200, b"1"))
    assert (await pair.response())[1] == b"1"
    assert (await pair.response())[0].status_code == 501


async def test_a_body_is_refused_at_its_head_and_the_client_that_sends_it_all_gets_the_answer() -> None:
    async with connected(limits=Limits(max_message_bytes=KIB)) as pair:
        await pair.send(request(body=b"x" * (2 * MIB)))
        head, body = await pair.response()
        assert head.status_code == 413
        assert "more than 1024 bytes" in json.loads(body)["error"]["message"]
        assert (await pair.ended()).ending is Ending.BAD_REQUEST
    async with connected(limits=Limits(max_message_bytes=KIB)) as pair:
        await pair.send(request(transfer_encoding="chunked") + b"800\r\n" + b"x" * 2048 + b"\r\n0\r\n\r\n")
        assert (await pair.response())[0].status_code == 413


async def test_a_client_that_reads_nothing_gets_no_more_than_a_socket_holds_and_some() -> None:
    body = b"x" * (512 * KIB)
    limits = Limits(unread_seconds=3600)
    async with connected(limits=limits) as pair, trio.open_nursery() as nursery:
        nursery.start_soon(pair.send, request(body=body) * 8)
        # It may read late, too.
        await trio.sleep(1800)
        assert len(pair.site.served) == 1
        for _ in range(8):
            assert (await pair.response())[1] == body


async def test_a_client_that_reads_nothing_for_long_is_cut() -> None:
    async with connected(limits=Limits(unread_seconds=5)) as pair:
        pair.site.serves["/much"] = answering(Answer(200, b"x" * MIB))
        await pair.send(request("/much"))
        began = trio.current_time()
        ended = await pair.ended()
        assert ended.ending is Ending.UNREAD
        assert ended.unread_bytes > 64 * KIB
        assert trio.current_time() - began == pytest.approx(5, abs=0.1)


async def test_events_for_a_client_that_does_not_read_are_bounded() -> None:
    async with connected(limits=Limits(max_outbox_bytes=MIB)) as pair:
        await pair.send(request("/events"))
        served = await pair.until_served()
        served.responder.begin_events()
        for _ in range(100):
            served.responder.send_events(b"x" * (64 * KIB))
        ended = await pair.ended()
        assert (ended.ending, ended.limit_bytes) == (Ending.OVERFLOW, MIB)
        assert served.is_gone


async def test_unfinished_bodies_count_and_are_given_up_beyond_the_budget() -> None:
    async with connected(limits=Limits(max_memory_bytes=256 * KIB)) as pair:
        await pair.send(request(body=b"x" * MIB)[: 512 * KIB])
        head, body = await pair.response()
        assert head.status_code == 503
        assert dict(head.headers)[b"retry-after"] == b"1"
        assert "memory" in json.loads(body)["error"]["message"]
        assert [event for event in pair.events if isinstance(event, MemoryExceeded)]
        await pair.ended()
        assert pair.accounts.all.held == [0, 0, 0, 0]


async def test_a_request_that_is_given_up_while_it_is_checked_has_one_response_and_is_not_served() -> None:
    async with connected(limits=Limits(max_memory_bytes=64 * KIB)) as pair:
        ended = trio.Event()

        async def check() -> Answer | None:
            try:
                await trio.sleep(5)
            finally:
                ended.set()
            return Answer(401, b"who?")

        pair.site.refusal["/late"] = check()
        await pair.send(request("/late", b"x" * (32 * KIB)))
        await trio.testing.wait_all_tasks_blocked()
        pair.connection.give_back()
        raw = await pair.rest()
        assert raw.startswith(b"HTTP/1.1 503 ")
        assert raw.count(b"HTTP/1.1 ") == 1
        await ended.wait()
        assert pair.site.served == []


@pytest.mark.parametrize("method", ["GET", "DELETE", "OPTIONS", "HEAD"])
async def test_a_body_where_it_has_no_meaning_is_dropped(pair: Pair, method: str) -> None:
    head, _ = await pair.ask(body=b"x" * MIB, method=method)
    assert head.status_code == 200
    assert pair.site.served[0].body == b""
    assert (await pair.ask(body=b"next"))[1] == b"next"


async def test_a_whole_body_counts_until_it_is_served(pair: Pair) -> None:
    account = pair.site.account = pair.accounts.open(PRINCIPAL, Peer(address="192.0.2.2"), "caller")
    account.queue(MAX_QUEUED)
    await pair.send(request("/later", b"x" * MIB))
    await trio.sleep(1)
    assert pair.accounts.all.held[3] == MIB
    account.queue(-1)
    turns().dequeued(account)
    await pair.until_served()
    assert pair.accounts.all.held[3] == 0
    pair.accounts.close(account)


async def test_a_whole_body_counts_no_longer_once_it_is_served(pair: Pair) -> None:
    await pair.send(request("/later", b"x" * MIB))
    served = await pair.until_served()
    await trio.testing.wait_all_tasks_blocked()
    assert pair.accounts.all.held[3] == 0
    served.responder.answer(Answer(200))
    await pair.response()


# Time


async def first(pair: Pair) -> None:
    """Send nothing."""


async def head(pair: Pair) -> None:
    """Send a part of a head, each second."""
    await pair.send(b"GET / HTTP/1.1\r\n")
    for _ in range(60):
        await trio.sleep(1)
        await pair.send(b"X: y\r\n")


async def body(pair: Pair) -> None:
    """Send a part of a body, each second."""
    await pair.send(request(body=b"x" * 100)[:-100])
    for _ in range(60):
        await trio.sleep(1)
        await pair.send(b"x")


@pytest.mark.parametrize(
    ("sending", "seconds", "text"), [(first, 10, "the head"), (head, 10, "the head"), (body, 30, "the body")]
)
async def test_a_request_that_comes_too_slowly_is_answered_with_408(
    sending: Any, seconds: int, text: str
) -> None:
    async with connected() as pair, trio.open_nursery() as nursery:
        began = trio.current_time()
        nursery.start_soon(partial(_until_broken, sending, pair))
        head, body = await pair.response()
        assert head.status_code == 408
        assert dict(head.headers)[b"connection"] == b"close"
        assert text in json.loads(body)["error"]["message"]
        assert trio.current_time() - began == pytest.approx(seconds, abs=0.5)
        assert (await pair.ended()).ending is Ending.SLOW
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("is_turn_over", [True, False])
async def test_a_request_that_came_in_time_and_waits_for_its_turn_is_served(
    pair: Pair, is_turn_over: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = trio.current_time()
    with monkeypatch.context() as no_turns:
        if is_turn_over:
            no_turns.setattr(Turns, "may_begin", lambda *_: False)
            no_turns.setattr(Turns, "queue", lambda *_: None)
        await pair.send(request()[:-2])
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.current_clock().jump(pair.http_limits.head_seconds)  # type: ignore[attr-defined]
        await trio.testing.wait_all_tasks_blocked()
    if is_turn_over:
        await pair.send(request()[-2:])
    # Once more it has as long.
    assert (await pair.response())[0].status_code == (200 if is_turn_over else 408)
    assert trio.current_time() - began == pytest.approx(pair.http_limits.head_seconds, abs=0.5)


@pytest.mark.parametrize("answers", ["at once", "with events"])
@pytest.mark.parametrize("comes", ["with the request", "after it"])
async def test_a_head_that_began_during_a_response_has_its_time_from_the_end_of_that(
    pair: Pair, answers: str, comes: str
) -> None:
    beginning = request("/next")[:-5]
    await pair.ask()
    together = comes == "with the request"
    await pair.send(request("/later") + (beginning if together else b""))
    served = await pair.until_served(2)
    if answers == "with events":
        served.responder.begin_events()
    if not together:
        await pair.send(beginning)
    await trio.sleep(3600)
    began = trio.current_time()
    if answers == "with events":
        served.responder.end_events()
    else:
        served.responder.answer(Answer(200, b"later"))
    assert (await pair.response())[0].status_code == 200
    head, body = await pair.response()
    assert head.status_code == 408
    assert "the head" in json.loads(body)["error"]["message"]
    assert trio.current_time() - began == pytest.approx(pair.http_limits.head_seconds, abs=0.1)
    assert (await pair.ended()).ending is Ending.SLOW


async def test_a_head_that_has_begun_waits_until_the_response_before_it_is_read() -> None:
    limits = Limits(unread_seconds=100.0)
    async with connected(limits=limits) as pair:
        await pair.send(request("/later") + request()[:20])
        served = await pair.until_served()
        served.responder.answer(Answer(200, b"x" * 4 * MIB))
        await trio.sleep(3 * pair.http_limits.head_seconds)
        assert len((await pair.response())[1]) == 4 * MIB
        await pair.send(request()[20:])
        assert (await pair.response())[0].status_code == 200


async def _until_broken(sending: Any, pair: Pair) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        await sending(pair)


async def test_an_idle_connection_is_closed_without_a_word_and_each_response_gives_it_its_time_again() -> (
    None
):
    async with connected(http_limits=HttpLimits(idle_seconds=20)) as pair:
        for _ in range(5):
            await pair.ask(body=b"x")
            await trio.sleep(15)
        began = trio.current_time() - 15
        assert await pair.rest() == b""
        assert trio.current_time() - began == pytest.approx(20, abs=0.1)
        assert (await pair.ended()).ending is Ending.IDLE


async def test_a_response_may_take_as_long_as_it_likes(pair: Pair) -> None:
    await pair.send(request("/later"))
    served = await pair.until_served()
    await trio.sleep(3600)
    served.responder.answer(Answer(200, b"at last"))
    assert (await pair.response())[1] == b"at last"
    # The connection is idle from then on.
    began = trio.current_time()
    assert await pair.rest() == b""
    assert trio.current_time() - began == pytest.approx(pair.http_limits.idle_seconds, abs=0.1)


async def test_other_limits_are_applied_from_the_next_request_on(pair: Pair) -> None:
    await pair.ask(body=b"x" * 100)
    pair.limits.max_message_bytes = 10
    pair.http_limits.idle_seconds = 1.0
    pair.connection.apply_limits()
    assert (await pair.ask(body=b"x" * 100))[0].status_code == 413
