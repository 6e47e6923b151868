"""The harness itself, and redstreamd's service modules under a real systemd."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from redstreamd.event_log.kinds import all_kinds
from tests.support.measured import measured
from tests.support.waiting import wait_until
from tests.systemd import harness, probe
from tests.systemd.harness import PATIENCE_SECONDS, PREFIX, Container, booted, install_catalog

UNIT = "rs-probe.service"
SOCKET = "rs-probe.socket"
DROP_IN = f"/run/systemd/system/{UNIT}.d/test.conf"
# For the test of it. It is served at half of this, so a machine that stands still for as long costs nothing.
WATCHDOG_SECONDS = 6


@pytest.fixture
def probing(container: Container) -> Iterator[Container]:
    """The probe behind an activated socket; not started yet."""
    container.write(PREFIX / "probe.py", Path(probe.__file__).read_text())
    container.write(
        f"/run/systemd/system/{SOCKET}",
        textwrap.dedent("""
            [Socket]
            FileDescriptorName=mcp
            ListenStream=/run/rs-probe.sock
            RemoveOnStop=yes
        """),
    )
    container.write(
        f"/run/systemd/system/{UNIT}",
        textwrap.dedent(f"""
            [Unit]
            StartLimitIntervalSec=0

            [Service]
            Type=notify
            ExecStart={PREFIX}/bin/python {PREFIX}/probe.py
            DynamicUser=yes
            Restart=always
            RestartSec=0
            RestartPreventExitStatus=78
            WatchdogSec=60
            TimeoutAbortSec=60
            LimitCORE=0
            LogRateLimitIntervalSec=0
        """),
    )
    container.systemctl("daemon-reload")
    container.systemctl("start", SOCKET)
    container.forget_journal()
    yield container
    container.systemctl("stop", SOCKET, UNIT)
    container.systemctl("reset-failed", UNIT, check=False)
    for unit in (UNIT, SOCKET):
        container.path(f"/run/systemd/system/{unit}").unlink()
    container.path(DROP_IN).unlink(missing_ok=True)
    container.systemctl("daemon-reload")


def drop_in(container: Container, text: str) -> None:
    container.write(DROP_IN, text)
    container.systemctl("daemon-reload")


def connect(container: Container) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(PATIENCE_SECONDS)
    client.connect(str(container.path("/run/rs-probe.sock")))
    return client


def ask(container: Container, wish: str) -> dict[str, Any]:
    with connect(container) as client:
        client.sendall(wish.encode() + b"\n")
        answer: dict[str, Any] = json.loads(client.makefile().readline())
        return answer


def test_the_machines_own_systemd_boots(container: Container) -> None:
    assert container.systemctl("is-system-running", check=False).strip() in ("running", "degraded")
    assert container.run("ps", "-p", "1", "-o", "comm=").stdout.strip() == "systemd"


def test_nothing_is_left_behind_even_after_a_failure() -> None:
    seen: list[Path] = []

    def fail_inside() -> None:
        with booted() as another:
            seen.append(Path(f"/proc/{another.pid}"))
            arguments = Path(f"/proc/{parent_of(another.pid)}/cmdline").read_text().split("\0")
            [option] = [word for word in arguments if word.startswith("--directory=")]
            seen.append(Path(option.removeprefix("--directory=")).parent)
            assert all(path.exists() for path in seen)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    process, directory = seen
    assert not process.exists()
    assert not directory.exists()
    assert str(directory) not in Path("/proc/self/mounts").read_text()
    # Neither systemd-nspawn, whose arguments name it, nor anything else of it.
    assert str(directory) not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout


def test_a_container_ends_with_the_run_that_is_killed(tmp_path: Path) -> None:
    boot = "import sys\nfrom tests.systemd.harness import booted\n"
    boot += "with booted() as one:\n    print(one.pid, flush=True)\n    sys.stdin.read()\n"
    with subprocess.Popen(
        [sys.executable, "-c", boot],
        cwd=harness.REPOSITORY,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        run.kill()
    wait_until(lambda: not Path(f"/proc/{pid}").exists())
    # What it could not remove any more is empty.
    [directory] = tmp_path.iterdir()
    for group in Path("/sys/fs/cgroup").rglob(directory.name):
        wait_until(lambda group=group: harness._is_removed(group))


def parent_of(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("PPid:")).split()[1])


def test_the_first_client_starts_the_service_and_is_served(probing: Container) -> None:
    assert probing.show(UNIT, "ActiveState") == {"ActiveState": "inactive"}
    answer = ask(probing, "hello")
    assert answer["pid"] == probing.main_pid(UNIT)
    assert answer["uid"] != 0
    left = set(answer["environ"]) & {
        *("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"),
    }
    assert left == set()


def test_the_service_counts_as_started_once_it_is_ready_and_shows_its_status(probing: Container) -> None:
    probing.systemctl("start", UNIT)
    assert probing.show(UNIT, "ActiveState", "SubState") == {"ActiveState": "active", "SubState": "running"}
    ask(probing, "hello")
    probing.wait_for(UNIT, StatusText="served 1")


def found(container: Container, *matches: str) -> list[dict[str, Any]]:
    """The records of the journal that match, with all fields."""
    container.run("journalctl", "--sync")
    # --all: otherwise journalctl leaves out what is longer than some kilobytes.
    lines = container.run("journalctl", "--output=json", "--all", *matches).stdout.splitlines()
    return [json.loads(line) for line in lines]


def test_the_journal_has_each_record_with_its_fields(probing: Container) -> None:
    probing.systemctl("start", UNIT)
    ask(probing, "large 1000000")
    invocation = probing.show(UNIT, "InvocationID")["InvocationID"]
    ready, large = found(probing, f"_SYSTEMD_INVOCATION_ID={invocation}", "REDSTREAMD_EVENT=probe")
    assert ready["MESSAGE"] == "ready with 1 listeners"
    assert (ready["PRIORITY"], ready["SYSLOG_IDENTIFIER"]) == ("6", "redstreamd")
    # Not by the stream of standard error, and by a file in memory where a datagram does not hold it.
    assert ready["_TRANSPORT"] == large["_TRANSPORT"] == "journal"
    assert ready["_SYSTEMD_UNIT"] == UNIT
    assert large["MESSAGE"] == "x\n" * 500_000


def test_journalctl_explains_every_kind_and_finds_it_by_its_fields(probing: Container) -> None:
    install_catalog(probing)
    ask(probing, "every kind")
    kinds = all_kinds()
    for kind in (kinds[0], kinds[-1]):
        (record,) = found(probing, f"REDSTREAMD_PRINCIPAL=probe/{kind.name}")
        assert (record["MESSAGE_ID"], record["PRIORITY"]) == (kind.message_id, str(int(kind.severity)))
    probing.run("journalctl", "--sync")
    shown = probing.run("journalctl", "--no-pager", "-x", "-t", "redstreamd", "-u", UNIT).stdout
    # It is indented, and broken into lines.
    explained = " ".join(line.removeprefix("\u2591\u2591").strip() for line in shown.splitlines())
    for kind in kinds:
        assert f"Subject: redstreamd: {kind.subject}" in explained, kind.name
        assert kind.cause in explained, kind.name
        assert f"What to do: {kind.remedy}" in explained, kind.name
    listed = probing.run("journalctl", "--list-catalog", *(kind.message_id for kind in kinds)).stdout
    assert len(listed.splitlines()) == len(kinds)


def test_a_served_watchdog_keeps_the_service_up_and_a_hanging_loop_is_shot_and_restarted(
    probing: Container,
) -> None:
    drop_in(probing, f"[Service]\nWatchdogSec={WATCHDOG_SECONDS}\n")

    def last_ping() -> int:
        return int(probing.show(UNIT, "WatchdogTimestampMonotonic")["WatchdogTimestampMonotonic"])

    probing.systemctl("start", UNIT)
    former = probing.main_pid(UNIT)
    # It is served, so that the hanging below is found later than it would be without.
    first = last_ping()
    wait_until(lambda: last_ping() > first + WATCHDOG_SECONDS * 250_000)
    with connect(probing) as client:
        client.sendall(b"hang\n")
        assert client.recv(100) == b""
    probing.wait_for(UNIT, ActiveState="active", NRestarts="1")
    assert ask(probing, "hello")["pid"] != former
    # journald may read the dump later than the service is back.
    wait_until(lambda: "<supervisor probe>" in probing.journal(UNIT))
    journal = probing.journal(UNIT)
    assert f"Watchdog timeout (limit {WATCHDOG_SECONDS}s)" in journal
    # It died of that by itself. systemd may drop its own message about that while the journal takes the dump.
    assert "stop-watchdog' timed out" not in journal
    # Where it hung, and what else was going on.
    assert 'probe.py", line' in journal
    assert "in do" in journal
    assert "killed by SIGABRT; trio tasks:" in journal


def test_a_stop_is_orderly_and_successful(probing: Container) -> None:
    ask(probing, "hello")
    probing.systemctl("stop", UNIT)
    # Else it would be "timeout".
    assert probing.show(UNIT, "ActiveState", "Result") == {"ActiveState": "inactive", "Result": "success"}


def test_a_client_that_comes_while_the_service_restarts_is_served_by_the_next_one(probing: Container) -> None:
    former = ask(probing, "hello")["pid"]
    probing.systemctl("stop", UNIT)
    with connect(probing) as client:
        client.sendall(b"hello\n")
        answer = json.loads(client.makefile().readline())
    assert answer["pid"] != former


def test_wrong_settings_are_not_tried_again(probing: Container) -> None:
    drop_in(probing, f"[Service]\nExecStart=\nExecStart={PREFIX}/bin/python {PREFIX}/probe.py exit 78\n")
    probing.systemctl("start", UNIT, check=False)
    probing.wait_for(UNIT, ActiveState="failed", ExecMainStatus="78", NRestarts="0")


def test_a_stopped_journald_stalls_nobody_and_is_found_again(probing: Container) -> None:
    ask(probing, "hello")
    journald = probing.main_pid("systemd-journald.service")
    probing.kill(journald, signal.SIGSTOP)
    try:
        report = ask(probing, "log 20000")
    finally:
        probing.kill(journald, signal.SIGCONT)
    assert report["dropped"] > 0
    with measured:
        assert report["stall_seconds"] <= 0.001
    # The backlog goes out by itself, and so does the count of what was dropped.
    lost = f"{report['dropped']} log records were dropped, because nobody read them in time"
    wait_until(lambda: lost in probing.journal(UNIT))
    # Nothing is lost where journald is replaced; with its socket goes what that held, which nobody is told.
    held = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text("ascii")) + 1
    for unit, most_lost in (("systemd-journald.service", 0), ("systemd-journald.socket", held)):
        probing.forget_journal()
        with connect(probing) as client:
            client.sendall(b"log 3000 restarted\n")
            wait_until(lambda: "restarted" in probing.journal(UNIT))
            probing.systemctl("restart", unit)
            client.makefile().readline()
        ask(probing, "log 1 last")
        wait_until(lambda: "last 000000" in probing.journal(UNIT))
        arrived = {line for line in probing.journal(UNIT).splitlines() if "restarted" in line}
        assert 3000 - most_lost <= len(arrived) <= 3000, unit


def test_a_service_manager_that_does_not_read_stalls_nobody(probing: Container) -> None:
    ask(probing, "hello")
    os.kill(probing.pid, signal.SIGSTOP)
    try:
        report = ask(probing, "notify 5000")
    finally:
        os.kill(probing.pid, signal.SIGCONT)
    assert report["full"] > 0
    with measured:
        assert report["stall_seconds"] <= 0.001
    probing.wait_for(UNIT, ActiveState="active")
