"""What calls cost at Redis: CPU time of the server's main thread, or with --instructions its instructions.

    .venv/bin/python -m tests.bench.redis_time [--instructions] [PATH OF A SERVER]

Tools are called without sockets. Instructions are counted by valgrind's callgrind, which is slow, but counts
the same twice within some 2 %; time needs a quiet machine. To compare commits, run this file in each.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import trio

from redstreamd.streams.bus import Bus
from tests.support.buses import running_bus
from tests.support.calls import call
from tests.support.servers import Server, redis_binary, running

FIELDS = (
    "text",
    "a message of some length, as agents write them",
    "kind",
    "note",
    "_rs.v",
    "1",
    "_rs.sender",
    "me",
)


def _microseconds(server: Server, _folder: Path) -> float:
    assert server.process is not None
    return int(Path(f"/proc/{server.process.pid}/schedstat").read_text().split()[0]) / 1_000


def _instructions(server: Server, folder: Path) -> float:
    """Return how many there were since the last call."""
    assert server.process is not None
    pid = server.process.pid
    subprocess.run(["callgrind_control", "-d", str(pid)], check=True, capture_output=True)
    newest = max(folder.glob("callgrind.*"), key=lambda path: path.stat().st_mtime)
    subprocess.run(["callgrind_control", "-z", str(pid)], check=True, capture_output=True)
    totals = next(
        line for line in newest.read_text().splitlines() if line.startswith(("summary:", "totals:"))
    )
    return int(totals.split()[1])


@contextlib.contextmanager
def _server(binary: str, folder: Path, *, counted: bool) -> Iterator[Server]:
    """Run a server, below valgrind if its instructions are to be counted."""
    if counted:
        # Servers before Redis 7 are told by their path.
        wrapper = folder / f"{Path(binary).parent.name}-server"
        output = folder / "callgrind"
        wrapper.write_text(
            f"#!/bin/sh\nexec valgrind --tool=callgrind --callgrind-out-file={output} {binary} "
            '"$@" 2>/dev/null\n'
        )
        wrapper.chmod(0o755)
        binary = str(wrapper)
    with running(binary) as server:
        yield server


async def _measure(binary: str, *, counted: bool) -> None:
    with tempfile.TemporaryDirectory() as made, _server(binary, Path(made), counted=counted) as server:
        async with running_bus(server) as bus:
            for name, times, step in _cases(bus, server):
                best = float("inf")
                for _ in range(2 if counted else 20):
                    before = (_instructions if counted else _microseconds)(server, Path(made))
                    for _ in range(times):
                        await step()
                    after = (_instructions if counted else _microseconds)(server, Path(made))
                    best = min(best, (after if counted else after - before) / times)
                print(f"{name:50}{best:12,.0f}", flush=True)


def _cases(bus: Bus, server: Server) -> Iterator[tuple[str, int, Callable[[], Awaitable[Any]]]]:
    server.commands(*(("XADD", "s", "*", *FIELDS) for _ in range(3_000)))
    for count in (100, 10):
        yield (
            f"stream_read of {count}",
            10,
            partial(call, bus, "stream_read", stream="s", count=count),
        )
    cursor: dict[str, str] = {}

    async def once() -> None:
        page = await call(bus, "stream_read", stream="s", count=10, **cursor)
        cursor["cursor"] = page["next_cursor"]

    yield "stream_read of 10, read for the first time", 5, once

    async def follow() -> None:
        server.command("XADD", "s", "*", *FIELDS)
        page = await call(bus, "stream_read", stream="s", count=10, cursor=cursor["cursor"])
        cursor["cursor"] = page["next_cursor"]

    cursor["cursor"] = server.command("XADD", "s", "*", *FIELDS).decode()
    yield "XADD + stream_read of what was just added", 10, follow
    for count in (1, 10):
        group = f"g{count}"

        async def work(count: int = count, group: str = group) -> None:
            taken = await call(
                bus, "work_take", stream="s", group=group, consumer="c", count=count, start="earliest"
            )
            await call(bus, "work_done", lease=taken["lease"])

        yield f"work_take of {count} + work_done", 10, work


if __name__ == "__main__":
    arguments = sys.argv[1:]
    counted = "--instructions" in arguments
    path = next((each for each in arguments if not each.startswith("-")), None)
    print(
        time.strftime("%Y-%m-%d"), "instructions" if counted else "µs", "per call, at", path or redis_binary()
    )
    trio.run(lambda: _measure(path or redis_binary(), counted=counted))
