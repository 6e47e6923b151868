"""The bridge and the real daemon, while that is away for long."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.daemon import PROGRAM, clean_environment, home, running_daemon
from tests.support.servers import Server

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

    def end(self) -> str:
        """Close the client's side; return what the bridge wrote to stderr."""
        assert self.process.stdin is not None
        assert self.process.stderr is not None
        self.process.stdin.close()
        assert self.process.wait(timeout=30) == 0
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
        assert 19 < time.monotonic() - began < 40
        assert told["code"] == "CONNECTION_ERROR"
        error = client.answer("list")["error"]
        assert error["code"] == -32000
        assert error["data"]["code"] == "CONNECTION_ERROR"
        client.call("late", "stream_add", stream="s", entries=[{"n": 2}])
        with running_daemon(redis, directory=directory):
            assert client.structured("late")["ids"]
            assert redis.command("XLEN", "s") == 1
            client.end()
