"""The disk under the embedded server fills up and is freed again: row 41 of the fault matrix.

Needs root, to mount a small tmpfs.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from redstreamd.service.embedded import embedded_server
from redstreamd.service.embedded.embedded_server import SPACE_NEEDED, EmbeddedServer
from tests.embedded.conftest import ask
from tests.faults.calling import bus_at
from tests.support.calls import call, refusal
from tests.support.counts import counts
from tests.support.daemon import Daemon, home, running_daemon
from tests.support.fair_clock import Clock
from tests.support.history import History, Line, Told, content, entries_in
from tests.support.measured import measured
from tests.support.servers import missing, valkey_binary
from tests.support.waiting import wait_until

DISK = 4 * SPACE_NEEDED
STREAM = "disk:full:stream"

#: Long enough for a supervisor that counted every failed write to have given up, which took 4 s.
FULL_SECONDS = 6.0


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """The home of a daemon whose state directory is a disk of its own."""
    valkey_binary()
    if os.geteuid() != 0:
        missing("a small tmpfs", "run as root")
    with home() as directory:
        state = directory / "state"
        state.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", state], check=True)
        try:
            yield directory
        finally:
            subprocess.run(["umount", "--lazy", state], check=True)


@pytest.mark.parametrize("times", counts(1, ci=10, full=100))
def test_a_full_disk_is_a_clear_error_and_ends_by_itself_with_nothing_lost(
    small_disk: Path, rng: random.Random, times: int, clock: Clock
) -> None:
    history = History()
    number = 0

    def add(daemon: Daemon, padding: int) -> dict[str, object]:
        nonlocal number
        number += 1
        entry = content(number) | {"padding": "x" * padding}
        answer = daemon.call("stream_add", stream=STREAM, entries=[entry])["structuredContent"]
        code = answer.get("code")
        if code is None:
            history.lines[number] = Line(Told.ACKNOWLEDGED, answer["ids"][0])
        else:
            told = Told.REFUSED if code == "CONNECTION_ERROR" else Told.UNKNOWN
            history.lines[number] = Line(told, code=code)
        return answer

    ballast = small_disk / "state" / "ballast"
    with running_daemon(None, directory=small_disk) as daemon:
        wait_until(lambda: "ids" in add(daemon, 0))
        for _ in range(times):
            free = os.statvfs(ballast.parent)
            ballast.write_bytes(b"\0" * (free.f_bavail * free.f_frsize - rng.randint(200_000, 600_000)))
            # Whoever writes into the full disk is told that nobody knows; then everybody is told why.
            while "ids" in add(daemon, rng.randint(10_000, 60_000)):
                pass
            began, full_until = clock(), time.monotonic() + FULL_SECONDS
            while "disk of the embedded server is full" not in str(add(daemon, 100).get("cause")):
                with measured:
                    assert clock() - began < 3
            while time.monotonic() < full_until:
                assert add(daemon, 100)["code"] == "CONNECTION_ERROR"
                assert daemon.process.poll() is None
                time.sleep(0.02)
            ballast.unlink()
            began = clock()
            while "ids" not in add(daemon, 0):
                with measured:
                    assert clock() - began < 5
                time.sleep(0.02)
        assert daemon.log.count("waits for space") == times
        path = str(small_disk / "state" / "redstreamd" / "embedded" / "server.sock")
        entries = entries_in(ask(path, "XRANGE", STREAM, "-", "+"))
    history.judge(entries, acknowledged=5 * times)


async def test_a_server_that_waits_for_space_counts_as_started_and_callers_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without root, and from the first start on: the daemon of a full disk must not fail to start."""
    valkey_binary()
    monkeypatch.setattr(embedded_server, "SPACE_NEEDED", 1 << 60)
    with home() as directory, EmbeddedServer(directory / "state") as server:
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            async with bus_at(server.target()) as bus:
                error = await refusal(bus, "stream_list")
                assert error["code"] == "CONNECTION_ERROR"
                assert "disk of the embedded server is full" in error["cause"]
                monkeypatch.setattr(embedded_server, "SPACE_NEEDED", 0)
                await bus.redis.wait_connected()
                await call(bus, "stream_add", stream=STREAM, entries=[{"n": 1}])
                assert server.problem() is None
            nursery.cancel_scope.cancel()
