"""What `make install` puts into a host, and what an administrator then sees; with Redis of the host."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import PROGRAM, call
from tests.support.mcp_client import EraName, connected
from tests.support.node import inspect
from tests.support.waiting import wait_until
from tests.support.wheels import wheelhouse
from tests.systemd.harness import REPOSITORY, Container, booted
from tests.systemd.installing import OFFLINE

SERVICE, SOCKET = "redstreamd.service", "redstreamd.socket"
DROP_INS = "/run/systemd/system/redstreamd.service.d"


@pytest.fixture(scope="module")
def installed() -> Iterator[Container]:
    """A booted systemd into which `make install` was run; nothing is started yet."""
    with booted() as container:
        command = ["make", "install", f"DESTDIR={container.path('')}"]
        # From the wheels that the upgrade uses, too; with the index it takes twice as long.
        environ = os.environ | OFFLINE | {"PIP_FIND_LINKS": str(wheelhouse())}
        done = subprocess.run(
            command, cwd=REPOSITORY, env=environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        container.run("systemd-sysusers", "redstreamd.conf")
        container.systemctl("daemon-reload")
        yield container


@pytest.fixture
def host(installed: Container) -> Iterator[Container]:
    """The same with Redis and our socket started, and nothing left of the test before."""
    installed.systemctl("start", "redis-server.service", SOCKET)
    yield installed
    installed.systemctl("stop", SOCKET, SERVICE, check=False)
    installed.run("rm", "-rf", DROP_INS)
    installed.systemctl("daemon-reload")
    installed.systemctl("reset-failed", check=False)
    installed.systemctl("start", "redis-server.service")
    installed.run("redis-cli", "FLUSHALL")


def path(host: Container, name: str = "mcp") -> str:
    return str(host.path(f"/run/redstreamd/{name}.sock"))


def tool(host: Container, name: str, **arguments: Any) -> dict[str, Any]:
    """Call a tool over the activated socket and return its structured content."""
    answer: dict[str, Any] = call(path(host), name, arguments)["structuredContent"]
    return answer


def drop_in(host: Container, text: str) -> None:
    host.write(f"{DROP_INS}/test.conf", textwrap.dedent(text))
    host.systemctl("daemon-reload")


def restarts(host: Container) -> int:
    return int(host.show(SERVICE, "NRestarts")["NRestarts"])


@pytest.mark.limit(180)
async def test_the_first_connection_starts_the_service_and_each_door_serves_those_it_is_for(
    host: Container,
) -> None:
    # A socket for a role, whose name the role gets.
    host.write(
        "/run/systemd/system/redstreamd-reports.socket",
        textwrap.dedent("""
            [Socket]
            FileDescriptorName=reports
            ListenStream=/run/redstreamd/reports.sock
            Service=redstreamd.service
        """),
    )
    host.systemctl("daemon-reload")
    host.systemctl("start", "redstreamd-reports.socket")
    assert host.show(SERVICE, "ActiveState")["ActiveState"] == "inactive"
    try:
        for era in ("handshake", "modern"):
            await the_main_job(host, era)
        # Who the client is, is told by the socket it came through.
        call(path(host, "reports"), "stream_add", {"stream": "s", "entries": [{}]})
        tool(host, "stream_add", stream="s", entries=[{}])
        senders = [entry["sender"] for entry in tool(host, "stream_read", stream="s")["entries"]]
        assert senders == ["reports", "mcp"]
        only_the_group_may_connect(host)
        line = re.compile(r"\d+ connections, \d+ waits, \d+ entries/s; Redis at localhost:6379")
        wait_until(lambda: line.match(host.show(SERVICE, "StatusText")["StatusText"]) is not None)
        # By name, whichever of its sockets systemd names first.
        sockets = "unix:/run/redstreamd/mcp.sock, unix:/run/redstreamd/reports.sock"
        host.wait_for_journal(SERVICE, f"listens on {sockets}")
    finally:
        host.systemctl("stop", "redstreamd-reports.socket", SERVICE)


async def the_main_job(host: Container, era: EraName) -> None:
    """Add, wait, take and settle, as a client of the socket that `make install` made."""
    stream = f"a:b:{era}"
    async with connected(path(host), era=era) as client:
        # Type=notify: it is active because READY=1 came.
        host.wait_for(SERVICE, ActiveState="active", SubState="running")
        added = await client.call_tool("stream_add", {"stream": stream, "entries": [{"n": 1}]})
        assert not added.is_error
        waited = await client.call_tool("stream_wait", {"streams": [stream], "cursor": "0-0"})
        assert waited.structured_content is not None
        (entry,) = waited.structured_content["entries"]
        assert entry["sender"] == "mcp"
        taken = await client.call_tool("work_take", {"stream": stream, "group": "g", "consumer": "c"})
        assert taken.structured_content is not None
        done = await client.call_tool("work_done", {"lease": taken.structured_content["lease"]})
        assert done.structured_content is not None
        assert done.structured_content["done"] == [entry["id"]]


def only_the_group_may_connect(host: Container) -> None:
    host.run("useradd", "--groups", "redstreamd-clients", "agent", check=False)
    host.run("useradd", "stranger", check=False)
    command = "/opt/redstreamd/bin/redstreamd call stream_list '{}'"
    allowed = host.run("su", "agent", "-s", "/bin/sh", "-c", command)
    assert json.loads(allowed.stdout)["streams"]
    refused = host.run("su", "stranger", "-s", "/bin/sh", "-c", command, check=False)
    assert refused.returncode == 75
    assert "ermission denied" in refused.stderr


# tests/clients and test_bridge.py show these two with a checkout; this is a repetition.


@pytest.mark.soak
def test_the_inspector_lists_and_calls_tools_through_the_bridge(host: Container, inspector: Path) -> None:
    names = [tool["name"] for tool in inspect(inspector, path(host), "--method", "tools/list")["tools"]]
    assert {"stream_add", "work_take"} <= set(names)
    call_tool = ("--method", "tools/call", "--tool-name", "stream_add")
    arguments = ("--tool-arg", "stream=a:b:c", "--tool-arg", 'entries=[{"n":1}]')
    added = inspect(inspector, path(host), *call_tool, *arguments)
    assert not added["isError"]
    assert host.run("redis-cli", "XLEN", "a:b:c").stdout.strip() == "1"


@pytest.mark.soak
def test_a_process_that_stands_still_is_replaced_and_the_next_client_is_served(host: Container) -> None:
    drop_in(host, "[Service]\nWatchdogSec=5\nRestartSec=100ms\n")
    tool(host, "stream_add", stream="s", entries=[{"n": 1}])
    # It serves before it is ready, and the watchdog counts from then on.
    host.wait_for(SERVICE, ActiveState="active")
    before = host.main_pid(SERVICE)
    host.kill(before, signal.SIGSTOP)
    # This client waits in the backlog of the socket until the new process takes it. But systemd lets a
    # stopped process go on to die (SIGCONT), and if another thread gets the SIGABRT, the main one can
    # accept before that takes effect. Then the client finds its connection reset or at its end, depending on
    # whether its request was read, and has to come again, as a bridge would; or it is even answered.
    try:
        answer = tool(host, "stream_read", stream="s")
    except ConnectionError:
        answer = tool(host, "stream_read", stream="s")
    assert [entry["fields"] for entry in answer["entries"]] == [{"n": 1}]
    host.wait_for(SERVICE, ActiveState="active", NRestarts="1")
    assert host.main_pid(SERVICE) not in (0, before)
    # The limit of the drop-in, and not the one that is shipped.
    assert "Watchdog timeout (limit 5s)" in host.journal(SERVICE)


@pytest.mark.parametrize(
    ("variable", "value", "key"),
    [
        # tests/systemd/test_restarts.py has it as well.
        pytest.param("REDSTREAMD_TOOLS_PROFILE", "wrker", "tools.profile", marks=pytest.mark.soak),
        # This one is found out only after the sockets were taken over.
        ("REDSTREAMD_DAEMON_STATE_DIRECTORY", "/proc/nowhere", "daemon.state_directory"),
    ],
)
def test_broken_settings_are_one_record_and_no_loop(
    host: Container, variable: str, value: str, key: str
) -> None:
    """Also with a client at the door, who is told what is wrong."""
    before = host.journal(SERVICE).count(key)
    drop_in(host, f"[Service]\nEnvironment={variable}={value}\nRestartSec=100ms\n")
    with pytest.raises(RuntimeError) as refused:
        tool(host, "stream_list")
    assert key in str(refused.value)
    host.wait_for(SERVICE, ActiveState="failed", ExecMainStatus="78")
    # Long enough for a loop to show: the socket is still there, and nobody waits in it.
    time.sleep(1)
    assert restarts(host) == 0
    assert host.show(SERVICE, "ActiveState")["ActiveState"] == "failed"
    assert host.show(SOCKET, "ActiveState")["ActiveState"] == "active"
    records = [line for line in host.journal(SERVICE, "--priority=err").splitlines() if key in line]
    assert len(records) == 1
    assert host.journal(SERVICE).count(key) - before == 1
    assert value in records[0]
    # A client that starts a command shows what its handshake is answered with.
    asked = {"jsonrpc": "2.0", "id": 7, "method": "initialize", "params": {}}
    command = [PROGRAM, "connect", "--socket", path(host)]
    said = json.dumps(asked) + "\n"
    bridge = subprocess.run(command, input=said, capture_output=True, text=True, check=False)
    answer = json.loads(bridge.stdout)
    assert answer["id"] == 7
    assert key in answer["error"]["message"]
    # Mended, the next client is served; nobody has to start anything.
    host.run("rm", "-rf", DROP_INS)
    host.systemctl("daemon-reload")
    assert "streams" in tool(host, "stream_list")


def test_uninstall_leaves_settings_and_data_only(host: Container) -> None:
    """The last one, because it takes away what the others use."""
    key = Path(host.path("/var/lib/private/redstreamd/lease.key"))
    if not key.exists():
        # It is the only one that is run.
        tool(host, "stream_list")
    host.systemctl("stop", SOCKET, SERVICE)
    assert Path(host.path("/opt/redstreamd")).exists()
    command = ["make", "uninstall", f"DESTDIR={host.path('')}"]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    host.systemctl("daemon-reload")
    assert not Path(host.path("/opt/redstreamd")).exists()
    assert host.show(SERVICE, "LoadState")["LoadState"] == "not-found"
    assert Path(host.path("/etc/redstreamd/redstreamd.toml")).exists()
    assert key.exists()
