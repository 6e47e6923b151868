"""Compares the version that a daemon runs with the installed one, by their directories.

Each version has a directory, and the link ``current`` names the installed one (docs/operations.md). Standard
library only, for the commands that are clients of the daemon.
"""

# ruff: noqa: PTH110, PTH116, PTH118, PTH119, PTH120

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any


def installed_beside(directory: str) -> str | None:
    """Return the directory of the installed version, or None if `directory` is not of ``make install``.

    Args:
        directory: The environment (``sys.prefix``) of a version; it need not exist any more.
    """
    parent = os.path.dirname(directory)
    # Earlier releases were installed in the prefix itself.
    prefix = os.path.dirname(parent) if os.path.basename(parent) == "versions" else directory
    current = os.path.join(prefix, "current")
    return os.path.realpath(current) if os.path.exists(current) else None


def replaced(report: Mapping[str, Any], *, own: str = sys.prefix) -> tuple[str, str] | None:
    """Return problem and remedy if a daemon does not run the installed version, else None.

    Args:
        report: The daemon's health report.
        own: The environment of the calling program.
    """
    version = report.get("redstreamd")
    if isinstance(installation := report.get("installation"), Mapping):
        directory, installed = installation.get("directory"), installation.get("installed")
        if installed is None or directory == installed:
            return None
        running = f"{version} from {directory}"
    else:
        # Versions that do not report it were installed in the prefix itself.
        installed = installed_beside(own)
        if installed is None:
            return None
        running = f"{version} from before"
    return (
        f"{running} is running, but {installed} is installed",
        f"To change to it: `{_restart(str(installed))}`.",
    )


def _restart(installed: str) -> str:
    """Return the command that restarts the service: the system's if root owns the installation."""
    try:
        owner = os.stat(installed).st_uid
    except OSError:
        owner = 0
    return "systemctl restart redstreamd" if owner == 0 else "systemctl --user restart redstreamd"
