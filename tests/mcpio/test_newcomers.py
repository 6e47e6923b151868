"""Clients beyond a bound: what each is told, when, and how the status is served nevertheless."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from redstreamd.mcpio import newcomers
from redstreamd.mcpio.connection_events import ConnectionCrashed, ConnectionRejected
from redstreamd.mcpio.limits import Limits
from redstreamd.mcpio.newcomers import FIRST_REQUEST_SECONDS, FLOOD_SECONDS, LINGER_SECONDS, MAX_ANSWERS
from tests.mcpio.serving import Service, serving, virtual_time
from tests.support.limits import Deferred
from tests.support.mcp_client import HANDSHAKE, RawClient, raw_client
from tests.support.waiting import until

NOT_NOW = -32000


@asynccontextmanager
async def full_service(max_newcomers: int = 4) -> AsyncIterator[Service]:
    async with (
        serving(Limits(max_connections=1, max_newcomers=max_newcomers)) as service,
        raw_client(service.path, initialize=True) as first,
    ):
        await first.call("ping")
        yield service


@pytest.fixture
def full() -> Deferred[Service]:
    """A server with the one connection that it may have."""
    return Deferred(full_service())


def is_refusal(message: dict[str, Any], request_id: Any) -> bool:
    error = message["error"]
    # A client that had sent a request knows that it may send it again.
    data = None if request_id is None else {"executed": False}
    return message["id"] == request_id and error["code"] == NOT_NOW and error.get("data") == data


async def status(path: str) -> dict[str, Any]:
    """Ask for what the test server has as its status, as a program that waits for a place in the backlog."""
    client = socket.socket(socket.AF_UNIX)
    await trio.to_thread.run_sync(client.connect, path)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(client))
    async with raw_client(stream, era="modern") as raw:
        return await raw.call("tools/list", request_id="status")


async def test_the_first_request_is_answered_and_the_connection_closed(full: Service) -> None:
    async with raw_client(full.path) as raw:
        # The message of a client that has not read the answer does no harm.
        await raw.notify("notifications/initialized")
        await raw.send(raw.request("ping", request_id="p"))
        (told,) = await raw.receive_rest()
        assert is_refusal(told, "p")
        assert "1 connections are open" in told["error"]["message"]


async def test_a_client_that_asks_first_what_there_is_is_told_again_at_its_handshake(full: Service) -> None:
    """It shows the last error, and would report a connection that closes as nothing but that."""
    async with raw_client(full.path) as raw:
        assert is_refusal(await raw.call("server/discover", request_id=1), 1)
        assert is_refusal(await raw.call("initialize", HANDSHAKE, request_id=2), 2)
        assert await raw.receive_rest() == []
    assert full.acceptor.statistics().refused == 1


async def test_of_several_requests_at_once_each_is_answered(full: Service) -> None:
    async with raw_client(full.path) as raw:
        await raw.send(*(raw.request("ping", request_id=number) for number in range(MAX_ANSWERS + 5)))
        told = await raw.receive_rest()
    # More than a client sends are not, because they would not fit the socket's buffer.
    assert [message["id"] for message in told] == list(range(MAX_ANSWERS))


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", id="HTTP"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\n", id="TLS"),
        pytest.param(b"[]\n", id="a batch of none"),
        pytest.param(b"x" * 100_000, id="a long line"),
        pytest.param(b'{"jsonrpc": "2.0", "id": 1, "met', id="half a request"),
    ],
)
async def test_whoever_sends_no_request_is_told_without_an_id(full: Service, sent: bytes) -> None:
    async with raw_client(full.path) as raw:
        with contextlib.suppress(trio.BrokenResourceError):
            await raw.send_bytes(sent)
        (told,) = await raw.receive_rest()
        assert is_refusal(told, None)


async def test_a_last_line_without_its_end_is_a_request(full: Service) -> None:
    async with raw_client(full.path) as raw:
        await raw.send_bytes(json.dumps(raw.request("ping", request_id="p")).encode())
        assert isinstance(raw.stream, trio.SocketStream)
        await raw.stream.send_eof()
        (told,) = await raw.receive_rest()
        assert is_refusal(told, "p")


@virtual_time()
async def test_a_silent_client_is_told_after_a_second_and_keeps_its_place_for_another() -> None:
    async with full_service() as service, raw_client(service.path) as raw:
        began = trio.current_time()
        assert is_refusal(await raw.receive(), None)
        assert trio.current_time() - began == pytest.approx(FIRST_REQUEST_SECONDS)
        assert await raw.receive_rest() == []
        # It has not closed its side. What it sends now is discarded.
        await raw.send(raw.request("ping"))
        await trio.sleep(LINGER_SECONDS + 0.1)
        with pytest.raises(trio.BrokenResourceError):
            await raw.send(raw.request("ping"))


async def test_the_status_is_served_once_and_nothing_else_on_that_connection(full: Service) -> None:
    async with raw_client(full.path, era="modern") as raw:
        await raw.send(
            raw.request("tools/list", request_id="status"),
            raw.tool_call("echo", request_id="call"),
            raw.request("tools/list", request_id="again"),
        )
        (answer,) = await raw.receive_rest()
        assert answer["id"] == "status"
        assert len(answer["result"]["tools"]) == 9
    statistics = full.acceptor.statistics()
    assert (statistics.connections, statistics.refused) == (1, 0)


async def test_the_status_is_for_whoever_asks_for_it_first(full: Service) -> None:
    async with raw_client(full.path, era="modern") as raw:
        await raw.send(raw.request("ping", request_id=1), raw.request("tools/list", request_id=2))
        assert [is_refusal(each, each["id"]) for each in await raw.receive_rest()] == [True, True]


async def test_many_who_ask_for_the_status_at_once_all_get_it(
    full: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    # None counts as silent because this process, which is all of them, was held up.
    monkeypatch.setattr(newcomers, "PATIENCE_SECONDS", 10.0)
    monkeypatch.setattr(newcomers, "FIRST_REQUEST_SECONDS", 10.0)
    monkeypatch.setattr(newcomers, "FLOOD_SECONDS", 60.0)
    answers = []

    async def ask() -> None:
        answers.append(await status(full.path))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(ask)
    assert all("result" in answer for answer in answers)
    assert len(answers) == 20


@virtual_time()
async def test_a_status_that_takes_too_long_is_refused_with_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    async def handle(*_args: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr("redstreamd.mcpio.session.Session.handle", handle)
    async with serving(Limits(max_connections=1)) as service, raw_client(service.path):
        await until_full(service)
        # Not by `status`: while its thread connects, virtual time jumps beyond that of a silent client.
        async with raw_client(service.path, era="modern") as raw:
            assert is_refusal(await raw.call("tools/list", request_id="status"), "status")


async def until_full(service: Service) -> None:
    while service.acceptor.statistics().full is None:
        await trio.lowlevel.checkpoint()


@virtual_time()
async def test_where_all_places_are_taken_the_first_has_to_leave_and_is_told() -> None:
    async with full_service(max_newcomers=2) as service, contextlib.AsyncExitStack() as stack:
        silent = [await stack.enter_async_context(raw_client(service.path)) for _ in range(6)]
        began = trio.current_time()
        for raw in silent[:4]:
            assert [is_refusal(each, None) for each in await raw.receive_rest()] == [True]
        # Two at a time had a tenth of a second; the last two have a second.
        assert trio.current_time() - began == pytest.approx(2 * newcomers.PATIENCE_SECONDS)
        for raw in silent[4:]:
            assert is_refusal(await raw.receive(), None)
        assert trio.current_time() - began == pytest.approx(
            2 * newcomers.PATIENCE_SECONDS + FIRST_REQUEST_SECONDS
        )
        assert service.acceptor.statistics().refused == 6


@pytest.mark.limit(60)
async def test_the_status_is_served_in_a_flood_of_silent_clients(full: Service) -> None:
    """They are more than the places, and come faster than they leave."""
    flood: list[socket.socket] = []

    async def connect() -> None:
        while True:
            for _ in range(20):
                client = socket.socket(socket.AF_UNIX)
                flood.append(client)
                client.setblocking(False)
                # The backlog may be full.
                with contextlib.suppress(BlockingIOError):
                    client.connect(full.path)
            while len(flood) > 200:
                flood.pop(0).close()
            await trio.sleep(0.01)

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connect)
            await trio.sleep(FLOOD_SECONDS)
            for _ in range(5):
                assert "result" in await status(full.path)
            await until(lambda: full.acceptor.statistics().refused > 100)
            nursery.cancel_scope.cancel()
    finally:
        for client in flood:
            client.close()


async def test_a_defect_ends_one_newcomer_and_is_reported(
    full: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def handle(*_args: object) -> None:
        raise RuntimeError("a defect of ours")

    with monkeypatch.context() as patch:
        patch.setattr("redstreamd.mcpio.session.Session.handle", handle)
        assert is_refusal(await status(full.path), "status")
    assert "result" in await status(full.path)
    assert len(full.reported(ConnectionCrashed)) == full.acceptor.statistics().crashed == 1


async def test_a_client_that_leaves_at_once_is_nobodys_concern(full: Service) -> None:
    for _ in range(20):
        async with raw_client(full.path):
            pass
    async with raw_client(full.path) as raw:
        assert is_refusal(await raw.call("ping", request_id="p"), "p")
    assert not full.reported(ConnectionCrashed)


async def test_when_the_daemon_stops_newcomers_are_told_at_once() -> None:
    async with contextlib.AsyncExitStack() as stack:
        async with full_service(max_newcomers=2) as service:
            sockets = [await trio.open_unix_socket(service.path) for _ in range(2)]
            raws = [RawClient(await stack.enter_async_context(each)) for each in sockets]
            await raws[0].send(raws[0].request("server/discover", request_id=1))
            assert is_refusal(await raws[0].receive(), 1)
        assert await raws[0].receive_rest() == []
        assert [is_refusal(each, None) for each in await raws[1].receive_rest()] == [True]
    assert len(service.reported(ConnectionRejected)) == 2
