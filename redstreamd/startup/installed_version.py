"""Tells whether a daemon runs the version that is installed, from where both lie on the disk.

Each installed version has a directory of its own, and the link ``current`` names the one that a start takes
(docs/operations.md). Standard library only, for the commands that are clients of the daemon.
"""

# ruff: noqa: PTH110, PTH116, PTH118, PTH119, PTH120

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any


def installed_beside(directory: str) -> str | None:
    """Return the directory of the version that is installed where `directory` is, or was, one.

    Args:
        directory: The environment (``sys.prefix``) that a program runs from. It need not exist any more.

    Returns:
        None if it is no version that ``make install`` has put there.
    """
    parent = os.path.dirname(directory)
    # Earlier releases were installed in the prefix itself.
    prefix = os.path.dirname(parent) if os.path.basename(parent) == "versions" else directory
    current = os.path.join(prefix, "current")
    return os.path.realpath(current) if os.path.exists(current) else None


def replaced(report: Mapping[str, Any], *, own: str = sys.prefix) -> tuple[str, str] | None:
    """Return what is wrong, and what to do, if a daemon does not run the version that is installed.

    Args:
        report: The daemon's report on its health.
        own: The environment that the asking program runs from.
    """
    version = report.get("redstreamd")
    if isinstance(installation := report.get("installation"), Mapping):
        directory, installed = installation.get("directory"), installation.get("installed")
        if installed is None or directory == installed:
            return None
        running = f"{version} from {directory}"
    else:
        # Versions that did not report it were installed in the prefix, and replaced by the first that does.
        installed = installed_beside(own)
        if installed is None:
            return None
        running = f"{version} from before"
    return (
        f"{running} is running, but {installed} is installed",
        f"To change to it: `{_restart(str(installed))}`.",
    )


def _restart(installed: str) -> str:
    """Return the command that restarts the service of an installation: its owner's, if that is not root."""
    try:
        owner = os.stat(installed).st_uid
    except OSError:
        owner = 0
    return "systemctl restart redstreamd" if owner == 0 else "systemctl --user restart redstreamd"
