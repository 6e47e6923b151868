"""Answers MCP clients with an error when the daemon cannot serve them.

MCP clients show their users the error that answers the handshake. A client whose connection is only closed
reports "connection closed", and few people read a server's stderr. A client that speaks HTTP gets a 503,
with the error in it.

Used after a failed start by the service and by ``stdio``, and by ``connect`` without a daemon. Standard
library only, and nothing of redstreamd, because imports would take a second of CPU time.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

MOST_SECONDS: Final = 10.0
"""How long `answer_clients` accepts by default. The service manager starts the service again with the next
client, which then uses corrected settings."""

LINGER_SECONDS: Final = 2.0
"""How long `answer_clients` waits for another client by default."""

_EMPTY_SECONDS: Final = 0.2  # how long to wait for a first client
_CLIENT_SECONDS: Final = 1.0  # for the requests of a client of a socket
_PIPE_SECONDS: Final = 5.0  # for the requests of a client that has just started this process
_STOP_SECONDS: Final = 0.3  # for the connected clients after a signal
_POLL_SECONDS: Final = 0.1  # how soon a signal or a deadline is noticed
_MAX_CLIENTS: Final = 256  # at once; the others wait in the backlog
_MAX_LINE: Final = 64 * 1024  # bytes; the requests of a handshake take about one KiB
_MAX_DISCARDED_READS: Final = 16  # of unread input when a client is closed
_MAX_REASON: Final = 4_000  # characters; an answer must fit into the empty buffer of a socket
_MAX_DESCRIPTORS: Final = 4_096  # against invalid environments
_FIRST_DESCRIPTOR: Final = 3  # SD_LISTEN_FDS_START in sd-daemon.h
_NOT_NOW: Final = -32000  # the daemon's code for what may be sent again later
_HTTP: Final = re.compile(rb"[A-Z]{3,10} [!-~]+ HTTP/1\.[01]\r?")  # the first line of a request


class _Conversation:
    """The requests of one client and their answers, without I/O.

    It ends after ``initialize``, which clients of the modern era send when ``server/discover`` failed. They
    may show only the last error.
    """

    def __init__(self, reason: str) -> None:
        self._reason = reason if len(reason) <= _MAX_REASON else reason[:_MAX_REASON] + "..."
        self._rest = b""
        self._is_http = False
        self.answered = False
        self.is_over = False

    def feed(self, data: bytes) -> bytes:
        """Return the answers to what the client sent; may be empty."""
        answers = []
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if self._is_http or _HTTP.fullmatch(line):
                self._is_http = True
                if line in (b"", b"\r"):
                    answers.append(self._response())
                    self.answered = self.is_over = True
                    break
                continue
            request = _request(line)
            if request is None:
                continue
            answers.append(self._error(request["id"]))
            self.answered = True
            if request["method"] == "initialize":
                self.is_over = True
                break
        if len(self._rest) > _MAX_LINE:
            self.is_over = True
        return b"".join(answers)

    def final_line(self) -> bytes:
        """Return the error for a client that has sent no request; it has no id."""
        if self.answered:
            return b""
        return self._response() if self._is_http else self._error(None)

    def _response(self) -> bytes:
        body = self._error(None)
        head = (
            "HTTP/1.1 503 Service Unavailable",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            "Cache-Control: no-store",
            "Retry-After: 1",
            "Connection: close",
        )
        return "\r\n".join((*head, "", "")).encode() + body

    def _error(self, request_id: object) -> bytes:
        error = {"code": _NOT_NOW, "message": self._reason}
        return json.dumps({"jsonrpc": "2.0", "id": request_id, "error": error}).encode() + b"\n"


def _request(line: bytes) -> dict[str, Any] | None:
    """Return the request in a line, or None if it is something else."""
    try:
        message = json.loads(line)
        request_id, method = message["id"], message["method"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    is_id = isinstance(request_id, str | int) and not isinstance(request_id, bool)
    return message if is_id and isinstance(method, str) else None


def answer_client(reason: str, *, source: int, sink: int, timeout_seconds: float = _PIPE_SECONDS) -> None:
    """Answer the client that has started this process with `reason`, until the handshake is over.

    Also returns at the end of `source`, after `timeout_seconds`, and at input that is not MCP; at once if
    `source` is a terminal, whose user has read stderr. Blocks.

    Args:
        reason: What is wrong and what to do, for a person and a model.
        source: Descriptor to read requests from, one JSON-RPC message a line.
        sink: Descriptor to write answers to.
        timeout_seconds: See above.
    """
    if os.isatty(source):
        return
    conversation = _Conversation(reason)
    deadline = time.monotonic() + timeout_seconds
    # An OSError is a terminal's EIO, or the client has gone, or does not read.
    with contextlib.suppress(OSError):
        while not conversation.is_over and _is_readable(source, deadline):
            data = os.read(source, _MAX_LINE)
            if not data:
                return
            if answers := conversation.feed(data):
                os.write(sink, answers)


def _is_readable(source: int, deadline: float) -> bool:
    return bool(select.select([source], [], [], max(0.0, deadline - time.monotonic()))[0])


def inherited_listeners(environ: Mapping[str, str] = os.environ) -> list[socket.socket]:
    """Return duplicates of the inherited listening sockets, by sd_listen_fds(3) or as standard input.

    The variables stay in `environ`, and other descriptors are ignored. The duplicates are close-on-exec and
    blocking.
    """
    descriptors = [0]
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") == str(os.getpid()) and count.isascii() and count.isdigit():
        descriptors += range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + min(int(count), _MAX_DESCRIPTORS))
    return [found for each in descriptors if (found := _stream_socket(each, listening=True)) is not None]


def inherited_connection() -> socket.socket | None:
    """Return a duplicate of the socket that is both standard input and output, or None.

    It is a client's connection, accepted by a service manager or inetd.
    """
    try:
        is_one = os.path.sameopenfile(0, 1)
    except OSError:
        return None
    return _stream_socket(0, listening=False) if is_one else None


def _stream_socket(descriptor: int, *, listening: bool) -> socket.socket | None:
    with contextlib.suppress(OSError):
        if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            found = socket.socket(fileno=os.dup(descriptor))
            is_listening = bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
            if found.type == socket.SOCK_STREAM and is_listening == listening:
                return found
            found.close()
    return None


def has_left(connection: socket.socket) -> bool:
    """Return whether the client has closed its side without sending anything."""
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def answer_clients(
    listeners: Iterable[socket.socket],
    reason: str,
    *,
    connections: Iterable[socket.socket] = (),
    watched: Iterable[str] = (),
    most_seconds: float = MOST_SECONDS,
    empty_seconds: float = _EMPTY_SECONDS,
    linger_seconds: float = LINGER_SECONDS,
) -> None:
    """Answer all clients that connect with `reason`, and return when no more connect.

    For a failed start. The service manager starts the service again while a client waits at its socket, so
    these have to be accepted. A client is closed after ``initialize``, when it disconnects, and after a
    second; if it has sent no request by then, it gets an error without an id.

    Returns when no client has connected for `linger_seconds` (`empty_seconds` for the first), after
    `most_seconds`, or when a watched file changes; later clients wait in the backlog for the next start.
    After SIGTERM or SIGINT no more clients are accepted, and the signal takes effect once the connected ones
    are answered, after 0.3 s at the latest. Blocks; to be called in the main thread.

    Args:
        listeners: Listening stream sockets; they become non-blocking and stay open.
        reason: What is wrong and what to do, for a person and a model.
        connections: Accepted connections; they are closed.
        watched: Files and directories that the reason may depend on; they need not exist.
        most_seconds: See above.
        empty_seconds: See above.
        linger_seconds: See above.
    """
    responder = _Responder(list(listeners), reason, list(watched))
    began = time.monotonic()
    for connection in connections:
        responder.add_client(connection)
    with _held_signals() as signals:
        last_at = began
        while not signals and (now := time.monotonic()) < began + most_seconds:
            if responder.is_outdated():
                break
            if responder.poll(accepting=True) or responder.clients:
                last_at = now
            elif now >= last_at + (linger_seconds if responder.had_clients else empty_seconds):
                break
        deadline = time.monotonic() + (_STOP_SECONDS if signals else 2 * _CLIENT_SECONDS)
        while responder.clients and time.monotonic() < deadline:
            responder.poll(accepting=False)
        responder.close()


@contextlib.contextmanager
def _held_signals() -> Iterator[list[int]]:
    """Collect SIGTERM and SIGINT during the block, and raise the first one afterwards."""
    received: list[int] = []
    former = {
        number: signal.signal(number, lambda number, frame: received.append(number))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield received
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    if received:
        signal.raise_signal(received[0])


def _version(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - pathlib is slow to import
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


class _Client:
    def __init__(self, connection: socket.socket, reason: str) -> None:
        connection.setblocking(False)
        self.connection = connection
        self.conversation = _Conversation(reason)
        self.deadline = time.monotonic() + _CLIENT_SECONDS


class _Responder:
    """Polls the sockets of `answer_clients`, so that a silent client delays no other."""

    def __init__(self, listeners: list[socket.socket], reason: str, watched: list[str]) -> None:
        self._watched = {path: _version(path) for path in watched}
        for listener in listeners:
            listener.setblocking(False)
        self._listeners = {listener.fileno(): listener for listener in listeners}
        self._reason = reason
        self.clients: dict[int, _Client] = {}
        self.had_clients = False

    def add_client(self, connection: socket.socket) -> None:
        self.had_clients = True
        self.clients[connection.fileno()] = _Client(connection, self._reason)

    def is_outdated(self) -> bool:
        """Whether a watched file has changed."""
        return any(_version(path) != version for path, version in self._watched.items())

    def poll(self, *, accepting: bool) -> bool:
        """Handle what is ready within `_POLL_SECONDS`; return whether anything was."""
        watched = select.poll()
        for descriptor in self.clients:
            watched.register(descriptor, select.POLLIN)
        if accepting and len(self.clients) < _MAX_CLIENTS:
            for descriptor in self._listeners:
                watched.register(descriptor, select.POLLIN)
        ready = watched.poll(_POLL_SECONDS * 1000)
        for descriptor, _ in ready:
            if descriptor in self._listeners:
                # After a change the reason may be wrong.
                if not self.is_outdated():
                    self._accept(self._listeners[descriptor])
            else:
                self._read(descriptor)
        now = time.monotonic()
        for descriptor in [each for each, client in self.clients.items() if client.deadline <= now]:
            self._close_client(descriptor)
        return bool(ready)

    def close(self) -> None:
        for descriptor in list(self.clients):
            self._close_client(descriptor)

    def _accept(self, listener: socket.socket) -> None:
        # An OSError: no client waits any more, or no descriptor is free.
        with contextlib.suppress(OSError):
            while len(self.clients) < _MAX_CLIENTS:
                self.add_client(listener.accept()[0])

    def _read(self, descriptor: int) -> None:
        client = self.clients[descriptor]
        try:
            data = client.connection.recv(_MAX_LINE)
            # At the end of the stream, a line without a newline is complete.
            if answers := client.conversation.feed(data or b"\n"):
                client.connection.send(answers)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data or client.conversation.is_over:
            self._close_client(descriptor)

    def _close_client(self, descriptor: int) -> None:
        client = self.clients.pop(descriptor)
        with contextlib.suppress(OSError):
            if final_line := client.conversation.final_line():
                client.connection.send(final_line)
            client.connection.shutdown(socket.SHUT_WR)
            # Closing with unread input resets the connection, and the client may lose our answer.
            for _ in range(_MAX_DISCARDED_READS):
                if not client.connection.recv(_MAX_LINE):
                    break
        client.connection.close()
