"""A long load of the embedded server: progress for the service manager, and a reason for the clients."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from redstreamd.service.embedded.embedded_server import EmbeddedServer
from redstreamd.service.embedded.process_lock import listener_of
from tests.support.daemon import Daemon, home, running_daemon
from tests.support.measured import measured
from tests.support.servers import valkey_binary
from tests.support.service_manager import ServiceManager
from tests.support.slow_loading import COMMANDS, EXTENSION_SECONDS, SCRIPT, ask, fill, hurry
from tests.support.waiting import wait_until

LOADS = "the embedded server loads its data into memory"
STREAM = "svc:test:loading"
#: The daemon imports the SDK, without which it is not complete, once there is this file.
GO = "go"
PROGRAM = (
    sys.executable,
    "-c",
    f"""
import pathlib, time
from redstreamd.daemon import serving
build = serving._sdk_kernels
def held(parts):
    while not pathlib.Path.home().joinpath("{GO}").exists():
        time.sleep(0.01)
    return build(parts)
serving._sdk_kernels = held
{SCRIPT}""",
)
EXTEND = f"EXTEND_TIMEOUT_USEC={EXTENSION_SECONDS}000000"


@pytest.fixture
def place() -> Iterator[Path]:
    """The home of a daemon whose embedded server has much to load."""
    valkey_binary()
    with home() as directory:
        state = directory / "state" / "redstreamd"

        async def prepare() -> None:
            with trio.fail_after(60), EmbeddedServer(state) as server:
                async with trio.open_nursery() as nursery:
                    await nursery.start(server.run)
                    await trio.to_thread.run_sync(fill, server.path, STREAM)
                    nursery.cancel_scope.cancel()

        trio.run(prepare)
        yield directory


def wait_until_told(daemon: Daemon, words: str) -> str:
    """Call until the error has these words in its cause, and return that."""
    deadline = time.monotonic() + 60
    while True:
        answer = daemon.call("stream_list")["structuredContent"]
        if words in answer.get("cause", ""):
            assert answer["code"] == "CONNECTION_ERROR"
            assert "Wait and repeat" in answer["next_step"]
            return str(answer["cause"])
        assert time.monotonic() < deadline, answer
        time.sleep(0.05)


def test_a_long_load_is_progress_for_the_service_manager_and_a_reason_for_clients(place: Path) -> None:
    server = str(place / "state" / "redstreamd" / "embedded" / "server.sock")
    with contextlib.closing(ServiceManager(place)) as manager:

        def go() -> None:
            manager.wait_for(lambda told: EXTEND in told)
            (place / GO).touch()

        # However long its imports take: they go on once more time was asked for.
        going = threading.Thread(target=go)
        going.start()
        with running_daemon(None, directory=place, program=PROGRAM, NOTIFY_SOCKET=manager.path) as daemon:
            going.join()
            # It accepts, and says why it does not serve and how far it is; the same to the service manager.
            assert re.search(r" \(\d+ % of \d\.\d MB", wait_until_told(daemon, LOADS))
            manager.wait_for(lambda told: told.count(EXTEND) >= 2)
            manager.wait_for(lambda told: any(line.startswith("STATUS=loading: the emb") for line in told))
            # A server that hangs makes no progress: nothing more is asked for.
            pid = listener_of(server)
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            # What it had seen before it may still say.
            wait_until(lambda: EXTEND not in manager.listen(2.5))
            os.kill(pid, signal.SIGCONT)
            manager.wait_for(lambda told: EXTEND in told)
            assert "READY=1" not in manager.told
            hurry(server)
            manager.wait_for(lambda told: "READY=1" in told)
            assert "; Redis at " in manager.told[manager.told.index("READY=1") + 1]  # the status
            # Ready means that it serves.
            read = daemon.call("stream_read", stream=STREAM, count=1)["structuredContent"]
            assert read["entries"], read
            assert ask(server, "XLEN", STREAM) == COMMANDS
            assert "EXTEND" not in "".join(manager.told[manager.told.index("READY=1") :])
            # The same later, when the server was killed: the daemon stays ready and says why.
            os.kill(pid, signal.SIGKILL)
            wait_until_told(daemon, LOADS)
            manager.wait_for(lambda told: any(line.startswith("STATUS=loading: the emb") for line in told))
            assert manager.told.count("READY=1") == 1
            assert "EXTEND" not in "".join(manager.told[manager.told.index("READY=1") :])
            # And a stop in the middle of it is prompt, and leaves no server behind.
            began = time.monotonic()
            assert daemon.stop() == 0
            with measured:
                assert time.monotonic() - began < 15, "as long as it would have loaded"
            assert listener_of(server) is None
        assert daemon.log.count("was ended by SIGKILL") == 1
        assert "has loaded its data in" in daemon.log
