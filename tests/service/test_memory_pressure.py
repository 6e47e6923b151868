"""A shortage of memory: how it is noticed, and what is done about it."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from redstreamd.service.memory_pressure import (
    MemoryPressed,
    MemoryPressure,
    PressureEvent,
    PressureNotWatched,
    from_environment,
)
from tests.support.daemon import home, read_resource, running_daemon
from tests.support.servers import Server
from tests.support.waiting import until, wait_until

PSI = Path("/proc/pressure/memory")


class Told:
    """What a watch has told."""

    def __init__(self) -> None:
        self.events: list[PressureEvent] = []
        self.sheds: list[bool] = []
        self.given_back = 0

    async def give_back(self) -> None:
        self.given_back += 1


@contextlib.asynccontextmanager
async def watching(
    told: Told, path: str | None, written: bytes = b"", **options: float
) -> AsyncIterator[MemoryPressure]:
    pressure = MemoryPressure(
        path,
        written,
        give_back=told.give_back,
        shed=told.sheds.append,
        report=told.events.append,
        **options,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(pressure.run)
        yield pressure
        nursery.cancel_scope.cancel()


async def test_a_fifo_that_has_something_to_read_is_a_pressure(tmp_path: Path) -> None:
    fifo, told = tmp_path / "pressure", Told()
    os.mkfifo(fifo)
    # Long enough to be seen, also where this process is held up.
    async with watching(told, str(fifo), shed_seconds=1.0) as pressure:
        assert told.events == []
        descriptor = os.open(fifo, os.O_WRONLY)
        os.write(descriptor, b"!")
        # Whoever writes may leave, and another may come.
        os.close(descriptor)
        await until(lambda: told.given_back == 1)
        assert told.sheds == [True]
        assert pressure.statistics().is_shedding
        await until(lambda: told.sheds == [True, False])
        descriptor = os.open(fifo, os.O_WRONLY)
        os.write(descriptor, b"!")
        await until(lambda: told.given_back == 2)
        os.close(descriptor)
        assert pressure.statistics().times == 2
        assert all(isinstance(event, MemoryPressed) for event in told.events)
    # Nothing is refused any more when nothing is watched.
    assert told.sheds == [True, False, True, False]


async def test_a_socket_gets_what_it_is_to_get_and_may_end(tmp_path: Path) -> None:
    told = Told()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        async with watching(told, str(tmp_path / "socket"), b"hello") as pressure:
            accepted, _ = listener.accept()
            assert accepted.recv(16) == b"hello"
            accepted.send(b"!")
            await until(lambda: told.given_back == 1)
            accepted.close()
            await until(lambda: not pressure.statistics().is_shedding)


@pytest.mark.skipif(not PSI.exists(), reason="this kernel has no pressure stall information")
async def test_a_file_of_the_kernel_takes_the_trigger_and_stays_quiet_without_pressure() -> None:
    """The rest is what POLLPRI of a descriptor in an epoll means; a pressure cannot be made here."""
    told = Told()
    async with watching(told, str(PSI), b"some 10000000 20000000\0"):
        assert [type(event) for event in told.events] == [PressureNotWatched]  # beyond the kernel's window
    told = Told()
    async with watching(told, str(PSI), b"some 9000000 10000000\0"):
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert told.events == []


@pytest.mark.parametrize("path", [None, "", "/dev/null"])
async def test_nothing_is_watched_if_the_manager_asks_for_nothing(path: str | None) -> None:
    told = Told()
    async with watching(told, path) as pressure:
        await trio.testing.wait_all_tasks_blocked()
        assert pressure.statistics().watched is None
    assert (told.events, told.sheds) == ([], [])


async def test_what_cannot_be_watched_is_said_and_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    for path in (tmp_path / "plain", tmp_path / "none"):
        told = Told()
        async with watching(told, str(path), b"x"):
            (event,) = told.events
            assert isinstance(event, PressureNotWatched)
            assert event.path == str(path)


def test_the_variables_are_those_of_systemd() -> None:
    written = base64.b64encode(b"some 200000 2000000\0").decode()
    given = {"MEMORY_PRESSURE_WATCH": "/sys/fs/cgroup/x/memory.pressure", "MEMORY_PRESSURE_WRITE": written}
    assert from_environment(given) == ("/sys/fs/cgroup/x/memory.pressure", b"some 200000 2000000\0")
    assert from_environment({}) == (None, b"")
    assert from_environment({"MEMORY_PRESSURE_WRITE": "?"}) == (None, b"")


def test_a_daemon_short_of_memory_refuses_new_waits_says_so_and_serves_the_rest(redis: Server) -> None:
    with home() as directory:
        fifo = directory / "pressure"
        os.mkfifo(fifo)
        with running_daemon(redis, directory=directory, MEMORY_PRESSURE_WATCH=str(fifo)) as daemon:
            writer = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
            os.write(writer, b"!")
            wait_until(lambda: "memory is short; gave back " in daemon.log)
            refused = daemon.call("stream_wait", streams=["m:a:b"], timeout_seconds=30)
            assert refused["structuredContent"]["code"] == "RATE_LIMITED"
            assert "short of memory" in refused["structuredContent"]["cause"]
            assert refused["structuredContent"]["retry_after_seconds"] > 0
            assert not daemon.call("stream_add", stream="m:a:b", entries=[{"n": 1}])["isError"]
            assert not daemon.call("stream_read", stream="m:a:b")["isError"]
            pressure = read_resource(daemon.path, "redstream://health")["memory_pressure"]
            assert pressure == {"watched": str(fifo), "times": 1, "is_shedding": True}
            os.close(writer)
