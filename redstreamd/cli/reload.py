"""``redstreamd reload``: has the running daemon read its settings again, and tells what came of it.

It is the ExecReload= of the unit: `systemctl reload` returns when the settings apply, and fails if they are
not valid. A signal alone is not waited for. Whom to signal is never the daemon's word: it is $MAINPID, which
systemd sets for ExecReload=, or the process that has opened the socket.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import struct
import time
from typing import Any, Final

from redstreamd.cli.options import access_from, add_connection_options
from redstreamd.cli.status_request import report_in
from redstreamd.cli.terminal import print_error, print_lines
from redstreamd.client.discovery import UnreachableError, open_connection
from redstreamd.client.single_request import exchange, health_request

#: Seconds for one answer, and for the reload: it reads files, and no server is waited for.
_ANSWER_SECONDS: Final = 10.0
_RELOAD_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 0.05
#: Until one is served by the process that is meant: it gets one as soon as it has fewest.
_MAX_CONNECTIONS: Final = 512


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "reload",
        help="have the running daemon read its settings again; exit 78 if one is wrong",
        allow_abbrev=False,
    )
    add_connection_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Reload; return 0, 78 if the settings are not valid, 75 if no daemon answers or it does not reload."""
    try:
        with contextlib.ExitStack() as opened:
            outcome = _reload(_connected(arguments, opened))
    except UnreachableError as unreachable:
        print_error(str(unreachable))
        return unreachable.exit_status
    except OSError as broken:
        print_error(f"the daemon did not answer ({broken}); read `journalctl -u redstreamd`")
        return os.EX_TEMPFAIL
    except ValueError as refused:
        print_error(str(refused))
        return os.EX_TEMPFAIL
    if outcome["refusal"] is not None:
        print_error(outcome["refusal"], "nothing was changed")
        return os.EX_CONFIG
    lines = [f"changed: {', '.join(outcome['changed']) or 'nothing'}"]
    if outcome["restart"]:
        lines.append(f"restart to apply: {', '.join(outcome['restart'])}")
    print_lines(lines)
    return os.EX_OK


def _connected(arguments: argparse.Namespace, opened: contextlib.ExitStack) -> socket.socket:
    """Return a connection to the daemon: to the very process of $MAINPID, where several share the socket.

    The connections to others stay open until `opened` ends, so that the next one goes to another process.

    Raises:
        UnreachableError: No daemon answers.
        ValueError: The process does not answer over this socket.
        OSError: A daemon does not answer.
    """
    wanted = _given_process()
    for _ in range(_MAX_CONNECTIONS):
        connection = opened.enter_context(open_connection(arguments.socket, access_from(arguments)))
        connection.settimeout(_ANSWER_SECONDS)
        if wanted is None:
            return connection
        report = report_in(exchange(connection, health_request("redstreamd-reload")))
        # Others than those of the table do not share the socket, whatever their process ID says.
        sharing = [each["pid"] for each in report.get("sharing", {}).get("processes", [])]
        if wanted not in sharing or report["process"]["pid"] == wanted:
            return connection
    raise ValueError(f"process {wanted} does not take connections; read `journalctl -u redstreamd`")


def _reload(connection: socket.socket) -> dict[str, Any]:
    """Send the signal and return what the daemon says of the reload.

    Raises:
        ValueError: It cannot be sent, or nothing comes of it.
        OSError: The daemon does not answer.
    """
    before = _outcomes(_ask(connection))
    os.kill(_main_process(connection), signal.SIGHUP)
    deadline = time.monotonic() + _RELOAD_SECONDS
    while time.monotonic() < deadline:
        outcome = _ask(connection)
        if _outcomes(outcome) != before:
            return outcome
        time.sleep(_LOOK_SECONDS)
    raise ValueError(f"the daemon did not reload within {_RELOAD_SECONDS:g} s; nohup keeps it from doing so")


def _ask(connection: socket.socket) -> dict[str, Any]:
    report = report_in(exchange(connection, health_request("redstreamd-reload")))
    if "reload" not in report:
        raise ValueError("the daemon does not reload: its version is older, or it serves one client only")
    outcome: dict[str, Any] = report["reload"]
    return outcome


def _outcomes(outcome: dict[str, Any]) -> int:
    return int(outcome["reloads"]) + int(outcome["refused"])


def _main_process(connection: socket.socket) -> int:
    """Return the daemon's process.

    Raises:
        ValueError: It is not known for sure.
    """
    if (given := _given_process()) is not None:
        return given
    if connection.family == socket.AF_UNIX:
        # Who has begun to listen (unix(7)): with a socket unit that is systemd.
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid, _, _ = struct.unpack("3i", credentials)
        if pid > 1 and _runs_redstreamd(pid):
            return int(pid)
    raise ValueError("its process is not known here: use `systemctl reload redstreamd`, or send it SIGHUP")


def _given_process() -> int | None:
    """Return the process that systemd names to ExecReload=."""
    given = os.environ.get("MAINPID", "")
    return int(given) if given.isdecimal() else None


def _runs_redstreamd(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:  # noqa: PTH123 - pathlib takes as long as all the rest
            return b"redstreamd" in file.read()
    except OSError:
        return False
