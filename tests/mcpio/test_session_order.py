"""What a session promises when work is cut off: nobody is left without an answer, and order is kept."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio
import trio.testing

from redstreamd.mcpio.connection_state import ConnectionState, Era
from redstreamd.mcpio.exchange import Exchange
from redstreamd.mcpio.jsonrpc import NOT_NOW, Params
from redstreamd.mcpio.kernels import Kernel
from redstreamd.mcpio.session import Session
from tests.mcpio.serving import Sink, make_session, virtual_time
from tests.support.waiting import until


@attrs.define(eq=False)
class Gates:
    """Kernels, and their one kernel: each request waits until the test lets it through.

    Attributes:
        started: Ids of the requests whose handler has started, in order.
        open_gates: Those that may end.
    """

    started: list[Any] = attrs.field(factory=list)
    open_gates: set[Any] = attrs.field(factory=set)
    era: Era = Era.HANDSHAKE
    settled: bool = False
    takes_batches: bool = True

    async def ready(self, method: str, params: Params) -> None:
        await trio.lowlevel.checkpoint()

    def era_of(self, method: str, params: Params) -> Era:
        return self.era

    def open(self, era: Era, session: Session, state: ConnectionState | None) -> Kernel:
        return self

    def error_of(self, exc: Exception) -> dict[str, Any] | None:
        return None

    def claim(self, method: str, params: Params) -> None: ...

    async def serve(self, exchange: Exchange) -> dict[str, Any]:
        self.started.append(exchange.id)
        await until(lambda: exchange.id in self.open_gates)
        self.settled = True
        return {}

    async def resubscribe(self, uri: str, cursor: str) -> None: ...

    async def notify(self, method: str, params: Params) -> None: ...

    def state(self, connection_id: str) -> ConnectionState:
        return ConnectionState(connection_id, era=self.era)

    async def aclose(self) -> None: ...


@attrs.frozen
class Client:
    """A session, its kernel, and where all answers go."""

    session: Session
    gates: Gates
    sink: Sink

    async def send(self, *requests: tuple[int, str], batched: bool = False) -> None:
        lines = [{"jsonrpc": "2.0", "id": number, "method": method} for number, method in requests]
        for each in [lines] if batched else lines:
            await self.session.handle(json.dumps(each).encode(), self.sink)

    def answers(self) -> dict[Any, Any]:
        """Return the code of the error of each request that was answered; None for a result."""
        found = {}
        for message in self.sink.messages:
            for each in message if isinstance(message, list) else [message]:
                found[each["id"]] = each.get("error", {}).get("code")
        return found


@asynccontextmanager
async def client() -> AsyncIterator[Client]:
    gates, sink = Gates(open_gates={0}), Sink()
    async with trio.open_nursery() as nursery:

        def start_soon(task: Callable[[], Awaitable[None]]) -> bool:
            nursery.start_soon(task)
            return True

        made = Client(make_session(start_soon, sink, kernels=gates), gates, sink)
        await made.send((0, "initialize"))
        yield made
        nursery.cancel_scope.cancel()


@virtual_time()
async def test_each_request_of_a_batch_is_answered_where_the_reading_of_messages_is_cut_off() -> None:
    async with client() as it:
        with trio.CancelScope() as reading:
            reading.cancel()
            await it.send(*((number, "tools/list") for number in range(1, 6)), batched=True)
        it.gates.open_gates.add(1)
        await until(lambda: len(it.answers()) == 6)
        assert it.answers() == {0: None, 1: None} | dict.fromkeys(range(2, 6), NOT_NOW)


@virtual_time()
async def test_a_handshake_that_is_cut_off_with_the_reading_of_messages_is_answered() -> None:
    async with client() as it:
        with trio.move_on_after(1) as reading:
            await it.send((1, "initialize"))
        assert reading.cancelled_caught
        assert it.answers() == {0: None, 1: NOT_NOW}
        assert not it.session.in_flight


@virtual_time()
async def test_a_subscription_that_is_cancelled_before_its_turn_lets_no_other_pass_those_before_it() -> None:
    async with client() as it:
        await it.send((1, "resources/subscribe"), (2, "resources/subscribe"), (3, "resources/unsubscribe"))
        await until(lambda: it.gates.started == [0, 1])
        it.session.in_flight.cancel({"requestId": 2})
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert it.gates.started == [0, 1]
        it.gates.open_gates |= {1, 3}
        await until(lambda: 3 in it.answers())
        assert it.gates.started == [0, 1, 3]
        assert it.answers() == {0: None, 1: None, 3: None}
