"""Runs the command line as users do, in a process of its own, against a daemon of the test's own."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support import preloaded

# Without the settings and the daemon of the user who runs the tests.
CLEAN = preloaded.environment()


@pytest.fixture
def place() -> Iterator[Path]:
    """A path for a socket, short enough for one (pytest's own directories may not be)."""
    directory = Path(tempfile.mkdtemp(prefix="rs-"))
    yield directory / "mcp.sock"
    shutil.rmtree(directory)


@pytest.fixture
def nowhere(place: Path) -> Path:
    """A path for a socket in a directory that does not exist."""
    return place.parent / "none" / "mcp.sock"


@pytest.fixture
async def accept(place: Path) -> AsyncIterator[Callable[[], Awaitable[trio.SocketStream]]]:
    """Listen at `place`; calling it accepts one connection, closed at the end."""
    sock = trio.socket.socket(trio.socket.AF_UNIX)
    await sock.bind(str(place))
    sock.listen(16)
    async with contextlib.AsyncExitStack() as accepted:
        listener = await accepted.enter_async_context(trio.SocketListener(sock))

        async def accept_one() -> trio.SocketStream:
            return await accepted.enter_async_context(await listener.accept())

        yield accept_one


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """The environment of the programs that `redstreamd` starts; change it before."""
    return {**CLEAN, "HOME": str(tmp_path)}


@pytest.fixture
def command() -> list[str]:
    """The words that start the program."""
    return [sys.executable, "-m", "redstreamd"]


@pytest.fixture
async def redstreamd(
    command: list[str], environ: dict[str, str]
) -> AsyncIterator[Callable[..., Awaitable[trio.Process]]]:
    """Start a command with pipes on all three descriptors; whatever still runs at the end is killed."""
    async with contextlib.AsyncExitStack() as started:

        async def start(*words: str, **options: Any) -> trio.Process:
            pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
            process = await trio.lowlevel.open_process([*command, *words], env=environ, **pipes | options)
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    await started.enter_async_context(pipe)
            started.push_async_callback(process.wait)
            started.callback(process.kill)
            return process

        yield start


@pytest.fixture
def finished(environ: dict[str, str]) -> Callable[..., Awaitable[subprocess.CompletedProcess[bytes]]]:
    """Run a command to its end and return its status and output."""

    async def run(*words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        program = partial(preloaded.run, [preloaded.PROGRAM, *words], env=environ, input=stdin)
        return await trio.to_thread.run_sync(program)

    return run


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    """Read a stream to its end."""
    return b"".join([chunk async for chunk in stream])


async def read_exactly(stream: trio.abc.ReceiveStream, count: int) -> bytes:
    """Read `count` bytes, or fewer if the stream ends."""
    received = bytearray()
    while len(received) < count:
        chunk = await stream.receive_some(count - len(received))
        if not chunk:
            break
        received += chunk
    return bytes(received)
