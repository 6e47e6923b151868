"""Where this process was started from, and what a restart would start."""

from __future__ import annotations

import os
import sys

import msgspec

from redstreamd.startup.installed_version import installed_beside


class Installation(msgspec.Struct, frozen=True):
    """A snapshot of the installation.

    Attributes:
        directory: The environment that this process runs from.
        installed: The directory of the installed version; None without one, as in a checkout.
    """

    directory: str
    installed: str | None


def installation() -> Installation:
    """Return the installation of the calling process, as of now."""
    directory = os.path.realpath(sys.prefix)
    return Installation(directory=directory, installed=installed_beside(directory))
