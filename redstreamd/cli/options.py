"""The options that `serve`, `stdio`, `check-config` and `doctor` share, and how they become settings."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from redstreamd.cli.terminal import complain

if TYPE_CHECKING:
    from redstreamd.settings import Loaded


class Tell(Protocol):
    """Tells clients why this process will not serve them."""

    def __call__(self, reason: str, *, may_pass: bool) -> None:
        """Tell those who wait.

        Args:
            reason: What is wrong and what to do.
            may_pass: Whether it can end without anybody's doing.
        """


def add_settings_options(parser: argparse.ArgumentParser) -> None:
    """Add --config, --embedded, --listen and --set."""
    parser.add_argument(
        "--config", metavar="FILE", help="settings file instead of /etc/redstreamd/redstreamd.toml"
    )
    parser.add_argument("--embedded", action="store_true", help="run a Valkey server of the daemon's own")
    parser.add_argument(
        "--listen",
        metavar="ADDRESS",
        action="append",
        default=[],
        help="unix:PATH or tcp:HOST:PORT, also as a URL; repeatable",
    )
    parser.add_argument(
        "--set",
        metavar="GROUP.KEY=VALUE",
        action="append",
        default=[],
        help="any setting, such as tools.profile=operator; repeatable",
    )


def load_from(arguments: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> Loaded:
    """Load the settings that the options and the other sources give.

    Args:
        arguments: Of the command line.
        environ: The environment to look into.

    Raises:
        SettingsError: They are not valid.
    """
    from pathlib import Path

    from redstreamd.settings import load

    return load(
        config=None if arguments.config is None else Path(arguments.config),
        assignments=arguments.set,
        listen=arguments.listen,
        embedded=arguments.embedded,
        environ=environ,
    )


def with_settings(
    arguments: argparse.Namespace, use: Callable[[Loaded], int], *, tell: Tell | None = None
) -> int:
    """Load the settings and return what `use` makes of them, or 78 or 75 if they cannot work, or not now.

    Args:
        arguments: Of the command line.
        use: Given the settings; it may find out more that is wrong with them. What raises `NotNowError` has
            reported it.
        tell: Given the reason, which stderr has already, where somebody waits who does not see that.
    """
    from redstreamd.errors import NotNowError, SettingsError

    try:
        return use(load_from(arguments))
    except SettingsError as invalid:
        complain(str(invalid))
        reason, may_pass, status = str(invalid), False, os.EX_CONFIG
    except NotNowError as failed:
        reason, may_pass, status = str(failed), True, os.EX_TEMPFAIL
    if tell is not None:
        tell(reason, may_pass=may_pass)
    return status
