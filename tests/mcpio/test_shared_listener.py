"""Processes that share a listening socket, here with a table and a listener for each in one event loop."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from redstreamd.mcpio.process_table import MAX_PROCESSES, ProcessTable
from redstreamd.mcpio.shared_listener import PATIENCE_SECONDS, SharedListener
from tests.support.measured import measured
from tests.support.waiting import until

#: Takes a row and holds it, as a process of its own: the locks of one process do not exclude each other.
_HOLDER = """
import sys
from pathlib import Path
from redstreamd.mcpio.process_table import ProcessTable
table = ProcessTable(Path(sys.argv[1]), sys.argv[2], [int(sys.argv[3])])
table.note(int(sys.argv[4]), is_full=False)
print(table.own, flush=True)
sys.stdin.read()
"""

#: Accepts and keeps all it gets until its standard input ends, and then tells how many these are.
_ACCEPTOR = """
import os, socket, sys
from pathlib import Path
import trio
from redstreamd.mcpio.process_table import ProcessTable
from redstreamd.mcpio.shared_listener import SharedListener

async def main():
    plain = socket.socket(fileno=int(sys.argv[3]))
    table = ProcessTable(Path(sys.argv[1]), sys.argv[2], [os.fstat(plain.fileno()).st_ino])
    listener = SharedListener(trio.SocketListener(trio.socket.from_stdlib_socket(plain)), table)
    print(0, flush=True)
    accepted = []
    async with trio.open_nursery() as nursery:
        async def accept():
            while True:
                stream = await listener.accept()
                accepted.append(stream)
                table.note(len(accepted))
                await stream.send_all(b".")
        nursery.start_soon(accept)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()
    print(len(accepted), flush=True)

trio.run(main)
"""

#: Holds a row, and has another number of connections each millisecond, as short connections make it.
_RESTLESS = """
import sys, time
from pathlib import Path
from redstreamd.mcpio.process_table import ProcessTable
table = ProcessTable(Path(sys.argv[1]), sys.argv[2], [int(sys.argv[3])])
print(table.own, flush=True)
connections = 0
while True:
    connections = (connections + 1) % int(sys.argv[4])
    table.note(connections)
    time.sleep(0.001)
"""

_LOCKS = """
import fcntl, sys
file = open(sys.argv[1], "r+")
fcntl.lockf(file, fcntl.LOCK_EX, 64, 0)
print(1, flush=True)
sys.stdin.read()
"""


#: Is in the middle of taking the seventh row, until it is told to go on.
_STARTING = """
import fcntl, struct, sys
file = open(sys.argv[1], "r+b")
fcntl.lockf(file, fcntl.LOCK_EX, 1, 64)
print(1, flush=True)
sys.stdin.readline()
file.write(struct.pack("=I", 7))
"""


@attrs.define
class Other:
    """Another process in the table, which accepts nothing."""

    process: subprocess.Popen[str]
    row: int


@contextlib.contextmanager
def other(table: Path, name: str, inode: int, connections: int, program: str = _HOLDER) -> Iterator[Other]:
    words = [sys.executable, "-c", program, str(table), name, str(inode), str(connections)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Other(process, int(process.stdout.readline()))
        finally:
            process.kill()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "processes"


@contextlib.contextmanager
def listening() -> Iterator[tuple[str, socket.socket, int]]:
    """Listen in the abstract namespace; yield the address, the socket, and its inode."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(b"\0rs-%d-shared" % os.getpid())
        listener.listen(1024)
        yield listener.getsockname(), listener, os.fstat(listener.fileno()).st_ino


def shared(listener: socket.socket, table: ProcessTable) -> SharedListener:
    return SharedListener(trio.SocketListener(trio.socket.from_stdlib_socket(listener.dup())), table)


def connect(address: str, count: int, stack: contextlib.ExitStack) -> None:
    for _ in range(count):
        client = stack.enter_context(socket.socket(socket.AF_UNIX))
        client.connect(address)


