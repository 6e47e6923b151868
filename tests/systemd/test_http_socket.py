"""redstreamd-http.socket under a real systemd: what it serves, a restart, and a stop whatever clients do."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.systemd.harness import PATIENCE_SECONDS, PREFIX, Container, install_units

SERVICE, SOCKET, HTTP = "redstreamd.service", "redstreamd.socket", "redstreamd-http.socket"
REDIS = "redis-server.service"
DROP_IN = f"/run/systemd/system/{HTTP}.d/unix.conf"
#: Beside the port of the unit, because a test reaches it from outside of the container's network.
PATH = "/run/redstreamd/http.sock"
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}


@pytest.fixture
def host(container: Container) -> Iterator[Container]:
    """The units installed, with a Unix socket beside the port for HTTP; nothing runs but Redis."""
    install_units(container)
    container.write(
        DROP_IN,
        f"[Socket]\nListenStream={PATH}\nSocketGroup=redstreamd-clients\nSocketMode=0660\n",
    )
    container.systemctl("daemon-reload")
    container.systemctl("start", REDIS, HTTP, SOCKET)
    container.forget_journal()
    yield container
    container.systemctl("stop", HTTP, SOCKET, SERVICE, REDIS)
    container.path(DROP_IN).unlink()
    container.systemctl("daemon-reload")
    container.systemctl("reset-failed")


def connected(container: Container) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(PATIENCE_SECONDS)
    client.connect(str(container.path(PATH)))
    return client


def posted(method: str, name: str, params: dict[str, Any], fields: str = "") -> bytes:
    """Return a request in revision 2026-07-28."""
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params | {"_meta": META}}
    body = json.dumps(message)
    return (
        "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Accept: application/json\r\nMCP-Protocol-Version: 2026-07-28\r\nMcp-Method: {method}\r\n"
        f"Mcp-Name: {name}\r\n{fields}Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


def call(client: socket.socket, tool: str, **arguments: Any) -> dict[str, Any]:
    """Make a call on a connection that goes on, and return its result."""
    client.sendall(
        posted(
            "tools/call",
            tool,
            {"name": tool, "arguments": arguments},
            f"Mcp-Param-Stream: {arguments['stream']}\r\n",
        )
    )
    with client.makefile("rb") as answer:
        status = answer.readline()
        length = 0
        while (line := answer.readline().lower()) not in (b"\r\n", b""):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        found = answer.read(length)
    assert status == b"HTTP/1.1 200 OK\r\n", (status, found)
    result: dict[str, Any] = json.loads(found)["result"]
    return result


def test_the_socket_for_http_outlives_the_daemon_which_stops_in_its_time(host: Container) -> None:
    """Clients that do not read, that have sent half a head, or that wait do not keep it from stopping."""
    listed = host.run("stat", "--format=%U:%G %a", PATH).stdout.strip()
    assert listed == "root:redstreamd-clients 660"
    assert host.show(HTTP, "ActiveState", "Triggers")["Triggers"] == SERVICE
    with contextlib.ExitStack() as stack:
        # The first client starts the daemon. This one comes to the port as it is shipped.
        asked = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9720/readyz').read())"
        assert "ready" in host.run(f"{PREFIX}/bin/python", "-c", asked).stdout
        client = stack.enter_context(connected(host))
        big = "x" * 30_000
        for _ in range(4):
            added = call(client, "stream_add", stream="http:units:one", entries=[{"text": big}] * 10)
            assert not added.get("isError"), added
        status = host.run(f"{PREFIX}/bin/redstreamd", "status").stdout
        assert "1 over HTTP" in status
        host.wait_for(SERVICE, ActiveState="active")
        process = host.show(SERVICE, "MainPID")["MainPID"]

        unread = stack.enter_context(connected(host))
        asking = posted("resources/read", "redstream://health", {"uri": "redstream://health"})
        # So many that their answers do not fit into the buffers of the socket.
        unread.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            for _ in range(2_000):
                unread.sendall(asking)
        half = stack.enter_context(connected(host))
        half.sendall(b"POST /mcp HTTP/1.1\r\nHost: loc")
        silent = stack.enter_context(connected(host))

        host.systemctl("restart", SERVICE)
        after = host.wait_for(SERVICE, ActiveState="active")
        assert after["ActiveState"] == "active"
        assert host.show(SERVICE, "MainPID")["MainPID"] != process
        for each in (half, silent):
            assert_closed(each)
        successor = stack.enter_context(connected(host))
        added = call(successor, "stream_add", stream="http:units:one", entries=[{"text": "after"}])
        assert not added.get("isError"), added
        assert host.systemctl("is-active", HTTP, SERVICE).split() == ["active", "active"]
    host.systemctl("stop", SERVICE)
    journal = host.journal(SERVICE)
    # Neither killed at the end of TimeoutStopSec= nor by the watchdog.
    assert "Killing process" not in journal
    assert "timed out" not in journal.lower()
    assert host.show(SERVICE, "Result")["Result"] == "success"
    assert host.systemctl("is-active", HTTP).split() == ["active"]


def assert_closed(client: socket.socket) -> None:
    """The daemon has closed the connection, after an answer or none."""
    with contextlib.suppress(ConnectionResetError):
        while client.recv(1 << 16):
            pass
