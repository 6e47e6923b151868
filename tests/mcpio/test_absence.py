"""What a peer is told where the server behind its socket will not start."""

from __future__ import annotations

import json

import pytest
import trio

from redstreamd.mcpio.absence import PATIENCE_SECONDS, answer_for_absent
from tests.mcpio.serving import socket_pair, virtual_time

REASON = "redstreamd cannot start: correct it"
DISCOVER = b'{"jsonrpc": "2.0", "id": "d", "method": "server/discover", "params": {}}\n'
INITIALIZED = b'{"jsonrpc": "2.0", "method": "notifications/initialized"}\n'
INITIALIZE = b'{"jsonrpc": "2.0", "id": 7, "method": "initialize", "params": {}}\n'


async def heard(*said: bytes, closes: bool = False) -> list[object]:
    """Return the ids that are answered to a peer that says this and reads to the end."""
    ours, theirs = socket_pair()
    received = b""
    async with theirs, trio.open_nursery() as nursery:
        nursery.start_soon(answer_for_absent, ours, REASON)
        for each in said:
            await theirs.send_all(each)
        if closes:
            await theirs.send_eof()
        while data := await theirs.receive_some():
            received += data
    answers = [json.loads(line) for line in received.splitlines()]
    assert all(answer["error"]["message"] == REASON for answer in answers)
    return [answer["id"] for answer in answers]


@virtual_time()
@pytest.mark.parametrize(
    ("said", "answered"),
    [
        ([INITIALIZE], [7]),
        ([DISCOVER, INITIALIZE], ["d", 7]),
        ([INITIALIZED, INITIALIZE[:20], INITIALIZE[20:]], [7]),
        ([DISCOVER], ["d"]),
        ([INITIALIZED], [None]),
        ([b"GET / HTTP/1.1\r\n"], [None]),
        ([b"x" * 100_000], [None]),
        ([], [None]),
    ],
)
async def test_a_handshake_is_answered_with_the_reason(said: list[bytes], answered: list[object]) -> None:
    started = trio.current_time()
    assert await heard(*said) == answered
    assert trio.current_time() - started <= PATIENCE_SECONDS


@virtual_time()
async def test_a_peer_that_has_said_all_is_not_waited_for() -> None:
    started = trio.current_time()
    assert await heard(DISCOVER, closes=True) == ["d"]
    assert await heard(INITIALIZE) == [7]
    assert trio.current_time() == started


@virtual_time()
async def test_a_peer_that_does_not_read_or_has_gone_is_let_go() -> None:
    for goes in (False, True):
        ours, theirs = socket_pair()
        async with theirs, trio.open_nursery() as nursery:
            nursery.start_soon(answer_for_absent, ours, REASON * 100_000)
            await theirs.send_all(INITIALIZE)
            if goes:
                await theirs.aclose()
