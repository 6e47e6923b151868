"""Whether a daemon runs what is installed, told from its report and from where things lie."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from redstreamd.startup.installed_version import installed_beside, replaced

MANAGERS = ("systemctl", "systemctl --user")


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """A prefix with two versions, the second installed."""
    for version in ("1", "2"):
        (tmp_path / "versions" / version).mkdir(parents=True)
    (tmp_path / "current").symlink_to("versions/2")
    return tmp_path


def test_the_installed_version_is_found_from_each_version_and_from_the_prefix_itself(prefix: Path) -> None:
    second = str(prefix / "versions" / "2")
    for directory in ("versions/1", "versions/2", "versions/removed", "."):
        assert installed_beside(os.path.normpath(prefix / directory)) == second


def test_where_no_versions_are_kept_none_is_installed(tmp_path: Path) -> None:
    assert installed_beside(str(tmp_path)) is None
    assert installed_beside(str(tmp_path / "versions" / "1")) is None


def report(prefix: Path, running: str) -> dict[str, Any]:
    directory = str(prefix / "versions" / running)
    return {
        "redstreamd": "0.1.0",
        "installation": {"directory": directory, "installed": installed_beside(directory)},
    }


def test_two_versions_of_the_same_number_are_told_apart_by_their_directories(prefix: Path) -> None:
    assert replaced(report(prefix, "2")) is None
    found = replaced(report(prefix, "1"))
    assert found is not None
    assert found[0] == f"0.1.0 from {prefix}/versions/1 is running, but {prefix}/versions/2 is installed"


def test_the_owner_of_the_installation_says_which_manager_restarts_it(prefix: Path) -> None:
    found = replaced(report(prefix, "1"))
    assert found is not None
    service, person = (f"To change to it: `{command} restart redstreamd`." for command in MANAGERS)
    assert found[1] == (person if os.geteuid() else service)
    if os.geteuid() == 0:
        os.chown(prefix / "versions" / "2", 1000, 1000)
        found = replaced(report(prefix, "1"))
        assert found is not None
        assert found[1] == person


def test_a_daemon_that_does_not_report_it_is_older_than_an_installed_program_that_asks(prefix: Path) -> None:
    found = replaced({"redstreamd": "0.0.9"}, own=str(prefix / "versions" / "2"))
    assert found is not None
    assert "0.0.9 from before is running" in found[0]
    # Whoever asks from a checkout knows nothing of what is installed.
    assert replaced({"redstreamd": "0.0.9"}, own=str(prefix / "elsewhere")) is None


def test_a_daemon_of_a_checkout_is_of_no_installed_version() -> None:
    assert (
        replaced({"redstreamd": "1", "installation": {"directory": "/home/me/x", "installed": None}}) is None
    )
