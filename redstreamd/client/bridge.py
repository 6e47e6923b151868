"""Carries lines between a client's descriptors and the daemon, over as many connections as it takes.

One thread and one poll, in which nothing blocks, so that no direction holds up another. What was read and
cannot be written yet is bounded: then no more is read.

A client that does not send JSON is given a copy of all bytes instead, over one connection.
"""

from __future__ import annotations

import select
from typing import Final

from redstreamd.client.beginnings import Beginning
from redstreamd.client.bridged_session import BridgedSession
from redstreamd.client.client_descriptors import ClientDescriptor
from redstreamd.client.daemon_connection import DaemonConnection
from redstreamd.client.line_assembly import LineAssembly
from redstreamd.client.write_queue import WriteQueue

#: A longer line of the client is passed on in pieces.
LONG_LINE_BYTES: Final = 1024 * 1024
#: What may wait to be written to either side before no more is read from the other.
MAX_QUEUED_BYTES: Final = 256 * 1024
#: More than the daemon can have queued: a client that lets the bridge answer must read the answers.
MAX_QUEUED_LINES: Final = 20_000
#: For what a client left behind that ended without closing its pipe.
ORPHAN_SECONDS: Final = 5.0

_GONE: Final = select.POLLERR | select.POLLHUP | select.POLLNVAL


