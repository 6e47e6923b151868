"""A long request is served in parts. One that waits for its next part when reading ends is not forgotten."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from redstreamd.admission.accounts import Account, Accounts
from redstreamd.admission.memory import Memory
from redstreamd.admission.turns import Turns
from redstreamd.mcpio.client_connection import ClientConnection
from redstreamd.mcpio.connection_state import ConnectionState
from redstreamd.mcpio.exchange import Sink
from redstreamd.mcpio.plain_calls import PlainCall
from redstreamd.mcpio.protocol_eras import Kernels
from redstreamd.mcpio.session import LONG_FOR_THE_KERNEL, LONG_MESSAGE, Session
from tests.mcpio.serving import PRINCIPAL, make_server, socket_pair, virtual_time
from tests.support.mcp_client import RawClient

#: The length of a request, and which of its parts has no turn: the direct path has two of a longer one.
PARTS = pytest.mark.parametrize(
    ("size", "part"),
    [(LONG_FOR_THE_KERNEL, 1), (LONG_MESSAGE, 1), (LONG_MESSAGE, 2), (LONG_MESSAGE, 3)],
)
pytestmark = virtual_time()


class TakesNothing:
    """A direct path that has arguments decoded, and leaves every call to the kernel."""

    def decode(self, call: PlainCall) -> PlainCall:
        return call

    def __call__(self, session: Session, call: PlainCall, size: int, sink: Sink) -> bool:
        return False


@attrs.define
class Waiting:
    """A connection with a request that waits for its next part."""

    connection: ClientConnection
    stream: trio.SocketStream
    memory: Memory
    raw: RawClient


@asynccontextmanager
async def waiting(monkeypatch: pytest.MonkeyPatch, size: int, part: int) -> AsyncIterator[Waiting]:
    """Have a request "long" wait for its turn with a part of it, as if others had work without an end."""
    stream, peer = socket_pair()
    accounts = Accounts()
    memory = Memory(accounts, 16 * LONG_MESSAGE)
    connection = ClientConnection(
        stream,
        Kernels(make_server()),
        principal=PRINCIPAL,
        direct_path=TakesNothing(),
        accounts=accounts,
        memory=memory,
    )
    waits, parts, take_part = trio.Event(), 0, Turns.part

    async def held(turn: Turns, account: Account) -> None:
        nonlocal parts
        parts += 1
        if parts == part:
            waits.set()
            await trio.sleep_forever()
        await take_part(turn, account)

    async with peer, trio.open_nursery() as nursery:
        await nursery.start(connection.run)
        raw = RawClient(peer)
        await raw.initialize()
        monkeypatch.setattr(Turns, "part", held)
        await raw.send(raw.tool_call("echo", {"text": "x" * size}, request_id="long"))
        await waits.wait()
        yield Waiting(connection, stream, memory, raw)
        nursery.cancel_scope.cancel()


@PARTS
async def test_a_drain_refuses_it(monkeypatch: pytest.MonkeyPatch, size: int, part: int) -> None:
    async with waiting(monkeypatch, size, part) as each, trio.open_nursery() as nursery:
        nursery.start_soon(each.connection.drain, 5)
        (refusal,) = await each.raw.receive_rest()
        await each.raw.stream.aclose()
    assert refusal["id"] == "long"
    assert refusal["error"]["data"] == {"executed": False, "stopping": True}


@PARTS
async def test_a_successor_serves_it(monkeypatch: pytest.MonkeyPatch, size: int, part: int) -> None:
    async with waiting(monkeypatch, size, part) as each, trio.open_nursery() as nursery:
        state = await each.connection.hand_over(5)
        assert state is not None
        assert not state.in_flight
        restored = ConnectionState.from_json(state.to_json())
        successor = ClientConnection(each.stream, Kernels(make_server()), principal=PRINCIPAL, state=restored)
        await nursery.start(successor.run)
        answer = await each.raw.receive()
        nursery.cancel_scope.cancel()
    assert answer["id"] == "long"
    assert len(answer["result"]["content"][0]["text"]) == size


async def test_one_for_which_there_is_no_memory_any_more_is_refused_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with waiting(monkeypatch, LONG_MESSAGE, 1) as each, trio.open_nursery() as nursery:
        each.memory.max_bytes = LONG_MESSAGE
        nursery.start_soon(each.connection.drain, 5)
        (refusal,) = await each.raw.receive_rest()
        await each.raw.stream.aclose()
    assert (refusal["id"], refusal["error"]["data"]) == ("long", {"executed": False})
    assert "limits.max_memory_bytes" in refusal["error"]["message"]
