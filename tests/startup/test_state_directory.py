"""What is found out about the state directory before the daemon is imported."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from redstreamd.errors import SettingsError
from redstreamd.startup.state_directory import check_state_directory, state_in

REMEDY = "a directory that redstreamd may create files in; see"
HOLDER = """
import sys
from pathlib import Path
from redstreamd.startup.state_directory import take_place
print(take_place(Path(sys.argv[1]), 2), flush=True)
sys.stdin.read()
"""


def test_a_directory_is_made_for_its_owner_only_and_one_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b"
    check_state_directory(directory)
    check_state_directory(directory)
    assert directory.stat().st_mode & 0o777 == 0o700
    with pytest.raises(SettingsError, match=r"/proc/nowhere: No such file or directory"):
        check_state_directory(Path("/proc/nowhere"))


def test_a_full_disk_is_told_with_what_helps(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as told, state_in(tmp_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert f"cannot be used: No space left on device; allowed: {REMEDY} `df {tmp_path}`" in str(told.value)


def test_a_lease_key_that_cannot_be_used_is_named_with_its_remedy(tmp_path: Path) -> None:
    """Before the daemon is imported: clients are told at once."""
    key = tmp_path / "lease.key"
    key.write_bytes(bytes(32))
    check_state_directory(tmp_path)
    key.write_bytes(bytes(15))
    with pytest.raises(SettingsError, match=r"lease\.key cannot be used: it has 15 bytes.*or no file"):
        check_state_directory(tmp_path)
    key.unlink()
    key.mkdir()  # root may read every file, and no directory
    with pytest.raises(SettingsError, match=r"lease\.key cannot be used: Is a directory.*chown --reference"):
        check_state_directory(tmp_path)
    script = (
        "import sys; from pathlib import Path; from redstreamd.errors import SettingsError\n"
        "from redstreamd.startup.state_directory import check_state_directory\n"
        "try: check_state_directory(Path(sys.argv[1]))\n"
        "except SettingsError: print('redstreamd.daemon.daemon' in sys.modules, 'trio' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False False\n"


def test_places_are_taken_once_each_and_come_free_with_their_process(tmp_path: Path) -> None:
    def start() -> tuple[subprocess.Popen[str], bool]:
        command = [sys.executable, "-c", HOLDER, str(tmp_path)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        return process, process.stdout.readline() == "True\n"

    processes, outcomes = zip(*(start() for _ in range(3)), strict=True)
    assert outcomes == (True, True, False)
    processes[0].kill()
    processes[0].wait()
    last, served = start()
    assert served
    for process in (*processes, last):
        process.communicate()
