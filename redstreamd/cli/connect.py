"""``redstreamd connect``: a bridge from standard input and output to the daemon's socket.

For MCP clients that start a command. Each direction has a thread that copies bytes, so neither blocks the
other. Calls are blocking, because O_NONBLOCK belongs to the open file, which the client shares.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import socket
import threading
from typing import Any

from redstreamd.cli.terminal import print_error
from redstreamd.client.discovery import UnreachableError, open_connection
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
    """Copy bytes until the daemon closes its side; return 75 if it cannot be reached or closes first.

    That it cannot be reached is reported on stderr and to the client.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # End as on SIGTERM, at once and without a traceback: there is nothing to clean up.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        with open_connection(arguments.socket) as connection:
            return bridge(connection, source=0, sink=1)
    except UnreachableError as unreachable:
        print_error(str(unreachable))
        answer_client(str(unreachable), source=0, sink=1)
        return unreachable.exit_status


def bridge(connection: socket.socket, *, source: int, sink: int) -> int:
    """Copy `source` to the connection and the connection to `sink`, byte for byte.

    At the end of `source` only that direction is shut down, so that pending answers arrive. Returns when the
    daemon has closed its side or `sink` has no reader.

    Args:
        connection: Connected to the daemon, blocking.
        source: Descriptor to read from.
        sink: Descriptor to write to.

    Returns:
        0 at the end of `source`, 75 if the daemon closed the connection before.
    """
    ended = threading.Event()
    threading.Thread(target=_forward, args=(source, connection, ended), daemon=True).start()
    while True:
        try:
            chunk = connection.recv(_CHUNK)
        except OSError:
            return _connection_lost(connection)
        if not chunk:
            return 0 if ended.is_set() else _connection_lost(connection)
        try:
            _write(sink, chunk)
        except OSError:
            return 0  # the client is gone


def _forward(source: int, connection: socket.socket, ended: threading.Event) -> None:
    try:
        while chunk := _read(source):
            connection.sendall(chunk)
    except OSError:
        return  # the daemon closed the connection; the other thread reads the rest and reports that
    ended.set()
    try:
        connection.shutdown(socket.SHUT_WR)
    except OSError:
        return  # as above


def _read(descriptor: int) -> bytes:
    """Read what is available; empty at the end, and on an error (EIO of a closed terminal)."""
    while True:
        try:
            return os.read(descriptor, _CHUNK)
        except BlockingIOError:
            select.select([descriptor], [], [])  # some clients pass non-blocking descriptors
        except OSError:
            return b""


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:
            select.select([], [descriptor], [])


def _connection_lost(connection: socket.socket) -> int:
    print_error(f"the daemon at {connection.getpeername()} closed the connection; start a new session")
    return os.EX_TEMPFAIL
