from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from redstreamd.admission.accounts import Account, Accounts, Peer
from redstreamd.admission.turns import turns
from redstreamd.policy import Principal
from redstreamd.redisio.pipeline import Pipeline
from redstreamd.redisio.reply_reader import Broken, Ending, ReplyReader, Unasked, Unreadable
from redstreamd.redisio.traffic import Traffic
from redstreamd.stream_io import answers_of_pass


@attrs.define
class Reading:
    """A reader, and what it did.

    Attributes:
        reader: What is tested.
        pipeline: Its requests.
        stream: What it reads from.
        server: The other end.
        ends: Why it ended.
        replies: What was given.
    """

    reader: ReplyReader
    pipeline: Pipeline
    stream: trio.SocketStream
    server: socket.socket
    ends: list[Ending]
    replies: list[Any] = attrs.field(factory=list)

    def ask(self, count: int) -> None:
        for number in range(count):
            self.pipeline.enqueue(("ECHO", number), self.replies.append)
        self.pipeline.take(trio.current_time() + 5)


@asynccontextmanager
async def reading() -> AsyncIterator[Reading]:
    ours, server = socket.socketpair()
    pipeline = Pipeline(lambda: None, turns())
    ends: list[Ending] = []
    reader = ReplyReader(
        pipeline.awaited,
        Traffic(),
        reply_timeout=5,
        on_push=None,
        send_now=lambda: None,
        on_end=ends.append,
    )
    with server:
        async with (
            trio.SocketStream(trio.socket.from_stdlib_socket(ours)) as stream,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(reader.run, stream)
            await trio.testing.wait_all_tasks_blocked()
            assert list(turns().arrivals.servers.values()) == [reader]
            yield Reading(reader, pipeline, stream, server, ends)
            nursery.cancel_scope.cancel()
    assert not turns().arrivals.servers


async def test_what_has_arrived_is_taken_up_without_the_task() -> None:
    async with reading() as state:
        state.reader.take_replies()
        state.ask(3)
        state.server.send(b":0\r\n:1\r\n:")
        state.reader.take_replies()
        assert state.replies == [0, 1]
        state.server.send(b"2\r\n")
        state.reader.take_replies()
        assert state.replies == [0, 1, 2]
        state.ask(1)
        state.server.send(b":3\r\n")
        await trio.testing.wait_all_tasks_blocked()
        assert state.replies == [0, 1, 2, 3]
        assert state.ends == []


async def test_answers_are_written_at_once_and_at_nobodys_cost_while_somebody_light_is_there() -> None:
    account = Accounts().open(Principal("me", "unix"), Peer(1000, 1), "one")
    written: list[tuple[list[Any], Account | None]] = []

    def write() -> bool:
        written.append((list(state.replies), turns().account))
        return False

    async with reading() as state:
        turns().work_for(account)
        state.ask(2)
        answers_of_pass()(write)
        state.server.send(b":0\r\n")
        turns().is_light = False
        state.reader.take_replies()
        assert written == []
        state.server.send(b":1\r\n")
        turns().is_light = True
        state.reader.take_replies()
        assert written == [([0, 1], None)]
        turns().is_light = False


async def test_what_arrives_while_the_task_is_at_others_comes_after_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Then each pass has one reply.
    monkeypatch.setattr("redstreamd.admission.turns.LONE_TURN_SECONDS", 0.0)
    async with reading() as state:

        def first(reply: object) -> None:
            state.replies.append(reply)
            state.server.send(b":2\r\n")
            state.reader.take_replies()
            assert state.replies == [0]

        state.pipeline.enqueue(("ECHO", 0), first)
        state.ask(2)
        state.server.send(b":0\r\n:1\r\n")
        while len(state.replies) < 3:
            state.reader.take_replies()
            await trio.lowlevel.checkpoint()
        assert state.replies == [0, 1, 2]


@pytest.mark.parametrize(
    ("sent", "why"), [(b"", Broken), (b"?\r\n", Unreadable), (b":0\r\n:1\r\n:2\r\n", Unasked)]
)
async def test_an_end_that_is_found_within_a_pass_is_told_once(sent: bytes, why: type[Ending]) -> None:
    async with reading() as state:
        state.ask(1)
        state.server.send(sent)
        if not sent:
            state.server.close()
        state.reader.take_replies()
        state.reader.take_replies()
        await trio.testing.wait_all_tasks_blocked()
        assert [type(each) for each in state.ends] == [why]


async def test_a_reset_that_is_found_within_a_pass_is_told_as_such() -> None:
    async with reading() as state:
        # What was sent and not read makes closing a reset (unix(7)).
        await state.stream.send_all(b"never read")
        state.server.close()
        state.reader.take_replies()
        await trio.testing.wait_all_tasks_blocked()
        (ending,) = state.ends
        assert isinstance(ending, Broken)
        assert "reset" in str(ending.error)


@pytest.mark.parametrize("is_shared", [False, True])
async def test_a_client_that_is_alone_gets_its_replies_in_one_pass_though_they_come_in_parts(
    is_shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However long that takes.
    monkeypatch.setattr("redstreamd.admission.turns.LONE_TURN_SECONDS", 60.0)
    events: list[object] = []

    def write() -> bool:
        events.append("written")
        return False

    def take(number: int) -> None:
        events.append((number, turns().now))
        answers_of_pass()(write)
        turns().is_shared = is_shared
        if number < 3:
            # The next one arrives while this one is handled.
            state.server.send(b":%d\r\n" % (number + 1))

    async with reading() as state:
        for _ in range(5):
            state.pipeline.enqueue(("ECHO", "one"), take)
        state.pipeline.take(trio.current_time() + 5)
        state.server.send(b":0\r\n")
        await trio.testing.wait_all_tasks_blocked()
        turns().is_shared = False
        passes = {event[1] for event in events if isinstance(event, tuple)}
        # Others would wait for the end of the pass.
        assert len(passes) == (4 if is_shared else 1)
        assert [event if event == "written" else event[0] for event in events] == [
            *(0, "written", 1, "written", 2, "written", 3, "written"),
        ]
        # The last one has not come yet.
        assert state.pipeline.in_flight == 1
        assert state.ends == []


async def test_what_a_client_that_is_alone_has_replied_ends_with_its_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("redstreamd.admission.turns.LONE_TURN_SECONDS", 0.0)
    passes = []

    def take(number: int) -> None:
        passes.append(turns().now)
        if number < 2:
            state.server.send(b":%d\r\n" % (number + 1))

    async with reading() as state:
        for _ in range(4):
            state.pipeline.enqueue(("ECHO", "one"), take)
        state.pipeline.take(trio.current_time() + 5)
        state.server.send(b":0\r\n")
        await trio.testing.wait_all_tasks_blocked()
        assert len(set(passes)) == len(passes) == 3