class Bridge:
    """Runs one session."""

    def __init__(
        self,
        daemon: DaemonConnection,
        *,
        source: ClientDescriptor,
        sink: ClientDescriptor,
        parent: int | None,
        session: BridgedSession,
    ) -> None:
        """Carry lines.

        Args:
            daemon: The daemon; connected.
            source: Where the client writes.
            sink: Where the client reads.
            parent: A pidfd of the process that started this one; None if there is none to be watched.
            session: What is remembered; its clock is used here, too.
        """
        self._daemon = daemon
        self._source = source
        self._sink = sink
        self._parent = parent
        self._session = session
        self._poll = select.poll()
        self._watched: dict[int, int] = {}
        # When to give up what a client left behind; by the session's clock.
        self._ends_at: float | None = None
        self._to_client = WriteQueue()
        # None once the client has sent the beginning of a message.
        self._beginning: Beginning | None = Beginning()
        self._from_client = LineAssembly()
        self._in_long_line = False
        self._is_over = False
        if parent is not None:
            self._watch(parent, select.POLLIN)

    def run(self) -> bool:
        """Return when the client has ended and got its answers, or does not read any more.

        Returns:
            Whether the daemon ended it: the client does not send JSON, and the daemon closed the connection.
        """
        try:
            self._run()
            beginning, connection = self._beginning, self._daemon.socket
            if beginning is None or not beginning.is_foreign or connection is None:
                return False
            # Rarely needed, and each start would pay for it.
            from redstreamd.client.verbatim import carry_verbatim

            return carry_verbatim(connection, beginning.held, self._source, self._sink)
        finally:
            self._daemon.close()

    def _run(self) -> None:
        source, sink, poll = self._source.number, self._sink.number, self._poll.poll
        session, daemon = self._session, self._daemon
        is_armed = False
        while not self._is_over:
            if (
                is_armed
                and session.is_steady
                and not daemon.queue.size
                and not self._to_client.size
                and daemon.socket is not None
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
                elif number == daemon.number:
                    if events == select.POLLIN:
                        self._read_daemon()
                    else:
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
        session, daemon = self._session, self._daemon
        wants = (
            not session.has_client_ended
            and daemon.queue.size < MAX_QUEUED_BYTES
            and len(self._to_client) < MAX_QUEUED_LINES
            and session.wants_input
        )
        self._watch(self._source.number, select.POLLIN if wants else None)
        self._watch(self._sink.number, select.POLLOUT if self._to_client else 0)
        if daemon.socket is None:
            return False
        if not daemon.is_connected:
            mask = select.POLLOUT
        else:
            mask = select.POLLIN if self._to_client.size < MAX_QUEUED_BYTES else 0
            mask |= select.POLLOUT if daemon.can_write else 0
        self._watch(daemon.number, mask)
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
        times = [
            each
            for each in (self._daemon.due, self._ends_at, self._session.requests.deadline)
            if each is not None
        ]
        if not times:
            return None
        return max(0.0, min(times) - self._session.now()) * 1000 + 1

    def _run_timers(self) -> bool:
        """Do what is due; return whether all is over."""
        session = self._session
        due = session.requests.deadline
        now = session.now()
        if due is not None and now >= due:
            session.expire()
            self._act()
        daemon = self._daemon
        if daemon.due is not None and now >= daemon.due:
            if daemon.socket is not None:
                self._lose()
            elif daemon.connect():
                self._act()
        if self._ends_at is not None and now >= self._ends_at:
            self._is_over = True
        if (
            session.has_client_ended
            and self._daemon.socket is None
            and session.requests.is_idle
            and not self._to_client
        ):
            self._is_over = True
        return self._is_over

    # ---- the client

    def _read_client(self) -> None:
        data = self._source.read()
        if data and self._beginning is not None:
            self._begin(self._beginning, data)
        elif data:
            if data.find(b"\n") + 1 == len(data) and not self._from_client.rest and not self._in_long_line:
                # One line, as of most clients.
                session = self._session
                if not self._daemon.queue.size and session.sends_at_once(data):
                    if not self._daemon.send([data]):
                        self._read_last()
                else:
                    session.from_client(data)
                    self._act()
            else:
                self._take_from_client(data)
        elif data is not None:
            self._end_client()

    def _begin(self, beginning: Beginning, data: bytes) -> None:
        """Take the first bytes of the client."""
        beginning.feed(data)
        if beginning.is_foreign:
            self._is_over = True
        elif beginning.is_known:
            self._beginning = None
            self._take_from_client(beginning.held)

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
        # If it has not even begun, there is nothing to be told.
        self._beginning = None
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
            and self._daemon.queue.size < MAX_QUEUED_BYTES
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
        daemon = self._daemon
        if not daemon.is_connected:
            if daemon.finish_connecting():
                self._act()
            else:
                self._lose()
            return
        connection = daemon.socket
        if events & select.POLLOUT and not daemon.write_queued():
            self._read_last()
        if events & ~select.POLLOUT and daemon.socket is connection:
            self._read_daemon()

    def _read_daemon(self) -> bool:
        """Read once; return whether something was there."""
        daemon = self._daemon
        data = daemon.receive()
        if not data:
            if data is not None:
                self._lose()
            return False
        session = self._session
        if data.find(b"\n") + 1 == len(data) and not daemon.lines.rest:
            if not self._to_client.size and not self._sink.may_block and session.gives_at_once(data):
                self._give([data])
                return True
            session.from_daemon(data)
        else:
            for line in daemon.lines.feed(data):
                session.from_daemon(line)
        self._act()
        return True

    def _read_last(self) -> None:
        """Give up a connection that takes nothing; what the daemon said last can still be read."""
        connection = self._daemon.socket
        while self._daemon.socket is connection and self._read_daemon():
            pass
        if self._daemon.socket is connection:
            self._lose()

    def _lose(self) -> None:
        """Close the connection, and arrange for another."""
        if self._daemon.socket is not None:
            self._watch(self._daemon.number, None)
            self._daemon.lose()
            self._act()

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

    def _act(self) -> None:
        """Write what the session has to say, and do what it asks for."""
        session, daemon = self._session, self._daemon
        if session.to_daemon:
            if daemon.queue.size:
                daemon.queue.add(session.to_daemon)
            elif not daemon.send(session.to_daemon):
                self._read_last()
        if session.to_client:
            if self._to_client.size or self._sink.may_block:
                self._to_client.add(session.to_client)
            else:
                self._give(session.to_client)
        if session.notices or daemon.is_away:
            daemon.report()
        if session.greeting.is_refused:
            self._lose()
        if session.has_client_ended:
            daemon.shut_down()
