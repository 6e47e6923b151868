"""The options that `serve`, `stdio`, `check-config` and `doctor` share, and how they become settings."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from redstreamd.cli.text import complain

if TYPE_CHECKING:
    from redstreamd.settings import Loaded


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
    arguments: argparse.Namespace,
    use: Callable[[Loaded], int],
    *,
    tell: Callable[[str], None] = lambda reason: None,
) -> int:
    """Load the settings and return what `use` makes of them, or 78 with the reason on stderr.

    Args:
        arguments: Of the command line.
        use: Given the settings; it may find out more that is wrong with them.
        tell: Given the reason, too, where somebody waits who does not see stderr.
    """
    from redstreamd.errors import SettingsError

    try:
        return use(load_from(arguments))
    except SettingsError as invalid:
        complain(str(invalid))
        if "LISTEN_FDS" in os.environ:
            from redstreamd.doors import turn_away_waiting

            turn_away_waiting(str(invalid))
        tell(str(invalid))
        return os.EX_CONFIG
