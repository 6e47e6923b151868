"""The bridge and the real daemon, which is stopped, killed and held up in the middle of 100 calls."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import PROGRAM, clean_environment, home, running_daemon
from tests.support.servers import Server

META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}
ERAS = pytest.mark.parametrize("era", ["handshake", "modern"])
CALLS = 100


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


@ERAS
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.limit(120)
def test_a_daemon_that_ends_in_the_middle_of_a_hundred_calls_costs_no_session(
    redis: Server, era: str, end: signal.Signals
) -> None:
    redis.command("XADD", "read", "*", "f", "v")
    with home() as directory, contextlib.ExitStack() as daemons:
        daemon = daemons.enter_context(running_daemon(redis, directory=directory))
        with bridged(era, daemon.path, directory) as client:
            uri = "redstream://streams/watched"
            if era == "modern":
                client.ask("listen", "subscriptions/listen", notifications={"resourceSubscriptions": [uri]})
            else:
                client.ask("subscribe", "resources/subscribe", uri=uri)
                client.answer("subscribe")
            client.call("wait", "stream_wait", streams=["watched"], timeout_seconds=50)
            client.until_waiting()
            # Every third call has a key, every third reads, every third does neither.
            for number in range(CALLS):
                if number == CALLS // 2:
                    client.answer(CALLS // 4)
                    daemon.process.send_signal(end)
                    if end == signal.SIGKILL:
                        daemon.process.wait()
                if number % 3 == 0:
                    key = {"idempotency_key": f"key {number}"}
                    client.call(number, "stream_add", stream="keyed", entries=[{"n": number}], **key)
                elif number % 3 == 1:
                    client.call(number, "stream_read", stream="read")
                else:
                    client.call(number, "stream_add", stream="plain", entries=[{"n": number}])
            if end == signal.SIGSTOP:
                client.read(0.3)
                daemon.process.send_signal(signal.SIGCONT)
            else:
                daemon.process.wait(timeout=30)
                redis.command("XADD", "watched", "*", "f", "v")
                daemon = daemons.enter_context(running_daemon(redis, directory=directory))
            outcomes = {number: client.structured(number) for number in range(CALLS)}
            unknown = {number for number, each in outcomes.items() if each.get("code") == "OUTCOME_UNKNOWN"}
            assert all(number % 3 == 2 for number in unknown)
            assert {number for number, each in outcomes.items() if "code" in each} == unknown
            if end != signal.SIGKILL:
                assert unknown == set()
            for stream, rest in (("keyed", 0), ("plain", 2)):
                added = Counter(int(fields[1]) for _, fields in redis.command("XRANGE", stream, "-", "+"))
                assert set(added.values()) <= {1}
                answered = {number for number in outcomes if number % 3 == rest and number not in unknown}
                assert answered <= added.keys() <= {number for number in outcomes if number % 3 == rest}
            # The session goes on: what was published meanwhile is told, and found by the wait.
            redis.command("XADD", "watched", "*", "f", "v")
            waited = client.structured("wait")
            if end != signal.SIGTERM:
                assert waited["entries"]
            while not any(
                each.get("method") == "notifications/resources/updated" for each in client.messages
            ):
                client.read(5)
            client.ask("tools", "tools/list")
            assert client.answer("tools")["result"]["tools"]
            counts = Counter(each["id"] for each in client.messages if "id" in each)
            assert set(counts.values()) == {1}
            reports = client.end().splitlines()
            assert len(reports) == (0 if end == signal.SIGSTOP else 2)


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


PARENT = """
import subprocess, sys
bridge = subprocess.Popen(sys.argv[1:], stdin=0, stdout=1, stderr=2)
print(bridge.pid, file=sys.stderr, flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("how", ["ended", "killed"])
def test_it_ends_with_its_parent_although_another_process_holds_the_pipe(redis: Server, how: str) -> None:
    with home() as directory, running_daemon(redis, directory=directory) as daemon:
        ours, theirs = socket.socketpair()
        pipe, writes = os.pipe()
        words = [sys.executable, "-c", PARENT, str(PROGRAM), "connect", "--socket", daemon.path]
        # This process holds both ends of what the bridge reads and writes.
        with subprocess.Popen(words, stdin=pipe, stdout=theirs, stderr=subprocess.PIPE) as parent:
            assert parent.stderr is not None
            number = int(parent.stderr.readline())
            bridge = os.pidfd_open(number)
            try:
                meta = json.dumps(META)
                call = f'{{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{{"_meta":{meta}}}}}\n'
                time.sleep(0)
                os.write(writes, call.encode())
                assert b'"id":1' in ours.recv(65536)
                parent.kill()
                assert select.select([bridge], [], [], 20)[0]
            finally:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(bridge, signal.SIGKILL)
                os.close(bridge)
                for each in (pipe, writes):
                    os.close(each)
                ours.close()
                theirs.close()
