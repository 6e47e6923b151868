"""redstreamd installed by a person without root, and started by the person's own service manager."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.support.counts import LONG
from tests.support.waiting import wait_until
from tests.systemd import probe
from tests.systemd.harness import Container, booted
from tests.systemd.installing import CHECKOUT, OFFLINE, put_checkout

#: The installation takes as long as all tests of another file.
pytestmark = LONG

SERVICE, SOCKET = "redstreamd.service", "redstreamd.socket"
USER, UID = "agent", 4712
HOME, RUNTIME = f"/home/{USER}", f"/run/user/{UID}"
PREFIX = f"{HOME}/.local/share/redstreamd"
DROP_IN = f"{HOME}/.config/systemd/user/{SERVICE}.d/probe.conf"


@attrs.frozen
class Person:
    """A user of the container.

    Attributes:
        host: The container.
    """

    host: Container

    def run(self, *command: str, check: bool = True, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run a command as the person, as from a shell."""
        environ = {
            "HOME": HOME,
            "XDG_RUNTIME_DIR": RUNTIME,
            "PATH": f"{HOME}/.local/bin:/usr/bin:/bin",
            **settings,
        }
        who = ("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups")
        words = (f"{name}={value}" for name, value in environ.items())
        return self.host.run(*who, "env", "--chdir=/", *words, *command, check=check, timeout_seconds=900)

    def systemctl(self, *arguments: str) -> str:
        return self.run("systemctl", "--user", "--no-pager", *arguments).stdout

    def show(self, unit: str, name: str) -> str:
        return self.systemctl("show", f"--property={name}", "--value", unit).strip()

    def main_pid(self) -> int:
        return int(self.show(SERVICE, "MainPID"))

    def tool(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool with the installed command, which finds the socket by itself."""
        answer: dict[str, Any] = json.loads(
            self.run("redstreamd", "call", name, json.dumps(arguments)).stdout
        )
        return answer


@pytest.fixture(scope="module")
def person() -> Iterator[Person]:
    """A person with a service manager and Redis on the host; our units are installed and enabled."""
    with booted() as host:
        put_checkout(host)
        host.run("useradd", "--create-home", f"--uid={UID}", USER)
        # What a login manager does: here systemd starts the person's manager as a service.
        host.run("install", "--directory", "--mode=0700", f"--owner={UID}", f"--group={UID}", RUNTIME)
        manager = [f"--uid={UID}", f"--gid={UID}", "--property=Type=notify", "--property=Delegate=yes"]
        environ = [f"--setenv=XDG_RUNTIME_DIR={RUNTIME}", f"--setenv=HOME={HOME}"]
        host.run(
            *("systemd-run", "--quiet", "--unit=manager-of-agent", *manager, *environ),
            *("/lib/systemd/systemd", "--user"),
        )
        person = Person(host)
        done = person.run("make", "-C", CHECKOUT, "install-user", **OFFLINE)
        assert "systemctl --user enable --now redstreamd.socket" in done.stdout
        host.systemctl("start", "redis-server.service")
        person.systemctl("enable", "--now", SOCKET)
        yield person


def test_the_first_client_starts_the_service_which_needs_no_root(person: Person) -> None:
    assert person.show(SERVICE, "ActiveState") == "inactive"
    assert (
        person.host.run("stat", "--format=%u %a", f"{RUNTIME}/redstreamd/mcp.sock").stdout == f"{UID} 600\n"
    )
    person.tool("stream_add", stream="svc:user:mode", entries=[{"n": 1}])
    assert person.tool("stream_read", stream="svc:user:mode")["entries"][0]["sender"] == "mcp"
    # The client may be answered before all is loaded.
    wait_until(lambda: person.show(SERVICE, "ActiveState") == "active")
    status = Path(person.host.path(f"/proc/{person.main_pid()}/status")).read_text()
    assert f"Uid:\t{UID}\t" in status
    assert person.host.run("stat", "--format=%u %a", f"{HOME}/.local/state/redstreamd/lease.key").stdout == (
        f"{UID} 600\n"
    )
    report = json.loads(person.run("redstreamd", "status", "--json").stdout)
    assert report["installation"]["directory"] == report["installation"]["installed"]
    assert report["installation"]["directory"].startswith(f"{PREFIX}/versions/")
    # Nothing of it lies anywhere else.
    found = person.host.run("find", "/opt", "/usr", "/etc", "/var", "-xdev", "-user", str(UID)).stdout.split()
    assert [path for path in found if "redstreamd" in path] == []


def test_systemd_has_no_complaint_about_the_units(person: Person) -> None:
    done = person.run("systemd-analyze", "--user", "verify", "--man=no", SERVICE, SOCKET)
    assert done.stdout + done.stderr == ""
    journal = person.host.journal(None, f"_UID={UID}")
    assert "ignoring" not in journal.lower()


def test_doctor_examines_it_and_finds_nothing_wrong(person: Person) -> None:
    person.tool("stream_list")
    report = json.loads(person.run("redstreamd", "doctor", "--json", check=False).stdout)
    assert [each for each in report if each["severity"] == "error"] == []
    assert [each["seen"] for each in report if each["check"] == "socket"] == [
        f"a daemon answers at {RUNTIME}/redstreamd/mcp.sock"
    ]


def test_a_daemon_that_is_killed_comes_back_and_the_socket_stays(person: Person) -> None:
    person.tool("stream_list")
    wait_until(lambda: person.show(SERVICE, "ActiveState") == "active")
    former = person.main_pid()
    person.host.kill(former, signal.SIGKILL)
    person.tool("stream_list")
    wait_until(lambda: person.main_pid() not in (0, former))
    assert person.show(SOCKET, "ActiveState") == "active"


@pytest.fixture
def probing(person: Person) -> Iterator[Person]:
    """The same units with the probe in the daemon's place."""
    person.host.write(f"{PREFIX}/probe.py", Path(probe.__file__).read_text())
    command = f"{PREFIX}/current/bin/python {PREFIX}/probe.py"
    person.host.write(DROP_IN, f"[Service]\nExecStart=\nExecStart={command}\n")
    person.systemctl("daemon-reload")
    person.systemctl("stop", SERVICE)
    yield person
    person.host.path(DROP_IN).unlink()
    person.systemctl("daemon-reload")
    person.systemctl("stop", SERVICE)


def test_the_confinement_that_a_users_manager_can_apply_is_real(probing: Person) -> None:
    outcomes = {
        "mmap.mmap(-1, 4096, prot=7)": "PermissionError: [Errno 1]",
        "socket.socket(socket.AF_NETLINK)": "OSError: [Errno 97]",
        "ctypes.CDLL(None, use_errno=True).unshare(0x10000000)": "-1",
        "ctypes.CDLL(None, use_errno=True).personality(0x0008)": "-1",
        "os.sched_setaffinity(0, {0})": "PermissionError: [Errno 1]",
        "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))": "PermissionError: [Errno 1]",
        "os.open('/tmp/rs-suid', os.O_CREAT, 0o4755)": "PermissionError: [Errno 1]",
        "oct(os.umask(0o077))": "'0o77'",
        "Path('/proc/self/status').read_text().split('NoNewPrivs:')[1].split()[0]": "'1'",
        "Path('/proc/self/status').read_text().split('Seccomp:')[1].split()[0]": "'2'",
        "__import__('resource').getrlimit(__import__('resource').RLIMIT_CORE)": "(0, 0)",
    }
    ask = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
    ask += "s.sendall(sys.argv[2].encode() + b'\\n'); print(s.makefile().readline())"
    for attempt, outcome in outcomes.items():
        socket_path = f"{RUNTIME}/redstreamd/mcp.sock"
        said = probing.run("/usr/bin/python3", "-c", ask, socket_path, f"run {attempt}").stdout
        assert json.loads(said).startswith(outcome), (attempt, said)


def test_another_person_gets_no_way_in(person: Person) -> None:
    path = f"{RUNTIME}/redstreamd/mcp.sock"
    stranger = ("setpriv", "--reuid=4713", "--regid=4713", "--clear-groups")
    refused = person.host.run(*stranger, "test", "-e", path, check=False)
    assert refused.returncode == 1
    assert person.run("test", "-e", path).returncode == 0


def test_it_goes_back_and_is_removed_without_root(person: Person) -> None:
    """The last one, because it takes away what the others use."""
    # One version only: there is nothing to go back to, and nothing changes.
    alone = person.run("make", "-C", CHECKOUT, "rollback-user", check=False)
    assert alone.returncode != 0
    assert "no previous version" in alone.stderr
    person.tool("stream_list")
    person.run("make", "-C", CHECKOUT, "uninstall-user")
    # The probe is the test's own, and stays.
    assert [each.name for each in person.host.path(PREFIX).rglob("*")] == ["probe.py"]
    assert not person.host.path(f"{HOME}/.local/share/systemd/user/{SERVICE}").exists()
    assert person.show(SERVICE, "LoadState") == "not-found"
    assert person.host.path(f"{HOME}/.local/state/redstreamd/lease.key").exists()
    assert person.host.path(f"{HOME}/.config/redstreamd/redstreamd.toml").exists()
