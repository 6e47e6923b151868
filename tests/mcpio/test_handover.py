"""A connection's state outlives its Connection object, and the peer notices nothing.

Time is virtual: what a hand-over allows for is used up only by those who wait, not by a slow machine.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any

import attrs
import msgspec
import pytest
import trio
import trio.testing

from redstreamd.mcpio.client_connection import ClientConnection
from redstreamd.mcpio.connection_events import ConnectionClosed, Ending, Event
from redstreamd.mcpio.connection_state import FORMAT, ConnectionState, Era, ListenRequest
from redstreamd.mcpio.limits import Limits
from redstreamd.mcpio.protocol_eras import Kernels
from redstreamd.policy import Principal
from tests.compat.old_release import RELEASES, old_package
from tests.mcpio.handover_child import MAX_RECORD
from tests.mcpio.serving import PRINCIPAL, Tools, make_server, socket_pair
from tests.mcpio.test_both_eras import text_of
from tests.support.mcp_client import HANDSHAKE, EraName, RawClient, connected, enveloped

HERE = "unix:/run/redstreamd/mcp.sock"

ERAS = pytest.mark.parametrize("era", ["handshake", "modern"])


@pytest.fixture
def anyio_backend() -> Any:
    """Let time pass at once when everybody waits."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


@attrs.define
class Relay:
    """One stream, and the connections that serve it one after the other.

    Attributes:
        peer: The other end of the stream.
        tools: What the handlers of the present connection did.
        states: What each connection left behind, in JSON.
        events: What all of them reported.
    """

    stream: trio.SocketStream
    peer: trio.SocketStream
    nursery: trio.Nursery
    tools: Tools = attrs.field(factory=Tools)
    states: list[bytes] = attrs.field(factory=list)
    events: list[Event] = attrs.field(factory=list)
    connection: ClientConnection | None = None

    async def serve(self, state: ConnectionState | None = None) -> None:
        """Serve the stream with a new connection and a new server."""
        self.tools = Tools()
        self.connection = ClientConnection(
            self.stream,
            Kernels(make_server(self.tools)),
            # A successor learns from the record who the client is.
            principal=PRINCIPAL if state is None else Principal("somebody", "tcp"),
            socket=HERE if state is None else "",
            limits=Limits(max_message_bytes=100_000),
            state=state,
            on_event=self.events.append,
        )
        await self.nursery.start(self.connection.run)

    async def hand_over(self, timeout_seconds: float = 1) -> ConnectionState:
        """Take the stream from the present connection and give it to a new one."""
        assert self.connection is not None
        state = await self.connection.hand_over(timeout_seconds)
        assert state is not None
        self.states.append(state.to_json())
        restored = ConnectionState.from_json(self.states[-1])
        assert restored == state
        await self.serve(restored)
        return restored


@asynccontextmanager
async def relay() -> AsyncIterator[Relay]:
    """Serve one end of a socket pair for the block."""
    stream, peer = socket_pair()
    async with peer, trio.open_nursery() as nursery:
        each = Relay(stream, peer, nursery)
        await each.serve()
        yield each
        nursery.cancel_scope.cancel()


@ERAS
async def test_a_client_goes_on_calling_tools_over_a_new_connection_object(era: EraName) -> None:
    async with relay() as each, connected(each.peer, era=era) as client:
        for number in range(3):
            assert text_of(await client.call_tool("echo", {"text": f"{number}"})) == f"{number}"
            before = each.connection
            state = await each.hand_over()
            assert each.connection is not before
            assert state.era == Era(era)
            assert each.connection is not None
            assert state.connection_id == each.connection.id
        assert text_of(await client.call_tool("whoami")) == "tester/unix"
        assert len((await client.list_tools()).tools) > 3
        assert [event.ending for event in each.events if isinstance(event, ConnectionClosed)] == [
            Ending.HANDED_OVER
        ] * 3


async def test_the_state_of_a_session_says_how_it_was_agreed() -> None:
    async with relay() as each:
        raw = RawClient(each.peer)
        unused = ConnectionState(each.connection.id, principal=PRINCIPAL, socket=HERE)
        assert await each.hand_over() == unused
        await raw.send(raw.request("initialize", {**HANDSHAKE, "protocolVersion": "2025-06-18"}))
        await raw.receive()
        state = await each.hand_over()
        assert state.initialize_params == {**HANDSHAKE, "protocolVersion": "2025-06-18"}
        assert (state.protocol_version, state.initialized, state.era) == (
            "2025-06-18",
            False,
            Era.HANDSHAKE,
        )
        await raw.notify("notifications/initialized")
        await raw.call_tool("echo")
        assert (await each.hand_over()).initialized
        assert "result" in await raw.call_tool("echo")
        assert len(each.states[-1]) < 500


