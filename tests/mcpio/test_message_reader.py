"""What is read and is no plain call: each message is handled once, and looked at a few times."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
import trio
import trio.testing

from redstreamd.mcpio.framing import LineSplitter
from redstreamd.mcpio.limits import Limits
from tests.mcpio.serving import Service, serving
from tests.support.mcp_client import HANDSHAKE

pytestmark = pytest.mark.limit(30)


def request(request_id: int, method: str, **params: Any) -> bytes:
    message = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
    return json.dumps(message).encode() + b"\n"


async def connect(service: Service) -> trio.SocketStream:
    client = trio.socket.socket(socket.AF_UNIX)
    await client.connect(service.path)
    return trio.SocketStream(client)


async def answer(client: trio.SocketStream) -> dict[str, Any]:
    line = b""
    while not line.endswith(b"\n"):
        line += await client.receive_some()
    found: dict[str, Any] = json.loads(line)
    return found


async def test_of_many_lines_that_are_no_plain_calls_none_has_the_others_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked_at = 0
    count = LineSplitter.count

    def counted(splitter: LineSplitter) -> None:
        nonlocal looked_at
        looked_at += len(splitter.lines)
        count(splitter)

    monkeypatch.setattr(LineSplitter, "count", counted)
    lines = 10_000
    async with serving() as service, await connect(service) as client:
        await client.send_all(request(1, "initialize", **HANDSHAKE))
        await answer(client)
        await client.send_all(b"\n" * lines + request(2, "ping"))
        assert (await answer(client))["id"] == 2
    # Once for each reading, of which there are few.
    assert looked_at <= 20 * lines


async def test_a_message_that_finds_no_memory_is_refused_and_the_connection_goes_on() -> None:
    async with serving(limits=Limits(max_memory_bytes=6_000)) as service, await connect(service) as client:
        message = request(1, "initialize", **HANDSHAKE, _meta={"pad": "x" * 7_600})
        # What is kept of it is much, and so is counted.
        await client.send_all(message[:4_000])
        await trio.testing.wait_all_tasks_blocked(0.05)
        await client.send_all(message[4_000:])
        error = (await answer(client))["error"]
        assert error["data"] == {"executed": False}
        assert "limits.max_memory_bytes" in error["message"]
        await client.send_all(request(2, "initialize", **HANDSHAKE))
        assert (await answer(client))["id"] == 2
