"""The bridge and the real daemon: what it costs, and what is left of a session while none is there."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import PROGRAM, clean_environment, home, running_daemon
from tests.support.measured import measured
from tests.support.servers import Server, free_port

META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}


class BridgeClient:
    """A client of the bridge; reads in the test's own thread."""

    def __init__(self, era: str, process: subprocess.Popen[bytes]) -> None:
        self.era = era
        self.process = process
        self.messages: list[dict[str, Any]] = []
        self._rest = b""
        if era == "handshake":
            client = {"name": "test", "version": "1"}
            self.ask("hello", "initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo=client)
            self.answer("hello")
            self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()

    def ask(self, request_id: object, method: str, **params: Any) -> None:
        if self.era == "modern":
            params["_meta"] = META
        self.send({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})

    def call(self, request_id: object, tool: str, **arguments: Any) -> None:
        self.ask(request_id, "tools/call", name=tool, arguments=arguments)

    def read(self, seconds: float) -> None:
        assert self.process.stdout is not None
        if select.select([self.process.stdout], [], [], seconds)[0]:
            *lines, self._rest = (self._rest + os.read(self.process.stdout.fileno(), 1 << 16)).split(b"\n")
            self.messages += map(json.loads, lines)

    def answer(self, request_id: object, seconds: float = 60) -> dict[str, Any]:
        """Wait for the answer to a request."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for message in self.messages:
                if message.get("id") == request_id:
                    return message
            self.read(1)
        raise AssertionError(f"no answer to {request_id!r}")

    def structured(self, request_id: object) -> dict[str, Any]:
        content: dict[str, Any] = self.answer(request_id)["result"]["structuredContent"]
        return content

    def until_waiting(self) -> None:
        """Return once the daemon has counted a wait for some time: not only the question where it begins."""
        in_a_row = 0
        for number in range(1_000):
            self.ask(f"health {number}", "resources/read", uri="redstream://health")
            (content,) = self.answer(f"health {number}")["result"]["contents"]
            health = json.loads(content["text"])
            waits = health["waiting"]["watches"] - health["subscriptions"]["topics"]
            in_a_row = in_a_row + 1 if waits else 0
            if in_a_row == 5:
                return
        raise AssertionError("no wait has begun")

    def close(self) -> None:
        """Close the client's side."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def end(self) -> str:
        """Close the client's side, if that was not done; return what the bridge wrote to stderr."""
        assert self.process.stderr is not None
        self.close()
        assert self.process.wait(timeout=120) == 0
        return self.process.stderr.read().decode()


@contextlib.contextmanager
def bridged(era: str, path: str, directory: Path) -> Iterator[BridgeClient]:
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    words = [PROGRAM, "connect", "--socket", path]
    with subprocess.Popen(words, env=clean_environment(directory), **pipes) as process:
        try:
            yield BridgeClient(era, process)
        finally:
            process.kill()


def resident_bytes(process: subprocess.Popen[bytes]) -> int:
    """Return the memory of a process (VmRSS of proc_pid_status(5))."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) * 1024


@pytest.mark.parametrize("era", ["handshake", "modern"])
def test_an_idle_bridge_takes_no_more_than_sixteen_megabytes(redis: Server, era: str) -> None:
    with running_daemon(redis) as daemon, bridged(era, daemon.path, daemon.directory) as client:
        for number in range(100):
            client.call(number, "stream_list")
            assert "code" not in client.structured(number)
        assert resident_bytes(client.process) <= 16_000_000
        assert client.end() == ""


def test_a_client_that_has_closed_its_side_gets_the_answer_of_the_next_daemon(redis: Server) -> None:
    with home() as directory, contextlib.ExitStack() as stack:
        with running_daemon(redis, directory=directory) as daemon:
            client = stack.enter_context(bridged("modern", daemon.path, directory))
            client.call("wait", "stream_wait", streams=["watched"], timeout_seconds=50)
            client.until_waiting()
            client.close()
            daemon.stop(signal.SIGKILL)
        assert "wait" not in [each["id"] for each in client.messages]
        redis.command("XADD", "watched", "*", "f", "v")
        with running_daemon(redis, directory=directory):
            (entry,) = client.structured("wait")["entries"]
            assert entry["fields"] == {"f": "v"}
            assert client.end().splitlines()[-1].endswith("is back")


def test_a_daemon_behind_tcp_is_connected_to_again(redis: Server) -> None:
    place = f"tcp:127.0.0.1:{free_port()}"
    with home() as directory, contextlib.ExitStack() as stack:
        # The usual one is asked whether it serves.
        listening = ("--listen", f"unix:{directory}/redstreamd/mcp.sock", "--listen", place)
        with running_daemon(redis, *listening, directory=directory):
            client = stack.enter_context(bridged("handshake", place, directory))
            client.call("first", "stream_add", stream="s", entries=[{"n": 1}])
            assert client.structured("first")["ids"]
        client.call("second", "stream_add", stream="s", entries=[{"n": 2}])
        with running_daemon(redis, *listening, directory=directory):
            assert client.structured("second")["ids"]
            assert redis.command("XLEN", "s") == 2
            told = [report.partition(place.removeprefix("tcp:"))[2] for report in client.end().splitlines()]
        assert told == [" closed the connection; waiting until it is back", " is back"]


def test_requests_wait_for_a_daemon_for_some_time_and_are_not_executed_after_that(redis: Server) -> None:
    with home() as directory, contextlib.ExitStack() as stack:
        with running_daemon(redis, directory=directory) as daemon:
            client = stack.enter_context(bridged("modern", daemon.path, directory))
            client.call("first", "stream_list")
            client.answer("first")
        began = time.monotonic()
        client.call("add", "stream_add", stream="s", entries=[{"n": 1}])
        client.ask("list", "tools/list")
        told = client.structured("add")
        took = time.monotonic() - began
        assert took > 19
        with measured:
            assert took < 40
        assert told["code"] == "CONNECTION_ERROR"
        error = client.answer("list")["error"]
        assert error["code"] == -32000
        assert error["data"]["code"] == "CONNECTION_ERROR"
        client.call("late", "stream_add", stream="s", entries=[{"n": 2}])
        with running_daemon(redis, directory=directory):
            assert client.structured("late")["ids"]
            assert redis.command("XLEN", "s") == 1
            client.end()
