"""The polite client: a program of its own that sends prepared lines one after the other, timing the answers.

    polite.py ADDRESS LINES SECONDS GAP PIDS

ADDRESS is a Unix socket, or ``http:PORT`` of 127.0.0.1. LINES is a file with a request a line, or over HTTP
in two: the head as a JSON string, and the body. Their ids are their numbers, from 0. A request is sent GAP
seconds after the one before, or as soon as that is answered if this takes longer. PIDS (separated by commas)
are the daemon and Redis. It needs only the standard library, so that it starts at once and takes little of a
core.

Prints one line of JSON: for each call when it was sent, how long the answer took, how much of that the
processes waited for a core (the run queue; sched-stats.rst of the kernel), how long the daemon was running,
and the answer; and how late each sleep ended. An answer is null if there was none in ten seconds, or if the
connection was closed; then it connects again.
"""

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Sequence

#: A call without an answer for so many seconds is lost.
_PATIENCE = 10.0
#: A machine that is busy with others gets so many seconds more, until there were so many calls.
_LEAST_CALLS = 30


class _Schedule:
    """What the kernel's scheduler has counted for some processes, this one among them."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._files = [os.open(f"/proc/{pid}/schedstat", os.O_RDONLY) for pid in (*pids, os.getpid())]

    def read(self) -> tuple[int, int]:
        """Return nanoseconds: that the first was running, and that all of them waited for a core."""
        counted = [os.pread(file, 64, 0).split() for file in self._files]
        return int(counted[0][0]), sum(int(each[1]) for each in counted)


def _connect(address: str) -> socket.socket:
    scheme, _, port = address.rpartition(":")
    if scheme == "http":
        connection = socket.create_connection(("127.0.0.1", int(port)), _PATIENCE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(_PATIENCE)
    connection.connect(address)
    return connection


def _ask(connection: socket.socket, line: bytes) -> bytes:
    connection.sendall(line)
    pieces: list[bytes] = []
    while not pieces or not pieces[-1].endswith(b"\n"):
        pieces.append(connection.recv(1 << 18))
        if not pieces[-1]:
            raise ConnectionError
    return b"".join(pieces)


def _ask_http(connection: socket.socket, request: bytes) -> bytes:
    connection.sendall(request)
    data = b""
    while True:
        head, end, body = data.partition(b"\r\n\r\n")
        if end:
            length = int(head.lower().partition(b"\r\ncontent-length:")[2].split(b"\r\n")[0] or b"-1")
            if length < 0 or not head.startswith(b"HTTP/1.1 200 "):
                raise ConnectionError(data)
            if len(body) == length:
                return body
        received = connection.recv(1 << 18)
        if not received:
            raise ConnectionError
        data += received


def main(path: str, lines_file: str, seconds: float, gap: float, pids: Sequence[int]) -> None:
    """Send the lines for so many seconds, and print what came of it."""
    with open(lines_file, "rb") as file:  # noqa: PTH123 - pathlib takes longer to import than the rest
        lines = file.readlines()
    ask = _ask
    if path.startswith("http:"):
        ask = _ask_http
        pairs = zip(lines[::2], lines[1::2], strict=True)
        lines = [json.loads(head).encode() + body.removesuffix(b"\n") for head, body in pairs]
    schedule = _Schedule(pids)
    calls: list[tuple[float, float, float, float, bytes | None]] = []
    late = []
    connection = None
    now = due = began = time.monotonic()
    for line in lines:
        if now < due:
            time.sleep(due - now)
            late.append(time.monotonic() - due)
        spent = time.monotonic() - began
        if spent >= seconds and (len(calls) >= _LEAST_CALLS or spent >= seconds + _PATIENCE):
            break
        ran, waited = schedule.read()
        sent = time.monotonic()
        answer = None
        try:
            if connection is None:
                connection = _connect(path)
            answer = ask(connection, line)
        except OSError:
            if connection is not None:
                connection.close()
            connection = None
        now = time.monotonic()
        ran_then, waited_then = schedule.read()
        calls.append((sent - began, now - sent, (waited_then - waited) / 1e9, (ran_then - ran) / 1e9, answer))
        due = max(sent + gap, now)
    json.dump(
        {"calls": [(*times, answer and answer.decode()) for *times, answer in calls], "late": late},
        sys.stdout,
    )


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main(
            sys.argv[1],
            sys.argv[2],
            float(sys.argv[3]),
            float(sys.argv[4]),
            [int(pid) for pid in sys.argv[5].split(",")],
        )