async def test_a_message_that_is_half_sent_is_understood_by_the_successor() -> None:
    async with relay() as each:
        raw = RawClient(each.peer)
        await raw.initialize()
        line = (
            json.dumps(raw.tool_call("echo", {"text": "äöü"}, request_id="a"), ensure_ascii=False).encode()
            + b"\n"
        )
        for cut in (1, line.index("ä".encode()) + 1, len(line) - 1):
            await raw.send_bytes(line[:cut])
            await trio.testing.wait_all_tasks_blocked(0.01)
            state = await each.hand_over()
            assert state.unread == line[:cut]
            await raw.send_bytes(line[cut:])
            assert (await raw.answer_to("a"))["result"]["content"][0]["text"] == "äöü"


async def test_in_the_middle_of_a_message_that_is_too_long_the_successor_skips_the_rest() -> None:
    async with relay() as each:
        raw = RawClient(each.peer)
        await raw.initialize()
        long = json.dumps(raw.tool_call("echo", {"text": "x" * 200_000}, request_id="long")).encode()
        for cut in (50_000, 150_000):
            await raw.send_bytes(long[:cut])
            await trio.testing.wait_all_tasks_blocked(0.01)
            state = await each.hand_over()
            assert state.unread == (long[:cut] if cut < 100_000 else b"")
            assert state.long_lines == (() if cut < 100_000 else (0,))
            await raw.send_bytes(long[cut:] + b"\n")
            assert (await raw.answer_to("long"))["error"]["code"] == -32600
            assert "result" in await raw.call_tool("echo", {"text": "on"})
            assert raw.passed_over == []


async def test_a_client_that_has_said_nothing_may_turn_out_to_speak_http_to_the_successor() -> None:
    async with relay() as each:
        raw = RawClient(each.peer)
        await raw.send_bytes(b"POST /")
        await trio.testing.wait_all_tasks_blocked(0.01)
        await each.hand_over()
        await raw.send_bytes(b" HTTP/1.1\r\n\r\n")
        assert "HTTP" in (await raw.receive())["error"]["message"]
        with pytest.raises(EOFError):
            await raw.receive()


async def test_a_request_that_ends_in_time_is_answered_before_the_hand_over() -> None:
    async with relay() as each:
        raw = RawClient(each.peer)
        await raw.initialize()
        await raw.send(raw.tool_call("sleep", {"name": "a", "seconds": 0.1}, request_id="a"))
        await each.tools.wait("started", "a")
        state = await each.hand_over(5)
        assert state.in_flight == ()
        assert (await raw.receive())["result"]["content"][0]["text"] == "slept a"


async def test_a_request_that_does_not_is_answered_once_by_the_successor() -> None:
    async with relay() as each:
        raw = RawClient(each.peer)
        await raw.initialize()
        await raw.send(
            raw.tool_call("sleep", {"name": "a"}, request_id="a"),
            raw.tool_call("sleep", {"name": "b"}, request_id=7),
            raw.tool_call("sleep", {"name": "c"}, request_id="cancelled"),
        )
        for name in "abc":
            await each.tools.wait("started", name)
        await raw.cancel("cancelled")
        before = each.tools
        await before.wait("ended", "c")
        state = await each.hand_over(0.05)
        assert set(state.in_flight) == {"a", 7}
        assert before.ended == {"a", "b", "c"}
        answers = [await raw.receive(), await raw.receive()]
        assert {answer["id"] for answer in answers} == {"a", 7}
        assert {answer["error"]["code"] for answer in answers} == {-32000}
        assert "result" in await raw.call_tool("echo", {"text": "on"})
        assert raw.passed_over == []


