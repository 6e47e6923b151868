"""What doctor says about listeners that demand something of their clients."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from redstreamd.doctor import Service, Severity
from redstreamd.doctor.listener_checks import check_listeners
from redstreamd.settings import Settings, load
from tests.support.certificates import Authority

DAY = dt.timedelta(days=1)


def settings(directory: Path, *words: str) -> Settings:
    return load(assignments=words, environ={"STATE_DIRECTORY": str(directory)}).settings


def unit(private_users: str) -> Service:
    return Service(("systemctl",), {"PrivateUsers": [private_users]}, {}, [], [], [])


def test_where_nothing_is_demanded_nothing_is_checked(tmp_path: Path) -> None:
    assert check_listeners(settings(tmp_path), {}, None).severity is Severity.SKIPPED


@pytest.mark.parametrize(("private", "severity"), [("yes", Severity.WARNING), ("no", Severity.OK)])
def test_uids_that_the_unit_hides_are_a_warning(tmp_path: Path, private: str, severity: Severity) -> None:
    found = check_listeners(settings(tmp_path, "listeners.peer_uids=true"), {}, unit(private))
    assert found.severity is severity
    assert ("peer-identity.conf" in found.todo) is (severity is Severity.WARNING)


@pytest.mark.parametrize(
    ("until", "severity", "seen"),
    [
        (40 * DAY, Severity.OK, "TLS 1.2 or newer"),
        (3 * DAY, Severity.WARNING, "expires in 2 days"),
        (-DAY, Severity.ERROR, "has expired"),
    ],
)
@pytest.mark.parametrize("mutual", [False, True])
@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_a_certificate_that_expires_is_named_in_time(
    tmp_path: Path, until: dt.timedelta, severity: Severity, seen: str, mutual: bool, version: str
) -> None:
    authority = Authority(tmp_path)
    own = authority.issue("daemon", "localhost", since=-9 * DAY, until=until)
    words = [f"listeners.certificate_file={own.certificate}", f"listeners.key_file={own.key}"]
    words += [f"listeners.tls_min_version={version}"]
    words += [f"listeners.client_ca_file={authority.certificate}"] if mutual else []
    found = check_listeners(settings(tmp_path, *words), {}, None)
    assert (found.severity, seen.replace("1.2", version) in found.seen) == (severity, True), found


def test_a_file_that_cannot_be_used_is_an_error_with_its_setting(tmp_path: Path) -> None:
    found = check_listeners(settings(tmp_path, "listeners.token_file=/nonexistent"), {}, None)
    assert found.severity is Severity.ERROR
    assert "listeners.token_file" in found.seen
    credential = settings(tmp_path, "listeners.token_file=listener-token")
    assert "has no credentials" in check_listeners(credential, {}, None).seen
    token = tmp_path / "listener-token"
    token.touch(0o600)
    token.write_text("correct-horse-battery-staple")
    assert check_listeners(credential, {"CREDENTIALS_DIRECTORY": str(tmp_path)}, None).severity is Severity.OK


def test_a_token_that_can_be_read_on_its_way_is_a_warning(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text("correct-horse-battery-staple")
    words = (f"listeners.token_file={token}", "daemon.listen=tcp:0.0.0.0:7077")
    assert check_listeners(settings(tmp_path, *words), {}, None).severity is Severity.WARNING
    words = (f"listeners.token_file={token}", "daemon.listen=tcp:127.0.0.1:7077")
    assert check_listeners(settings(tmp_path, *words), {}, None).severity is Severity.OK
