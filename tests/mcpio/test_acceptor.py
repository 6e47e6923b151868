"""Many peers at once, too many of them, hostile ones among them, and defects of ours."""

from __future__ import annotations

import contextlib
import math
import os
import resource
import socket
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from redstreamd.admission.accounts import Held, Peer
from redstreamd.admission.turns import turns
from redstreamd.errors.defects import Defect
from redstreamd.mcpio import jsonrpc, unopened_clients
from redstreamd.mcpio.acceptor import Acceptor
from redstreamd.mcpio.client_connection import ClientConnection
from redstreamd.mcpio.connection_bounds import ConnectionBounds
from redstreamd.mcpio.connection_events import (
    AcceptPaused,
    AcceptResumed,
    Bound,
    ConnectionClosed,
    ConnectionCrashed,
    ConnectionRejected,
    Ending,
    Event,
)
from redstreamd.mcpio.limits import Limits
from redstreamd.mcpio.listeners import open_tcp_listeners, open_unix_listener
from redstreamd.mcpio.parked_readers import READ_BYTES
from redstreamd.mcpio.protocol_eras import Kernels
from redstreamd.mcpio.served_listener import ServedListener
from redstreamd.mcpio.spare_descriptors import SPARE_DESCRIPTORS
from redstreamd.policy import Principal
from tests.mcpio.serving import PRINCIPAL, Service, Tools, make_server, serving, virtual_time
from tests.support.mcp_client import HANDSHAKE, RawClient, raw_client
from tests.support.measured import measured


@pytest.fixture
def socket_path() -> Iterator[str]:
    """A path for a socket: they are limited to 107 bytes, which pytest's directories can exceed."""
    with tempfile.TemporaryDirectory(prefix="rs-") as directory:
        yield f"{directory}/mcp.sock"


