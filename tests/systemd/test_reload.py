"""Reloading under a real systemd: under load, with a bad file, and what a credential does meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any, Self

import pytest

from tests.support.waiting import wait_until
from tests.systemd.harness import PREFIX, REPOSITORY, Container, clean_up, install_units
from tests.systemd.test_daemon import REDIS, SERVICE, SOCKET, Agent, drop_in

FILE = "/etc/redstreamd/redstreamd.toml"
CLIENTS = 200


@pytest.fixture
def host(container: Container) -> Iterator[Container]:
    """The container with the units installed, a settings file, and the door open."""
    install_units(container)
    container.forget_journal()
    file = container.path(FILE)
    before = file.read_text() if file.exists() else None
    container.write(FILE, "")
    container.systemctl("start", SOCKET, REDIS)
    yield container
    clean_up(container, SOCKET, SERVICE, REDIS)
    if before is None:
        file.unlink()
    else:
        file.write_text(before)


class Load:
    """Clients that add entries one after the other, and count what goes wrong."""

    def __init__(self, container: Container) -> None:
        self.calls = 0
        self.errors: list[Any] = []
        self._stop = threading.Event()
        self._agents = [Agent(container) for _ in range(CLIENTS)]
        self._threads = [
            threading.Thread(target=self._call, args=(self._agents[number::8],)) for number in range(8)
        ]

    def __enter__(self) -> Self:
        for agent in self._agents:
            agent.__enter__()
        self._agents[0].settled("stream_list")
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for agent in self._agents:
            agent.__exit__()

    def _call(self, agents: list[Agent]) -> None:
        while not self._stop.is_set():
            for agent in agents:
                try:
                    answer = agent.call("stream_add", stream="svc:test:load", entries=[{"n": self.calls}])
                except Exception as error:  # noqa: BLE001 - whatever it is, it is counted
                    self.errors.append(error)
                    return
                if answer["isError"]:
                    self.errors.append(answer)
                self.calls += 1


def status_of(container: Container) -> str:
    return container.show(SERVICE, "StatusText")["StatusText"]


@pytest.mark.limit(120)
@pytest.mark.parametrize("reloads", [4, pytest.param(10, marks=pytest.mark.soak)])
def test_reloads_under_load_cost_no_call_and_no_connection(
    host: Container, reloads: int, record_property: Any
) -> None:
    host.systemctl("start", SERVICE)
    pid = host.main_pid(SERVICE)
    seconds = []
    with Load(host) as load, Agent(host) as watcher:
        wait_until(lambda: load.calls > CLIENTS)
        listed = watcher.ask("tools/list", {})["tools"]
        assert "stream_manage" not in {tool["name"] for tool in listed}
        for number in range(reloads):
            profile = ("worker", "operator")[number % 2 == 0]
            host.write(
                FILE,
                f'[tools]\nprofile = ["{profile}"]\n[limits]\nmax_waits = {1_000 + number}\n'
                f'[daemon]\nlog_level = "{("info", "debug")[number % 2]}"\n'
                '[policy]\nrules = ["* may read publish consume manage on svc:*"]\n',
            )
            before = load.calls
            began = time.monotonic()
            host.systemctl("reload", SERVICE)
            seconds.append(time.monotonic() - began)
            # It has waited: the new profile is there.
            names = {tool["name"] for tool in watcher.ask("tools/list", {})["tools"]}
            assert ("stream_manage" in names) == (profile == "operator")
            wait_until(lambda before=before: load.calls > before + CLIENTS)  # type: ignore[misc]
        # What is not valid changes nothing, and systemctl says so.
        host.write(FILE, "[limits]\nmax_waits = 0\n")
        refused = host.run("systemctl", "reload", SERVICE, check=False)
        assert refused.returncode != 0
        assert status_of(host).startswith("settings not reloaded: setting limits.max_waits=0")
        assert {tool["name"] for tool in watcher.ask("tools/list", {})["tools"]} == names
    assert load.errors == []
    assert host.main_pid(SERVICE) == pid
    assert host.show(SERVICE, "ActiveState", "NRestarts", "SubState") == {
        "ActiveState": "active",
        "NRestarts": "0",
        "SubState": "running",
    }
    journal = host.journal(SERVICE)
    assert journal.count("settings reloaded; changed: ") == reloads
    assert "those before stay in force; correct this and reload again: setting limits.max_waits=0" in journal
    record_property(
        "figure",
        f"{reloads} reloads under {CLIENTS} clients, {load.calls} calls: 0 errors, 0 connections lost, "
        f"{max(seconds):.2f} s at most",
    )


@pytest.mark.limit(90)
def test_a_credential_is_that_of_the_start_until_a_restart(host: Container) -> None:
    """systemd copies or decrypts credentials when a service starts: a reload brings no new one."""
    encrypted = "/etc/credstore.encrypted/redis-password"

    def encrypt(password: str) -> None:
        words = ("systemd-creds", "--with-key=host", "encrypt", "--name=redis-password", "-", encrypted)
        host.run("mkdir", "-p", "/etc/credstore.encrypted")
        host.path(encrypted).unlink(missing_ok=True)
        host.run(*words, input=password)

    def set_password(password: str, new: str) -> None:
        words = ("redis-cli", "--no-auth-warning", *(("--pass", password) if password else ()))
        host.run(*words, "ACL", "SETUSER", "default", "resetpass", new)

    def serves() -> bool:
        with Agent(host) as agent:
            return not agent.call("stream_list")["isError"]

    encrypt("first-password")
    drop_in(host, (REPOSITORY / "systemd" / "drop-ins" / "encrypted-credentials.conf").read_text())
    set_password("", ">first-password")
    password = "first-password"
    try:
        host.systemctl("restart", SERVICE)
        wait_until(serves)
        copy = host.path(f"/run/credentials/{SERVICE}/redis-password")
        assert copy.read_text() == "first-password"
        encrypt("second-password")
        host.systemctl("reload", SERVICE)
        assert copy.read_text() == "first-password"
        set_password(password, ">second-password")
        password = "second-password"
        # Connections that are logged in stay so; a new login has the old password until the restart.
        assert serves()
        host.run("redis-cli", "--no-auth-warning", "--pass", password, "CLIENT", "KILL", "TYPE", "normal")
        wait_until(lambda: "DEGRADED" in status_of(host))
        host.systemctl("restart", SERVICE)
        assert copy.read_text() == "second-password"
        wait_until(serves)
    finally:
        set_password(password, "nopass")
        host.path(encrypted).unlink(missing_ok=True)


@pytest.mark.limit(90)
def test_keys_of_encryption_are_credentials_of_a_directory_and_single_encrypted_ones(
    host: Container,
) -> None:
    """As systemd names them: those of a directory NAME_FILE, of a user who owns none of the files."""
    keys, encrypted = "/etc/redstreamd/keys", "/etc/credstore.encrypted/keys_2026-12.key"
    clear = "/etc/redstreamd/clear"
    program = f"{PREFIX}/bin/redstreamd"
    host.run("mkdir", "-p", "/etc/redstreamd", "/etc/credstore.encrypted")
    host.run(program, "keys", "new", "2026-11", "--directory", keys)
    host.run(program, "keys", "new", "2026-12", "--directory", clear)
    words = ("systemd-creds", "--with-key=host", "encrypt", "--name=keys_2026-12.key")
    host.run(*words, f"{clear}/2026-12.key", encrypted)
    shipped = (REPOSITORY / "systemd" / "drop-ins" / "encryption-keys.conf").read_text()
    assert "# LoadCredentialEncrypted=" in shipped
    text = shipped.replace("# LoadCredentialEncrypted=", "LoadCredentialEncrypted=").replace("11", "12")
    drop_in(host, f"{text}Environment=REDSTREAMD_ENCRYPTION_WRITING_KEY=2026-12\n")
    host.systemctl("restart", SERVICE)
    try:
        assert "key 2026-12 writes, of 2 keys (2026-11, 2026-12)" in host.run(program, "status").stdout
        doctor = host.run(program, "doctor", check=False).stdout
        assert "keys 2026-11, 2026-12, 2026-12 writes" in doctor
        # The place of the file is not that of the keys, and others may not read it there either.
        host.run("chmod", "0644", f"{keys}/2026-11.key")
        doctor = host.run(program, "doctor", check=False).stdout
        assert f"others can read {keys}/2026-11.key" in doctor
    finally:
        host.run("rm", "-rf", keys, clear, encrypted)
