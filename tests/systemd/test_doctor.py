"""``sudo redstreamd doctor`` beside the service: what it takes from the unit, and what it notices.

The healthy forms first: each must be examined as the service has it, with nothing that is not wrong.
"""

from __future__ import annotations

import contextlib
import json
import textwrap
from collections.abc import Iterator

import pytest

from tests.doctor.test_unit_text import ENVIRONMENT, ENVIRONMENT_FILE
from tests.support.counts import long
from tests.support.waiting import wait_until
from tests.systemd.harness import PREFIX, REPOSITORY, Container, clean_up, install_units

SERVICE, SOCKET, REDIS = "redstreamd.service", "redstreamd.socket", "redis-server.service"
DROP_INS = f"/run/systemd/system/{SERVICE}.d"
SETTINGS = "/etc/redstreamd"
PASSWORD = 'it\'s a "secret"'

Report = dict[str, dict[str, str]]


@pytest.fixture
def host(container: Container) -> Iterator[Container]:
    """The container with our units and a Redis that asks for a password."""
    install_units(container)
    configuration = container.path("/etc/redis/redis.conf")
    original = configuration.read_text()
    escaped = PASSWORD.replace('"', '\\"')
    configuration.write_text(f'{original}\nappendonly yes\nrequirepass "{escaped}"\n')
    container.systemctl("restart", REDIS)
    yield container
    configuration.write_text(original)
    key = "/var/lib/private/redstreamd/lease.key"
    container.run("rm", "-rf", SETTINGS, "/etc/redstreamd-secrets", key)
    clean_up(container, SOCKET, SERVICE, REDIS)


def drop_in(host: Container, text: str, name: str = "test.conf") -> None:
    host.write(f"{DROP_INS}/{name}", textwrap.dedent(text))
    host.systemctl("daemon-reload")


def examined(host: Container, *options: str, **environ: str) -> tuple[int, Report]:
    """Run doctor as root and return its status and the checks by their names."""
    done = host.run(f"{PREFIX}/bin/redstreamd", "doctor", "--json", *options, check=False, environ=environ)
    assert done.stderr == ""
    for secret in (PASSWORD, "redstreamd-doctor-"):
        assert secret not in json.loads(done.stdout).__repr__()
    return done.returncode, {check["check"]: check for check in json.loads(done.stdout)}


def wrong(report: Report) -> Report:
    return {name: check for name, check in report.items() if check["severity"] not in ("ok", "skipped")}


def with_an_environment_file(host: Container) -> None:
    escaped = PASSWORD.replace('"', '\\"')
    host.write(f"{SETTINGS}/environment", f'# of Redis\nREDIS_PASSWORD="{escaped}"\n', mode=0o600)


def with_a_drop_in_of_variables(host: Container) -> None:
    escaped = PASSWORD.replace('"', '\\"')
    drop_in(host, f'[Service]\nEnvironment="REDIS_PASSWORD={escaped}"\n')


def with_credentials(host: Container) -> None:
    """The shipped drop-in, without TLS, which this server does not speak."""
    shipped = (REPOSITORY / "systemd" / "drop-ins" / "redis-credentials.conf").read_text()
    kept = [line for line in shipped.splitlines() if ".pem" not in line and "TLS" not in line]
    host.write(f"{SETTINGS}/redis-password", f"{PASSWORD}\n", mode=0o600)
    drop_in(host, "\n".join(kept))


def with_settings_as_a_credential(host: Container) -> None:
    """The shipped drop-in for settings that only root may read."""
    text = f"[redis]\npassword = '''{PASSWORD}'''\n"
    host.write(f"{SETTINGS}/redstreamd.toml", text, mode=0o600)
    drop_in(host, (REPOSITORY / "systemd" / "drop-ins" / "private-settings.conf").read_text())


def with_a_credential_in_the_unit(host: Container) -> None:
    drop_in(host, f"[Service]\nSetCredential=password:{PASSWORD}\nEnvironment=REDIS_PASSWORD_FILE=password\n")


def with_the_embedded_server(host: Container) -> None:
    drop_in(host, f"[Service]\nExecStart=\nExecStart={PREFIX}/bin/redstreamd serve --embedded\n")


FORMS = [
    # These pass below as well, once what was broken is mended.
    pytest.param(with_an_environment_file, marks=pytest.mark.soak),
    pytest.param(with_a_drop_in_of_variables, marks=pytest.mark.soak),
    pytest.param(with_credentials, marks=pytest.mark.soak),
    pytest.param(with_settings_as_a_credential, marks=pytest.mark.soak),
    with_a_credential_in_the_unit,
    with_the_embedded_server,
]


@pytest.mark.parametrize("form", FORMS)
def test_a_healthy_service_passes_as_its_unit_is_written(host: Container, form) -> None:
    form(host)
    host.systemctl("start", SOCKET, SERVICE)
    passes(host)


def passes(host: Container) -> None:
    """Assert that nothing is wrong with the service that runs."""
    wait_until(lambda: "Redis at" in host.show(SERVICE, "StatusText")["StatusText"])
    status, report = examined(host)
    assert wrong(report) == {}
    assert status == 0
    assert report["login"]["severity"] == report["streams"]["severity"] == "ok"
    assert "those of redstreamd.service are valid" in report["settings"]["seen"]


