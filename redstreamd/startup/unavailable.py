"""Answers MCP clients in place of a server that cannot serve them.

MCP clients show their users the error that the handshake is answered with. A client whose connection only
ends reports "connection closed", and what a server writes to stderr goes to a log that few read.

Used where a start has failed: by the service for everybody who connects, by ``stdio`` for its one client,
and by ``connect`` where no daemon is there. Standard library only, and nothing of redstreamd: ``connect``
runs once per session of a client, and a service that cannot start must not spend a second of processor time
to say so.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

MOST_SECONDS: Final = 10.0
"""How long `answer_clients` accepts by default. Each end lets the service manager start the service anew with
the next client, which is when mended settings are noticed."""

LINGER_SECONDS: Final = 2.0
"""How long `answer_clients` waits for the next client by default, once there was one."""

_EMPTY_SECONDS: Final = 0.2  # without any client; an administrator waits for the outcome of the start
_PATIENCE_SECONDS: Final = (
    1.0  # for the first request of a client at a socket; it is ready when the client connects
)
_PIPE_PATIENCE_SECONDS: Final = 5.0  # for that of a client that has just started this process
_STOP_SECONDS: Final = 0.3  # for the clients that are here when a signal comes
_SLICE_SECONDS: Final = 0.1  # how soon a signal or a deadline is noticed
_MOST_AT_ONCE: Final = 256  # connections; the others wait in the backlog
_MAX_LINE: Final = 64 * 1024  # bytes; the requests of a handshake take about one KiB
_MOST_READS: Final = 16  # of what a client that is let go goes on sending
_MAX_REASON: Final = 4_000  # characters; an answer must fit into the empty buffer of a socket
_MAX_DESCRIPTORS: Final = 4_096  # more is nonsense in the environment
_FIRST_DESCRIPTOR: Final = 3  # SD_LISTEN_FDS_START in sd-daemon.h
_NOT_NOW: Final = -32000  # as the daemon says of what may be sent again later


class _Dialogue:
    """What one client says and is answered, without the I/O.

    It ends after ``initialize``: clients of the newer revision send that when ``server/discover`` failed,
    so the answer to the latter may not be the one they show.
    """

    def __init__(self, reason: str) -> None:
        self._reason = reason if len(reason) <= _MAX_REASON else reason[:_MAX_REASON] + "..."
        self._rest = b""
        self.answered = False
        self.is_over = False

    def feed(self, data: bytes) -> bytes:
        """Take what the client sent and return what it is answered; may be nothing."""
        answers = []
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
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

    def last_words(self) -> bytes:
        """Return what a client is told that has asked nothing: the reason, in answer to no request."""
        return b"" if self.answered else self._error(None)

    def _error(self, request_id: object) -> bytes:
        error = {"code": _NOT_NOW, "message": self._reason}
        return json.dumps({"jsonrpc": "2.0", "id": request_id, "error": error}).encode() + b"\n"


def _request(line: bytes) -> dict[str, Any] | None:
    """Return the request that a line is, or None: a notification, a batch, or nothing of JSON-RPC."""
    try:
        message = json.loads(line)
        request_id, method = message["id"], message["method"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    is_id = isinstance(request_id, str | int) and not isinstance(request_id, bool)
    return message if is_id and isinstance(method, str) else None


def answer_client(reason: str, *, source: int, sink: int) -> None:
    """Answer the client that has started this process with `reason`, until the handshake is over.

    Also returns at the end of `source`, after five seconds, and at what no MCP client sends; at once where
    `source` is a terminal, whose person has read stderr. A client that asks nothing is told nothing. Blocks.

    Args:
        reason: What is wrong and what to do, for a person and a model.
        source: Descriptor to read requests from, one JSON-RPC message a line.
        sink: Descriptor to write answers to.
    """
    if os.isatty(source):
        return
    dialogue = _Dialogue(reason)
    deadline = time.monotonic() + _PIPE_PATIENCE_SECONDS
    # An error is a terminal's EIO, or the client that is gone, or does not read.
    with contextlib.suppress(OSError):
        while not dialogue.is_over and _is_readable(source, deadline):
            data = os.read(source, _MAX_LINE)
            if not data:
                return
            if answers := dialogue.feed(data):
                os.write(sink, answers)


def _is_readable(source: int, deadline: float) -> bool:
    return bool(select.select([source], [], [], max(0.0, deadline - time.monotonic()))[0])


def inherited_listeners(environ: Mapping[str, str] = os.environ) -> list[socket.socket]:
    """Return duplicates of the listening sockets that whoever started this process has handed over.

    By sd_listen_fds(3), whose variables stay as they are, or as standard input. What is wrong with the
    others is for `service.activation` to say. The duplicates are closed on exec and in blocking mode.
    """
    descriptors = [0]
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") == str(os.getpid()) and count.isascii() and count.isdigit():
        descriptors += range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + min(int(count), _MAX_DESCRIPTORS))
    return [found for each in descriptors if (found := _stream_socket(each, listening=True)) is not None]


def inherited_connection() -> socket.socket | None:
    """Return a duplicate of the one socket that standard input and output are, or None.

    That is a client which a service manager or inetd has accepted.
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
    """Whether the client has closed its side already and has sent nothing that could be answered."""
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
    """Answer everybody who connects with `reason`, for as long as clients keep coming; then return.

    For a start that has failed. A service manager starts a service again for as long as somebody waits at its
    socket, so a process that took nobody would turn one failure into a loop, and one that ended with the last
    client would cost a start for each. A client is let go after ``initialize``, when it leaves, and after a
    second; one that has asked nothing by then is told in answer to no request.

    Returns, with every client answered, once no client came for `linger_seconds` (for `empty_seconds`, if
    none came at all), or `most_seconds` after the call. Whoever connects then waits in the backlog for the
    next start. At SIGTERM and SIGINT nobody is accepted any more, and the signal takes its effect when
    those who are here have been answered, after 0.3 s at the latest. Blocks, in the main thread.

    Args:
        listeners: Listening stream sockets; they become non-blocking and stay open.
        reason: What is wrong and what to do, for a person and a model.
        connections: Clients that are connected already; closed on the way out.
        watched: Files and directories that the reason may depend on; they need not exist.
        most_seconds: See above.
        empty_seconds: See above.
        linger_seconds: See above.
    """
    responder = _Responder(list(listeners), reason, list(watched))
    began = time.monotonic()
    for connection in connections:
        responder.let_in(connection)
    with _held_signals() as signals:
        last_at = began
        while not signals and (now := time.monotonic()) < began + most_seconds:
            if responder.is_outdated():
                break
            if responder.turn(accepting=True) or responder.clients:
                last_at = now
            elif now >= last_at + (linger_seconds if responder.had_clients else empty_seconds):
                break
        deadline = time.monotonic() + (_STOP_SECONDS if signals else 2 * _PATIENCE_SECONDS)
        while responder.clients and time.monotonic() < deadline:
            responder.turn(accepting=False)
        responder.close()


