"""A stop resets nobody: what was sent before SIGTERM is read and answered, and then the connection ends."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import home, request, running_daemon
from tests.support.servers import Server, free_port
from tests.support.waiting import wait_until

CLIENTS = 80
#: Connected but not accepted when the signal comes.
NEWCOMERS = 20
REQUESTS = 10


def connected(place: str | tuple[str, int]) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX if isinstance(place, str) else socket.AF_INET)
    connection.settimeout(180)
    connection.connect(place)
    return connection


def calls(count: int) -> bytes:
    """Return adds, and waits that would go on for a minute."""
    lines = []
    for number in range(count):
        if number % 3:
            lines.append(request(number, "stream_add", {"stream": "stop:a", "entries": [{"n": number}]}))
        else:
            lines.append(request(number, "stream_wait", {"streams": ["stop:b"], "timeout_seconds": 60}))
    return b"".join(lines)


def answers(connection: socket.socket) -> list[dict[str, Any]]:
    """Read to the end; a reset raises."""
    data = b""
    while chunk := connection.recv(1 << 16):
        data += chunk
    return [json.loads(line) for line in data.splitlines()]


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.mark.parametrize("transport", ["unix", "tcp"])
def test_of_a_thousand_requests_sent_before_sigterm_none_is_reset(
    redis_server: Server, transport: str
) -> None:
    redis_server.flush()
    port = free_port()
    with (
        home() as directory,
        running_daemon(
            redis_server,
            f"--listen=unix:{directory}/redstreamd/mcp.sock",
            f"--listen=tcp:127.0.0.1:{port}",
            directory=directory,
            REDSTREAMD_DAEMON_DRAIN_SECONDS="120",
        ) as daemon,
    ):
        place = daemon.path if transport == "unix" else ("127.0.0.1", port)
        clients = [connected(place) for _ in range(CLIENTS)]
        for client in clients:
            client.sendall(request(0, "stream_list", {}))
        for client in clients:
            assert client.recv(1 << 16).endswith(b"\n")
        pid = daemon.process.pid
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: is_stopped(pid))
        clients += [connected(place) for _ in range(NEWCOMERS)]
        for client in clients:
            client.sendall(calls(REQUESTS))
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGCONT)
        executed = 0
        for client in clients:
            got = answers(client)
            client.close()
            assert sorted(answer["id"] for answer in got) == list(range(REQUESTS))
            for answer in got:
                if "error" in answer:
                    assert answer["error"]["code"] == -32000
                    assert "not executed" in answer["error"]["message"]
                    assert answer["error"]["data"] == {"executed": False, "stopping": True}
                else:
                    assert not answer["result"]["isError"]
                    executed += "ids" in answer["result"]["structuredContent"]
        assert daemon.process.wait(120) == 0
    assert redis_server.command("XLEN", "stop:a") == executed
