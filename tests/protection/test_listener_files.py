"""The files of TCP listeners: a change that cannot be read now."""

from __future__ import annotations

import datetime as dt
import resource
from pathlib import Path

import pytest

from redstreamd.errors import SettingsError
from redstreamd.protection import listener_protection
from redstreamd.protection.listener_protection import Demands, Protection
from tests.support.certificates import Authority

DAY = dt.timedelta(days=1)


async def test_a_change_that_cannot_be_read_now_is_read_once_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener_protection, "LOOK_SECONDS", 0.0)
    file, problems = tmp_path / "token", []
    file.write_text("the first token ever".replace(" ", "-"))
    file.chmod(0o600)
    protection = Protection(Demands(token_file=str(file)), on_problem=problems.append)
    assert (await protection.current()).accepts("the-first-token-ever")
    file.write_text("another-token-than-that")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, limits[1]))
    try:
        for _ in range(2):
            assert (await protection.current()).accepts("the-first-token-ever")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    [told] = problems
    assert "Too many open files" in told
    assert not (await protection.current()).accepts("the-first-token-ever")
    assert len(problems) == 1


async def test_a_certificate_that_expires_is_told_of_once_and_again_after_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener_protection, "LOOK_SECONDS", 0.0)
    authority, told = Authority(tmp_path), []

    def renewed(until: dt.timedelta) -> Demands:
        own = authority.issue("daemon", "localhost", since=-9 * DAY, until=until)
        return Demands(certificate_file=own.certificate, key_file=own.key)

    protection = Protection(
        renewed(-2 * DAY), on_expiring=lambda path, left: told.append((Path(path).name, left))
    )
    for until, days in ((None, -3), (5.5 * DAY, 5), (40 * DAY, None), (-0.5 * DAY, -1)):
        if until is not None:
            renewed(until)
        for _ in range(2):
            credentials = await protection.current()
        assert credentials.expires is not None
        assert told == ([] if days is None else [("daemon.pem", days)])
        told.clear()


def test_a_certificate_whose_expiry_cannot_be_told_is_used(tmp_path: Path) -> None:
    own = Authority(tmp_path).issue("daemon", "localhost")
    # The server reads certificates only; what trusts them reads lists of those revoked, too.
    revoked = "-----BEGIN X509 CRL-----\ndGhhdCBpcyBub3QgZW5vdWdo\n-----END X509 CRL-----\n"
    Path(own.certificate).write_text(Path(own.certificate).read_text() + revoked)
    credentials = Demands(certificate_file=own.certificate, key_file=own.key).read()
    assert credentials.context is not None
    assert credentials.expires is None


def test_a_certificate_without_its_key_is_no_secret_but_not_enough(tmp_path: Path) -> None:
    own = Authority(tmp_path).issue("daemon", "localhost")
    Path(own.certificate).chmod(0o644)
    with pytest.raises(SettingsError, match="the key may have a file of its own"):
        Demands(certificate_file=own.certificate).read()
    both = tmp_path / "both.pem"
    both.write_text(Path(own.certificate).read_text() + Path(own.key).read_text())
    both.chmod(0o644)
    with pytest.raises(SettingsError, match="other users"):
        Demands(certificate_file=str(both)).read()
    both.chmod(0o600)
    assert Demands(certificate_file=str(both)).read().context is not None
