"""What an idle connection keeps in memory, beside what one of trio's own takes in the same process."""

from __future__ import annotations

import contextlib
import gc
import json
import socket
import tempfile
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import trio
import trio.testing

from redstreamd.mcpio.listeners import open_unix_listener
from tests.mcpio.serving import serving
from tests.support.mcp_client import ENVELOPE, HANDSHAKE

CONNECTIONS: Final = 100
#: What a connection may take of the bytes of one that only reads.
MOST_TIMES: Final = 2.2


@asynccontextmanager
async def reading_only() -> AsyncIterator[str]:
    """Serve a socket the plain way of trio, and yield its path."""

    async def read(stream: trio.SocketStream) -> None:
        async with stream:
            while await stream.receive_some(65536):
                pass

    with tempfile.TemporaryDirectory(prefix="rs-") as directory:
        listener = await open_unix_listener(Path(directory) / "s")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, read, [listener])
            yield str(listener.path)
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def daemon() -> AsyncIterator[str]:
    """Serve MCP, and yield the socket's path."""
    async with serving() as service:
        yield service.path


async def _ask(client: socket.socket, method: str, params: dict[str, Any]) -> None:
    client.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode() + b"\n")
    answer = b""
    while not answer.endswith(b"\n"):
        await trio.lowlevel.wait_readable(client)
        answer += client.recv(1 << 16)
    assert "result" in json.loads(answer)


async def connected(client: socket.socket) -> None:
    """Say nothing."""


async def greeted(client: socket.socket) -> None:
    """Make a handshake."""
    await _ask(client, "initialize", HANDSHAKE)
    client.send(b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')


async def modern(client: socket.socket) -> None:
    """Make a request of the modern era."""
    await _ask(client, "tools/list", {"_meta": ENVELOPE})


async def bytes_of_each(
    serve: Callable[[], AbstractAsyncContextManager[str]], talk: Callable[[socket.socket], Any]
) -> float:
    """Return what Python holds for each of many connections that have said something and are idle."""
    async with serve() as path:
        with contextlib.ExitStack() as stack:

            async def connect() -> None:
                client = stack.enter_context(socket.socket(socket.AF_UNIX))
                client.connect(path)
                client.setblocking(False)
                await talk(client)

            async def held() -> int:
                await trio.testing.wait_all_tasks_blocked(0.01)
                gc.collect()
                return tracemalloc.get_traced_memory()[0]

            # What the first ones cause is there for all.
            for _ in range(20):
                await connect()
            tracemalloc.start()
            try:
                before = await held()
                for _ in range(CONNECTIONS):
                    await connect()
                return (await held() - before) / CONNECTIONS
            finally:
                tracemalloc.stop()


@pytest.mark.parametrize("talk", [connected, modern, greeted])
async def test_an_idle_connection_takes_little_more_than_twice_the_memory_of_a_plain_one(
    talk: Callable[[socket.socket], Any],
) -> None:
    plain = await bytes_of_each(reading_only, connected)
    ours = await bytes_of_each(daemon, talk)
    print(f"{ours:.0f} bytes, {ours / plain:.2f} times {plain:.0f}")
    # The measurement sees connections at all.
    assert plain > 3_000
    assert ours <= MOST_TIMES * plain
