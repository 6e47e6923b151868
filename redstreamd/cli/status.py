"""``redstreamd status``: shows the report of the running daemon (the resource redstream://health)."""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from typing import Any, Final

from redstreamd.cli.options import access_from, add_connection_options
from redstreamd.cli.terminal import print_error

_WATCH_SECONDS: Final = 2.0
_LEAST_SECONDS: Final = 0.2
_MOST_SECONDS: Final = 86_400.0


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "status", help="tell how the running daemon is; exit 1 if Redis fails it", allow_abbrev=False
    )
    add_connection_options(parser)
    parser.add_argument("--json", action="store_true", help="print the daemon's report as it is")
    parser.add_argument(
        "--watch",
        metavar="SECONDS",
        nargs="?",
        type=_interval,
        const=_WATCH_SECONDS,
        help=f"show it again every so many seconds ({_WATCH_SECONDS:g} if none are given), until Ctrl-C; "
        "with --json one line each time",
    )
    parser.set_defaults(run=run)


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not _LEAST_SECONDS <= seconds <= _MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r} is not {_LEAST_SECONDS:g} to {_MOST_SECONDS:g} seconds")
    return seconds


def run(arguments: argparse.Namespace) -> int:
    """Print the report; return 0, or 1 if there is a problem with Redis, or 75 if no daemon answers.

    With --watch it goes on until it is interrupted, also while no daemon answers.
    """
    # Not for each start of the program.
    from redstreamd.cli.status_layout import arranged, layout_of_stdout
    from redstreamd.cli.status_request import NoReportError, ask_for_report
    from redstreamd.cli.status_text import redis_problems, report_lines
    from redstreamd.cli.status_watch import watch

    # A name that the locale has no characters for must not end the program.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    ask = partial(ask_for_report, arguments.socket, access_from(arguments))
    try:
        if arguments.watch is not None:
            watch(ask, arguments.watch, as_json=arguments.json)
        report = ask()
    except NoReportError as none:
        print_error(str(none))
        return none.exit_status
    if arguments.json:
        lines = json.dumps(report, indent=2).split("\n")
    else:
        layout = layout_of_stdout()
        lines = list(arranged(report_lines(report, layout.glyphs), layout))
    print("\n".join(lines))
    return 1 if redis_problems(report["redis"]) else 0
