"""Connects to a Unix socket as so many clients, a process each: ``clients.py PATH COUNT EACH``.

To a daemon a client is the process that connected (SO_PEERCRED, unix(7)), whoever uses the connection then.
Each passes its EACH connections on over standard input, a socket, or else the reason why there is none, and
stays until that is closed. It needs only the standard library.
"""

from __future__ import annotations

import os
import socket
import sys


def main(path: str, count: int, each: int) -> None:
    """Fork so many, and wait until all have ended."""
    with socket.socket(fileno=0) as passing:
        for _ in range(count):
            if not os.fork():
                connect(path, each, passing)
                return
    for _ in range(count):
        os.wait()


def connect(path: str, count: int, passing: socket.socket) -> None:
    """Pass so many connections on, and stay."""
    for _ in range(count):
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(path)
            except OSError as failure:
                passing.send(str(failure).encode())
            else:
                socket.send_fds(passing, [b"connected"], [connection.fileno()])
    passing.recv(1)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
