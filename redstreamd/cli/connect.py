"""``redstreamd connect``: a bridge from standard input and output to the daemon's socket.

For MCP clients that start a command. Its session outlives the daemon: see `client.bridged_session`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import time
from typing import Any

from redstreamd.cli.options import access_from, add_connection_options
from redstreamd.cli.terminal import print_error
from redstreamd.client.bridge import Bridge
from redstreamd.client.bridged_session import BridgedSession
from redstreamd.client.client_descriptors import ClientDescriptor
from redstreamd.client.daemon_connection import DaemonConnection
from redstreamd.client.discovery import Found, UnreachableError, find_daemon
from redstreamd.client.reattaching import Reattaching, tune
from redstreamd.startup.unavailable import answer_client


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "connect", help="connect stdin and stdout to the running daemon", allow_abbrev=False
    )
    add_connection_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry lines until the client ends; return 75, or 78, if there is no daemon at the start.

    That there is none is reported on stderr and to the client. Return 75 also if the daemon ends the
    connection of a client that does not send JSON.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # End as on SIGTERM, at once and without a traceback: there is nothing to clean up.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = _parent()
    with contextlib.ExitStack() as opened:
        try:
            # Before another descriptor can get their numbers.
            source = opened.enter_context(ClientDescriptor(0, is_sink=False))
            sink = opened.enter_context(ClientDescriptor(1, is_sink=True))
        except OSError:
            return 0  # a client that has ended
        try:
            found = find_daemon(arguments.socket, access_from(arguments))
        except UnreachableError as unreachable:
            print_error(str(unreachable))
            answer_client(str(unreachable), source=0, sink=1)
            return unreachable.exit_status
        tune(found.connection)
        session = BridgedSession(time.monotonic)
        daemon = DaemonConnection(
            found.connection, Reattaching(found), session=session, place=_shown(found), report=print_error
        )
        if Bridge(daemon, source=source, sink=sink, parent=parent, session=session).run():
            print_error(f"the daemon at {_shown(found)} closed the connection: what it got is not MCP")
            return os.EX_TEMPFAIL
    return 0


def _parent() -> int | None:
    """Return a pidfd of the process that started this one; None if it has ended, or cannot be watched."""
    parent = os.getppid()
    if parent <= 1:
        return None
    try:
        descriptor = os.pidfd_open(parent)
    except OSError:
        return None
    if os.getppid() != parent:
        os.close(descriptor)
        return None
    return descriptor


def _shown(found: Found) -> str:
    place = found.place
    return place.path or f"{place.host}:{place.port}"
