"""``redstreamd serve``: the daemon."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from redstreamd.cli.options import add_settings_options, with_settings

if TYPE_CHECKING:
    from redstreamd.settings import Loaded


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("serve", help="run the daemon", allow_abbrev=False)
    add_settings_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until told to stop."""
    return with_settings(arguments, _serve)


def _serve(loaded: Loaded) -> int:
    from redstreamd.daemon import serve

    return serve(loaded)
