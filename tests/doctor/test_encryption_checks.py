"""What doctor says about the keys and the rules of encryption."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from redstreamd.doctor import Service, Severity
from redstreamd.doctor.encryption_checks import check_encryption
from redstreamd.doctor.file_checks import check_secrets
from redstreamd.doctor.unit_text import credentials
from redstreamd.encryption.new_key import make_key
from redstreamd.settings import Loaded, load

RULES = "encryption.streams=jobs:* are encrypted"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    make_key(tmp_path / "keys", "a")
    make_key(tmp_path / "keys", "b")
    return tmp_path / "keys"


def loaded(keys: Path | str, *words: str) -> Loaded:
    given = (f"encryption.keys={keys}", "encryption.writing_key=a", *words)
    return load(config=Path("/dev/null"), assignments=given, environ={"STATE_DIRECTORY": "/nonexistent"})


def test_a_ring_that_can_be_used_is_told_of(keys: Path) -> None:
    found = check_encryption(loaded(keys, RULES).settings, {})
    assert (found.severity, found.seen) == (Severity.OK, "keys a, b, a writes; 1 rules")
    nothing = load(config=Path("/dev/null"), environ={"STATE_DIRECTORY": "/x"}).settings
    assert check_encryption(nothing, {}).severity is Severity.SKIPPED


def test_a_ring_that_cannot_be_used_is_an_error(keys: Path) -> None:
    (keys / "b.key").chmod(0o644)
    found = check_encryption(loaded(keys).settings, {})
    assert found.severity is Severity.ERROR
    assert "chmod 0600" in found.seen
    (keys / "b.key").chmod(0o600)
    (keys / "a.key").unlink()
    found = check_encryption(loaded(keys).settings, {})
    assert found.severity is Severity.ERROR
    assert "encryption.writing_key='a'" in found.seen
    assert "redstreamd keys check" in found.todo


def test_credentials_are_looked_up_in_the_environment_of_the_service(keys: Path) -> None:
    for name in ("a", "b"):
        shutil.move(keys / f"{name}.key", keys / f"keys_{name}.key")
    found = check_encryption(loaded("keys").settings, {"CREDENTIALS_DIRECTORY": str(keys)})
    assert (found.severity, found.seen) == (Severity.OK, "keys a, b, a writes; 0 rules")
    assert check_encryption(loaded("keys").settings, {}).severity is Severity.ERROR


@pytest.mark.parametrize(
    ("words", "seen"),
    [
        (
            ["encryption.streams=jobs:* are encrypted,jobs:x are clear"],
            "rule 2 of encryption says nothing of jobs:x",
        ),
        (
            [RULES, "daemon.listen=tcp:0.0.0.0:7077", "listeners.allow_unprotected_tcp=true"],
            "tcp:0.0.0.0:7077",
        ),
    ],
)
def test_what_has_no_effect_or_is_clear_on_its_way_is_a_warning(
    keys: Path, words: list[str], seen: str
) -> None:
    found = check_encryption(loaded(keys, *words).settings, {})
    assert found.severity is Severity.WARNING
    assert seen in found.seen


def test_two_names_of_one_key_are_a_warning(keys: Path) -> None:
    shutil.copy(keys / "a.key", keys / "b.key")
    found = check_encryption(loaded(keys).settings, {})
    assert (found.severity, found.seen) == (Severity.WARNING, "the keys a and b are the same")


def test_keys_that_others_can_read_are_named_also_where_credentials_come_from(keys: Path) -> None:
    unit = Service(("systemctl",), {}, {}, [], [], credentials(f"[Service]\nLoadCredential=ring:{keys}\n"))
    for named in (loaded(keys), loaded("ring")):
        assert check_secrets(named, unit).severity is Severity.OK
        (keys / "b.key").chmod(0o604)
        found = check_secrets(named, unit)
        assert (found.severity, str(keys / "b.key") in found.seen) == (Severity.WARNING, True)
        assert "let another one write" in found.todo
        assert "passwords" not in found.todo
        (keys / "b.key").chmod(0o600)


def test_a_user_who_may_not_read_the_keys_is_not_told_that_they_are_wrong(keys: Path) -> None:
    given, user = loaded(keys).settings, os.geteuid()
    keys.chmod(0o000 if user else 0o700)
    os.seteuid(user or 65534)  # root may read everything
    try:
        found = check_encryption(given, {})
    finally:
        os.seteuid(user)
        keys.chmod(0o700)
    assert (found.severity, found.seen) == (Severity.SKIPPED, f"this user may not read {keys}")
