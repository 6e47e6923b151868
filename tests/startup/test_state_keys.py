"""The keys of the state directory are made whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from redstreamd.startup.state_keys import lease_key_in, make_key


def test_the_key_file_is_made_once_and_private(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    key = lease_key_in(directory)
    assert len(key) == 32
    assert lease_key_in(directory) == key
    assert stat.S_IMODE((directory / "lease.key").stat().st_mode) == 0o600
    assert [each.name for each in directory.iterdir()] == ["lease.key"]


def test_the_key_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[str, int]] = []
    fsync, link = os.fsync, os.link

    def noted_fsync(descriptor: int) -> None:
        fsync(descriptor)
        steps.append(("on disk", os.fstat(descriptor).st_size))

    def noted_link(source: Path, target: Path) -> None:
        link(source, target)
        steps.append(("named", target.stat().st_size))

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "link", noted_link)
    lease_key_in(tmp_path)
    assert steps == [("on disk", 32), ("named", 32)]


def test_what_a_killed_daemon_left_of_a_draft_hinders_no_other(tmp_path: Path) -> None:
    # In a container each daemon may have the number of the one before.
    (tmp_path / f".lease.key.{os.getpid()}").touch()
    lease_key_in(tmp_path)


@pytest.mark.parametrize("without", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_key_is_made_on_a_file_system_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without: int
) -> None:
    def refused(source: Path, target: Path) -> None:
        raise OSError(without, os.strerror(without), str(source), None, str(target))

    monkeypatch.setattr(os, "link", refused)
    key = lease_key_in(tmp_path)
    assert lease_key_in(tmp_path) == key
    assert [each.name for each in tmp_path.iterdir()] == ["lease.key"]


def test_the_key_of_another_daemon_that_came_first_is_taken_without_hard_links_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(source: Path, target: Path) -> None:
        target.write_bytes(b"of another daemon")
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), str(source), None, str(target))

    monkeypatch.setattr(os, "link", late)
    assert lease_key_in(tmp_path) == b"of another daemon"


def test_a_link_that_leads_nowhere_is_left_to_whoever_made_it(tmp_path: Path) -> None:
    path = tmp_path / "audit.key"
    path.symlink_to(tmp_path / "not-mounted" / "audit.key")
    with pytest.raises(FileExistsError) as told:
        make_key(path)
    assert told.value.filename == str(path)
    assert [each.name for each in tmp_path.iterdir()] == ["audit.key"]


FULL = """
import resource, sys
from pathlib import Path
from redstreamd.startup.state_keys import lease_key_in
resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))
try:
    lease_key_in(Path(sys.argv[1]))
except OSError as full:
    print(full.strerror)
"""


def test_a_full_disk_leaves_nothing_of_a_key(tmp_path: Path) -> None:
    # A limit of the process stands for the disk (setrlimit(2)): it takes a part, and then nothing more.
    made = subprocess.run([sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True, check=True)
    assert made.stdout == "File too large\n"
    assert list(tmp_path.iterdir()) == []


def test_a_short_key_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lease.key").write_bytes(b"short")
    with pytest.raises(OSError, match="16"):
        lease_key_in(tmp_path)
