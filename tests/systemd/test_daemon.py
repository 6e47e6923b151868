"""The daemon itself under its units: faults of Redis and of its own, stops, restarts, other ways to run."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import re
import signal
import socket
import textwrap
import threading
import time
from collections.abc import Iterator
from typing import Any, Self

import pytest

from tests.support import slow_loading
from tests.support.counts import long
from tests.support.daemon import RETRYABLE
from tests.support.measured import measured
from tests.support.waiting import wait_until
from tests.systemd.harness import PATIENCE_SECONDS, PREFIX, REPOSITORY, Container, clean_up, install_units

SERVICE, SOCKET, REDIS = "redstreamd.service", "redstreamd.socket", "redis-server.service"
METRICS = "redstreamd-metrics.socket"
DROP_INS = f"/run/systemd/system/{SERVICE}.d"
DOOR = "/run/redstreamd/mcp.sock"


class Agent:
    """An MCP client on a socket of the container's; one request at a time."""

    def __init__(self, container: Container, door: str = DOOR) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self._lines = self.socket.makefile()
        self._address = str(container.path(door))
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        try:
            self.socket.settimeout(PATIENCE_SECONDS)
            self.socket.connect(self._address)
            opening = {"protocolVersion": "2025-06-18", "capabilities": {}}
            self.ask("initialize", {**opening, "clientInfo": {"name": "tests", "version": "0"}})
            self.send({"method": "notifications/initialized"})
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._lines.close()
        self.socket.close()

    def send(self, message: dict[str, Any]) -> None:
        self.socket.sendall(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        number = next(self._numbers)
        self.send({"id": number, "method": method, "params": params})
        return self.answer(number)

    def answer(self, number: int) -> dict[str, Any]:
        while line := self._lines.readline():
            message = json.loads(line)
            if message.get("id") == number:
                assert "result" in message, message
                result: dict[str, Any] = message["result"]
                return result
        raise ConnectionError("the daemon closed the connection")

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Return the structured content of a tool's result, with `isError` beside it."""
        result = self.ask("tools/call", {"name": tool, "arguments": arguments})
        return {**result["structuredContent"], "isError": result.get("isError", False)}

    def settled(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """The same once it is answered with no error that passes, as before the daemon has found Redis."""
        settled: dict[str, Any] = wait_until(
            lambda: (told := self.call(tool, **arguments)).get("code") not in RETRYABLE and told
        )
        return settled


@pytest.fixture
def host(container: Container) -> Iterator[Container]:
    """The container with our units installed and nothing running."""
    install_units(container)
    container.systemctl("stop", REDIS)
    container.forget_journal()
    yield container
    clean_up(container, SOCKET, METRICS, SERVICE, REDIS)


@pytest.fixture
def listening(host: Container) -> Container:
    """The same, with the door open."""
    host.systemctl("start", SOCKET)
    return host


def drop_in(container: Container, text: str) -> None:
    container.write(f"{DROP_INS}/test.conf", textwrap.dedent(text))
    container.systemctl("daemon-reload")


def status_text(container: Container) -> str:
    return container.show(SERVICE, "StatusText")["StatusText"]


def scraped(container: Container) -> str:
    """Return the metrics, as a collector on the socket gets them."""
    with socket.socket(socket.AF_UNIX) as collector:
        collector.settimeout(PATIENCE_SECONDS)
        collector.connect(str(container.path("/run/redstreamd/metrics.sock")))
        collector.sendall(b"GET /metrics HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        head, _, body = collector.makefile("rb").read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n"), head
    return body.decode()


def test_the_socket_for_metrics_is_for_its_group_and_outlives_the_daemon(listening: Container) -> None:
    """As confined as it is, the daemon reads its own figures."""
    listening.systemctl("start", REDIS, METRICS)
    listed = listening.run("stat", "--format=%U:%G %a", "/run/redstreamd/metrics.sock").stdout.strip()
    assert listed == "root:redstreamd-metrics 660"
    with Agent(listening) as agent:
        added = agent.settled("stream_add", stream="units:tests:metrics", entries=[{"n": "1"}])
        assert not added["isError"], added
        page = scraped(listening)
        assert 'tool_call_duration_seconds_count{outcome="ok",tool="stream_add"} 1.0' in page
        assert 'redstreamd_connections{principal="mcp"} 1.0' in page
        assert 'redstreamd_stream_entries{stream="units:tests:metrics"} 1.0' in page
        for name in ("resident_memory_bytes", "open_descriptors", "max_descriptors", "cpu_seconds_total"):
            assert float(re.findall(rf"^redstreamd_{name} (\S+)$", page, re.MULTILINE)[0]) > 0
    listening.systemctl("restart", SERVICE)
    # It is ready before it has found Redis.
    wait_until(lambda: "redstreamd_redis_usable 1.0" in scraped(listening))
    assert listening.systemctl("is-active", SERVICE, METRICS).split() == ["active", "active"]


HOLDER = f"""
import os, socket, sys
held = [socket.socket(socket.AF_UNIX) for _ in range(2)]
for each in held:
    each.connect("{DOOR}")
print(os.getpid(), flush=True)
sys.stdin.read()
"""


def test_beyond_the_bound_status_is_served_and_names_the_process_that_holds_most(
    listening: Container,
) -> None:
    """As confined as it is, the daemon learns who connects; names of processes it may not see."""
    drop_in(listening, "[Service]\nEnvironment=REDSTREAMD_LIMITS_MAX_CONNECTIONS=2\n")
    listening.systemctl("start", SERVICE)
    with listening.start(f"{PREFIX}/bin/python", "-c", HOLDER) as holder:
        assert holder.stdout is not None
        pid = holder.stdout.readline().strip()
        try:
            wait_until(
                lambda: "or are rejected" in listening.run(f"{PREFIX}/bin/redstreamd", "status").stdout
            )
            report = json.loads(listening.run(f"{PREFIX}/bin/redstreamd", "status", "--json").stdout)
            wait_until(lambda: "rejected" in listening.show(SERVICE, "StatusText")["StatusText"])
            # Who has less is served, and whoever has most gives a connection for it.
            with Agent(listening) as agent:
                assert not agent.settled("stream_list").get("isError")
        finally:
            holder.communicate()
    clients = report["clients"]
    assert (clients["connections"], clients["limit"], clients["full"]) == (2, 2, "connections")
    (most,) = clients["holders"]
    assert (most["pid"], most["connections"], most["process"]) == (int(pid), 2, None)
    # The one that gave way, and whose it was.
    gave_way = re.compile(rf"closed a connection of \S+ \(process {pid}\) for another client")
    wait_until(lambda: gave_way.search(listening.journal(SERVICE)))


def test_it_is_ready_without_redis_recovers_with_it_survives_its_end_and_stops_in_order(
    listening: Container, record_property: Any
) -> None:
    # Waits have to end by themselves: what is merely in flight could go on for longer than the test allows.
    drop_in(listening, "[Service]\nEnvironment=REDSTREAMD_DAEMON_DRAIN_SECONDS=120\n")
    listening.systemctl("mask", "--runtime", REDIS)
    try:
        listening.systemctl("start", SERVICE)
        with Agent(listening) as agent:
            refused = agent.call("stream_add", stream="svc:test:away", entries=[{"n": 1}])
            assert refused["isError"]
            assert refused["code"] == "CONNECTION_ERROR"
            wait_until(lambda: status_text(listening).startswith("DEGRADED"))
            listening.systemctl("unmask", "--runtime", REDIS)
            listening.systemctl("start", REDIS)

            def succeeds() -> bool:
                return not agent.call("stream_add", stream="svc:test:away", entries=[{"n": 1}])["isError"]

            wait_until(succeeds)
            line = re.compile(r"\d+ connections, \d+ waits, \d+ entries/s; Redis at localhost:6379")
            wait_until(lambda: line.match(status_text(listening)))
            # It goes away underneath.
            listening.systemctl("stop", REDIS)
            assert agent.call("stream_read", stream="svc:test:away")["code"] == "CONNECTION_ERROR"
            wait_until(lambda: status_text(listening).startswith("DEGRADED"))
            listening.systemctl("start", REDIS)
            wait_until(succeeds)
            wait_until(lambda: line.match(status_text(listening)))
    finally:
        listening.systemctl("unmask", "--runtime", REDIS)
    assert listening.show(SERVICE, "NRestarts", "ActiveState") == {"NRestarts": "0", "ActiveState": "active"}
    listening.wait_for_journal(SERVICE, "cannot use Redis at localhost:6379")
    listening.wait_for_journal(SERVICE, "connected to redis 7")
    # The unit as it is shipped lets the records through with their fields, and the catalog explains them.
    listening.run("journalctl", "--sync")
    about = ("REDSTREAMD_EVENT=redis_unusable", "REDSTREAMD_REDIS=localhost:6379")
    explained = listening.run("journalctl", "--no-pager", "-x", "-u", SERVICE, *about).stdout
    assert "Subject: redstreamd: Redis unusable" in explained
    assert "it needs no restart" in explained
    # A stop answers those who wait, and is a success.
    with Agent(listening) as agent:
        wait = {"streams": ["svc:test:away"], "timeout_seconds": 60}
        agent.send({"id": 99, "method": "tools/call", "params": {"name": "stream_wait", "arguments": wait}})
        wait_until(lambda: ", 1 waits" in status_text(listening))
        begun_at = time.monotonic()
        listening.systemctl("stop", SERVICE)
        took_seconds = time.monotonic() - begun_at
        record_property("figure", f"a stop with a wait took {took_seconds:.2f} s")
        answered = agent.answer(99)
    with measured:
        assert took_seconds <= 30
    assert not answered["isError"]
    assert answered["structuredContent"]["next_cursor"]
    assert listening.show(SERVICE, "ActiveState", "Result") == {
        "ActiveState": "inactive",
        "Result": "success",
    }
    assert "stopping: answering what is in flight" in listening.journal(SERVICE)


@pytest.mark.parametrize("kills", [1, pytest.param(3, marks=pytest.mark.soak)])
def test_a_killed_daemon_is_back_and_what_it_acknowledged_is_there(listening: Container, kills: int) -> None:
    acknowledged: list[str] = []
    for life in range(1, kills + 1):
        with Agent(listening) as agent, contextlib.suppress(OSError, ConnectionError):
            # It serves before it is ready. Starts that end sooner count as failed ones.
            wait_until(lambda: listening.show(SERVICE, "ActiveState")["ActiveState"] == "active")
            killer = threading.Thread(
                target=listening.kill, args=(listening.main_pid(SERVICE), signal.SIGKILL)
            )
            while True:
                added = agent.settled(
                    "stream_add", stream="svc:test:killed", entries=[{"n": len(acknowledged)}]
                )
                acknowledged += added["ids"]
                # It goes on adding until that takes effect.
                if len(acknowledged) >= 20 * life and killer.ident is None:
                    killer.start()
        killer.join()
    with Agent(listening) as agent:
        found: set[str] = set()
        cursor: dict[str, Any] = {"start": "earliest"}
        while page := agent.settled("stream_read", stream="svc:test:killed", count=100, **cursor):
            found |= {entry["id"] for entry in page["entries"]}
            if not page["entries"]:
                break
            cursor = {"cursor": page["next_cursor"]}
    assert set(acknowledged) <= found


@long
def test_the_embedded_server_is_confined_heals_in_place_and_may_load_for_longer_than_the_start_may_take(
    listening: Container,
) -> None:
    stream = "svc:test:embedded"
    server = listening.path("/var/lib/private/redstreamd/embedded/server.sock")
    embedded = f"[Service]\nExecStart=\nExecStart={PREFIX}/bin/redstreamd serve --embedded\n"
    drop_in(listening, embedded)
    began = time.monotonic()
    listening.systemctl("start", SERVICE)
    start_seconds = time.monotonic() - began
    with Agent(listening) as agent:
        [added] = agent.call("stream_add", stream=stream, entries=[{"n": 1}])["ids"]
        # The kernel rather ends the server than the daemon; the daemon cannot make itself less likely here.
        pid = int(listening.run("pgrep", "--exact", "valkey-server").stdout)
        [ours, its] = (
            int(listening.path(f"/proc/{each}/oom_score_adj").read_text())
            for each in (listening.main_pid(SERVICE), pid)
        )
        assert its == ours + 100
        # Whoever kills the server, the OOM killer too: the unit goes on, and so does this connection.
        listening.kill(pid, signal.SIGKILL)
        [entry] = agent.settled("stream_read", stream=stream, start="earliest")["entries"]
        assert entry["id"] == added
    assert listening.show(SERVICE, "NRestarts", "ActiveState") == {"NRestarts": "0", "ActiveState": "active"}
    assert "the embedded server was ended by SIGKILL" in listening.journal(SERVICE)
    slow_loading.fill(server, stream)
    listening.systemctl("stop", SERVICE)
    assert listening.show(SERVICE, "Result") == {"Result": "success"}
    assert "valkey-server" not in listening.run("ps", "-eo", "comm").stdout

    # Enough for the daemon to hear its server, however busy this machine is by now, and too little for what
    # the server has to load: that is minutes, until it is told to hurry.
    limit = 5 + 3 * math.ceil(start_seconds)
    listening.write(PREFIX / "slow.py", slow_loading.SCRIPT)
    slow = f"{PREFIX}/bin/python {PREFIX}/slow.py serve --embedded"
    drop_in(listening, f"[Service]\nExecStart=\nExecStart={slow}\nTimeoutStartSec={limit}\nRestartSec=0\n")
    began = time.monotonic()
    listening.systemctl("start", "--no-block", SERVICE)
    wait_until(lambda: time.monotonic() - began > limit + slow_loading.EXTENSION_SECONDS)
    status = listening.show(SERVICE, "ActiveState", "StatusText", "NRestarts")
    assert (status["ActiveState"], status["NRestarts"]) == ("activating", "0")
    assert status["StatusText"].startswith("loading: the embedded server loads its data into memory (")
    with Agent(listening) as agent:
        refused = agent.call("stream_list")
        assert refused["code"] == "CONNECTION_ERROR"
        assert "loads its data into memory" in refused["cause"]
    # A server that hangs makes no progress: the start times out, and the next one begins anew.
    listening.kill(int(listening.run("pgrep", "--exact", "valkey-server").stdout), signal.SIGSTOP)
    listening.wait_for(SERVICE, NRestarts="1")
    assert "start operation timed out" in listening.journal(SERVICE)
    with Agent(listening) as agent:
        wait_until(lambda: "loads its data" in agent.call("stream_list").get("cause", ""))
        slow_loading.hurry(server)
        listening.wait_for(SERVICE, ActiveState="active", NRestarts="1")
        assert slow_loading.ask(server, "XLEN", stream) == slow_loading.COMMANDS + 1


def test_redis_over_its_unix_socket_without_any_network(listening: Container) -> None:
    configuration = listening.path("/etc/redis/redis.conf")
    original = configuration.read_text()
    configuration.write_text(
        f"{original}\nport 0\nunixsocket /run/redis/redis-server.sock\nunixsocketperm 770\n"
    )
    shipped = REPOSITORY / "systemd" / "drop-ins" / "redis-unix.conf"
    try:
        drop_in(listening, shipped.read_text())
        with Agent(listening) as agent:
            assert len(agent.settled("stream_add", stream="svc:test:unix", entries=[{"n": 1}])["ids"]) == 1
    finally:
        listening.systemctl("stop", SERVICE, REDIS)
        configuration.write_text(original)


def test_two_users_are_told_apart_where_the_unit_does_not_hide_them(listening: Container) -> None:
    shipped = (REPOSITORY / "systemd" / "drop-ins" / "peer-identity.conf").read_text()
    hiding = shipped.replace("PrivateUsers=no", "PrivateUsers=yes")
    assert hiding != shipped
    listening.systemctl("start", REDIS)
    senders = []
    for text in (shipped, hiding):
        drop_in(listening, text)
        for uid in ("4001", "4002"):
            as_user = ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--groups=redstreamd-clients")
            entry = json.dumps({"stream": "svc:test:users", "entries": [{"uid": uid}]})
            listening.run(*as_user, f"{PREFIX}/bin/redstreamd", "call", "stream_add", entry)
        with Agent(listening) as agent:
            read = agent.settled("stream_read", stream="svc:test:users", start="earliest")
        senders = [entry["sender"] for entry in read["entries"]]
        listening.systemctl("stop", SERVICE)
    assert senders == ["mcp/uid:4001", "mcp/uid:4002", "mcp/uid:unknown", "mcp/uid:unknown"]
    assert listening.journal(SERVICE).count("a user namespace hides their uids") == 1


def test_the_originals_form_of_a_unit_works_with_the_listening_socket_as_standard_input(
    host: Container,
) -> None:
    unit, door = "rs-original", "/run/rs-original.sock"
    host.write(f"/run/systemd/system/{unit}.socket", f"[Socket]\nListenStream={door}\nRemoveOnStop=yes\n")
    host.write(
        f"/run/systemd/system/{unit}.service",
        textwrap.dedent(f"""
            [Unit]
            After=redis-server.service
            Requires=redis-server.service
            [Service]
            StandardInput=socket
            StandardOutput=socket
            Environment=LISTEN_FDS=1 REDIS_HOST=localhost REDIS_PORT=6379
            Environment=STATE_DIRECTORY=/var/lib/rs-original
            StandardError=journal
            ExecStart={PREFIX}/bin/redstreamd stdio
        """),
    )
    host.systemctl("daemon-reload")
    host.systemctl("start", f"{unit}.socket")
    try:
        with Agent(host, door) as one, Agent(host, door) as other:
            [added] = one.settled("stream_add", stream="svc:test:original", entries=[{"n": 1}])["ids"]
            [entry] = other.settled("stream_read", stream="svc:test:original", start="earliest")["entries"]
        assert entry["id"] == added
    finally:
        host.systemctl("stop", f"{unit}.socket", f"{unit}.service")
        for kind in ("socket", "service"):
            host.path(f"/run/systemd/system/{unit}.{kind}").unlink()