@contextlib.contextmanager
def descriptors(at_least: int | None = None, at_most: int | None = None) -> Iterator[None]:
    """Set how many descriptors this process may have, for the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, at_least) if at_least is not None else at_most
    assert wanted is not None
    if wanted > hard != resource.RLIM_INFINITY:
        pytest.skip(f"needs {wanted} descriptors, and the hard limit is {hard} (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.limit(60)
async def test_a_thousand_peers_are_served_at_once() -> None:
    with descriptors(at_least=2500):
        async with serving() as service, contextlib.AsyncExitStack() as stack:
            peers = [await stack.enter_async_context(raw_client(service.path)) for _ in range(1000)]
            answers: dict[int, str] = {}

            async def use(number: int, peer: RawClient) -> None:
                await peer.initialize()
                answer = await peer.call_tool("echo", {"text": f"{number}"})
                answers[number] = answer["result"]["content"][0]["text"]

            async with trio.open_nursery() as nursery:
                for number, peer in enumerate(peers):
                    nursery.start_soon(use, number, peer)
            assert answers == {number: f"{number}" for number in range(1000)}
            assert service.acceptor.statistics().connections == 1000


async def test_one_peer_too_many_is_told_so_and_turned_away() -> None:
    async with serving(Limits(max_connections=2)) as service:
        async with raw_client(service.path, initialize=True) as first:
            async with raw_client(service.path, initialize=True):
                assert service.acceptor.statistics().full is Bound.CONNECTIONS
                for _ in range(3):
                    async with raw_client(service.path) as third:
                        rejection = await third.call("initialize", HANDSHAKE, request_id="third")
                        assert (rejection["id"], rejection["error"]["code"]) == ("third", -32000)
                        assert "2 connections" in rejection["error"]["message"]
                        assert "limits.max_connections" in rejection["error"]["message"]
                assert "result" in await first.call_tool("echo")
            # A place that is free again can be taken.
            while service.acceptor.statistics().full is not None:
                await trio.lowlevel.checkpoint()
            async with raw_client(service.path, initialize=True) as again:
                assert "result" in await again.call_tool("echo")
        rejected = service.reported(ConnectionRejected)
        assert [(event.limit, event.bound) for event in rejected] == [(2, Bound.CONNECTIONS)] * 3
        assert {event.holders for event in rejected} == {((Peer(uid=os.getuid(), pid=os.getpid()), 2),)}
        statistics = service.acceptor.statistics()
        assert (statistics.refused, statistics.limit) == (3, 2)


async def test_where_descriptors_are_the_bound_that_is_said_and_the_bound_follows_them() -> None:
    room = 1
    async with (
        serving(Limits(max_connections=3), room=lambda: room) as service,
        raw_client(service.path, initialize=True),
    ):
        assert service.acceptor.statistics().full is Bound.DESCRIPTORS
        async with raw_client(service.path) as second:
            message = (await second.call("initialize", HANDSHAKE))["error"]["message"]
            assert "no file descriptors" in message
            assert "LimitNOFILE=" in message
        room = 2
        async with raw_client(service.path, initialize=True) as second:
            assert "result" in await second.call_tool("echo")
            statistics = service.acceptor.statistics()
            assert (statistics.limit, statistics.max_connections) == (2, 3)
    (rejected,) = service.reported(ConnectionRejected)
    assert (rejected.limit, rejected.bound) == (1, Bound.DESCRIPTORS)


async def test_each_door_has_its_own_principal(socket_path: str) -> None:
    (tcp,) = await open_tcp_listeners("127.0.0.1", 0)
    async with (
        await open_unix_listener(socket_path) as unix,
        tcp,
        trio.open_nursery() as nursery,
    ):
        listeners = [
            ServedListener(unix, Principal("ann", "unix")),
            ServedListener(tcp, Principal("bob", "tcp")),
        ]
        acceptor = Acceptor(listeners, Kernels(make_server()))
        await nursery.start(acceptor.run)
        for address, name in [
            (str(unix.path), "ann/unix"),
            (("127.0.0.1", tcp.socket.getsockname()[1]), "bob/tcp"),
        ]:
            async with raw_client(address, initialize=True) as raw:
                answer = await raw.call_tool("whoami")
                assert answer["result"]["content"][0]["text"] == name
        nursery.cancel_scope.cancel()


async def test_a_tcp_peer_that_vanishes_without_a_word_is_noticed_by_the_kernel() -> None:
    (listener,) = await open_tcp_listeners("127.0.0.1", 0)
    accepted: list[trio.SocketStream] = []

    class Looking(trio.abc.Listener[trio.SocketStream]):
        async def accept(self) -> trio.SocketStream:
            accepted.append(await listener.accept())
            return accepted[-1]

        async def aclose(self) -> None:
            await listener.aclose()

    async with listener, trio.open_nursery() as nursery:
        acceptor = Acceptor([ServedListener(Looking(), PRINCIPAL)], Kernels(make_server()))
        await nursery.start(acceptor.run)
        async with raw_client(("127.0.0.1", listener.socket.getsockname()[1]), initialize=True):
            (stream,) = accepted
            assert stream.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 15_000
        nursery.cancel_scope.cancel()


@virtual_time()
async def test_a_defect_in_one_connection_touches_no_other(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = jsonrpc.decode

    def break_down(line: bytes, limits: Limits) -> jsonrpc.Message:
        if b"break down" in line:
            raise RuntimeError("a defect of ours")
        return decode(line, limits)

    monkeypatch.setattr(jsonrpc, "decode", break_down)
    async with raw_client(service.path, initialize=True) as other:
        await other.send(other.tool_call("sleep", {"name": "other", "seconds": 0.2}, request_id="s"))
        await service.tools.wait("started", "other")
        async with raw_client(service.path, initialize=True) as victim:
            await victim.send(victim.tool_call("sleep", {"name": "victim"}))
            await service.tools.wait("started", "victim")
            await victim.send_bytes(b"break down\n")
            assert await victim.receive_rest() == []
        assert service.tools.ended == {"victim"}
        assert "result" in await other.answer_to("s")
    (crash,) = service.reported(ConnectionCrashed)
    assert "a defect of ours" in str(crash.exception.exceptions[0])  # type: ignore[attr-defined]
    assert service.acceptor.statistics().crashed == 1
    async with raw_client(service.path, initialize=True) as newcomer:
        assert "result" in await newcomer.call_tool("echo")


@pytest.mark.parametrize("when", ["at once", "when it is its turn", "in the place of another"])
async def test_a_defect_in_opening_a_connection_touches_no_other(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(*_args: object, **_more: object) -> None:
        raise OSError("a defect of ours")

    async with (
        serving(Limits(max_connections=1 if when == "in the place of another" else 10)) as service,
        raw_client(service.path, initialize=True) as other,
    ):
        places = service.acceptor._accounts.all.held
        if when == "when it is its turn":
            turn = turns()
            monkeypatch.setattr(turn, "is_over", lambda: True)
            # Of this module only: for all others the time goes on.
            monkeypatch.setattr(unopened_clients, "time", SimpleNamespace(perf_counter=lambda: math.inf))
        elif when == "in the place of another":
            monkeypatch.setattr(ConnectionBounds, "find_place", lambda *_args: True)
        with monkeypatch.context() as broken:
            broken.setattr("redstreamd.mcpio.acceptor.ClientConnection", break_down)
            async with raw_client(service.path) as victim:
                with contextlib.suppress(trio.BrokenResourceError):
                    await victim.send(victim.request("server/discover"))
                    assert await victim.receive_rest() == []
        monkeypatch.undo()
        (crash,) = service.reported(ConnectionCrashed)
        assert str(crash.exception) == "a defect of ours"
        statistics = service.acceptor.statistics()
        assert (statistics.crashed, statistics.connections, places[Held.CONNECTIONS]) == (1, 1, 1)
        assert "result" in await other.call_tool("echo")
        if when != "in the place of another":
            async with raw_client(service.path, initialize=True) as newcomer:
                assert "result" in await newcomer.call_tool("echo")


async def test_a_defect_during_cancellation_is_reported_and_the_cancellation_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run(self: ClientConnection) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.aclose_forcefully(self._stream)
                raise RuntimeError("on the way out")

    monkeypatch.setattr(ClientConnection, "run", run)
    async with serving() as service, raw_client(service.path):
        while not service.acceptor.statistics().connections:
            await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert len(service.reported(ConnectionCrashed)) == 1


async def test_a_hook_that_raises_costs_only_its_record(defects: list[Defect], socket_path: str) -> None:
    def hook(event: Event) -> None:
        raise RuntimeError(f"cannot record {type(event).__name__}")

    async with await open_unix_listener(socket_path) as listener:
        acceptor = Acceptor([ServedListener(listener, PRINCIPAL)], Kernels(make_server()), on_event=hook)
        async with trio.open_nursery() as nursery:
            await nursery.start(acceptor.run)
            async with raw_client(str(listener.path), initialize=True) as raw:
                assert (await raw.call_tool("raise"))["error"]["code"] == -32603
                assert "result" in await raw.call_tool("echo")
            nursery.cancel_scope.cancel()
    assert "the event hook raised on RequestFailed" in {each.what for each in defects}


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """Leave this process without a free descriptor for the block."""
    with Path("/dev/null").open() as lowest_free:
        highest = lowest_free.fileno() + 50
    hoard: list[int] = []
    with descriptors(at_most=highest):
        try:
            with contextlib.suppress(OSError):
                while True:
                    hoard.append(os.dup(0))
            yield
        finally:
            for descriptor in hoard:
                os.close(descriptor)


async def test_out_of_descriptors_newcomers_are_told_and_clients_are_served(service: Service) -> None:
    count = 2 * SPARE_DESCRIPTORS
    async with raw_client(service.path, initialize=True) as friend, contextlib.AsyncExitStack() as stack:
        # They stay open: this process is both sides, and whoever leaves would make room for another.
        newcomers = [stack.enter_context(trio.socket.socket(trio.socket.AF_UNIX)) for _ in range(count)]
        with no_descriptors():
            for number, newcomer in enumerate(newcomers):
                await newcomer.connect(service.path)
                raw = RawClient(trio.SocketStream(newcomer))
                answer = await raw.call("initialize", HANDSHAKE, request_id=number)
                assert "no file descriptors" in answer["error"]["message"]
                assert service.acceptor.statistics().full is Bound.DESCRIPTORS
                assert "result" in await friend.call_tool("echo")
        async with raw_client(service.path, initialize=True) as raw:
            assert "result" in await raw.call_tool("echo")
        assert service.acceptor.statistics().full is None
    assert [event.bound for event in service.reported(ConnectionRejected)] == [Bound.DESCRIPTORS] * count
    assert not service.reported(AcceptPaused)


async def test_more_silent_newcomers_than_spare_descriptors_are_told_one_after_the_other(
    service: Service,
) -> None:
    count = 4 * SPARE_DESCRIPTORS
    async with raw_client(service.path, initialize=True) as friend, contextlib.AsyncExitStack() as stack:
        newcomers = [stack.enter_context(trio.socket.socket(trio.socket.AF_UNIX)) for _ in range(count)]
        with no_descriptors():
            for newcomer in newcomers:
                await newcomer.connect(service.path)
            for newcomer in newcomers:
                (told,) = await RawClient(trio.SocketStream(newcomer)).receive_rest()
                assert (told["id"], told["error"]["code"]) == (None, -32000)
            assert "result" in await friend.call_tool("echo")
    assert service.acceptor.statistics().refused == count


async def test_without_a_spare_descriptor_accepting_pauses_and_recovers() -> None:
    async with (
        serving(spare_descriptors=0) as service,
        raw_client(service.path, initialize=True) as friend,
    ):
        newcomers = [trio.socket.socket(trio.socket.AF_UNIX) for _ in range(3)]
        with no_descriptors():
            for newcomer in newcomers:
                await newcomer.connect(service.path)
            while not service.reported(AcceptPaused):
                await trio.lowlevel.checkpoint()
            # Those who are in are served meanwhile, and the pauses are not reported one by one.
            began = trio.current_time()
            while trio.current_time() < began + 0.3:
                assert "result" in await friend.call_tool("echo")
            (paused,) = service.reported(AcceptPaused)
            assert "Too many open files" in str(paused.exception)
        for newcomer in newcomers:
            async with raw_client(trio.SocketStream(newcomer), initialize=True) as raw:
                assert "result" in await raw.call_tool("echo")
        # How long the pauses are at most is shown in test_accept_errors.py, on virtual time.
        (resumed,) = service.reported(AcceptResumed)
        assert resumed.paused_seconds >= 0.3
        assert service.acceptor.statistics().crashed == 0


async def test_drained_an_acceptor_lets_nobody_in_and_everybody_out(service: Service) -> None:
    async with (
        raw_client(service.path, initialize=True) as idle,
        raw_client(service.path, initialize=True) as busy,
        raw_client(service.path, initialize=True) as waiting,
    ):
        await busy.send(busy.tool_call("sleep", {"name": "a", "seconds": 0.2}, request_id="a"))
        await waiting.send(waiting.tool_call("drained", request_id="w"))
        await service.tools.wait("started", "a")
        await service.tools.wait("started", "drained")
        assert await service.acceptor.drain(5)
        assert await idle.receive_rest() == []
        assert [message["id"] for message in await busy.receive_rest()] == ["a"]
        assert [message["id"] for message in await waiting.receive_rest()] == ["w"]
        with pytest.raises(OSError, match=r"No such file|refused"):
            await trio.open_unix_socket(service.path)
    assert service.acceptor.statistics().connections == 0
    endings = [event.ending for event in service.reported(ConnectionClosed)]
    assert endings == [Ending.DRAINED] * 3


async def test_a_drained_acceptor_ends_its_run_and_says_what_it_cut_off(socket_path: str) -> None:
    tools = Tools()
    async with await open_unix_listener(socket_path) as listener:
        acceptor = Acceptor([ServedListener(listener, PRINCIPAL)], Kernels(make_server(tools)))
        async with trio.open_nursery() as nursery:
            await nursery.start(acceptor.run)
            async with raw_client(str(listener.path), initialize=True) as raw:
                await raw.send(raw.tool_call("sleep", {"name": "a"}, request_id="a"))
                await tools.wait("started", "a")
                assert not await acceptor.drain(0.1)
                (answer,) = await raw.receive_rest()
                assert answer["error"]["code"] == -32000
        # The nursery is left, so `run` has returned.
        assert await acceptor.drain(1)


async def test_after_a_failure_an_acceptor_can_run_again_on_the_same_doors(socket_path: str) -> None:
    async with await open_unix_listener(socket_path) as listener:
        acceptor = Acceptor([ServedListener(listener, PRINCIPAL)], Kernels(make_server()))
        for _ in range(2):
            async with trio.open_nursery() as nursery:
                await nursery.start(acceptor.run)
                async with raw_client(str(listener.path), initialize=True) as raw:
                    assert "result" in await raw.call_tool("echo")
                nursery.cancel_scope.cancel()


FLOODS = pytest.mark.parametrize(
    "line",
    [
        pytest.param(b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}\n', id="requests"),
        pytest.param(b"garbage\n", id="garbage"),
        pytest.param(b'{"jsonrpc":"2.0","method":"notifications/x"}\n', id="notifications"),
        pytest.param(b"[" * 1000 + b"\n", id="deep nesting"),
        pytest.param(b'{"a":"' + b"x" * 4000 + b'"}\n', id="long lines"),
    ],
)


@FLOODS
@pytest.mark.limit(60)
async def test_a_flood_from_one_peer_does_not_keep_another_waiting(
    service: Service, line: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    flooded = 0
    decode = jsonrpc.decode

    def counting(data: bytes, limits: Limits) -> jsonrpc.Message:
        nonlocal flooded
        flooded += data + b"\n" == line
        return decode(data, limits)

    monkeypatch.setattr(jsonrpc, "decode", counting)

    async def flood(raw: RawClient) -> None:
        while True:
            await raw.send_bytes(line * (200_000 // len(line)))

    async def read(raw: RawClient) -> None:
        with contextlib.suppress(EOFError):
            while True:
                await raw.receive()

    async with (
        raw_client(service.path, initialize=True) as polite,
        raw_client(service.path, initialize=True) as rude,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(flood, rude)
        nursery.start_soon(read, rude)
        while flooded < 1000:
            await trio.lowlevel.checkpoint()
        # It goes on, and a call, which takes three passes of the event loop, waits for as many turns of the
        # rude peer's. A turn of short messages is a part of what one read brings, else a call would wait for
        # all of three reads at least. Long messages are few in a read.
        brought = 1 + READ_BYTES // len(line)
        bound = max(brought, min(256, 4 * brought))
        during = []
        for _ in range(50):
            before = flooded
            assert "result" in await polite.call_tool("echo")
            during.append(flooded - before)
        assert sum(during) > 0
        # Where other programs hold this process up, two calls are so far apart that the rude peer counts as
        # alone and has the long turns of one that is.
        with measured:
            assert statistics.median(during) <= bound
        nursery.cancel_scope.cancel()