@long
def test_what_the_caller_says_wins_over_the_unit_and_is_all_without_it(host: Container) -> None:
    with_an_environment_file(host)
    status, report = examined(host, "--no-service")
    assert status == 2
    assert report["login"]["severity"] == "error"
    assert "credentials" not in report
    status, report = examined(host, "--set", "redis.port=1")
    assert status == 2
    assert "localhost:1" in report["connect"]["tried"]
    _, report = examined(host, REDIS_PORT="2")
    assert "localhost:2" in report["connect"]["tried"]
    # Settings that only root may read are told apart from those that work.
    host.write(f"{SETTINGS}/redstreamd.toml", "[redis]\n# port = 6379\nport = 6379\n", mode=0o600)
    _, report = examined(host)
    assert report["confinement"]["severity"] == "error"
    assert f"{SETTINGS}/redstreamd.toml" in report["confinement"]["seen"]
    host.run("rm", f"{SETTINGS}/redstreamd.toml")
    host.write(f"{SETTINGS}/environment", "REDIS_PORT=none\n", mode=0o600)
    status, report = examined(host)
    assert status == 78
    assert "redis.port" in report["settings"]["seen"]


def test_a_missing_credential_is_named_with_the_drop_in_and_the_remedy(host: Container) -> None:
    with_credentials(host)
    host.run("rm", f"{SETTINGS}/redis-password")
    host.systemctl("start", SERVICE, check=False)
    status, report = examined(host)
    assert status == 2
    missing = report["credentials"]
    assert missing["severity"] == "error"
    assert f"redis-password: {SETTINGS}/redis-password does not exist" in missing["seen"]
    assert f"{DROP_INS}/test.conf" in missing["seen"]
    assert "243" in missing["seen"]
    assert "status 243" in report["unit"]["seen"]
    # The remedy, as it is written.
    host.write(f"{SETTINGS}/redis-password", f"{PASSWORD}\n", mode=0o600)
    host.systemctl("restart", SERVICE)
    passes(host)


def test_a_removed_socket_file_and_a_readable_lease_key_are_noticed_and_the_remedies_mend_them(
    host: Container,
) -> None:
    with_a_drop_in_of_variables(host)
    host.systemctl("start", SOCKET, SERVICE)
    key = "/var/lib/redstreamd/lease.key"
    wait_until(lambda: host.run("test", "-e", key, check=False).returncode == 0)
    host.run("chmod", "o+r", key)
    host.run("rm", "/run/redstreamd/mcp.sock")
    status, report = examined(host)
    assert status == 2
    assert set(wrong(report)) == {"secrets", "socket", "unit"}
    assert f"chmod go= {key}" in report["secrets"]["todo"]
    assert "/run/redstreamd/mcp.sock was removed" in report["unit"]["seen"]
    assert "`systemctl restart redstreamd.socket`" in report["unit"]["todo"]
    # The remedies, as they are written.
    host.run("chmod", "go=", key)
    host.systemctl("restart", SOCKET)
    host.wait_for(SERVICE, ActiveState="active")
    passes(host)


def test_what_only_the_service_finds_out_is_shown_by_the_report(host: Container) -> None:
    """Also a settings file that sets nothing, which no check of root's misses."""
    with_an_environment_file(host)
    host.systemctl("start", SOCKET)
    host.write(f"{SETTINGS}/redstreamd.toml", "# nothing\n", mode=0o600)
    host.systemctl("restart", SERVICE, check=False)
    _, report = examined(host)
    assert f"{SETTINGS}/redstreamd.toml" in report["confinement"]["seen"]
    assert f"{SETTINGS}/redstreamd.toml cannot be used: Permission denied" in report["socket"]["seen"]
    host.run("rm", f"{SETTINGS}/redstreamd.toml")
    key = "/var/lib/private/redstreamd/lease.key"
    host.systemctl("restart", SERVICE)
    wait_until(lambda: host.run("test", "-e", key, check=False).returncode == 0)
    host.run("chown", "0:0", key)
    host.systemctl("restart", SERVICE, check=False)
    _, report = examined(host)
    seen = report["socket"]["seen"]
    assert "lease.key cannot be used: Permission denied" in seen
    # The remedy, as it is written.
    host.run("sh", "-c", seen.split("`")[1])
    host.systemctl("restart", SERVICE)
    passes(host)


@long
def test_a_settings_file_that_is_a_missing_credential_is_named(host: Container) -> None:
    with_settings_as_a_credential(host)
    host.run("rm", f"{SETTINGS}/redstreamd.toml")
    status, report = examined(host)
    assert status == 78
    assert f"redstreamd.toml: {SETTINGS}/redstreamd.toml does not exist" in report["credentials"]["seen"]
    assert f"/run/credentials/{SERVICE}/redstreamd.toml" in report["settings"]["seen"]
    # The remedy.
    with_settings_as_a_credential(host)
    host.systemctl("start", SOCKET, SERVICE)
    passes(host)


def test_environment_files_are_read_as_systemd_reads_them(host: Container) -> None:
    host.write("/run/rs-environment", ENVIRONMENT_FILE)
    host.write(
        "/run/systemd/system/rs-environment.service",
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nEnvironmentFile=/run/rs-environment\n"
        "ExecStart=/bin/sh -c 'env -0 > /run/rs-environment.seen'\n",
    )
    host.systemctl("daemon-reload")
    try:
        host.systemctl("start", "rs-environment.service")
        seen = host.path("/run/rs-environment.seen").read_text().split("\0")
        given = dict(line.split("=", 1) for line in seen if "=" in line)
        assert {name: given.get(name) for name in ENVIRONMENT} == ENVIRONMENT
        assert not [name for name in given if name.startswith(("no ", "9"))]
    finally:
        host.systemctl("stop", "rs-environment.service")
        for name in ("rs-environment", "rs-environment.seen", "systemd/system/rs-environment.service"):
            with contextlib.suppress(FileNotFoundError):
                host.path(f"/run/{name}").unlink()
