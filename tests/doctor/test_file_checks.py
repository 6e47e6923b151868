"""Which files others can read, and which the service cannot."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from redstreamd.doctor import CheckResult, Service, Severity
from redstreamd.doctor.file_checks import check_confinement, check_secrets
from redstreamd.doctor.unit_text import credentials
from redstreamd.redisio.configured_target import target_for
from redstreamd.settings import Loaded, load


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that everybody may reach; who may read it is the test's to say."""
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_uid == os.geteuid():
            directory.chmod(directory.stat().st_mode | 0o111)
    made = tmp_path / "file"
    made.write_text("")
    return made


def settings(place: Path | None, text: str = "", **environ: str) -> Loaded:
    """Load settings from a file with this text in a directory, if one is given, and from variables."""
    if place is None:
        return load(environ={"HOME": "/nonexistent", **environ})
    config = place / "redstreamd.toml"
    config.write_text(text)
    config.chmod(0o644)
    return load(config=config, environ={"STATE_DIRECTORY": str(place), **environ})


def service(text: str = "", **properties: str) -> Service:
    return Service(
        ("systemctl",), {name: [value] for name, value in properties.items()}, {}, [], [], credentials(text)
    )


@pytest.mark.parametrize("mode", [0o600, 0o400])
@pytest.mark.parametrize("open_to", [0o040, 0o004, 0o020, 0o001])
def test_a_lease_key_that_others_can_read_is_named_with_both_remedies(
    tmp_path: Path, mode: int, open_to: int
) -> None:
    key = tmp_path / "lease.key"
    key.write_bytes(bytes(32))
    key.chmod(mode)
    assert check_secrets(settings(tmp_path), None).severity is Severity.OK
    key.chmod(mode | open_to)
    check = check_secrets(settings(tmp_path), None)
    assert check.severity is Severity.WARNING
    assert str(key) in check.seen
    assert f"chmod go= {key}" in check.todo
    assert "which makes a new one" in check.todo


def password_in_settings(file: Path) -> CheckResult:
    loaded = settings(file.parent, '[redis]\npassword = "p"\n')
    (file.parent / "redstreamd.toml").chmod(file.stat().st_mode)
    return check_secrets(loaded, None)


def url_in_settings(file: Path) -> CheckResult:
    loaded = settings(file.parent, '[redis]\nurl = "redis://:p@localhost"\n')
    (file.parent / "redstreamd.toml").chmod(file.stat().st_mode)
    return check_secrets(loaded, None)


def password_file(file: Path) -> CheckResult:
    return check_secrets(settings(file.parent, REDIS_PASSWORD_FILE=str(file)), None)


def key_file(file: Path) -> CheckResult:
    tls = f'[redis]\ntls = true\ncertificate_file = "/x"\nkey_file = "{file}"\n'
    return check_secrets(settings(file.parent, tls), None)


def environment_file(file: Path) -> CheckResult:
    given = Service(("systemctl",), {}, {"REDIS_PASSWORD": "p"}, [file], [], [])
    return check_secrets(settings(file.parent), given)


def source_of_a_credential(file: Path) -> CheckResult:
    given = service(f"[Service]\nLoadCredential=redis-password:{file}\n")
    return check_secrets(settings(file.parent, REDIS_PASSWORD_FILE="redis-password"), given)


HOLDERS = [
    password_in_settings,
    url_in_settings,
    password_file,
    key_file,
    environment_file,
    source_of_a_credential,
]


@pytest.mark.parametrize("holder", HOLDERS)
def test_every_file_that_holds_a_secret_is_looked_at(file: Path, holder) -> None:
    file.chmod(0o640)
    assert holder(file).severity is not Severity.WARNING
    file.chmod(0o644)
    check = holder(file)
    assert check.severity is Severity.WARNING
    assert "chmod go=" in check.todo
    assert "change the passwords" in check.todo


def test_what_holds_no_secret_may_be_read(file: Path) -> None:
    file.chmod(0o644)
    loaded = settings(file.parent, f'[redis]\ntls = true\nca_file = "{file}"\n')
    assert check_secrets(loaded, Service(("systemctl",), {}, {"LANG": "C"}, [file], [], [])).severity in (
        Severity.OK,
        Severity.SKIPPED,
    )


@pytest.mark.parametrize(("mode", "severity"), [(0o600, Severity.ERROR), (0o644, Severity.OK)])
async def test_a_file_that_only_root_may_read_is_closed_to_the_service(
    file: Path, mode: int, severity: Severity
) -> None:
    os.chmod(file, mode)  # noqa: PTH101
    loaded = settings(file.parent, f'[redis]\ntls = true\nca_file = "{file}"\nhost = "127.0.0.1"\n')
    check = await check_confinement(
        loaded, service(User="redstreamd", DynamicUser="yes"), [target_for(loaded.settings.redis)]
    )
    assert check.severity is severity
    assert (str(file) in check.seen) is (severity is Severity.ERROR)


@pytest.mark.parametrize(
    ("host", "allowed", "severity"),
    [
        ("127.0.0.1", "127.0.0.0/8 ::1/128", Severity.OK),
        ("192.0.2.1", "127.0.0.0/8 ::1/128", Severity.WARNING),
        ("192.0.2.1", "127.0.0.0/8 192.0.2.1/32", Severity.OK),
    ],
)
async def test_an_address_that_the_service_may_not_talk_to_is_named(
    host: str, allowed: str, severity: Severity
) -> None:
    loaded = settings(None, REDIS_HOST=host)
    confined = service(IPAddressDeny="0.0.0.0/0 ::/0", IPAddressAllow=allowed)
    check = await check_confinement(loaded, confined, [target_for(loaded.settings.redis)])
    assert check.severity is severity
    assert (host in check.seen) is (severity is Severity.WARNING)


async def test_a_service_without_a_network_reaches_no_port() -> None:
    loaded = settings(None)
    check = await check_confinement(
        loaded, service(PrivateNetwork="yes"), [target_for(loaded.settings.redis)]
    )
    assert check.severity is Severity.ERROR
    assert "redis.path" in check.todo
