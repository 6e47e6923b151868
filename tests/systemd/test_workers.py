"""Several processes of one host share the sockets under a real systemd: redstreamd-worker@.service."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.support.daemon import META, read_resource, request
from tests.support.measured import measured
from tests.support.waiting import wait_until
from tests.systemd.harness import PATIENCE_SECONDS, PREFIX, Container, install_units

SERVICE, SOCKET, REDIS = "redstreamd.service", "redstreamd.socket", "redis-server.service"
WORKERS = tuple(f"redstreamd-worker@{number}.service" for number in (1, 2, 3))
METRICS = "redstreamd-metrics@1.socket"
PATH = "/run/redstreamd/mcp.sock"
PROGRAM = f"{PREFIX}/bin/redstreamd"
CONNECTIONS = 400
HEALTH = "redstream://health"


@pytest.fixture
def host(container: Container) -> Iterator[Container]:
    """The service and three workers run; the first worker has a socket for metrics."""
    install_units(container)
    container.systemctl("start", REDIS, SOCKET, METRICS)
    container.forget_journal()
    container.systemctl("start", SERVICE, *WORKERS)
    for unit in (SERVICE, *WORKERS):
        container.wait_for(unit, ActiveState="active")
    yield container
    container.systemctl("stop", SOCKET, METRICS, SERVICE, *WORKERS, REDIS)
    container.systemctl("reset-failed")


def connected(host: Container) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(PATIENCE_SECONDS)
    client.connect(str(host.path(PATH)))
    return client


def answer(client: socket.socket, line: bytes) -> dict[str, Any]:
    """Send a request and return its result.

    Raises:
        ConnectionError: The daemon has gone.
    """
    client.sendall(line)
    received = b""
    while not received.endswith(b"\n"):
        if not (data := client.recv(1 << 16)):
            raise ConnectionError
        received += data
    result: dict[str, Any] = json.loads(received)["result"]
    return result


def call(client: socket.socket, tool: str, **arguments: Any) -> dict[str, Any]:
    content: dict[str, Any] = answer(client, request(1, tool, arguments))["structuredContent"]
    return content


def report(client: socket.socket) -> dict[str, Any]:
    """Return the report of the process that serves a client."""
    wanted = {"method": "resources/read", "params": {"uri": HEALTH, "_meta": META}}
    result = answer(client, json.dumps({"jsonrpc": "2.0", "id": 1, **wanted}).encode() + b"\n")
    found: dict[str, Any] = json.loads(result["contents"][0]["text"])
    return found


def process_of(client: socket.socket) -> int:
    pid: int = report(client)["process"]["pid"]
    return pid


def processes(host: Container) -> dict[str, int]:
    """Return the names and process IDs of those who share the socket, as whoever answers knows them."""
    found = read_resource(str(host.path(PATH)), HEALTH)["sharing"]["processes"]
    return {each["instance"]: each["pid"] for each in found}


def bridge(host: Container, stack: contextlib.ExitStack) -> tuple[subprocess.Popen[str], int]:
    """Start a client of standard input and output, and return it with the process that serves it."""
    process = stack.enter_context(host.start(PROGRAM, "connect"))
    info = {"name": "tests", "version": "0"}
    ask(process, "initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info})
    return process, process_behind(process)


def process_behind(bridge: subprocess.Popen[str]) -> int:
    read = ask(bridge, "resources/read", {"uri": HEALTH})
    pid: int = json.loads(read["contents"][0]["text"])["process"]["pid"]
    return pid


def ask(process: subprocess.Popen[str], method: str, params: dict[str, Any]) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}) + "\n")
    process.stdin.flush()
    while True:
        message = json.loads(process.stdout.readline())
        if message.get("id") == 1:
            result: dict[str, Any] = message["result"]
            return result


def test_four_processes_share_the_clients_and_one_that_is_killed_costs_nobody_else_anything(
    host: Container,
) -> None:
    units = {"": SERVICE, **{str(number): WORKERS[number - 1] for number in (1, 2, 3)}}
    main = {name: host.main_pid(unit) for name, unit in units.items()}
    assert processes(host) == main
    with contextlib.ExitStack() as stack:
        # Those who have fewest get the next client, so one comes to each process.
        bridges = {}
        while main["2"] not in bridges:
            process, pid = bridge(host, stack)
            bridges[pid] = process
        clients = [stack.enter_context(connected(host)) for _ in range(CONNECTIONS)]
        served = {each: process_of(each) for each in clients}
        shares = Counter(served.values())
        assert set(shares) == set(main.values())
        with measured:
            # A quarter each, and 30 % of it more or less.
            assert all(70 <= share <= 130 for share in shares.values()), shares

        # A lease that one process has given is settled by another.
        one, another = (
            next(each for each, pid in served.items() if pid == main[name]) for name in ("1", "3")
        )
        call(one, "stream_add", stream="svc:shared:work", entries=[{"n": 1}])
        taken = call(one, "work_take", stream="svc:shared:work", group="g", consumer="c")
        assert call(another, "work_done", lease=taken["lease"])["done"] == [taken["entries"][0]["id"]]

        assert_each_is_named(host, main)

        host.kill(main["2"], signal.SIGKILL)
        for each, pid in served.items():
            if pid == main["2"]:
                with pytest.raises(ConnectionError):
                    call(each, "stream_list", count=1)
            else:
                assert len(call(each, "stream_list", count=1)["streams"]) == 1
        # The bridge goes on by itself, with whoever takes it.
        assert process_behind(bridges[main["2"]]) != main["2"]
        wait_until(lambda: host.main_pid(units["2"]) not in (0, main["2"]), timeout_seconds=PATIENCE_SECONDS)
        host.wait_for(units["2"], ActiveState="active")
        after = {name: host.main_pid(unit) for name, unit in units.items()}
        assert {name for name in main if after[name] != main[name]} == {"2"}
        # It is among them again, and has its turn.
        wait_until(lambda: processes(host) == after, timeout_seconds=PATIENCE_SECONDS)
        now: dict[socket.socket, int] = {}
        while after["2"] not in now.values():
            client = stack.enter_context(connected(host))
            now[client] = process_of(client)

        # A reload is for all of them, and each tells what came of it.
        host.systemctl("reload", SERVICE)
        for name, unit in units.items():
            host.wait_for(unit, ActiveState="active")
            some = clients_of(after[name], served) or clients_of(after[name], now)
            # systemctl has waited for the unit that it named only.
            wait_until(
                lambda client=some[0]: report(client)["reload"]["reloads"] == 1,  # type: ignore[misc]
                timeout_seconds=PATIENCE_SECONDS,
            )


def clients_of(pid: int, served: Mapping[socket.socket, int]) -> list[socket.socket]:
    return [client for client, by in served.items() if by == pid]


def assert_each_is_named(host: Container, main: dict[str, int]) -> None:
    """In status, in the service manager's status line, in the journal and in metrics."""
    status = host.run(PROGRAM, "status").stdout
    assert f"main: process {main['']}, " in status
    for number, unit in enumerate(WORKERS, 1):
        assert f"instance {number}: process {main[str(number)]}, " in status
        host.wait_for_journal(unit, "listens on")
        named = host.journal(unit, f"REDSTREAMD_INSTANCE={number}")
        assert "listens on" in named
        wait_until(
            lambda unit=unit, number=number: host.show(unit, "StatusText")["StatusText"].startswith(
                f"instance {number}; "
            ),
            timeout_seconds=PATIENCE_SECONDS,
        )
    page = host.run(
        *("curl", "--silent", "--fail", "--unix-socket", "/run/redstreamd/metrics-1.sock"),
        "http://localhost/metrics",
    ).stdout
    assert 'process="1"' in next(
        line for line in page.splitlines() if line.startswith("redstreamd_build_info{")
    )
