"""The units as they are shipped, loaded and enforced by a real systemd."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from redstreamd.settings import describe, load
from tests.systemd import probe
from tests.systemd.harness import PATIENCE_SECONDS, PREFIX, REPOSITORY, Container, install_units

UNITS = REPOSITORY / "systemd"
#: What is for newer versions of systemd, and what of it an older one does not know.
NEWER = {
    "notify-reload.conf": {"Type"},
    "imported-credentials.conf": {"ImportCredential"},
    "newer-systemd.conf": {"RestartSteps", "RestartMaxDelaySec"},
}
SERVICE_DIRECTORY = "/run/systemd/system/redstreamd.service.d"


@pytest.fixture(scope="module")
def installed(container: Container) -> Container:
    """The container with our units installed."""
    install_units(container)
    return container


@pytest.fixture
def probing(installed: Container) -> Iterator[Container]:
    """The real service and socket, with the probe in the daemon's place."""
    installed.write(PREFIX / "probe.py", Path(probe.__file__).read_text())
    command = f"{PREFIX}/bin/python {PREFIX}/probe.py"
    installed.write(f"{SERVICE_DIRECTORY}/probe.conf", f"[Service]\nExecStart=\nExecStart={command}\n")
    installed.systemctl("daemon-reload")
    installed.systemctl("start", "redstreamd.socket")
    installed.forget_journal()
    yield installed
    installed.systemctl("stop", "redstreamd.socket", "redstreamd.service")
    for drop_in in installed.path(SERVICE_DIRECTORY).iterdir():
        drop_in.unlink()
    installed.systemctl("daemon-reload")
    installed.systemctl("reset-failed")


def add(container: Container, name: str) -> None:
    """Install one of the shipped drop-ins."""
    container.write(f"{SERVICE_DIRECTORY}/{name}", (UNITS / "drop-ins" / name).read_text())
    container.systemctl("daemon-reload")


def ask(container: Container, wish: str) -> Any:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE_SECONDS)
        client.connect(str(container.path("/run/redstreamd/mcp.sock")))
        client.sendall(wish.encode() + b"\n")
        return json.loads(client.makefile().readline())


def verify(container: Container) -> str:
    done = container.run(
        *("systemd-analyze", "verify", "--man=no"),
        *("redstreamd.socket", "redstreamd.service", "redstreamd-inetd.socket", "redstreamd@1.service"),
        *("redstreamd-metrics.socket", "redstreamd-http.socket", "redstreamd-worker@1.service"),
        *("redstreamd-metrics@1.socket", "redstreamd-http@1.socket"),
        check=False,
    )
    return done.stdout + done.stderr


def exposure(container: Container, unit: str = "redstreamd.service") -> float:
    text = container.run("systemd-analyze", "security", "--no-pager", unit).stdout
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", text)
    assert found is not None, text
    return float(found.group(1))


def systemd_version(container: Container) -> int:
    return int(container.systemctl("--version").split()[1])


# As they are loaded


def test_systemd_has_no_complaint_about_the_units(installed: Container) -> None:
    assert verify(installed) == ""


def test_systemd_has_no_complaint_about_the_drop_ins(installed: Container) -> None:
    """One at a time; an older systemd than one is for names what it does not know, and no more."""
    version = systemd_version(installed)
    complaints = {}
    for drop_in in sorted((UNITS / "drop-ins").iterdir()):
        place = installed.path(f"{SERVICE_DIRECTORY}/{drop_in.name}")
        installed.write(f"{SERVICE_DIRECTORY}/{drop_in.name}", drop_in.read_text())
        said = verify(installed)
        place.unlink()
        newer = NEWER.get(drop_in.name)
        if newer is None or version >= 254:
            complaints[drop_in.name] = said
            continue
        unknown = set(re.findall(r"Unknown key (?:name )?'(\w+)'", said))
        if "Failed to parse service type" in said or "notify-reload" in said:
            unknown.add("Type")
        assert unknown == newer, said
    assert len(complaints) >= 9
    assert not any(complaints.values()), complaints


def test_the_exposure_is_as_low_as_promised(probing: Container) -> None:
    assert exposure(probing) <= 1.0
    assert exposure(probing, "redstreamd@1.service") <= 1.0
    add(probing, "peer-identity.conf")
    assert exposure(probing) <= 1.2
    probing.path(f"{SERVICE_DIRECTORY}/peer-identity.conf").unlink()
    add(probing, "redis-unix.conf")
    assert exposure(probing) <= 0.4


def test_a_process_for_one_client_is_as_confined_as_the_daemon() -> None:
    def confinement(name: str) -> list[str]:
        lines = (UNITS / name).read_text().splitlines()
        first = lines.index("DynamicUser=yes")
        last = lines.index("IPAddressAllow=localhost")
        return [line for line in lines[first : last + 1] if line and not line.startswith("#")]

    for unit in ("redstreamd@.service", "redstreamd-worker@.service"):
        assert confinement("redstreamd.service") == confinement(unit)
    assert len(confinement("redstreamd.service")) > 30


# The door


