"""A daemon that is restarted, killed or stopped, and comes back in the same home."""

from __future__ import annotations

import contextlib
import enum
import json
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest

from redstreamd.client.single_request import exchange, health_request
from tests.support.daemon import Daemon, home, running_daemon
from tests.support.servers import Server

#: How long a daemon is stopped: longer than a call takes.
STOPPED_SECONDS = 0.3


class Fault(enum.Enum):
    """What happens to a daemon; afterwards it serves again, or another in its place."""

    RESTART = "restart"
    KILL = "kill -9"
    STOP = "SIGSTOP"


#: A parameter `fault` of each kind.
FAULTS = pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.value)


@attrs.define
class Host:
    """A home in which one daemon runs after the other.

    Attributes:
        server: The Redis they use; "absent" for whatever `variables` say.
        directory: The home.
        variables: Of their environment.
        daemon: The one that runs.
    """

    server: Server | Literal["absent"]
    directory: Path
    variables: Mapping[str, str] = attrs.field(factory=dict)
    _running: contextlib.ExitStack = attrs.field(factory=contextlib.ExitStack)
    _daemon: Daemon | None = None

    @property
    def daemon(self) -> Daemon:
        assert self._daemon is not None
        return self._daemon

    @property
    def path(self) -> str:
        """The socket of all of them."""
        return str(self.directory / "redstreamd" / "mcp.sock")

    @property
    def report(self) -> dict[str, Any]:
        """What it says of itself."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(180)
            connection.connect(self.path)
            answer = exchange(connection, health_request("tests"))
        report: dict[str, Any] = json.loads(answer["result"]["contents"][0]["text"])
        return report

    def in_flight(self) -> int:
        """Return how many requests of others it works on."""
        return int(self.report["clients"]["requests_in_flight"]) - 1

    def waits(self) -> int:
        """Return how many waits sleep."""
        return int(self.report["waiting"]["watches"])

    def ensure(self) -> None:
        """Start one if none runs, after a test that failed."""
        if self.daemon.process.poll() is not None:
            self.start()

    def start(self) -> None:
        """Start one, and return once it serves."""
        running = running_daemon(self.server, directory=self.directory, **self.variables)
        self._daemon = self._running.enter_context(running)

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it by a signal."""
        status = self.daemon.stop(number)
        assert status == (-number if number is signal.SIGKILL else 0), self.daemon.log[-2000:]

    def suffer(self, fault: Fault, while_away: Callable[[], object] = lambda: None) -> None:
        """Let it have a fault, and return once it serves again.

        Args:
            fault: Which.
            while_away: Called while nobody serves.
        """
        if fault is Fault.STOP:
            self.daemon.process.send_signal(signal.SIGSTOP)
            try:
                while_away()
                time.sleep(STOPPED_SECONDS)
            finally:
                self.daemon.process.send_signal(signal.SIGCONT)
        else:
            self.end(signal.SIGKILL if fault is Fault.KILL else signal.SIGTERM)
            while_away()
            self.start()


@contextlib.contextmanager
def running_host(server: Server | Literal["absent"], **variables: str) -> Iterator[Host]:
    """Run daemons in one home for the block."""
    with home() as directory, contextlib.ExitStack() as running:
        host = Host(server, directory, variables, running)
        host.start()
        yield host
