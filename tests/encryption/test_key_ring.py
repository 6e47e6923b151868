"""Keys from a directory and from credentials: what is read and refused, and that no error shows a key."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path

import pytest

from redstreamd.encryption.key_files import KeyPlace, key_files
from redstreamd.encryption.key_ring import KeyRing
from redstreamd.errors import SettingsError

SECRET = bytes(range(32))
TEXT = base64.b64encode(SECRET).decode()


def put(directory: Path, name: str, content: str = TEXT, mode: int = 0o600) -> Path:
    directory.mkdir(mode=0o700, exist_ok=True)
    path = directory / name
    path.write_text(content)
    path.chmod(mode)
    return path


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    directory = tmp_path / "keys"
    put(directory, "2026-11.key")
    put(directory, "2026-12.key", base64.b64encode(b"\1" * 32).decode() + "\n")
    return directory


def refusal(directory: Path, writing: str | None = None) -> str:
    with pytest.raises(SettingsError) as raised:
        KeyRing.read(KeyPlace(str(directory)), writing)
    assert TEXT[:20] not in str(raised.value)
    return str(raised.value)


def test_a_directory_is_a_ring_of_which_one_key_writes(keys: Path) -> None:
    put(keys, "README")
    put(keys, ".2027-01.key.new", "half")
    ring = KeyRing.read(KeyPlace(str(keys)), "2026-11")
    assert ring.ids == ("2026-11", "2026-12")
    assert ring.writing is not None
    assert ring.writing.secret == SECRET
    assert ring.get("2026-12").secret == b"\1" * 32
    assert ring.get("2027-01") is None
    assert TEXT not in repr(ring)
    assert repr(ring.writing) == "Key(id='2026-11')"


def test_credentials_of_a_service_are_a_ring_too(keys: Path, tmp_path: Path) -> None:
    """systemd names those of a directory NAME_FILE, and its access list shows as the mode of a group."""
    directory = tmp_path / "credentials"
    put(directory, "keys_2026-11.key", mode=0o440)
    put(directory, "redis-password", "secret")
    put(directory, "other_x.key")
    # Orchestrators put links there.
    (directory / "keys_linked.key").symlink_to(keys / "2026-12.key")
    ring = KeyRing.read(KeyPlace(str(directory), "keys_", is_trusted=True), None)
    assert ring.ids == ("2026-11", "linked")
    with pytest.raises(
        SettingsError, match=r"LoadCredential=none:DIRECTORY .* LoadCredentialEncrypted=none_ID"
    ):
        KeyRing.read(KeyPlace(str(directory), "none_", is_trusted=True), None)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644])
def test_a_key_that_others_may_read_or_change_is_refused(keys: Path, mode: int) -> None:
    path = keys / "2026-12.key"
    path.chmod(mode)
    assert f"(mode {mode:04o}); run `chmod 0600 {path}`" in refusal(keys)


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_a_directory_that_others_may_write_to_is_refused(keys: Path, mode: int) -> None:
    keys.chmod(mode)
    assert f"run `chmod go-w {keys}`" in refusal(keys)


def test_links_are_not_followed(keys: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(keys)
    assert "symbolic link" in refusal(tmp_path / "linked")
    outside = put(tmp_path / "elsewhere", "x.key")
    (keys / "2027-01.key").symlink_to(outside)
    assert "2027-01.key: it is a symbolic link" in refusal(keys)


def test_what_is_no_regular_file_is_refused_without_waiting(keys: Path) -> None:
    os.mkfifo(keys / "pipe.key", 0o600)
    assert "pipe.key: it is no regular file" in refusal(keys)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "it is empty"),
        (TEXT[:-4], "32 bytes in base64"),
        (TEXT + TEXT, "32 bytes in base64"),
        (TEXT[:-1], "32 bytes in base64"),
        (TEXT + "\nmore", "32 bytes in base64"),
        (f"{TEXT[:10]} {TEXT[10:]}", "32 bytes in base64"),
        ("A" * 5000, "32 bytes in base64"),
        (SECRET.hex(), "32 bytes in base64"),
    ],
)
def test_a_file_that_holds_no_key_is_refused_without_its_content(
    keys: Path, content: str, reason: str
) -> None:
    put(keys, "2026-11.key", content)
    text = refusal(keys)
    assert f"{keys}/2026-11.key: it" in text
    assert reason in text
    assert not content or content[:10] not in text


def test_names_that_are_no_ids_are_refused(keys: Path) -> None:
    for name in ("Upper.key", "-x.key", "a b.key", f"{'a' * 33}.key"):
        path = put(keys, name)
        assert "its name gives no ID" in refusal(keys)
        path.unlink()


def test_a_missing_directory_writing_key_or_any_key_is_told_with_what_to_do(
    keys: Path, tmp_path: Path
) -> None:
    assert "redstreamd keys new ID" in refusal(tmp_path / "absent")
    (tmp_path / "empty").mkdir(mode=0o700)
    assert "holds no file ID.key" in refusal(tmp_path / "empty")
    text = refusal(keys, "2027-01")
    assert "encryption.writing_key='2027-01'" in text
    assert "2026-11, 2026-12" in text
    assert "`redstreamd keys new 2027-01`" in text


def test_all_files_are_told_of_also_beside_a_bad_one(keys: Path) -> None:
    (keys / "2026-11.key").chmod(0o644)
    bad, good = key_files(KeyPlace(str(keys)))
    assert (bad.key, bad.mode) == (None, 0o644)
    assert good.key is not None
    assert good.problem == ""


def test_what_encrypts_is_imported_where_there_are_keys_and_not_before() -> None:
    """A daemon without keys does not pay for it."""
    code = (
        "import sys, redstreamd.daemon.daemon as daemon; daemon.make_lazy(daemon._LAZY_PACKAGES);"
        "import redstreamd.daemon.serving, redstreamd.daemon.keys_in_force as keys;"
        "before = 'cryptography.hazmat' in sys.modules; keys.load_ciphers();"
        "print(before, 'cryptography.hazmat.primitives.kdf.hkdf' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False True\n"
