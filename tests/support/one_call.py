"""Which modules and functions of redstreamd one call passes, from its bytes in to its bytes out."""

from __future__ import annotations

import json
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from tests.support import traced_daemon
from tests.support.daemon import in_its_place, running_daemon
from tests.support.mcp_client import ENVELOPE, HANDSHAKE, EraName
from tests.support.servers import Server
from tests.support.waiting import wait_until

#: A function counts if it is passed each time: what runs beside a call now and then is not part of it.
_REPETITIONS = 5
#: After the answer, for what still belongs to the call.
_AFTERWARDS_SECONDS = 0.1


@attrs.frozen
class Passed:
    """What one call passes.

    Attributes:
        package: Directory of the daemon's package.
        functions: Module and qualified name of each function, in the order in which they were first passed.
    """

    package: Path
    functions: list[tuple[str, str]]

    @property
    def modules(self) -> list[str]:
        """The modules, likewise."""
        return list(dict.fromkeys(module for module, _ in self.functions))

    def __str__(self) -> str:
        lines = [f"{len(self.functions)} functions in {len(self.modules)} modules"]
        return "\n".join([*lines, *(f"{module}: {function}" for module, function in self.functions)])


def one_call(server: Server, era: EraName, tool: str, arguments: dict[str, Any], **variables: str) -> Passed:
    """Trace calls of a tool by a daemon of their own, which has answered such a call before.

    Args:
        server: The Redis it uses.
        era: How the client speaks.
        tool: The tool.
        arguments: Its arguments.
        variables: Further environment variables of the daemon.
    """
    modern = era == "modern"
    params = {"name": tool, "arguments": arguments} | ({"_meta": ENVELOPE} if modern else {})
    with tempfile.TemporaryDirectory() as place, socket.socket(socket.AF_UNIX) as client:
        file = Path(place) / "passed"
        program = (*in_its_place(traced_daemon.__file__), str(file))
        with running_daemon(server, program=program, **variables) as daemon:
            client.settimeout(120)
            client.connect(daemon.path)
            if not modern:
                _ask(client, "initialize", HANDSHAKE)
                _send(client, {"method": "notifications/initialized"})
            _ask(client, "tools/call", params)

            def trace(call: Callable[[], object]) -> dict[tuple[str, str], None]:
                """Return what is passed each time, in the order of the last."""
                found: list[dict[tuple[str, str], None]] = []
                while len(found) < _REPETITIONS:
                    before = len(_lines(file))
                    os.kill(daemon.process.pid, signal.SIGUSR1)
                    wait_until(lambda before=before: len(_lines(file)) > before)
                    call()
                    time.sleep(_AFTERWARDS_SECONDS)
                    os.kill(daemon.process.pid, signal.SIGUSR2)
                    wait_until(lambda before=before: len(_lines(file)) > before + 1)
                    # Nothing, where the event loop has had no turn: a machine may be too busy for that.
                    if told := _lines(file)[-1]["passed"]:
                        found.append({(each[0], each[1]): None for each in told})
                return {each: None for each in found[-1] if all(each in others for others in found)}

            # What every turn of the event loop passes is no part of a call.
            idle = trace(lambda: None)
            passed = trace(lambda: _ask(client, "tools/call", params))
            package = Path(_lines(file)[-1]["package"])
    return Passed(package, [each for each in passed if each not in idle])


def _lines(file: Path) -> list[dict[str, Any]]:
    # The last part is empty, or a line that is not there as a whole yet.
    whole = file.read_text("utf-8").split("\n")[:-1] if file.exists() else []
    return [json.loads(line) for line in whole]


def _send(client: socket.socket, message: dict[str, Any]) -> None:
    # As the SDKs write it.
    text = json.dumps({"jsonrpc": "2.0", **message}, separators=(",", ":"))
    client.sendall(text.encode() + b"\n")


def _ask(client: socket.socket, method: str, params: dict[str, Any]) -> None:
    _send(client, {"id": 1, "method": method, "params": params})
    answer = b""
    while not answer.endswith(b"\n"):
        data = client.recv(1 << 16)
        if not data:
            raise ConnectionError("the daemon closed the connection")
        answer += data
    message = json.loads(answer)
    if "error" in message or message["result"].get("isError"):
        raise RuntimeError(f"a call failed: {answer!r}")