def test_the_door_belongs_to_the_group_of_clients_and_leaves_no_file_behind(
    probing: Container,
) -> None:
    listed = probing.run("stat", "--format=%U:%G %a", "/run/redstreamd/mcp.sock").stdout.strip()
    assert listed == "root:redstreamd-clients 660"
    probing.systemctl("stop", "redstreamd.socket")
    assert not probing.path("/run/redstreamd/mcp.sock").exists()


def test_the_door_outlives_the_daemon(probing: Container) -> None:
    former = ask(probing, "hello")["pid"]
    probing.systemctl("stop", "redstreamd.service")
    assert ask(probing, "hello")["pid"] != former


def test_redis_is_wanted_but_its_end_does_not_end_the_daemon(probing: Container) -> None:
    probing.systemctl("start", "redstreamd.service")
    assert probing.wait_for("redis-server.service", ActiveState="active")
    former = probing.main_pid("redstreamd.service")
    probing.systemctl("stop", "redis-server.service")
    assert ask(probing, "hello")["pid"] == former


# What the daemon may do, asked of the kernel from inside the unit


#: What the daemon might attempt, as Python, and what comes of it.
ATTEMPTS = (
    ("os.getuid() > 60000", "True"),
    ("os.access('/root', os.R_OK), os.access('/home', os.R_OK)", "(False, False)"),
    ("Path('/etc/rs-probe').touch()", "OSError: [Errno 30] Read-only file system"),
    ("Path('/run/redstreamd/rs-probe').touch()", "PermissionError: [Errno 13] Permission denied"),
    ("Path(os.environ['STATE_DIRECTORY'], 'rs-probe').touch()", "None"),
    ("oct(Path(os.environ['STATE_DIRECTORY']).stat().st_mode)", "'0o40700'"),
    ("socket.socket(socket.AF_NETLINK)", "OSError: [Errno 97] Address family not supported by protocol"),
    ("socket.socket(socket.AF_INET).fileno() > 0", "True"),
    ("mmap.mmap(-1, 4096, prot=7)", "PermissionError: [Errno 1] Operation not permitted"),
    ("os.sched_setaffinity(0, {0})", "PermissionError: [Errno 1] Operation not permitted"),
    ("os.setgroups([])", "PermissionError: [Errno 1] Operation not permitted"),
    ("ctypes.CDLL(None, use_errno=True).unshare(0x10000000)", "-1"),
    ("Path('/proc/1/comm').exists()", "False"),
    ("sorted(p.name for p in Path('/dev').iterdir() if p.is_block_device())", "[]"),
    ("Path('/proc/self/status').read_text().split('CapBnd:')[1].split()[0]", "'0000000000000000'"),
    ("Path('/proc/self/status').read_text().split('NoNewPrivs:')[1].split()[0]", "'1'"),
    ("__import__('resource').getrlimit(__import__('resource').RLIMIT_NOFILE)", "(16384, 16384)"),
    # No program but its own, from wherever it is started.
    ("subprocess.run(['/bin/sh', '-c', 'true'])", "PermissionError: [Errno 13] Permission denied"),
    ("subprocess.run(['/usr/bin/env', 'true'])", "PermissionError: [Errno 13] Permission denied"),
    ("subprocess.run(['/usr/bin/perl', '-v'])", "PermissionError: [Errno 13] Permission denied"),
    (
        "subprocess.run([str(next(Path('/lib64').glob('ld-linux*'))), '/bin/true']).returncode",
        "127",
    ),
    ("subprocess.run([sys.executable, '-c', '']).returncode", "0"),
    *(
        (
            f"dropped_program(Path({directory}))",
            "PermissionError: [Errno 13] Permission denied",
        )
        for directory in ("os.environ['STATE_DIRECTORY']", "os.environ['TMPDIR']")
    ),
    # Room for temporary files is there and has an end, and nowhere else can it fill memory or disk.
    ("tempfile.gettempdir()", "'/tmp/redstreamd'"),
    ("Path('/tmp/redstreamd/some').write_bytes(bytes(1 << 20))", "1048576"),
    ("Path('/tmp/redstreamd/much').write_bytes(bytes(32 << 20))", "OSError: [Errno 28]"),
    *(
        (f"Path('{place}/rs-probe').touch()", "OSError: [Errno 30] Read-only file system")
        for place in ("/tmp", "/var/tmp", "/dev/shm")
    ),
    ("Path('/run/lock/rs-probe').touch()", "PermissionError: [Errno 13] Permission denied"),
)


def test_the_confinement_is_real(probing: Container) -> None:
    # One service answers them all, since each start of one takes a second.
    found = {attempt: ask(probing, f"run {attempt}") for attempt, _ in ATTEMPTS}
    other = {
        attempt: found[attempt]
        for attempt, outcome in ATTEMPTS
        if found[attempt] != outcome and not found[attempt].startswith((f"{outcome}: ", f"{outcome} "))
    }
    assert other == {}


