"""Runs the real daemon with a listener for Streamable HTTP on loopback, beside its usual socket."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import trio

from tests.support.daemon import PROGRAM, Daemon, home, running_daemon
from tests.support.servers import free_port
from tests.support.streamable_client import StreamableClient
from tests.support.topologies import Deployed


@attrs.frozen
class HttpDaemon:
    """A running daemon that serves HTTP.

    Attributes:
        daemon: The daemon.
        port: Where it listens on 127.0.0.1.
    """

    daemon: Daemon
    port: int

    @property
    def authority(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The address of its endpoint."""
        return f"http://{self.authority}/mcp"

    async def connect(self) -> trio.SocketStream:
        """Open a connection."""
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    def client(self, revision: str, **options: Any) -> StreamableClient:
        """Return a client; `options` are those of `StreamableClient`."""
        return StreamableClient(self.connect, revision, authority=self.authority, **options)


def new_token(file: Path, name: str) -> str:
    """Make a bearer token in a file as an administrator does, and return it."""
    words = [PROGRAM, "tokens", "new", name, "--file", str(file)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout.strip()


@contextlib.contextmanager
def running_http_daemon(
    server: Deployed, *options: str, directory: Path | None = None, **more: Any
) -> Iterator[HttpDaemon]:
    """Run a daemon for the block; the arguments are those of `running_daemon`."""
    with contextlib.ExitStack() as stack:
        place = directory or stack.enter_context(home())
        port = free_port()
        listen = (f"unix:{place}/redstreamd/mcp.sock", f"http:127.0.0.1:{port}")
        words = [word for each in listen for word in ("--listen", each)]
        running = stack.enter_context(running_daemon(server, *words, *options, directory=place, **more))
        yield HttpDaemon(running, port)
