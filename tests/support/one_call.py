"""Which modules and functions of redstreamd calls pass, from their bytes in to their bytes out."""

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
#: What watches the process: it runs beside calls, and sometimes because of them.
_BESIDE = "redstreamd.service."
#: Calls of a burst: as many as one turn serves at once, however slow it is.
BURST = 8

Function = tuple[str, str]
"""Module and qualified name."""


@attrs.frozen
class Passed:
    """What one call passes, and what many calls pass that arrive together.

    Attributes:
        package: Directory of the daemon's package.
        functions: Those that a lone call passes, in the order in which they were first passed.
        of_each: Those that `BURST` calls pass for each of them, likewise.
        of_all: Those that they pass less often: for all of them together, such as to read what has arrived.
    """

    package: Path
    functions: list[Function]
    of_each: list[Function]
    of_all: list[Function]

    @property
    def modules(self) -> list[str]:
        """The modules of a lone call."""
        return modules_of(self.functions)

    def __str__(self) -> str:
        parts = {
            "a lone call": self.functions,
            f"{BURST} calls that arrive together, each of them": self.of_each,
            "and all of them together": self.of_all,
        }
        return "\n".join(
            f"{name}: {len(functions)} functions in {len(modules_of(functions))} modules\n"
            + "".join(f"  {module}: {function}\n" for module, function in functions)
            for name, functions in parts.items()
        )


def modules_of(functions: list[Function]) -> list[str]:
    """Return the modules that functions are in, in their order."""
    return list(dict.fromkeys(module for module, _ in functions))


def one_call(server: Server, era: EraName, tool: str, arguments: dict[str, Any], **variables: str) -> Passed:
    """Trace calls of a tool by a daemon of their own, which has answered such calls before.

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
            # Then their form is known.
            for _ in range(_REPETITIONS):
                _ask(client, "tools/call", params, BURST)

            def trace(call: Callable[[], object]) -> list[dict[Function, int]]:
                """Return what is passed each time, and how often."""
                found: list[dict[Function, int]] = []
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
                        found.append(
                            {
                                (module, function): times
                                for module, function, times in told
                                if not module.startswith(_BESIDE)
                            }
                        )
                return found

            idle = trace(lambda: None)
            lone = trace(lambda: _ask(client, "tools/call", params))
            burst = trace(lambda: _ask(client, "tools/call", params, BURST))
            package = Path(_lines(file)[-1]["package"])
    # What every turn of the event loop passes is no part of a call.
    beside = {each for each in idle[-1] if _least(each, idle)}
    most = {each: max(times.get(each, 0) for times in idle) for each in burst[-1]}
    of_each = [each for each in burst[-1] if _least(each, burst) - most[each] >= BURST]
    return Passed(
        package,
        [each for each in lone[-1] if _least(each, lone) and each not in beside],
        of_each,
        [each for each in burst[-1] if _least(each, burst) and each not in {*beside, *of_each}],
    )


def _least(function: Function, found: list[dict[Function, int]]) -> int:
    """Return how often a function was passed at least."""
    return min(times.get(function, 0) for times in found)


def _lines(file: Path) -> list[dict[str, Any]]:
    # The last part is empty, or a line that is not there as a whole yet.
    whole = file.read_text("utf-8").split("\n")[:-1] if file.exists() else []
    return [json.loads(line) for line in whole]


def _message(message: dict[str, Any]) -> bytes:
    # As the SDKs write it.
    return json.dumps({"jsonrpc": "2.0", **message}, separators=(",", ":")).encode() + b"\n"


def _send(client: socket.socket, message: dict[str, Any]) -> None:
    client.sendall(_message(message))


def _ask(client: socket.socket, method: str, params: dict[str, Any], times: int = 1) -> None:
    """Send so many requests in one write, and await their answers."""
    requests = [_message({"id": each, "method": method, "params": params}) for each in range(times)]
    client.sendall(b"".join(requests))
    answers = b""
    while answers.count(b"\n") < times:
        data = client.recv(1 << 16)
        if not data:
            raise ConnectionError("the daemon closed the connection")
        answers += data
    for answer in answers.splitlines():
        message = json.loads(answer)
        if "error" in message or message["result"].get("isError"):
            raise RuntimeError(f"a call failed: {answer!r}")
