"""Carries lines between a client's descriptors and the daemon, over as many connections as it takes.

One thread and one poll, in which nothing blocks, so that no direction holds up another. What was read and
cannot be written yet is bounded: then no more is read.
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections import deque
from collections.abc import Callable
from typing import Final

from redstreamd.client.bridged_session import BridgedSession
from redstreamd.client.client_descriptors import ClientDescriptor
from redstreamd.client.line_assembly import LineAssembly
from redstreamd.client.reattaching import CONNECT_SECONDS, Reattaching

#: A longer line of the client is passed on in pieces.
LONG_LINE_BYTES: Final = 1024 * 1024
#: What may wait to be written to either side before no more is read from the other.
MAX_QUEUED_BYTES: Final = 256 * 1024
_READ_BYTES: Final = 65536
#: More than the daemon can have queued: a client that lets the bridge answer must read the answers.
MAX_QUEUED_LINES: Final = 20_000
#: Lines that are written together.
_GATHERED: Final = 64
#: A daemon that is lost sooner is not connected to again at once.
STABLE_SECONDS: Final = 1.0
#: For what a client left behind that ended without closing its pipe.
ORPHAN_SECONDS: Final = 5.0

_GONE: Final = select.POLLERR | select.POLLHUP | select.POLLNVAL


class Queue:
    """Lines that wait to be written, and how much of the first has been."""

    def __init__(self) -> None:
        """Begin empty."""
        self._lines: deque[bytes] = deque()
        self._written = 0
        self.size = 0

    def __len__(self) -> int:
        """Return how many lines wait."""
        return len(self._lines)

    def add(self, lines: list[bytes], written: int = 0) -> None:
        """Take the lines away from a list; of the first ones so much was written, if nothing waits yet."""
        self._lines += lines
        self.size += sum(map(len, lines))
        lines.clear()
        self._advance(written)

    def write(self, write: Callable[[bytes | memoryview], int]) -> None:
        """Write until nothing is left, or no more is taken.

        Raises:
            OSError: From `write`.
        """
        lines = self._lines
        while lines:
            if len(lines) == 1 or self._written or len(lines[0]) >= _READ_BYTES:
                data: bytes | memoryview = (
                    memoryview(lines[0])[self._written :] if self._written else lines[0]
                )
            else:
                data = b"".join([lines[each] for each in range(min(len(lines), _GATHERED))])
            written = write(data)
            if not written:
                return
            self._advance(written)

    def _advance(self, written: int) -> None:
        lines = self._lines
        self.size -= written
        written += self._written
        while lines and written >= len(lines[0]):
            written -= len(lines.popleft())
        self._written = written

    def take(self) -> list[bytes]:
        """Take away what was not written as a whole."""
        lines = list(self._lines)
        self._lines.clear()
        self._written = self.size = 0
        return lines


class Bridge:
    """Runs one session."""

    def __init__(
        self,
        connection: socket.socket,
        reattaching: Reattaching,
        *,
        source: ClientDescriptor,
        sink: ClientDescriptor,
        parent: int | None,
        session: BridgedSession,
        place: str,
        report: Callable[[str], None],
    ) -> None:
        """Carry lines.

        Args:
            connection: The first one.
            reattaching: Makes the next ones.
            source: Where the client writes.
            sink: Where the client reads.
            parent: A pidfd of the process that started this one; None if there is none to be watched.
            session: What is remembered; its clock is used here, too.
            place: The daemon's, for reports.
            report: Called when the daemon goes and when it is back.
        """
        self._reattaching = reattaching
        self._source = source
        self._sink = sink
        self._parent = parent
        self._session = session
        self._place = place
        self._report = report
        self._poll = select.poll()
        self._watched: dict[int, int] = {}
        self._connection: socket.socket | None = None
        self._watched_connection = -1
        self._is_connected = self._is_shut = False
        # Writing has failed.
        self._is_broken = False
        # When to connect, or to give up to connect; by the session's clock, as the next two.
        self._next_at: float | None = None
        self._live_since = session.now()
        self._ends_at: float | None = None
        self._to_daemon = Queue()
        self._to_client = Queue()
        self._from_client = LineAssembly()
        self._from_daemon = LineAssembly()
        self._in_long_line = False
        self._is_away = False
        self._told = ""
        self._is_over = False
        self._use(connection)
        self._is_connected = True
        if parent is not None:
            self._watch(parent, select.POLLIN)

    def run(self) -> None:
        """Return when the client has ended and got its answers, or does not read any more."""
        try:
            self._run()
        finally:
            if self._connection is not None:
                self._connection.close()

    def _run(self) -> None:
        source, sink, session, poll = self._source.number, self._sink.number, self._session, self._poll.poll
        is_armed = False
        while not self._is_over:
            if (
                is_armed
                and session.is_steady
                and not self._to_daemon.size
                and not self._to_client.size
                and self._connection is not None
            ):
                # Nothing has changed but which requests are in flight.
                timeout = None
            else:
                if self._run_timers():
                    return
                is_armed = self._arm()
                timeout = self._timeout()
            for number, events in poll(timeout):
                if number == source:
                    self._read_client()
                elif number == self._watched_connection:
                    self._on_connection(events)
                elif number == sink:
                    if events & _GONE:
                        self._drain_client()
                        return
                    self._write_client()
                elif number == self._parent:
                    self._end_orphaned()

    # ---- what is waited for

    def _arm(self) -> bool:
        """Set what is polled for; return whether both sides are only read from."""
        session = self._session
        wants = (
            not session.has_client_ended
            and self._to_daemon.size < MAX_QUEUED_BYTES
            and len(self._to_client) < MAX_QUEUED_LINES
            and session.wants_input
        )
        self._watch(self._source.number, select.POLLIN if wants else None)
        self._watch(self._sink.number, select.POLLOUT if self._to_client else 0)
        if self._connection is None:
            return False
        if not self._is_connected:
            mask = select.POLLOUT
        else:
            mask = select.POLLIN if self._to_client.size < MAX_QUEUED_BYTES else 0
            mask |= select.POLLOUT if self._to_daemon and not self._is_broken else 0
        self._watch(self._watched_connection, mask)
        return wants and mask == select.POLLIN and not self._to_client and self._ends_at is None

    def _watch(self, number: int, mask: int | None) -> None:
        if self._watched.get(number) == mask:
            return
        if mask is None:
            del self._watched[number]
            self._poll.unregister(number)
        else:
            self._watched[number] = mask
            self._poll.register(number, mask)

    def _timeout(self) -> float | None:
        times = [each for each in (self._next_at, self._ends_at, self._session.deadline) if each is not None]
        if not times:
            return None
        return max(0.0, min(times) - self._session.now()) * 1000 + 1

    def _run_timers(self) -> bool:
        """Do what is due; return whether all is over."""
        session = self._session
        due = session.deadline
        now = session.now()
        if due is not None and now >= due:
            session.expire()
            self._act()
        if self._next_at is not None and now >= self._next_at:
            if self._connection is None:
                self._connect()
            else:
                self._lose()
        if self._ends_at is not None and now >= self._ends_at:
            self._is_over = True
        if session.has_client_ended and self._connection is None and session.is_idle and not self._to_client:
            self._is_over = True
        return self._is_over

    # ---- the client

    def _read_client(self) -> None:
        data = self._source.read()
        if data:
            if data.find(b"\n") + 1 == len(data) and not self._from_client.rest and not self._in_long_line:
                # One line, as of most clients.
                session = self._session
                if not self._to_daemon.size and session.sends_at_once(data):
                    self._send([data])
                else:
                    session.from_client(data)
                    self._act()
            else:
                self._take_from_client(data)
        elif data is not None:
            self._end_client()

    def _take_from_client(self, data: bytes) -> None:
        session = self._session
        if self._in_long_line:
            end = data.find(b"\n") + 1
            self._in_long_line = not end
            piece, data = (data[:end], data[end:]) if end else (data, b"")
            session.from_client_in_pieces(piece, is_first=False, is_last=bool(end))
        lines = self._from_client
        for line in lines.feed(data):
            session.from_client(line)
        if len(lines.rest) > LONG_LINE_BYTES:
            self._in_long_line = True
            session.from_client_in_pieces(lines.take_rest(), is_first=True, is_last=False)
        self._act()

    def _end_client(self) -> None:
        """Note that the client has ended; a last line without a newline is whole, or no JSON."""
        if self._in_long_line or self._from_client.rest:
            self._take_from_client(b"\n")
        self._session.client_ended()
        self._act()

    def _end_orphaned(self) -> None:
        """The process that started this one has ended; somebody else may hold its pipe open."""
        if self._parent is not None:
            self._watch(self._parent, None)
            self._parent = None
        self._drain_client()
        if not self._session.has_client_ended:
            self._end_client()
        self._ends_at = self._session.now() + ORPHAN_SECONDS

    def _drain_client(self) -> None:
        """Take what the client has sent before it ended."""
        ready = select.poll()
        ready.register(self._source.number, select.POLLIN)
        while (
            not self._session.has_client_ended
            and self._to_daemon.size < MAX_QUEUED_BYTES
            and self._session.wants_input
            and ready.poll(0)
        ):
            self._read_client()

    def _write_client(self) -> None:
        try:
            self._to_client.write(self._sink.write)
        except OSError:
            self._is_over = True

    # ---- the daemon

    def _on_connection(self, events: int) -> None:
        connection = self._connection
        if connection is None:
            return
        if not self._is_connected:
            if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._lose()
            else:
                self._greet()
            return
        if events & select.POLLOUT:
            self._write_daemon()
        if events & ~select.POLLOUT and self._connection is connection:
            self._read_daemon(connection)

    def _read_daemon(self, connection: socket.socket) -> bool:
        """Read once; return whether something was there."""
        try:
            data = connection.recv(_READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._lose()
            return False
        session = self._session
        if data.find(b"\n") + 1 == len(data) and not self._from_daemon.rest:
            if not self._to_client.size and not self._sink.may_block and session.gives_at_once(data):
                self._give([data])
                return True
            session.from_daemon(data)
        else:
            for line in self._from_daemon.feed(data):
                session.from_daemon(line)
        self._act()
        return True

    def _send(self, lines: list[bytes]) -> None:
        """Write to the daemon; nothing must be queued. Takes the lines away."""
        connection = self._connection
        if connection is None or self._is_broken:
            self._to_daemon.add(lines)
            return
        data = lines[0] if len(lines) == 1 else b"".join(lines)
        try:
            written = connection.send(data)
        except BlockingIOError:
            written = 0
        except OSError:
            self._to_daemon.add(lines)
            self._break(connection)
            return
        if written == len(data):
            lines.clear()
        else:
            self._to_daemon.add(lines, written)

    def _give(self, lines: list[bytes]) -> None:
        """Write to the client; nothing must be queued. Takes the lines away."""
        data = lines[0] if len(lines) == 1 else b"".join(lines)
        try:
            written = self._sink.write(data)
        except OSError:
            self._is_over = True
            return
        if written == len(data):
            lines.clear()
        else:
            self._to_client.add(lines, written)

    def _write_daemon(self) -> None:
        connection = self._connection
        if connection is None or self._is_broken:
            return
        try:
            self._to_daemon.write(connection.send)
        except BlockingIOError:
            pass
        except OSError:
            self._break(connection)

    def _break(self, connection: socket.socket) -> None:
        """Give up a connection that takes nothing; what the daemon said last can still be read."""
        self._is_broken = True
        while self._connection is connection and self._read_daemon(connection):
            pass
        if self._connection is connection:
            self._lose()

    def _act(self) -> None:
        """Write what the session has to say, and do what it asks for."""
        session = self._session
        if session.to_daemon:
            if self._to_daemon.size:
                self._to_daemon.add(session.to_daemon)
            else:
                self._send(session.to_daemon)
        if session.to_client:
            if self._to_client.size or self._sink.may_block:
                self._to_client.add(session.to_client)
            else:
                self._give(session.to_client)
        if session.notices or self._is_away:
            self._tell()
        if session.is_refused:
            self._lose()
        if session.has_client_ended:
            self._shut_down()

    def _shut_down(self) -> None:
        """Tell the daemon that no more comes, once it has everything."""
        connection = self._connection
        if connection is None or self._is_shut or self._to_daemon or not self._session.is_live:
            return
        self._is_shut = True
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)

    def _tell(self) -> None:
        session = self._session
        for notice in session.notices:
            self._report(notice)
        session.notices.clear()
        if not self._is_away:
            return
        if session.is_live:
            self._is_away = False
            self._live_since = session.now()
            self._told = ""
            self._report(f"the daemon at {self._place} is back")
        elif session.refusal not in ("", self._told):
            self._told = session.refusal
            self._report(f"the daemon at {self._place} cannot serve: {session.refusal}")

    def _use(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._watched_connection = connection.fileno()
        self._is_connected = self._is_shut = self._is_broken = False

    def _lose(self) -> None:
        """Close the connection, and arrange for another."""
        session, connection = self._session, self._connection
        if connection is None:
            return
        self._watch(self._watched_connection, None)
        connection.close()
        self._connection = None
        self._watched_connection = -1
        self._from_daemon.take_rest()
        was_live = session.is_live
        session.lost(self._to_daemon.take())
        now = session.now()
        if was_live and now >= self._live_since + STABLE_SECONDS:
            self._reattaching.reset()
        if session.has_client_ended and session.is_idle:
            self._next_at = None
        else:
            self._next_at = now + self._reattaching.pause(is_refused=session.is_refused)
            if not self._is_away:
                self._is_away = True
                self._report(f"the daemon at {self._place} closed the connection; waiting until it is back")
        session.is_refused = False
        self._act()

    def _connect(self) -> None:
        self._next_at = None
        try:
            connection, is_connected = self._reattaching.connect()
        except OSError:
            self._next_at = self._session.now() + self._reattaching.pause(is_refused=False)
            return
        self._use(connection)
        if is_connected:
            self._greet()
        else:
            self._next_at = self._session.now() + CONNECT_SECONDS

    def _greet(self) -> None:
        self._next_at = None
        self._is_connected = True
        self._session.greet()
        self._act()