@contextlib.contextmanager
def _held_signals() -> Iterator[list[int]]:
    """Collect SIGTERM and SIGINT during the block, and let the first take its effect afterwards."""
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
        self.dialogue = _Dialogue(reason)
        self.deadline = time.monotonic() + _PATIENCE_SECONDS


class _Responder:
    """The loop of `answer_clients`: one thread for all clients, so that a silent one delays nobody."""

    def __init__(self, listeners: list[socket.socket], reason: str, watched: list[str]) -> None:
        self._watched = {path: _version(path) for path in watched}
        for listener in listeners:
            listener.setblocking(False)
        self._listeners = {listener.fileno(): listener for listener in listeners}
        self._reason = reason
        self.clients: dict[int, _Client] = {}
        self.had_clients = False

    def let_in(self, connection: socket.socket) -> None:
        self.had_clients = True
        self.clients[connection.fileno()] = _Client(connection, self._reason)

    def is_outdated(self) -> bool:
        """Whether something that the reason may depend on has changed."""
        return any(_version(path) != version for path, version in self._watched.items())

    def turn(self, *, accepting: bool) -> bool:
        """Do what can be done now, or within a tenth of a second; tell whether there was anything."""
        watched = select.poll()
        for descriptor in self.clients:
            watched.register(descriptor, select.POLLIN)
        if accepting and len(self.clients) < _MOST_AT_ONCE:
            for descriptor in self._listeners:
                watched.register(descriptor, select.POLLIN)
        ready = watched.poll(_SLICE_SECONDS * 1000)
        for descriptor, _ in ready:
            if descriptor in self._listeners:
                # Somebody who comes after a change must not be told what was before it.
                if not self.is_outdated():
                    self._accept(self._listeners[descriptor])
            else:
                self._read(descriptor)
        now = time.monotonic()
        for descriptor in [each for each, client in self.clients.items() if client.deadline <= now]:
            self._let_go(descriptor)
        return bool(ready)

    def close(self) -> None:
        for descriptor in list(self.clients):
            self._let_go(descriptor)

    def _accept(self, listener: socket.socket) -> None:
        # An error: nobody is there any more, or there are no descriptors, and then those in use come free.
        with contextlib.suppress(OSError):
            while len(self.clients) < _MOST_AT_ONCE:
                self.let_in(listener.accept()[0])

    def _read(self, descriptor: int) -> None:
        client = self.clients[descriptor]
        try:
            data = client.connection.recv(_MAX_LINE)
            # At the end, a last line without its newline is complete.
            if answers := client.dialogue.feed(data or b"\n"):
                client.connection.send(answers)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # gone; it needs no explanation
        if not data or client.dialogue.is_over:
            self._let_go(descriptor)

    def _let_go(self, descriptor: int) -> None:
        client = self.clients.pop(descriptor)
        with contextlib.suppress(OSError):
            if last_words := client.dialogue.last_words():
                client.connection.send(last_words)
            client.connection.shutdown(socket.SHUT_WR)
            # What is left unread would reset the connection, which can cost the client our answer.
            for _ in range(_MOST_READS):
                if not client.connection.recv(_MAX_LINE):
                    break
        client.connection.close()
