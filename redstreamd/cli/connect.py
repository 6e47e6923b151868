"""``redstreamd connect``: a bridge from standard input and output to the daemon's socket.

For MCP clients that start a command. Bytes pass unread in both directions, one thread
each, so neither can hold up the other however large a message is. Blocking calls rather
than non-blocking descriptors: O_NONBLOCK belongs to the open file, which the client shares.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import socket
import threading
from typing import Any

from redstreamd.cli.discovery import UnreachableError, open_connection
from redstreamd.cli.terminal import complain
from redstreamd.startup.unavailable import answer_client

_CHUNK = 256 * 1024  # bytes; larger reads gain nothing on a pipe (64 KiB) or a Unix socket (208 KiB)


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "connect", help="connect stdin and stdout to the running daemon", allow_abbrev=False
    )
    parser.add_argument(
        "--socket", metavar="PATH", help="the daemon's socket, or tcp:HOST:PORT, instead of the usual places"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry bytes until the daemon closes its side; return 75 if it is not there or goes away.

    One that is not there is reported on stderr and to the client.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Die of it like of SIGTERM, at once and without a traceback: nothing here needs tidying.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        with open_connection(arguments.socket) as connection:
            return bridge(connection, source=0, sink=1)
    except UnreachableError as unreachable:
        complain(str(unreachable))
        answer_client(str(unreachable), source=0, sink=1)
        return unreachable.exit_status


def bridge(connection: socket.socket, *, source: int, sink: int) -> int:
    """Carry `source` to the connection and the connection to `sink`, byte for byte.

    At the end of `source` only that direction is shut down: answers still on their way
    arrive. Returns when the daemon has closed its side, or nobody reads `sink` any more.

    Args:
        connection: Connected to the daemon, blocking.
        source: Descriptor to read from.
        sink: Descriptor to write to.

    Returns:
        0 at a proper end, 75 if the daemon left while `source` was open.
    """
    ended = threading.Event()
    threading.Thread(target=_forward, args=(source, connection, ended), daemon=True).start()
    while True:
        try:
            chunk = connection.recv(_CHUNK)
        except OSError:
            return _abandoned(connection)
        if not chunk:
            return 0 if ended.is_set() else _abandoned(connection)
        try:
            _write(sink, chunk)
        except OSError:
            return 0  # the client is gone, and with it whoever could be told


def _forward(source: int, connection: socket.socket, ended: threading.Event) -> None:
    try:
        while chunk := _read(source):
            connection.sendall(chunk)
    except OSError:
        return  # the daemon left; the other thread reads what it had still sent, then says so
    ended.set()
    try:
        connection.shutdown(socket.SHUT_WR)
    except OSError:
        return  # likewise


def _read(descriptor: int) -> bytes:
    """Read what there is; empty at the end, and when the other side broke off (a terminal's EIO)."""
    while True:
        try:
            return os.read(descriptor, _CHUNK)
        except BlockingIOError:
            select.select([descriptor], [], [])  # some clients hand over non-blocking descriptors
        except OSError:
            return b""


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:
            select.select([], [descriptor], [])


def _abandoned(connection: socket.socket) -> int:
    complain(f"the daemon at {connection.getpeername()} closed the connection; start a new session to go on")
    return os.EX_TEMPFAIL
