"""redstreamd-http.socket under a real systemd: what it serves, a restart, and a stop whatever clients do."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import Authority
from tests.support.servers import missing
from tests.support.waiting import wait_until
from tests.systemd.harness import PATIENCE_SECONDS, PREFIX, REPOSITORY, Container, install_units

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
        # It answers before it has found Redis, and then says that it is not ready.
        wait_until(lambda: "b'ready" in host.run(f"{PREFIX}/bin/python", "-c", asked, check=False).stdout)
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
        after_it = {"stream": "http:units:one", "entries": [{"text": "after"}]}
        wait_until(lambda: not call(successor, "stream_add", **after_it).get("isError"))
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


def blocks(heading: str) -> Iterator[tuple[str, str]]:
    """Yield the indented blocks of a section of docs/operations.md, and what they are: toml or shell."""
    page = (REPOSITORY / "docs" / "operations.md").read_text("utf-8")
    section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    for text in re.findall(r"\n\n((?:    .*\n|\n(?=    ))+)", section):
        block = textwrap.dedent(text).strip("\n") + "\n"
        yield ("toml" if block.startswith("[") else "shell"), block


def test_http_in_ten_minutes_is_as_the_page_says(container: Container, tmp_path: Path) -> None:
    """Every command of the section is run in its order, with the real nginx at its end."""
    if shutil.which("nginx") is None:
        missing("nginx", "apt-get install nginx")
    install_units(container)
    authority = Authority(tmp_path)
    own = authority.issue("proxy", "mcp.example.org")
    site = "/srv/site"
    settings, unit = "/etc/redstreamd/redstreamd.toml", "nginx-of-tests.service"
    container.write("/usr/local/bin/sudo", '#!/bin/sh\nexec env "$@"\n', mode=0o755)
    container.path("/usr/local/bin/redstreamd").unlink(missing_ok=True)
    container.path("/usr/local/bin/redstreamd").symlink_to(f"{PREFIX}/bin/redstreamd")
    container.write(f"{site}/contrib/http/nginx.conf", (REPOSITORY / "contrib/http/nginx.conf").read_text())
    for name, file in (("fullchain", own.certificate), ("privkey", own.key), ("ca", authority.certificate)):
        container.write(f"/etc/ssl/redstreamd/{name}.pem", Path(file).read_text())
    container.write(
        "/etc/nginx/nginx.conf",
        "daemon off;\nuser www-data;\nevents {}\n"
        "http { access_log off; include /etc/nginx/conf.d/*.conf; }\n",
    )
    container.run("mkdir", "-p", "/etc/nginx/conf.d", "/var/log/nginx", "/var/lib/nginx")
    container.systemctl("start", REDIS, SOCKET)
    container.run("systemd-run", f"--unit={unit}", shutil.which("nginx") or "")
    try:
        for kind, block in blocks("HTTP in ten minutes"):
            if kind == "toml":
                container.write(settings, block)
                tomllib.loads(block)
            else:
                container.run("bash", "-euo", "pipefail", "-c", f"cd {site}\n{block}")
        ask = (
            *(
                "curl",
                "--silent",
                "--show-error",
                "--cacert",
                "/etc/ssl/redstreamd/ca.pem",
                "--max-time",
                "60",
            ),
            *("--resolve", "mcp.example.org:443:127.0.0.1"),
        )
        token = container.path(f"{site}/ann.token").read_text().strip()
        initialize = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "initialize",
            "params": {
                "protocolVersion": "2025-11-25",
                "capabilities": {},
                "clientInfo": {"name": "curl", "version": "1"},
            },
        }
        posting = (
            *("--header", "Content-Type: application/json", "--header", "Accept: application/json"),
            *("--data", json.dumps(initialize), "https://mcp.example.org/mcp"),
        )
        # nginx takes the new configuration soon after it was told.
        wait_until(lambda: "-32000" in container.run(*ask, *posting, check=False).stdout)
        served = container.run(*ask, "--header", f"Authorization: Bearer {token}", *posting).stdout
        assert json.loads(served)["result"]["serverInfo"]["name"] == "redstreamd"
        for path in ("metrics", "healthz"):
            url = f"https://mcp.example.org/{path}"
            assert (
                container.run(*ask, "--write-out", "%{http_code}", "--output", "/dev/null", url).stdout
                == "404"
            )
        stranger = container.run("curl", "--insecure", "--silent", "https://127.0.0.1/mcp", check=False)
        assert stranger.returncode == 52, "nobody answers to another name"
        listed = container.run("redstreamd", "tokens", "list").stdout
        assert "ann" in listed
        assert token not in listed + container.journal(SERVICE)
        report = json.loads(container.run("redstreamd", "doctor", "--json", check=False).stdout)
        (found,) = [each for each in report if each["check"] == "http"]
        assert found["severity"] == "ok", found
    finally:
        container.systemctl("stop", unit, HTTP, SOCKET, SERVICE, REDIS)
        container.systemctl("disable", HTTP)
        container.run("rm", "-rf", settings, f"/etc/systemd/system/{HTTP}.d", "/usr/local/bin/redstreamd")
        container.systemctl("daemon-reload")
        container.systemctl("reset-failed")
