"""At a bound of connections: those of whoever has most give way, the idle first.

Clients are told apart by their addresses.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from types import SimpleNamespace

import attrs
import pytest
import trio

from redstreamd.admission.accounts import Account
from redstreamd.admission.turns import Place
from redstreamd.mcpio import unopened_clients
from redstreamd.mcpio.acceptor import Acceptor
from redstreamd.mcpio.connection_events import (
    Bound,
    ConnectionClosed,
    ConnectionRejected,
    Ending,
    Event,
)
from redstreamd.mcpio.limits import Limits
from redstreamd.mcpio.listeners import open_tcp_listeners
from redstreamd.mcpio.protocol_eras import Kernels
from redstreamd.mcpio.served_listener import ServedListener
from redstreamd.policy import Principal
from redstreamd.policy.quotas import Most, Quantity, Quota, Quotas
from tests.mcpio.serving import Tools, make_server
from tests.support.mcp_client import HANDSHAKE, EraName, RawClient, raw_client

GREEDY, POLITE, OTHER = "127.0.0.2", "127.0.0.3", "127.0.0.4"


@attrs.define
class Service:
    """An acceptor with two TCP ports, each of a principal of its own."""

    acceptor: Acceptor
    ports: list[int]
    tools: Tools
    events: list[Event]
    stack: contextlib.AsyncExitStack
    most: int
    told: list[tuple[int, bool]]

    async def connect(
        self, source: str, port: int = 0, *, initialize: bool = True, era: EraName = "handshake"
    ) -> RawClient:
        """Connect a client from an address."""
        stream = await trio.open_tcp_stream("127.0.0.1", self.ports[port], local_address=source)
        return await self.stack.enter_async_context(raw_client(stream, initialize=initialize, era=era))

    async def full(self) -> None:
        """Return once there are as many connections as may be."""
        while True:
            if self.acceptor.statistics().full is not None:
                return
            await trio.sleep(0.01)

    async def closed(self, number: int) -> list[ConnectionClosed]:
        """Return the connections that gave way, once they are so many and have closed."""
        while True:
            found = [
                event
                for event in self.events
                if isinstance(event, ConnectionClosed) and event.ending is Ending.GAVE_WAY
            ]
            if len(found) >= number and self.acceptor.statistics().connections <= self.most:
                return found
            await trio.sleep(0.01)


@contextlib.asynccontextmanager
async def serving(limits: Limits, quotas: Quotas | None = None) -> AsyncIterator[Service]:
    tools, events, told = Tools(), list[Event](), list[tuple[int, bool]]()
    (first,) = await open_tcp_listeners("127.0.0.1", 0)
    (second,) = await open_tcp_listeners("127.0.0.1", 0)
    async with first, second:
        acceptor = Acceptor(
            [
                ServedListener(first, Principal("agents", "tcp")),
                ServedListener(second, Principal("admin", "tcp")),
            ],
            Kernels(make_server(tools)),
            limits=limits,
            quotas=quotas,
            is_status_request=lambda request: request.method == "tools/list",
            on_event=events.append,
            on_connections=lambda count, is_full: told.append((count, is_full)),
        )
        async with trio.open_nursery() as nursery, contextlib.AsyncExitStack() as stack:
            await nursery.start(acceptor.run)
            ports = [each.socket.getsockname()[1] for each in (first, second)]
            yield Service(acceptor, ports, tools, events, stack, limits.max_connections, told)
            nursery.cancel_scope.cancel()


async def is_rejected(client: RawClient) -> str:
    """Return what a client is told that is not served."""
    message: str = (await client.call("initialize", HANDSHAKE))["error"]["message"]
    return message


async def test_a_newcomer_is_served_in_the_place_of_an_idle_connection_of_whoever_has_most() -> None:
    async with serving(Limits(max_connections=4)) as service:
        greedy = [await service.connect(GREEDY) for _ in range(4)]
        polite = await service.connect(POLITE)
        assert "result" in await polite.call_tool("echo")
        message, *rest = await greedy[0].receive_rest()
        assert rest == []
        assert (message["id"], message["error"]["code"]) == (None, -32000)
        assert "closed for another client" in message["error"]["message"]
        assert "limits.max_connections" in message["error"]["message"]
        for each in (*greedy[1:], polite):
            assert "result" in await each.call_tool("echo")
        # Whoever has most is rejected itself.
        fifth = await service.connect(GREEDY, initialize=False)
        assert "limits.max_connections" in await is_rejected(fifth)
        (closed,) = await service.closed(1)
        assert closed.peer is not None
        assert (closed.peer.address, closed.cut_off) == (GREEDY, 0)
        (rejected,) = [event for event in service.events if isinstance(event, ConnectionRejected)]
        assert [(peer.address, count) for peer, count in rejected.holders] == [(GREEDY, 3), (POLITE, 1)]


async def test_the_idlest_goes_first_and_requests_in_flight_last() -> None:
    async with serving(Limits(max_connections=5)) as service:
        busy, first, second, third, fourth = [await service.connect(GREEDY) for _ in range(5)]
        await busy.send(busy.tool_call("sleep", {"name": "busy"}, request_id="s"))
        await service.tools.wait("started", "busy")
        # Looked at: each has sent its handshake, and the first of them with nothing in flight goes.
        await service.connect(POLITE)
        assert len(await first.receive_rest()) == 1
        # Since then this one has sent something.
        assert "result" in await second.call_tool("echo")
        await service.connect(OTHER)
        assert len(await third.receive_rest()) == 1
        assert "result" in await second.call_tool("echo")
        await service.connect("127.0.0.5")
        assert len(await fourth.receive_rest()) == 1
        await service.connect("127.0.0.6")
        assert len(await second.receive_rest()) == 1
        assert service.tools.ended == set()
        # Everybody has one.
        await is_rejected(await service.connect("127.0.0.7", initialize=False))
        assert {event.cut_off for event in await service.closed(4)} == {0}


async def test_where_all_are_in_use_a_request_is_cut_off_and_answered() -> None:
    async with serving(Limits(max_connections=2)) as service:
        greedy = [await service.connect(GREEDY) for _ in range(2)]
        for number, each in enumerate(greedy):
            for call in range(2 - number):
                name = f"{number} {call}"
                await each.send(each.tool_call("sleep", {"name": name}, request_id=name))
                await service.tools.wait("started", name)
        polite = await service.connect(POLITE)
        assert "result" in await polite.call_tool("echo")
        # The one with the fewest requests.
        told = await greedy[1].receive_rest()
        assert {message["id"] for message in told} == {None, "1 0"}
        assert all("error" in message for message in told)
        assert "result" in await greedy[0].call_tool("echo")


async def test_nobody_gives_way_for_a_client_that_would_then_have_as_many() -> None:
    async with serving(Limits(max_connections=2)) as service:
        for source in (GREEDY, POLITE):
            await service.connect(source)
        third = await service.connect(OTHER, initialize=False)
        assert "2 connections" in await is_rejected(third)
        assert await service.closed(0) == []


async def test_a_principal_has_its_own_bound_within_which_whoever_has_most_gives_way() -> None:
    quotas = Quotas([Quota.parse("agents have connections=3")])
    async with serving(Limits(max_connections=10), quotas) as service:
        greedy = [await service.connect(GREEDY) for _ in range(3)]
        fourth = await service.connect(GREEDY, initialize=False)
        told = await is_rejected(fourth)
        assert "3 connections of agents" in told
        assert "policy.quotas" in told
        # The same client is served as another principal, and the status is answered.
        for _ in range(3):
            await service.connect(GREEDY, port=1)
        asking = await service.connect(GREEDY, initialize=False, era="modern")
        assert "tools" in (await asking.call("tools/list", {}))["result"]
        polite = await service.connect(POLITE)
        assert "result" in await polite.call_tool("echo")
        assert "policy.quotas" in (await greedy[0].receive_rest())[0]["error"]["message"]
        assert service.acceptor.statistics().full is None
        (rejected,) = [event for event in service.events if isinstance(event, ConnectionRejected)]
        assert (rejected.bound, rejected.limit) == (Bound.PRINCIPAL, 3)
        others = {Quantity.CONNECTIONS: Most(2, "limits.max_connections_per_principal")}
        quotas.replace([Quota.parse("agents have connections=5")], others)
        assert "result" in await (await service.connect(GREEDY)).call_tool("echo")
        fourth = await service.connect(GREEDY, port=1, initialize=False)
        assert "limits.max_connections_per_principal" in await is_rejected(fourth)


async def test_so_many_may_be_closing_at_a_time_as_there_may_be_newcomers() -> None:
    async with serving(Limits(max_connections=6, max_newcomers=2)) as service:
        greedy = [await service.connect(GREEDY) for _ in range(6)]
        # These do not close their side, so that ours is open for a while.
        answers = []
        for number in range(4):
            newcomer = await service.connect(f"127.0.0.{10 + number}", initialize=False)
            answers.append(await newcomer.call("initialize", HANDSHAKE))
        assert len([answer for answer in answers if "result" in answer]) >= 2
        for answer in answers:
            assert "result" in answer or "limits.max_connections" in answer["error"]["message"]
        assert service.acceptor.statistics().connections <= 6 + 2
        assert "result" in await greedy[-1].call_tool("echo")


async def test_nobody_gives_way_for_a_client_that_says_nothing_nor_for_the_status() -> None:
    async with serving(Limits(max_connections=2)) as service:
        greedy = [await service.connect(GREEDY) for _ in range(2)]
        silent = await service.connect(POLITE, initialize=False)
        asking = await service.connect(OTHER, initialize=False, era="modern")
        assert "tools" in (await asking.call("tools/list", {}))["result"]
        (told,) = await silent.receive_rest()
        assert "limits.max_connections" in told["error"]["message"]
        for each in greedy:
            assert "result" in await each.call_tool("echo")
        assert await service.closed(0) == []


async def test_all_that_a_newcomer_sent_is_served_also_if_its_first_message_is_long() -> None:
    async with serving(Limits(max_connections=4)) as service:
        greedy = [await service.connect(GREEDY) for _ in range(4)]
        first = await service.connect(POLITE, initialize=False, era="modern")
        text = "x" * 1_000_000
        assert text in str(await first.call_tool("echo", {"text": text}))
        second = await service.connect(OTHER, initialize=False, era="modern")
        await second.send(*(second.tool_call("echo", {"text": f"{n}"}, request_id=n) for n in range(50)))
        assert {(await second.receive())["id"] for _ in range(50)} == set(range(50))
        assert "result" in await greedy[-1].call_tool("echo")


async def test_a_place_that_has_become_free_is_given_to_a_newcomer_that_waits() -> None:
    async with serving(Limits(max_connections=1)) as service:
        one = await service.connect(GREEDY)
        other = await service.connect(GREEDY, initialize=False)
        await one.stream.aclose()
        while service.acceptor.statistics().connections:
            await trio.lowlevel.checkpoint()
        await other.initialize()
        assert "result" in await other.call_tool("echo")


class NoTurn:
    """Turns that nobody gets."""

    waiting = SimpleNamespace(count=1)

    def work_for(self, account: Account | None) -> None: ...

    def let_pass(self, process: Account) -> bool:
        return False

    def queue(self, account: Account, place: Place) -> None: ...

    def leave(self, account: Account, place: Place) -> None: ...


async def test_a_client_that_was_not_opened_yet_gives_way_first(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(Limits(max_connections=4)) as service:
        opened = await service.connect(GREEDY)
        monkeypatch.setattr(unopened_clients, "turns", NoTurn)
        waiting = [await service.connect(GREEDY, initialize=False) for _ in range(3)]
        await service.full()
        # Those that wait to be opened are counted where the bound is.
        assert service.acceptor.statistics().connections == service.told[-1][0] == 4
        assert service.told[-1][1]
        polite = await service.connect(POLITE)
        assert "result" in await polite.call_tool("echo")
        (message,) = await waiting[2].receive_rest()
        assert (message["id"], message["error"]["code"]) == (None, -32000)
        assert "closed for another client" in message["error"]["message"]
        (rejected,) = [event for event in service.events if isinstance(event, ConnectionRejected)]
        assert (rejected.bound, rejected.limit) == (Bound.CONNECTIONS, 4)
        statistics = service.acceptor.statistics()
        assert (statistics.connections, statistics.refused) == (service.told[-1][0], 1) == (4, 1)
        monkeypatch.undo()
        assert "result" in await opened.call_tool("echo")
        # The others are opened in the end.
        service.acceptor._unopened.begin_all()
        for each in waiting[:2]:
            await each.initialize()
        assert service.acceptor.statistics().connections == service.told[-1][0] == 4


async def test_so_many_may_be_closing_beside_clients_that_are_not_opened_yet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving(Limits(max_connections=5, max_newcomers=1)) as service:
        for _ in range(4):
            await service.connect(GREEDY)
        monkeypatch.setattr(unopened_clients, "turns", NoTurn)
        await service.connect(OTHER, initialize=False)
        await service.full()
        # One that gave way is closing while it may read.
        await service.connect(POLITE)
        assert len(service.acceptor._connections) == 5
        late = await service.connect("127.0.0.5", initialize=False)
        assert "limits.max_connections" in await is_rejected(late)
