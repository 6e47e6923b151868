"""Runs the real daemon as a process of its own, as a person or systemd would."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs

from tests.support import preloaded
from tests.support.preloaded import PROGRAM as PROGRAM
from tests.support.topologies import Deployed

_HASTY_SCRIPT = """
import importlib, operator, sys
from msgspec import Struct
from msgspec.structs import force_setattr
from redstreamd.cli import main
module, owners, name = importlib.import_module({module!r}), {owners!r}, {name!r}
for owner in [operator.attrgetter(each)(module) for each in owners] or [module]:
    assert getattr(owner, name) == 5
    (force_setattr if isinstance(owner, Struct) else setattr)(owner, name, 0.3)
sys.exit(main())
"""


def hasty(module: str, name: str, *owners: str) -> tuple[str, ...]:
    """Return the words that start the same program, but for an interval: of 0.3 s instead of five seconds.

    Args:
        module: Where the interval is set.
        name: Its name there.
        owners: What there has it as an attribute, by dotted names, if not the module has.
    """
    return sys.executable, "-c", _HASTY_SCRIPT.format(module=module, owners=owners, name=name)


def in_its_place(script: str) -> tuple[str, ...]:
    """Return the words that start a script that runs the program; the daemon's modules may be in memory.

    Args:
        script: Its file; it takes the first directory off `sys.path`, as one that is run by its path does.
    """
    return sys.executable, "-c", f"import runpy; runpy.run_path({script!r}, run_name='__main__')"


#: With the progress of a wait reported after tenths of a second.
HASTY = hasty("redstreamd.tools.progress_notifications", "_INTERVAL")


def clean_environment(directory: Path, **variables: str) -> dict[str, str]:
    """Return an environment in which nothing of the person who runs the tests is found or changed."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
    return (
        kept
        | {
            "HOME": str(directory),
            "XDG_STATE_HOME": str(directory / "state"),
            "XDG_RUNTIME_DIR": str(directory),
            # The daemon must be as strict about its own defects as the tests are.
            "PYTHONWARNINGS": "error",
        }
        | variables
    )


META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}
#: What any call may be told while a server comes and goes: it was not executed, or nobody knows.
RETRYABLE = frozenset({"CONNECTION_ERROR", "OUTCOME_UNKNOWN", "TIMEOUT"})

_PING = b'{"jsonrpc": "2.0", "id": 0, "method": "ping"}\n'


@attrs.define
class Daemon:
    """A running daemon.

    Attributes:
        directory: Its home: state, socket and log.
        process: The process.
    """

    directory: Path
    process: subprocess.Popen[bytes]

    @property
    def path(self) -> str:
        """Its socket."""
        return str(self.directory / "redstreamd" / "mcp.sock")

    @property
    def log(self) -> str:
        """What it has written to stderr."""
        return (self.directory / "log").read_text("utf-8")

    @property
    def output(self) -> str:
        """What it has written to stdout."""
        return (self.directory / "output").read_text("utf-8")

    def wait_ready(self) -> None:
        """Return once it serves; its socket takes connections before that."""
        deadline = time.monotonic() + 180
        while True:
            with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
                probe.settimeout(180)
                probe.connect(self.path)
                probe.sendall(_PING)
                if probe.recv(1):
                    return
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the daemon did not start: {self.log}")
            time.sleep(0.02)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout=120)

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool over a connection of its own and return the JSON-RPC response's result."""
        return call(self.path, tool, arguments)


class StoppingError(ConnectionError):
    """The daemon stops and did not execute the request: to be sent again, as where a connection ended."""


def call(path: str, tool: str, arguments: Mapping[str, Any], timeout: float = 180) -> dict[str, Any]:
    """Make one call in the 2026-07-28 era and return its result.

    Raises:
        StoppingError: The daemon stops.
        OSError: As from the socket.
        RuntimeError: Another protocol error.
    """
    return ask_line(path, request(1, tool, arguments), timeout)


def read_resource(path: str, uri: str, timeout: float = 180) -> Any:
    """Read a resource in the 2026-07-28 era, which is JSON, and return it decoded."""
    message = {"jsonrpc": "2.0", "id": 1, "method": "resources/read", "params": {"uri": uri, "_meta": META}}
    result = ask_line(path, json.dumps(message).encode() + b"\n", timeout)
    return json.loads(result["contents"][0]["text"])


def ask_line(path: str, line: bytes, timeout: float) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        connection.connect(path)
        connection.sendall(line)
        answer = b""
        while not answer.endswith(b"\n"):
            data = connection.recv(1 << 16)
            if not data:
                raise ConnectionError("the daemon closed the connection")
            answer += data
    response: dict[str, Any] = json.loads(answer)
    if "error" in response:
        if (response["error"].get("data") or {}).get("stopping"):
            raise StoppingError(response["error"])
        raise RuntimeError(response["error"])
    result: dict[str, Any] = response["result"]
    return result


def request(request_id: int, tool: str, arguments: Mapping[str, Any]) -> bytes:
    """Return the line of a tools/call request in the 2026-07-28 era."""
    params = {"name": tool, "arguments": arguments, "_meta": META}
    message = {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}
    return json.dumps(message).encode() + b"\n"


@contextlib.contextmanager
def home() -> Iterator[Path]:
    """Make a directory for a daemon; short, because socket paths are."""
    directory = Path(tempfile.mkdtemp(prefix="rs-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def running_daemon(
    server: Deployed | Literal["absent"] | None,
    *options: str,
    directory: Path | None = None,
    program: Sequence[str | Path] = (PROGRAM,),
    preload: bool = True,
    **variables: str,
) -> Iterator[Daemon]:
    """Run the daemon for the block.

    Args:
        server: The Redis it uses; None for an embedded one, "absent" for whatever `variables` say.
        options: Further command-line options.
        directory: Its home; a new one that is removed afterwards by default.
        program: The words that start it.
        preload: Whether it may find in memory what it imports, if that is all that differs; see `preloaded`.
        variables: Further environment variables.
    """
    with contextlib.ExitStack() as stack:
        place = directory or stack.enter_context(home())
        if server is None:
            options = ("--embedded", *options)
        elif server != "absent":
            variables = server.variables() | variables
        process = (preloaded.start if preload else subprocess.Popen)(
            [*program, "serve", *options],
            stdin=subprocess.DEVNULL,
            stdout=stack.enter_context((place / "output").open("ab")),
            stderr=stack.enter_context((place / "log").open("ab")),
            env=clean_environment(place, **variables),
            start_new_session=True,
        )
        daemon = Daemon(place, process)
        try:
            daemon.wait_ready()
            yield daemon
        finally:
            try:
                if process.poll() is None:
                    daemon.stop()
            finally:
                # One that does not end fails its own test, and is not left to those that follow.
                process.kill()
                process.wait()