async def test_requests_that_were_not_read_yet_are_the_successors() -> None:
    async with relay() as each:
        raw = RawClient(each.peer)
        await raw.initialize()
        assert each.connection is not None
        # More than one read brings, so that some of it is read and not taken, and some not even read.
        calls = [raw.tool_call("echo", {"text": "x" * 500}, request_id=number) for number in range(600)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(raw.send, *calls)
            answers = [await raw.receive()]
            states = [await each.hand_over()]
            for _ in range(10):
                # No fewer than a turn answers: what nobody reads would end the connection.
                answers += [await raw.receive() for _ in range(50)]
                states.append(await each.hand_over())
            while len(answers) < 600:
                answers.append(await raw.receive())
        assert sorted(answer["id"] for answer in answers) == list(range(600))
        assert all("result" in answer for answer in answers)
        assert any(state.unread for state in states)


async def test_listening_is_taken_up_where_it_was() -> None:
    async with relay() as each:
        raw = RawClient(each.peer, era="modern")
        params = {"notifications": {"resourceSubscriptions": ["a://b"]}}
        await raw.send(raw.request("subscriptions/listen", params, request_id="l"))
        await each.tools.wait("started", "listen l")
        each.tools.contexts[0].cursors["orders"] = "5-0"
        state = await each.hand_over(0.01)
        assert state.in_flight == ()
        assert state.listens == (ListenRequest("l", enveloped(params), {"orders": "5-0"}),)
        await each.tools.wait("started", "listen l")
        (context,) = each.tools.contexts
        assert context.cursors == {"orders": "5-0"}
        await context.notify("notifications/resources/updated", {"uri": "a://b"})
        assert (await raw.receive())["params"] == {"uri": "a://b"}
        # It is in flight as any other request is.
        assert (await raw.call("tools/list", request_id="l"))["error"]["code"] == -32600
        await raw.cancel("l")
        assert "result" in await raw.call("tools/list")


async def test_a_notification_ahead_of_the_first_request_is_not_forgotten() -> None:
    async with relay() as each:
        raw = RawClient(each.peer)
        await raw.notify("notifications/x")
        await trio.testing.wait_all_tasks_blocked(0.01)
        # It waits for the first request, however many predecessors have read it.
        for _ in range(2):
            state = await each.hand_over()
            assert json.loads(state.unread) == {"jsonrpc": "2.0", "method": "notifications/x"}
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert "result" in await raw.call("ping")
        assert (await each.hand_over()).unread == b""


async def test_what_a_peer_has_not_read_is_sent_by_the_successors() -> None:
    async with relay() as each:
        raw = RawClient(each.peer)
        await raw.initialize()
        await raw.send(*(raw.tool_call("big", {"bytes": 200_000}, request_id=number) for number in range(8)))
        # All of them were read and answered, so that more waits than the sockets hold.
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
        for _ in range(3):
            state = await each.hand_over()
            assert len(state.unwritten) > 1_000_000
            await trio.testing.wait_all_tasks_blocked()
        # A peer that does not read holds up nobody.
        assert trio.current_time() == began
        texts = [(await raw.receive())["result"]["content"][0]["text"] for _ in range(8)]
        assert texts == ["x" * 200_000] * 8
        assert "result" in await raw.call_tool("echo", {"text": "on"})
        assert (await each.hand_over()).unwritten == b""


async def test_a_connection_that_has_ended_cannot_be_handed_over() -> None:
    ours, theirs = socket_pair()
    async with trio.open_nursery() as nursery:
        connection = ClientConnection(ours, Kernels(make_server()), principal=PRINCIPAL)
        await nursery.start(connection.run)
        await theirs.aclose()
        await connection.drain(1)
        assert await connection.hand_over(1) is None


@pytest.mark.parametrize(
    "state",
    [
        ConnectionState("c"),
        ConnectionState(
            connection_id="c",
            era=Era.HANDSHAKE,
            initialize_params={"odd": "\ud800", "deep": {"a": [1, None, 2.5]}},
            protocol_version="2025-11-25",
            initialized=True,
            in_flight=(1, "a", -5, "\ud800"),
            listens=(ListenRequest("l", {"_meta": {}}, {"s": "1-0"}), ListenRequest(2, None, {})),
            subscriptions={"a://b": "1-0"},
            unread=b'\xff\x00{"a',
            principal=Principal("ann", "tcp"),
            socket="tcp:[::1]:7000",
            unwritten=b'lf a line"}\n\xff',
            long_lines=(0, 2),
        ),
    ],
)
def test_a_state_survives_its_json_form(state: ConnectionState) -> None:
    text = state.to_json()
    assert b"\n" not in text
    assert ConnectionState.from_json(text) == state


def test_a_state_of_another_release_can_be_read() -> None:
    later = {"format": 9, "needs_format": 2, "connection_id": "c", "era": "modern", "something_new": [1]}
    assert ConnectionState.from_json(json.dumps(later).encode()) == ConnectionState("c", era=Era.MODERN)


def test_a_state_that_needs_a_newer_reader_is_refused() -> None:
    later = {"format": 9, "needs_format": FORMAT + 1, "connection_id": "c"}
    with pytest.raises(ValueError, match=f"needs format {FORMAT + 1}"):
        ConnectionState.from_json(json.dumps(later).encode())


@pytest.mark.parametrize("release", RELEASES)
def test_a_record_goes_to_an_earlier_release_and_back(release: str) -> None:
    """What both know survives, in both directions; what only one knows is not mistaken for anything."""
    state = ConnectionState(
        connection_id="c",
        era=Era.HANDSHAKE,
        initialize_params={"a": 1},
        protocol_version="2025-11-25",
        initialized=True,
        in_flight=(1, "a"),
        listens=(ListenRequest("l", {"_meta": {}}, {"s": "1-0"}),),
        subscriptions={"a://b": "1-0"},
        unread=b"\xffabc",
        principal=Principal("ann", "tcp"),
        socket=HERE,
    )
    # The earlier release reads our record, and writes its own.
    script = (
        "import sys\n"
        "from redstreamd.mcpio.state import ConnectionState\n"
        "assert sys.argv[1] in sys.modules[ConnectionState.__module__].__file__\n"
        "state = ConnectionState.from_json(sys.stdin.buffer.read())\n"
        "sys.stdout.buffer.write(state.to_json())\n"
    )
    with old_package(release) as old:
        done = subprocess.run(
            [sys.executable, "-P", "-c", script, str(old.directory)],
            env=os.environ | {"PYTHONPATH": str(old.directory)},
            input=state.to_json(),
            capture_output=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    back = ConnectionState.from_json(done.stdout)
    assert back == msgspec.structs.replace(state, principal=None, socket="")
    # An earlier reader would lose it, so it is told not to take the connection up.
    assert state.needs_format == 1
    assert msgspec.structs.replace(state, unwritten=b"x").needs_format == 2


@pytest.mark.limit(60)
async def test_a_client_is_passed_on_between_processes_and_notices_nothing() -> None:
    ours, theirs = socket.socketpair()
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    record = b"new"
    # They import meanwhile what they need.
    async with stream, AsyncExitStack() as processes:
        processes.callback(theirs.close)
        controls = [processes.enter_context(child()) for _ in range(3)]
        raw = RawClient(stream)
        half = json.dumps(raw.tool_call("whoami", request_id="half")).encode() + b"\n"
        for number, control in enumerate(controls):
            socket.send_fds(control, [record], [theirs.fileno()])
            if number == 0:
                await raw.initialize()
            else:
                await raw.send_bytes(half[40:])
                assert (await raw.answer_to("half"))["result"]["content"][0]["text"] == "first/unix"
            await raw.send_bytes(half[:40])
            record = await trio.to_thread.run_sync(ask_back, control)
            state = ConnectionState.from_json(record)
            assert (state.principal, state.socket) == (Principal("first", "unix"), "unix:/first")


def ask_back(control: socket.socket) -> bytes:
    """Ask a child for its client; the child keeps nothing."""
    control.send(b"give")
    record, descriptors, _, _ = socket.recv_fds(control, MAX_RECORD, 1)
    for descriptor in descriptors:
        os.close(descriptor)
    assert control.recv(10) == b"given"
    return record


@contextmanager
def child() -> Iterator[socket.socket]:
    """Run a process that serves a client, and kill it at the end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.settimeout(60)
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.mcpio.handover_child", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
        )
        try:
            yield ours
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    "wrong", [b"", b"[]", b'{"connection_id":1}', b'{"connection_id":"c","in_flight":[1.5]}', b"\xff"]
)
def test_what_is_no_state_is_refused(wrong: bytes) -> None:
    with pytest.raises(ValueError):
        ConnectionState.from_json(wrong)


async def test_a_handshake_that_is_not_valid_is_refused() -> None:
    state = ConnectionState("c", era=Era.HANDSHAKE, initialize_params={"a": 1}, protocol_version="2025-11-25")
    ours, theirs = socket_pair()
    async with ours, theirs:
        with pytest.raises(ValueError):
            ClientConnection(ours, Kernels(make_server()), principal=PRINCIPAL, state=state)