def test_the_system_d_bus_is_out_of_reach(probing: Container) -> None:
    bus = "/run/dbus/system_bus_socket"
    with contextlib.ExitStack() as stack:
        if not probing.path(bus).exists():
            # No D-Bus on this machine: whoever can connect to this would reach one.
            probing.path(bus).parent.mkdir(exist_ok=True)
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(str(probing.path(bus)))
            stack.callback(probing.path(bus).unlink)
            probing.path(bus).chmod(0o666)
            listener.listen()
        connect = f"socket.socket(socket.AF_UNIX).connect({bus!r})"
        anybody = ("setpriv", "--reuid=65533", "--regid=65533", "--clear-groups")
        probing.run(*anybody, f"{PREFIX}/bin/python", "-c", f"import socket; {connect}")
        probing.systemctl("restart", "redstreamd.service")
        assert ask(probing, f"run {connect}") == "PermissionError: [Errno 13] Permission denied"


def test_the_bounds_of_memory_and_what_the_kernel_ends_first_are_loaded(probing: Container) -> None:
    """As systemd understands them; whether they are enforced depends on the machine's control groups."""
    names = ("OOMPolicy", "MemoryHigh", "MemoryMax", "OOMScoreAdjust")
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    daemon = probing.show("redstreamd.service", *names)
    assert (daemon["OOMPolicy"], daemon["OOMScoreAdjust"]) == ("continue", "-100")
    assert 0.6 * physical < int(daemon["MemoryHigh"]) < int(daemon["MemoryMax"]) < 0.85 * physical
    single = probing.show("redstreamd@1.service", *names)
    assert single["OOMPolicy"] == "continue"
    assert (single["MemoryHigh"], single["MemoryMax"]) == (str(384 << 20), str(512 << 20))


def test_without_a_network_redis_is_reached_through_its_unix_socket(probing: Container) -> None:
    configuration = probing.path("/etc/redis/redis.conf")
    original = configuration.read_text()
    configuration.write_text(
        f"{original}\nport 0\nunixsocket /run/redis/redis-server.sock\nunixsocketperm 770\n"
    )
    try:
        add(probing, "redis-unix.conf")
        probing.systemctl("restart", "redis-server.service")
        assert ask(probing, "ping") == "+PONG"
        refused = ask(probing, "run socket.create_connection(('127.0.0.1', 6379))")
        assert refused == "OSError: [Errno 97] Address family not supported by protocol"
    finally:
        probing.systemctl("stop", "redis-server.service")
        configuration.write_text(original)


def test_settings_that_only_root_can_read_reach_the_daemon_as_a_credential(probing: Container) -> None:
    probing.write("/etc/redstreamd/redstreamd.toml", "[redis]\npassword = 'x'\n", mode=0o600)
    try:
        assert ask(probing, "run Path('/etc/redstreamd/redstreamd.toml').read_text()").startswith(
            "PermissionError"
        )
        add(probing, "private-settings.conf")
        command = f"{PREFIX}/bin/python {PREFIX}/probe.py %d/redstreamd.toml"
        probing.write(f"{SERVICE_DIRECTORY}/zz-probe.conf", f"[Service]\nExecStart=\nExecStart={command}\n")
        probing.systemctl("daemon-reload")
        probing.systemctl("restart", "redstreamd.service")
        assert ask(probing, "arguments") == ["[redis]\npassword = 'x'\n"]
    finally:
        probing.path("/etc/redstreamd/redstreamd.toml").unlink()


# The example of settings


def test_the_example_settings_set_nothing() -> None:
    example = UNITS / "redstreamd.toml"
    assert load(config=example, environ={}).settings == load(environ={}).settings


def test_what_the_example_settings_show_are_real_settings_with_their_defaults(tmp_path: Path) -> None:
    example = (UNITS / "redstreamd.toml").read_text()
    defaults = {setting.key: setting.default for setting in describe()}
    # These have no default that could be shown.
    made_up = {"redis.path", "redis.username", "daemon.listen", "limits.rates", "policy.rules"}
    made_up |= {"policy.quotas", "encryption.keys", "encryption.writing_key", "encryption.streams"}
    made_up |= {"limits.max_connections_per_principal", "limits.max_waits_per_principal"}
    made_up |= {f"http.{name}" for name in ("allowed_hosts", "allowed_origins", "resource_url", "token_file")}
    made_up |= {f"listeners.{name}_file" for name in ("certificate", "key", "client_ca", "token")}
    shown = {}
    table = ""
    for header, key, value in re.findall(r"^(?:\[(\w+)\]|# (\w+) = (.+))$", example, re.MULTILINE):
        table = header or table
        if key:
            shown[f"{table}.{key}"] = value
    assert len(shown) > 10
    assert shown == {key: shown[key] if key in made_up else defaults.get(key) for key in shown}
    # All of it together is valid, but for the socket, which goes instead of host and port.
    uncommented = re.sub(r"^# ((?!path)\w+ = .+)$", r"\1", example, flags=re.MULTILINE)
    everything = tmp_path / "redstreamd.toml"
    everything.write_text(uncommented)
    assert load(config=everything, environ={}).settings.redis.username == "agents"
