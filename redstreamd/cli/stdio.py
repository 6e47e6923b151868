"""``redstreamd stdio``: a daemon for the one client on standard input and output."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from redstreamd.cli.absent import answer_for_absent
from redstreamd.cli.options import add_settings_options, with_settings

if TYPE_CHECKING:
    from redstreamd.settings import Loaded


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("stdio", help="serve one client on stdin and stdout", allow_abbrev=False)
    add_settings_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until the client closes its end; wrong settings are told on stderr and to the client."""
    return with_settings(arguments, _stdio, tell=_tell)


def _tell(reason: str) -> None:
    answer_for_absent(f"redstreamd cannot start: {reason}", source=0, sink=1)


def _stdio(loaded: Loaded) -> int:
    from redstreamd.daemon import stdio

    return stdio(loaded)
