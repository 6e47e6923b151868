"""The key of leases that the settings name: read wherever it lies, refused with what is wrong."""

from __future__ import annotations

import subprocess
from pathlib import Path

import attrs
import pytest

from redstreamd.errors import SettingsError
from redstreamd.settings import Settings
from redstreamd.settings.configured_lease_key import read_lease_key
from redstreamd.settings.sections import DaemonSettings
from tests.support import preloaded
from tests.support.daemon import PROGRAM, clean_environment


def settings(file: str | Path | None) -> DaemonSettings:
    return attrs.evolve(Settings().daemon, lease_key_file=None if file is None else Path(file))


def test_without_the_setting_the_state_directory_has_the_key() -> None:
    assert read_lease_key(settings(None)) is None


def test_the_key_is_the_content_of_the_file_or_of_the_credential(tmp_path: Path) -> None:
    key = bytes(range(32))
    (tmp_path / "lease-key").write_bytes(key)
    assert read_lease_key(settings(tmp_path / "lease-key"), {}) == key
    assert read_lease_key(settings("lease-key"), {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == key


@pytest.mark.parametrize("content", [None, b"", b"short"])
def test_a_key_that_cannot_be_used_is_refused_and_never_made(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "lease-key"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError) as refused:
        read_lease_key(settings(file), {})
    text = str(refused.value)
    assert f"daemon.lease_key_file='{file}'" in text
    assert "head -c 32 /dev/urandom" in text
    assert file.exists() == (content is not None)


def test_a_credential_needs_a_service(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="LoadCredential="):
        read_lease_key(settings("lease-key"), {})


@pytest.mark.parametrize("command", ["check-config", "serve"])
def test_both_the_check_and_the_start_refuse_it(tmp_path: Path, command: str) -> None:
    (tmp_path / "home").mkdir()
    variables = {"REDSTREAMD_DAEMON_LEASE_KEY_FILE": str(tmp_path / "absent")}
    done = run(tmp_path / "home", command, **variables)
    assert done.returncode == 78, done
    assert "daemon.lease_key_file" in done.stderr.decode()


def test_several_processes_have_no_embedded_server(tmp_path: Path) -> None:
    done = run(tmp_path, "check-config", "--embedded", REDSTREAMD_DAEMON_INSTANCE="2")
    assert done.returncode == 78
    assert "daemon.embedded" in done.stderr.decode()
    assert run(tmp_path, "check-config", REDSTREAMD_DAEMON_INSTANCE="../2").returncode == 78


def run(home: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    done: subprocess.CompletedProcess[bytes] = preloaded.run(
        [PROGRAM, *words], env=clean_environment(home, **variables)
    )
    return done
