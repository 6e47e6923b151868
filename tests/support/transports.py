"""Every way to reach the daemon as a byte stream, for tests that hold on all of them."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Final

import attrs

from tests.support import preloaded
from tests.support.daemon import PROGRAM, Daemon, clean_environment, home
from tests.support.servers import Server

#: Seconds until what is to come must have come.
PATIENCE: Final = 60.0


@attrs.define
class Channel:
    """A client's end of a connection: two blocking descriptors, which may be one.

    Attributes:
        writes: Where it writes.
        reads: Where it reads.
    """

    writes: int
    reads: int
    _rest: bytes = b""

    def send(self, data: bytes, *, byte_by_byte: bool = False) -> None:
        """Send bytes, each by itself if wanted.

        Raises:
            OSError: The other side has closed the connection.
        """
        for piece in [bytes([byte]) for byte in data] if byte_by_byte else [data]:
            left = memoryview(piece)
            while left:
                left = left[os.write(self.writes, left) :]

    def receive(self) -> bytes:
        """Return what is there next; empty at the end.

        Raises:
            TimeoutError: Nothing comes.
        """
        deadline = time.monotonic() + PATIENCE
        if not select.select([self.reads], [], [], max(0, deadline - time.monotonic()))[0]:
            raise TimeoutError("nothing comes")
        try:
            return os.read(self.reads, 1 << 16)
        except ConnectionResetError:
            return b""

    def message(self) -> Any:
        """Return the next message, decoded.

        Raises:
            EOFError: The other side has closed the connection.
        """
        while b"\n" not in self._rest:
            data = self.receive()
            if not data:
                raise EOFError(self._rest)
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return json.loads(line)

    def rest(self) -> bytes:
        """Return all that comes until the other side closes the connection."""
        rest, self._rest = self._rest, b""
        while data := self.receive():
            rest += data
        return rest


Connect = Callable[[Daemon, Server], AbstractContextManager[Channel]]
"""Connects a client for the block to a daemon on a server, or to a daemon of its own."""


@contextlib.contextmanager
def unix_socket(daemon: Daemon, server: Server) -> Iterator[Channel]:
    """Connect to the daemon's Unix socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(daemon.path)
        yield Channel(connection.fileno(), connection.fileno())


@contextlib.contextmanager
def tcp(daemon: Daemon, server: Server) -> Iterator[Channel]:
    """Connect to the daemon's TCP port, which its option `--listen` names."""
    address = next(word for word in map(str, daemon.process.args) if word.startswith("tcp:"))  # type: ignore[union-attr]
    _, host, port = address.split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield Channel(connection.fileno(), connection.fileno())


@contextlib.contextmanager
def bridge(daemon: Daemon, server: Server) -> Iterator[Channel]:
    """Run `redstreamd connect` on two pipes."""
    with _program("connect", "--socket", daemon.path) as channel:
        yield channel


@contextlib.contextmanager
def stdio(daemon: Daemon, server: Server) -> Iterator[Channel]:
    """Run `redstreamd stdio` on two pipes."""
    with _program("stdio", *_options(daemon), REDIS_URL=f"unix://{server.path}") as channel:
        yield channel


@contextlib.contextmanager
def inetd(daemon: Daemon, server: Server) -> Iterator[Channel]:
    """Run `redstreamd stdio` on a socket that is both its standard input and output."""
    ours, theirs = socket.socketpair()
    with ours, home() as directory, theirs:
        process = preloaded.start(
            [PROGRAM, "stdio", *_options(daemon)],
            stdin=theirs,
            stdout=theirs,
            env=clean_environment(directory, REDIS_URL=f"unix://{server.path}"),
        )
        theirs.close()
        try:
            yield Channel(ours.fileno(), ours.fileno())
        finally:
            ours.close()
            _end(process)


TRANSPORTS: Final[dict[str, Connect]] = {
    "Unix socket": unix_socket,
    "TCP": tcp,
    "stdio": stdio,
    "inetd": inetd,
    "bridge": bridge,
}


def _options(daemon: Daemon) -> list[str]:
    """Return the settings that were given to the daemon on its command line."""
    words = [str(word) for word in daemon.process.args]  # type: ignore[union-attr]
    settings = [words[place + 1] for place, word in enumerate(words) if word == "--set"]
    return [word for setting in settings for word in ("--set", setting)]


@contextlib.contextmanager
def _program(*words: str, **variables: str) -> Iterator[Channel]:
    with home() as directory:
        # What a client starts to reach a daemon costs little, and runs as it does there.
        start = preloaded.start if words[0] == "stdio" else subprocess.Popen
        process = start(
            [PROGRAM, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=clean_environment(directory, **variables),
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Channel(process.stdin.fileno(), process.stdout.fileno())
        finally:
            process.stdin.close()
            process.stdout.close()
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Wait for a program whose client has gone."""
    try:
        process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait()
