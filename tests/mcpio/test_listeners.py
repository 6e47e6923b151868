"""Opening sockets: their files, their permissions, and who else is there."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from redstreamd.mcpio.listeners import ListenError, open_tcp_listeners, open_unix_listener


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory with a short name: socket paths are limited to 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="rs-") as name:
        yield Path(name)


async def exchange(address: Path, listener: trio.abc.Listener[trio.SocketStream]) -> None:
    """Show that a listener accepts."""
    async with await trio.open_unix_socket(address) as ours, await listener.accept() as theirs:
        await ours.send_all(b"x")
        assert await theirs.receive_some() == b"x"


async def test_the_directory_and_the_socket_belong_to_nobody_else(directory: Path) -> None:
    path = directory / "new" / "mcp.sock"
    old = os.umask(0)
    try:
        async with await open_unix_listener(path) as listener:
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            await exchange(path, listener)
    finally:
        os.umask(old)


@pytest.mark.parametrize("umask", [0, 0o022, 0o077, 0o777])
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
async def test_the_socket_gets_the_mode_that_was_asked_for_whatever_the_umask(
    directory: Path, mode: int, umask: int
) -> None:
    path = directory / "mcp.sock"
    old = os.umask(umask)
    try:
        async with await open_unix_listener(path, mode=mode):
            assert stat.S_IMODE(path.stat().st_mode) == mode
    finally:
        os.umask(old)


async def test_at_no_moment_is_the_socket_open_to_others(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = directory / "mcp.sock"
    before_it_was_set: list[int] = []
    chmod = Path.chmod

    def look_first(self: Path, mode: int) -> None:
        before_it_was_set.append(stat.S_IMODE(self.stat().st_mode))
        chmod(self, mode)

    monkeypatch.setattr(Path, "chmod", look_first)
    old = os.umask(0)
    try:
        async with await open_unix_listener(path, mode=0o600):
            assert before_it_was_set == [0o600]
    finally:
        os.umask(old)


async def test_the_permissions_of_a_directory_that_exists_are_left_alone(directory: Path) -> None:
    os.chmod(directory, 0o755)  # noqa: PTH101 - the linter takes Path's own for slow
    async with await open_unix_listener(directory / "mcp.sock"):
        assert stat.S_IMODE(os.stat(directory).st_mode) == 0o755  # noqa: PTH116


async def test_the_file_goes_with_the_listener(directory: Path) -> None:
    path = directory / "mcp.sock"
    listener = await open_unix_listener(str(path))
    assert path.is_socket()
    await listener.aclose()
    assert not path.exists()
    await listener.aclose()


async def test_a_file_that_somebody_else_put_there_stays(directory: Path) -> None:
    path = directory / "mcp.sock"
    first = await open_unix_listener(path)
    path.unlink()
    async with await open_unix_listener(path) as second:
        await first.aclose()
        await exchange(path, second)


async def test_a_socket_file_that_a_crash_left_is_replaced(directory: Path) -> None:
    path = directory / "mcp.sock"
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(path))
        crashed.listen()
    assert path.is_socket()
    async with await open_unix_listener(path) as listener:
        await exchange(path, listener)


async def test_a_socket_on_which_somebody_listens_is_left_to_them(directory: Path) -> None:
    path = directory / "mcp.sock"
    async with await open_unix_listener(path) as first:
        with pytest.raises(ListenError, match=f"cannot listen on {path}: another process listens there"):
            await open_unix_listener(path)
        # Whoever asked has left already.
        async with await first.accept() as asked:
            assert await asked.receive_some() == b""
        await exchange(path, first)


async def test_a_socket_whose_owner_is_too_busy_to_accept_is_left_to_them(directory: Path) -> None:
    path = directory / "mcp.sock"
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(path))
        busy.listen(0)
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        try:
            for each in waiting:
                each.setblocking(False)
                full = each.connect_ex(str(path))
            assert full != 0
            with pytest.raises(ListenError, match=r"another process may be listening .* there"):
                await open_unix_listener(path)
        finally:
            for each in waiting:
                each.close()


@pytest.mark.parametrize("kind", ["file", "directory", "link to a file", "pipe"])
async def test_what_is_no_socket_is_not_touched(directory: Path, kind: str) -> None:
    path = directory / "mcp.sock"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "file":
        path.write_text("precious")
    else:
        (directory / "target").write_text("precious")
        path.symlink_to(directory / "target")
    before = path.lstat()
    with pytest.raises(ListenError, match="a file that is not a socket is there"):
        await open_unix_listener(path)
    assert path.lstat() == before


async def test_a_socket_of_another_type_is_left_to_its_owner(directory: Path) -> None:
    path = directory / "mcp.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        with pytest.raises(ListenError, match=r"another process may be listening .* there"):
            await open_unix_listener(path)
        assert path.is_socket()


async def test_a_path_that_is_too_long_is_refused_in_words(directory: Path) -> None:
    with pytest.raises(ListenError, match=r"cannot listen on .*path too long"):
        await open_unix_listener(directory / ("x" * 120))


async def test_a_directory_that_cannot_be_made_is_refused_in_words(directory: Path) -> None:
    (directory / "file").write_text("")
    with pytest.raises(ListenError, match=r"cannot listen on .*file"):
        await open_unix_listener(directory / "file" / "mcp.sock")


STARTER = """
import sys, trio
from redstreamd.mcpio.listeners import ListenError, open_unix_listener

async def main():
    sys.stdin.readline()
    try:
        listener = await open_unix_listener(sys.argv[1])
    except ListenError as rejection:
        print("refused", rejection, flush=True)
    else:
        print("listening", flush=True)
        sys.stdin.readline()

trio.run(main)
"""


def test_of_many_that_start_at_once_one_gets_the_socket(directory: Path) -> None:
    path = directory / "mcp.sock"
    # A stale file, so that each of them might want to clear it away.
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(path))
    command = [sys.executable, "-c", STARTER, str(path)]
    pipe = subprocess.PIPE
    starters = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(6)]
    try:
        for each in starters:
            assert each.stdin is not None
            each.stdin.write("go\n")
            each.stdin.flush()
        said = [each.stdout.readline() for each in starters if each.stdout is not None]
        assert sorted(line.split()[0] for line in said) == ["listening"] + ["refused"] * 5
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    finally:
        for each in starters:
            each.communicate("done\n", timeout=60)


async def test_whoever_comes_in_the_middle_of_that_is_told_to_try_again(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(ListenError, match=r"another process is opening a socket in .* try again"):
            await open_unix_listener(directory / "mcp.sock")
    finally:
        os.close(descriptor)
    async with await open_unix_listener(directory / "mcp.sock"):
        pass


async def test_tcp_listeners_accept(directory: Path) -> None:
    listeners = await open_tcp_listeners("localhost", 0)
    assert listeners
    for listener in listeners:
        host, port, *_ = listener.socket.getsockname()
        async with listener, await trio.open_tcp_stream(host, port) as ours, await listener.accept() as peer:
            await ours.send_all(b"x")
            assert await peer.receive_some() == b"x"


async def test_a_port_that_is_taken_and_a_name_that_is_unknown_are_refused_in_words() -> None:
    (first,) = await open_tcp_listeners("127.0.0.1", 0)
    async with first:
        port = first.socket.getsockname()[1]
        with pytest.raises(ListenError, match=rf"cannot listen on 127\.0\.0\.1:{port}: .*in use"):
            await open_tcp_listeners("127.0.0.1", port)
    with pytest.raises(ListenError, match=r"cannot listen on no-such-host\.invalid:1:"):
        await open_tcp_listeners("no-such-host.invalid", 1)
