"""Values that can be recognised wherever they turn up, as they are or in another form."""

from __future__ import annotations

import base64
import contextlib
import itertools
import re
import secrets
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import hiredis

from tests.support.servers import Server, start_redis


class Marks:
    """Texts and numbers with a random part in common, which nothing else holds.

    Looked for is this part: as it is, in hex, and in base64 at each of the three places where it may begin.
    """

    def __init__(self) -> None:
        self._word = "zq" + secrets.token_hex(8)
        # Begins with 3, so that all numbers are of I-JSON.
        self._digits = "3" + "".join(secrets.choice("0123456789") for _ in range(10))
        self._numbers = itertools.count()
        self._pattern = re.compile(b"|".join(map(re.escape, {*_forms(self._word), *_forms(self._digits)})))

    def text(self) -> str:
        """Return another text."""
        return f"{self._word}{next(self._numbers)}"

    def number(self) -> int:
        """Return another integer."""
        return int(f"{self._digits}{next(self._numbers) % 10_000:04}")

    def found_in(self, data: bytes | str) -> list[str]:
        """Return where one of them is, each with what is around it; at most ten."""
        content = data.encode() if isinstance(data, str) else data
        places = itertools.islice(self._pattern.finditer(content), 10)
        return [repr(content[max(0, one.start() - 160) : one.end() + 40]) for one in places]


def _forms(text: str) -> Iterator[bytes]:
    data = text.encode()
    yield data
    yield data.hex().encode()
    yield data.hex().upper().encode()
    for shift in range(3):
        # The first and last characters depend on what is beside the text.
        encoded = base64.b64encode(b"\0" * shift + data + b"\0\0")
        inner = encoded[4 if shift else 0 : (shift + len(data)) * 8 // 6]
        yield inner
        yield inner.translate(bytes.maketrans(b"+/", b"-_"))


class Monitor:
    """All commands that a server executes, as MONITOR shows them."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(server.path)
        self._connection.sendall(hiredis.pack_command(("MONITOR",)))
        self._connection.settimeout(20)
        assert self._connection.recv(5) == b"+OK\r\n"
        self._data = bytearray()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, name="monitor")
        self._thread.start()

    def _read(self) -> None:
        self._connection.settimeout(None)
        while data := self._connection.recv(1 << 16):
            with self._changed:
                self._data += data
                self._changed.notify_all()

    def shown(self) -> bytes:
        """Return everything up to now."""
        end = secrets.token_hex(16)
        self._server.command("ECHO", end)
        with self._changed:
            assert self._changed.wait_for(lambda: end.encode() in self._data, 20)
            return bytes(self._data)

    def close(self) -> None:
        """Stop looking."""
        self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(20)
        self._connection.close()


@contextlib.contextmanager
def open_redis() -> Iterator[tuple[Server, Monitor]]:
    """Run a Redis whose commands are seen, and whose files hold what it stores uncompressed."""
    with start_redis("--rdbcompression", "no", "--appendonly", "yes") as server:
        monitor = Monitor(server)
        try:
            yield server, monitor
        finally:
            monitor.close()


def files_of(server: Server) -> bytes:
    """Have a server write its RDB, and return that, and all of its append-only file."""
    assert server.command("SAVE") == b"OK"
    return b"".join(each.read_bytes() for each in sorted(Path(server.directory).rglob("*")) if each.is_file())
