"""The service never gives up: restarts, starts that fail, and what the clients see meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from tests.support.counts import LONG, long, numbers_until
from tests.support.fair_clock import Clock, running_clock
from tests.support.measured import measured
from tests.support.waiting import wait_until
from tests.systemd.harness import Container, clean_up, install_units
from tests.systemd.test_daemon import Agent

SERVICE, SOCKET, REDIS = "redstreamd.service", "redstreamd.socket", "redis-server.service"
INETD, INETD_DOOR = "redstreamd-inetd.socket", "/run/redstreamd/inetd.sock"
DROP_INS = f"/run/systemd/system/{SERVICE}.d"
DOOR = "/run/redstreamd/mcp.sock"
#: A client's own; beyond it, it has been told nothing. And that of a state; a busy machine may take its time.
TIMEOUT = 180.0
#: How soon a client is told that the settings cannot work, and what that may cost at ten clients a second.
TOLD_SECONDS, MOST_OF_A_CORE = 3.0, 0.30
#: The same in starts of the program that only checks its settings, for machines on which one takes seconds.
TOLD_STARTS = 4

_CLIENT = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}}
INITIALIZE = (
    json.dumps({"jsonrpc": "2.0", "id": 7, "method": "initialize", "params": _CLIENT}).encode() + b"\n"
)


@pytest.fixture
def host(container: Container) -> Iterator[Container]:
    """The container with our units installed and nothing running."""
    install_units(container)
    container.systemctl("stop", REDIS)
    container.forget_journal()
    yield container
    clean_up(container, SOCKET, SERVICE, REDIS, INETD)


def drop_in(container: Container, text: str) -> None:
    container.write(f"{DROP_INS}/test.conf", textwrap.dedent(text))
    container.systemctl("daemon-reload")


def handshake(container: Container, door: str = DOOR, *, timeout: float = TIMEOUT) -> str:
    """Come as a client, and return "served", the reason why not, or how the connection failed."""
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(timeout)
            client.connect(str(container.path(door)))
            client.sendall(INITIALIZE)
            with client.makefile() as lines:
                line = lines.readline()
    except OSError as failure:
        return f"FAILED {failure!r}"
    if not line:
        return "FAILED closed without an answer"
    answer = json.loads(line)
    assert answer["id"] == 7
    return "served" if "result" in answer else str(answer["error"]["message"])


@attrs.define
class Crowd:
    """What became of the clients that came.

    Attributes:
        outcomes: What `handshake` returned, counted.
        slowest: Seconds that the slowest of them waited for it.
    """

    outcomes: Counter[str] = attrs.field(factory=Counter)
    slowest: float = 0.0

    def failed(self) -> list[str]:
        return [outcome for outcome in self.outcomes if outcome.startswith("FAILED")]


def come_for(container: Container, seconds: float, clock: Clock, *, each: float = 0.1) -> Crowd:
    """Let a client come every tenth of a second, however long those before it wait."""
    crowd, lock, clients = Crowd(), threading.Lock(), []

    def come() -> None:
        began = clock()
        outcome = handshake(container)
        took = clock() - began
        with lock:
            crowd.outcomes[outcome] += 1
            crowd.slowest = max(crowd.slowest, took)

    until = time.monotonic() + seconds
    while time.monotonic() < until:
        clients.append(threading.Thread(target=come))
        clients[-1].start()
        time.sleep(each)
    for client in clients:
        client.join()
    return crowd


def processor_seconds(container: Container) -> float:
    """Return what systemd and every process that it has reaped have used, of all cores together."""
    fields = Path(f"/proc/{container.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def check_seconds(container: Container, clock: Clock) -> float:
    """Return how long a process takes here that starts, checks the settings and ends."""
    began = clock()
    container.run("/opt/redstreamd/bin/redstreamd", "check-config")
    return clock() - began


def states(container: Container) -> tuple[str, str]:
    return tuple(container.show(unit, "ActiveState")["ActiveState"] for unit in (SERVICE, SOCKET))  # type: ignore[return-value]


# A healthy daemon


@pytest.mark.parametrize(
    ("restarts", "waited_for"),
    [
        # With the first, more than systemd allows where a unit does not say otherwise: five in ten seconds.
        pytest.param(6, 3, id="some while it starts"),
        pytest.param(50, 5, id="fifty, some while it starts", marks=LONG),
        pytest.param(50, 1, id="fifty, ready", marks=pytest.mark.soak),
    ],
)
def test_restarts_refuse_nobody_and_end_nothing(host: Container, restarts: int, waited_for: int) -> None:
    """Two a second and more; every `waited_for`th restart is of a daemon that serves."""
    host.systemctl("start", SOCKET, SERVICE)
    over = threading.Event()
    crowd, lock = Crowd(), threading.Lock()

    def come() -> None:
        while not over.is_set():
            outcome = handshake(host)
            with lock:
                crowd.outcomes[outcome] += 1
            # Spread over the restarts; two of them make more than a thousand connects in a minute.
            time.sleep(0.02)

    clients = [threading.Thread(target=come) for _ in range(4)]
    for client in clients:
        client.start()
    try:
        for number in numbers_until(restarts, lambda: crowd.outcomes["served"] >= restarts):
            if number % waited_for == 0:
                host.wait_for(SERVICE, ActiveState="active", timeout_seconds=TIMEOUT)
            host.systemctl("restart", "--no-block", SERVICE)
            time.sleep(0.2)
        host.wait_for(SERVICE, ActiveState="active", timeout_seconds=TIMEOUT)
    finally:
        over.set()
        for client in clients:
            client.join()
    print(dict(crowd.outcomes))
    assert crowd.failed() == []
    # The others were told by a daemon that stops, and nothing worse.
    told = "the server is shutting down; the request was not executed, send it again"
    assert set(crowd.outcomes) <= {"served", told}
    assert states(host) == ("active", "active")
    assert handshake(host) == "served"


@long
def test_neither_limit_stops_a_service_that_fails_at_once_with_clients_waiting(host: Container) -> None:
    """Also one that fails before it can take a client: who waits is served once it is mended."""
    drop_in(host, "[Service]\nExecStart=\nExecStart=/bin/sh -c 'exit 78'\n")
    host.systemctl("start", SOCKET)
    outcome: list[str] = []
    client = threading.Thread(target=lambda: outcome.append(handshake(host)))
    client.start()
    # More starts than either limit of systemd would have allowed (5 in 10 s, 20 in 2 s).
    wait_until(
        lambda: host.journal(SERVICE).count("Starting redstreamd.service") > 20, timeout_seconds=TIMEOUT
    )
    assert host.show(SOCKET, "ActiveState")["ActiveState"] == "active"
    drop_in(host, "")
    client.join()
    assert outcome == ["served"]
    # A handshake is answered before the daemon says that it is ready.
    wait_until(lambda: states(host) == ("active", "active"), timeout_seconds=TIMEOUT)


# Settings that cannot work


@pytest.mark.parametrize(
    "seconds", [pytest.param(8, id="8 s"), pytest.param(60, id="60 s", marks=pytest.mark.soak)]
)
def test_with_wrong_settings_everybody_is_told_soon_and_it_costs_little(
    host: Container, seconds: float
) -> None:
    drop_in(host, "[Service]\nEnvironment=REDSTREAMD_TOOLS_PROFILE=wrker\n")
    host.systemctl("start", SOCKET)
    with running_clock() as clock:
        start = check_seconds(host, clock)
        used, began = processor_seconds(host), time.monotonic()
        crowd = come_for(host, seconds, clock)
        took = time.monotonic() - began
        start = max(start, check_seconds(host, clock))
    # Afterwards nobody stays, and all has been accounted for.
    host.wait_for(SERVICE, ActiveState="failed", ExecMainStatus="78", NRestarts="0", timeout_seconds=TIMEOUT)
    used = processor_seconds(host) - used
    print(
        f"{crowd.outcomes.total()} clients in {took:.1f} s: {used:.2f} s of a core ({used / took:.1%}), ",
        end="",
    )
    print(f"the slowest was told after {crowd.slowest:.2f} s")
    assert len(crowd.outcomes) == 1, crowd.outcomes
    [reason] = crowd.outcomes
    assert reason.startswith("redstreamd cannot start: setting tools.profile=")
    with measured:
        assert crowd.outcomes[reason] >= seconds * 5
        assert crowd.slowest <= max(TOLD_SECONDS, TOLD_STARTS * start)
        assert used / took <= MOST_OF_A_CORE
    assert states(host) == ("failed", "active")
    # However many came, it failed once and said so once.
    assert host.journal(SERVICE, "--priority=err").count("tools.profile") == 1
    assert "cannot start: setting tools.profile" in host.show(SERVICE, "StatusText")["StatusText"]
    # Mended, the next client is served, though the process that tells of the cause has not left yet.
    assert handshake(host) == reason
    drop_in(host, "")
    assert handshake(host) == "served"


def test_with_wrong_settings_and_without_clients_a_start_fails_at_once(host: Container) -> None:
    drop_in(host, "[Service]\nEnvironment=REDSTREAMD_TOOLS_PROFILE=wrker\n")
    with running_clock() as clock:
        began = clock()
        host.run("systemctl", "start", SERVICE, check=False)
        took = clock() - began
        with measured:
            assert took < max(5, TOLD_STARTS * check_seconds(host, clock))
    assert states(host) == ("failed", "active")


# What can end by itself


def test_a_daemon_that_cannot_start_now_tells_its_clients_paces_itself_and_comes_by_itself(
    host: Container,
) -> None:
    # Another program has the address, for now.
    host.run("systemd-run", "--unit=rs-holder", "redis-server", "--port", "7077")
    drop_in(host, "[Service]\nEnvironment=REDSTREAMD_DAEMON_LISTEN=tcp:127.0.0.1:7077\n")
    try:
        host.systemctl("start", SOCKET)
        # Later on nobody starts it: that it comes is systemd's and its own doing.
        host.systemctl("start", "--no-block", SERVICE)
        # It does not start at once any more, and says so.
        wait_until(lambda: "tried" in host.show(SERVICE, "StatusText")["StatusText"], timeout_seconds=TIMEOUT)
        told = handshake(host)
        assert "cannot start: cannot listen on" in told
        assert "Address already in use" in told
        assert states(host) == ("activating", "active")
    finally:
        host.systemctl("stop", "rs-holder.service")
    host.wait_for(SERVICE, ActiveState="active", timeout_seconds=TIMEOUT)
    assert handshake(host) == "served"
    assert host.show(SOCKET, "ActiveState")["ActiveState"] == "active"


@pytest.mark.soak
def test_a_daemon_that_dies_in_its_imports_is_cheap_and_tells_its_clients(host: Container) -> None:
    host.write("/opt/broken/mcp/__init__.py", "raise ImportError('broken')\n")
    drop_in(host, "[Service]\nEnvironment=PYTHONPATH=/opt/broken\n")
    host.systemctl("start", SOCKET)
    host.run("systemctl", "start", "--no-block", SERVICE)
    wait_until(
        lambda: "within 10 s" in host.show(SERVICE, "StatusText")["StatusText"], timeout_seconds=TIMEOUT
    )
    used, began = processor_seconds(host), time.monotonic()
    told = [handshake(host) for _ in range(3)]
    time.sleep(60)
    used, took = processor_seconds(host) - used, time.monotonic() - began
    print(f"{used:.2f} s of a core in {took:.1f} s ({used / took:.1%})")
    assert all("cannot start: it failed before it could serve; `journalctl" in each for each in told), told
    with measured:
        assert used / took <= MOST_OF_A_CORE
    host.run("rm", "-r", "/opt/broken")
    host.wait_for(SERVICE, ActiveState="active", timeout_seconds=TIMEOUT)


# A process for each client


@long
def test_more_quick_connects_than_systemd_likes_leave_the_socket_for_each_client_open(
    host: Container,
) -> None:
    host.systemctl("start", REDIS, INETD)
    for _ in range(310):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(TIMEOUT)
            client.connect(str(host.path(INETD_DOOR)))
    # Everybody who came before has been accepted when this one is; each was a process.
    assert handshake(host, INETD_DOOR, timeout=TIMEOUT) == "served"
    assert host.show(INETD, "ActiveState", "NAccepted") == {"ActiveState": "active", "NAccepted": "311"}
    wait_until(lambda: processes(host) == "", timeout_seconds=TIMEOUT)


def processes(container: Container) -> str:
    return container.systemctl("list-units", "--all", "--no-legend", "redstreamd*@*.service")


def test_each_client_of_the_socket_has_a_process_and_those_beyond_what_there_may_be_are_told(
    host: Container,
) -> None:
    host.systemctl("start", REDIS, INETD)
    # Those that another test's clients had end after their clients.
    wait_until(lambda: processes(host) == "", timeout_seconds=TIMEOUT)
    template = "/run/systemd/system/redstreamd@.service.d"
    running = []
    try:
        with contextlib.ExitStack() as clients:
            for number in range(2):
                agent = clients.enter_context(Agent(host, INETD_DOOR))
                added = agent.call("stream_add", stream="svc:test:inetd", entries=[{"n": number}])
                assert len(added["ids"]) == 1
                units = host.systemctl("list-units", "--plain", "--no-legend", "redstreamd*@*.service")
                running.append(len(units.splitlines()))
                # The first is served by the unit as it is shipped, which lets many come.
                host.write(
                    f"{template}/test.conf",
                    "[Service]\nExecStart=\nExecStart=/opt/redstreamd/bin/redstreamd stdio --at-most 2\n",
                )
                host.systemctl("daemon-reload")
            assert handshake(host, INETD_DOOR) == (
                "redstreamd cannot start: 2 clients are served, the most there may be; try later"
            )
    finally:
        host.run("rm", "-rf", template)
        host.systemctl("daemon-reload")
    assert running == [1, 2]
    # A client that leaves takes its process along, and leaves no failed unit behind.
    wait_until(lambda: processes(host) == "", timeout_seconds=TIMEOUT)
