"""Answers an MCP client in place of a daemon that is not there.

Clients show their users the error that the handshake is answered with. What a server writes to
stderr goes to a log that few read, and one that only exits is reported as "connection closed".
"""

from __future__ import annotations

import json
import os
import select
import time

_PATIENCE = 5.0  # seconds; clients send their first request as soon as the process runs
_MAX_LINE = 64 * 1024  # bytes; the requests of a handshake take about one KiB
_NOT_NOW = -32000  # as the daemon says of what may be sent again later


def answer_for_absent(reason: str, *, source: int, sink: int) -> None:
    """Answer each request with `reason` until the handshake is over.

    That is after ``initialize``: clients of the newer revision send it when ``server/discover``
    failed, so the answer to that may not be the one they show. Also returns at the end of `source`,
    after five seconds, and at what no MCP client sends; at once where `source` is a terminal, whose
    person has read stderr.

    Args:
        reason: What is wrong and what to do, for a person and a model.
        source: Descriptor to read requests from, one JSON-RPC message a line.
        sink: Descriptor to write answers to.
    """
    if os.isatty(source):
        return
    deadline = time.monotonic() + _PATIENCE
    rest = b""
    while len(rest) <= _MAX_LINE and _readable(source, deadline):
        try:
            chunk = os.read(source, _MAX_LINE)
        except OSError:
            return  # a terminal's EIO
        if not chunk:
            return
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            try:
                request = json.loads(line)
                method, request_id = request["method"], request["id"]
            except (ValueError, TypeError, KeyError, RecursionError):
                continue  # a notification, or no request at all
            error = {"code": _NOT_NOW, "message": reason}
            answer = {"jsonrpc": "2.0", "id": request_id, "error": error}
            try:
                os.write(sink, json.dumps(answer).encode() + b"\n")
            except OSError:
                return  # the client is gone, or does not read
            if method == "initialize":
                return


def _readable(source: int, deadline: float) -> bool:
    return bool(select.select([source], [], [], max(0.0, deadline - time.monotonic()))[0])
