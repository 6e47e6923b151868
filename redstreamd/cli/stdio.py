"""``redstreamd stdio``: a daemon for the one client on standard input and output."""

from __future__ import annotations

import argparse
import os
from functools import partial
from typing import TYPE_CHECKING, Any

from redstreamd.cli.options import add_settings_options, load_from, with_settings
from redstreamd.errors import NotNowError
from redstreamd.startup.start_without_collector import collect_nothing
from redstreamd.startup.unavailable import (
    answer_client,
    answer_clients,
    has_left,
    inherited_connection,
    inherited_listeners,
)

if TYPE_CHECKING:
    from redstreamd.settings import Loaded


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("stdio", help="serve one client on stdin and stdout", allow_abbrev=False)
    add_settings_options(parser)
    parser.add_argument(
        "--at-most",
        metavar="N",
        type=int,
        help="refuse the client, with a reason, if N processes that were given this option serve already",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until the client closes its end. If that is impossible, answer the client with the reason."""
    collect_nothing()
    listeners, connection = inherited_listeners(), inherited_connection()
    if connection is not None and has_left(connection):
        # The client closed the connection before systemd accepted it.
        return os.EX_OK

    def answer(reason: str, *, temporary: bool) -> None:
        message = f"redstreamd cannot start: {reason}"
        if connection is not None:
            answer_clients([], message, connections=[connection])
        elif listeners:
            answer_clients(listeners, message)
        else:
            answer_client(message, source=0, sink=1)

    def serve(loaded: Loaded) -> int:
        from redstreamd.startup.state_directory import check_state_directory, take_place

        directory = loaded.settings.daemon.state_directory
        check_state_directory(directory)
        if arguments.at_most is not None and not take_place(directory, arguments.at_most):
            raise NotNowError(f"{arguments.at_most} clients are served, the most there may be; try later")
        # Imported last, because it takes a second.
        from redstreamd.daemon.daemon import stdio

        return stdio(loaded, load=partial(load_from, arguments))

    return with_settings(arguments, serve, on_failure=answer)
