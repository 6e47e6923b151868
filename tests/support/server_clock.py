"""The server's clock, by whose milliseconds things come due and deliveries are told apart."""

from __future__ import annotations

import contextlib
import mmap
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import attrs

from tests.support.servers import Server, missing, running


def milliseconds(server: Server) -> int:
    """Return what it shows, since the epoch."""
    seconds, micros = server.command("TIME")
    return int(seconds) * 1000 + int(micros) // 1000


def next_millisecond(server: Server) -> None:
    """Return once it shows another one: deliveries are told apart by milliseconds."""
    began = milliseconds(server)
    while milliseconds(server) <= began:
        pass


@attrs.frozen
class SetClock:
    """The clock of a server that a test can set.

    Attributes:
        server: The server.
        shift: How far its clock is from this machine's, in milliseconds.
    """

    server: Server
    shift: mmap.mmap

    def set(self, seconds: float) -> None:
        """Set it so far from this machine's clock, and return once the server goes by it."""
        self.shift[:8] = struct.pack("q", round(seconds * 1000))
        deadline = time.monotonic() + 120
        # Valkey answers for a while from a time that it had read before.
        while abs(milliseconds(self.server) - 1000 * (time.time() + seconds)) > 2_000:
            assert time.monotonic() < deadline, "the server does not go by the clock that was set"

    @property
    def seconds(self) -> float:
        """How far it is from this machine's clock."""
        shift: int = struct.unpack("q", self.shift[:8])[0]
        return shift / 1000


@contextlib.contextmanager
def running_with_set_clock(binary: str, directory: Path) -> Iterator[SetClock]:
    """Run a server for the block whose clock can be set, with what that takes in `directory`.

    libfaketime does the same, but not with the allocator that the servers are built with.
    """
    if shutil.which("gcc") is None:
        missing("gcc", "apt-get install gcc libc6-dev")
    source, library, shift = (
        Path(__file__).with_name("set_clock.c"),
        directory / "set_clock.so",
        directory / "shift",
    )
    subprocess.run(
        ["gcc", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", "-o", str(library), str(source)],
        check=True,
        timeout=60,
    )
    shift.write_bytes(bytes(8))
    variables = {"LD_PRELOAD": str(library), "SET_CLOCK_FILE": str(shift)}
    with (
        shift.open("r+b") as file,
        mmap.mmap(file.fileno(), 8) as mapped,
        running(binary, environment=variables) as server,
    ):
        yield SetClock(server, mapped)
