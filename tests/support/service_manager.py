"""The side of a service manager that a service tells its state."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from pathlib import Path


class ServiceManager:
    """Listens to what a service tells, as systemd would."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "notify")
        self.told: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)

    def listen(self, seconds: float) -> list[str]:
        """Return what is told within so many seconds."""
        begin, until = len(self.told), time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._socket.settimeout(left)
            with contextlib.suppress(TimeoutError):
                self.told += self._socket.recv(4096).decode().splitlines()
        return self.told[begin:]

    def wait_for(self, condition: Callable[[list[str]], bool]) -> None:
        """Listen until `condition` holds of all that was told since the call."""
        begin, deadline = len(self.told), time.monotonic() + 180
        while not condition(self.told[begin:]):
            assert time.monotonic() < deadline, self.told
            self.listen(0.05)

    def close(self) -> None:
        self._socket.close()