def test_processes_that_accept_at_the_same_time_get_equal_shares(path: Path) -> None:
    """In a burst, and one after the other; those with most leave connections to those with fewer."""
    with listening() as (address, listener, _), contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", _ACCEPTOR, str(path), str(number), str(listener.fileno())],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    pass_fds=[listener.fileno()],
                )
            )
            for number in range(4)
        ]
        for process in processes:
            stack.callback(process.kill)
            assert told(process) == 0
        connect(address, 200, stack)
        for _ in range(200):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(address)
            # Accepted, so the next one comes to processes that wait.
            assert client.recv(1) == b"."
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
        shares = [told(process) for process in processes]
    assert sum(shares) == 400
    with measured:
        assert all(70 <= share <= 130 for share in shares), shares


def told(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


async def test_what_is_left_to_a_process_that_does_not_take_it_is_taken_all_the_same(path: Path) -> None:
    with listening() as (address, listener, inode), contextlib.ExitStack() as stack:
        table = stack.enter_context(contextlib.closing(ProcessTable(path, "1", [inode])))
        with other(path, "hung", inode, 3):
            table.note(100)
            shares = shared(listener, table)
            connect(address, 20, stack)
            for _ in range(20):
                await (await shares.accept()).aclose()
            await shares.aclose()


async def test_what_is_left_to_a_process_that_is_busy_with_other_things_is_taken_all_the_same(
    path: Path,
) -> None:
    """Its number of connections changes all the time, so it never looks idle."""
    with listening() as (address, listener, inode), contextlib.ExitStack() as stack:
        table = stack.enter_context(contextlib.closing(ProcessTable(path, "1", [inode])))
        with other(path, "busy", inode, 9, _RESTLESS):
            table.note(100)
            shares = shared(listener, table)
            connect(address, 3, stack)
            with trio.fail_after(30):
                for _ in range(3):
                    await (await shares.accept()).aclose()
            await shares.aclose()


def test_nothing_is_left_to_a_process_that_has_only_another_socket_of_this_one(path: Path) -> None:
    with listening() as (address, listener, inode), contextlib.ExitStack() as stack:
        elsewhere = inode + 1
        table = stack.enter_context(contextlib.closing(ProcessTable(path, "", [inode, elsewhere])))
        stack.enter_context(other(path, "worker", elsewhere, 0))

        async def main() -> None:
            table.note(100)
            shares = shared(listener, table)
            connect(address, 3, stack)
            for _ in range(3):
                await (await shares.accept()).aclose()
            await shares.aclose()
            assert trio.current_time() == start

        clock = trio.testing.MockClock(autojump_threshold=0)
        start = clock.current_time()
        trio.run(main, clock=clock)
        # It is one of those that share sockets all the same.
        assert [each.name for each in table.processes()] == ["", "worker"]


@pytest.mark.parametrize("is_full", [True, False])
def test_who_has_no_place_for_more_leaves_all_to_those_that_have(path: Path, is_full: bool) -> None:
    """And gets nothing left to it, however few it has."""
    with listening() as (address, listener, inode), contextlib.ExitStack() as stack:
        table = stack.enter_context(contextlib.closing(ProcessTable(path, "", [inode])))
        program = _HOLDER if is_full else _HOLDER.replace("is_full=False", "is_full=True")
        stack.enter_context(other(path, "worker", inode, 40 if is_full else 4, program))

        async def main() -> float:
            # One that is full has no more than another; one that is not has many more than one that is.
            table.note(40, is_full=is_full)
            shares = shared(listener, table)
            connect(address, 1, stack)
            await (await shares.accept()).aclose()
            await shares.aclose()
            return trio.current_time() - start

        clock = trio.testing.MockClock(autojump_threshold=0)
        start = clock.current_time()
        waited = trio.run(main, clock=clock)
        assert waited >= PATIENCE_SECONDS if is_full else waited == 0


async def test_nothing_is_left_to_a_process_that_was_killed(path: Path) -> None:
    with listening() as (address, listener, inode), contextlib.ExitStack() as stack:
        table = stack.enter_context(contextlib.closing(ProcessTable(path, "1", [inode])))
        with other(path, "killed", inode, 3) as killed:
            killed.process.send_signal(signal.SIGKILL)
            killed.process.wait()
            # Its row stays until somebody wants to leave a connection to it.
            assert [each.row for each in table.others()] == [killed.row]
            table.note(100)
            shares = shared(listener, table)
            connect(address, 1, stack)
            await (await shares.accept()).aclose()
            assert list(table.others()) == []
            await shares.aclose()
            # And the row is the next one's.
            with other(path, "next", inode, 0) as successor:
                assert successor.row == killed.row
                assert [each.name for each in table.processes()] == ["1", "next"]


def test_who_has_other_sockets_is_none_of_them(path: Path) -> None:
    with contextlib.closing(ProcessTable(path, "", [1, 2])) as table:
        with other(path, "elsewhere", 3, 0), other(path, "here", 2, 7) as here:
            assert [(each.row, each.connections) for each in table.others()] == [(here.row, 7)]
            assert [each.name for each in table.processes()] == ["", "here"]
        # Both have ended in order or not: their rows are cleared.
        assert [each.name for each in table.processes()] == [""]


def test_a_closed_table_says_nothing_and_the_file_serves_the_next_process(path: Path) -> None:
    table = ProcessTable(path, "a", [1])
    table.note(5)
    table.close()
    table.close()
    table.note(6)
    assert list(table.others()) == []
    assert table.processes() == ()
    with contextlib.closing(ProcessTable(path, "b" * 40, [1])) as successor:
        (only,) = successor.processes()
        assert (only.name, only.connections, only.row) == ("b" * 32, 0, 0)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_process_beyond_the_last_row_takes_connections_as_they_come(path: Path) -> None:
    with contextlib.closing(ProcessTable(path, "", [1])):
        pass
    # The lock of a row is what makes it somebody's, so a program that has all of them is enough.
    with subprocess.Popen(
        [sys.executable, "-c", _LOCKS, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            with contextlib.closing(ProcessTable(path, "", [1])) as table:
                assert table.own is None
                table.note(1)
                assert list(table.others()) == []
        finally:
            process.kill()
    assert MAX_PROCESSES == 64


async def test_a_process_that_starts_while_another_does_hides_it_from_nobody(path: Path) -> None:
    with contextlib.closing(ProcessTable(path, "", [1])):
        pass
    with contextlib.ExitStack() as stack:

        def started(program: str) -> subprocess.Popen[str]:
            words = [sys.executable, "-c", program, str(path), "second", "1", "0"]
            process = stack.enter_context(
                subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            stack.callback(process.kill)
            return process

        first = started(_STARTING)
        assert told(first) == 1
        second = started(_HOLDER)
        # The kernel lists who waits for a lock behind the lock.
        await until(lambda: any(str(second.pid) in line.split() for line in waiting_for_locks()))
        assert first.stdin is not None
        print(file=first.stdin, flush=True)
        assert told(second) == 0
        assert rows_taken(path) == 7


def rows_taken(path: Path) -> int:
    return int.from_bytes(path.read_bytes()[:4], sys.byteorder)


def waiting_for_locks() -> list[str]:
    return [line for line in Path("/proc/locks").read_text().splitlines() if "->" in line]


def test_a_damaged_file_is_used_as_far_as_it_makes_sense(path: Path) -> None:
    path.write_bytes(b"\xff" * 100)
    with contextlib.closing(ProcessTable(path, "", [1])) as table:
        assert list(table.others()) == []
        assert Counter(each.name for each in table.processes()) == {"": 1}
