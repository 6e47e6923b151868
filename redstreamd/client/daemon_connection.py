"""The bridge's connection to the daemon: one after the other, without blocking, and when to make the next."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import Final

from redstreamd.client.bridged_session import BridgedSession
from redstreamd.client.line_assembly import LineAssembly
from redstreamd.client.reattaching import CONNECT_SECONDS, Reattaching
from redstreamd.client.write_queue import WriteQueue

_READ_BYTES: Final = 65536
#: A daemon that is lost sooner is not connected to again at once.
STABLE_SECONDS: Final = 1.0


class DaemonConnection:
    """The daemon of one session, over its restarts.

    Attributes:
        socket: The present connection, which may be in the making; None between two.
        number: Its descriptor, to poll; -1 between two.
        is_connected: Whether it is made.
        queue: What waits to be written to it.
        lines: What was read of a line.
        due: When to `connect` if there is none, or to `lose` it if it is in the making; by the session's
            clock. None if neither is to be done.
        is_away: Whether it was reported that the daemon is away, and not yet that it is back.
    """

    def __init__(
        self,
        connection: socket.socket,
        reattaching: Reattaching,
        *,
        session: BridgedSession,
        place: str,
        report: Callable[[str], None],
    ) -> None:
        """Begin with a connection.

        Args:
            connection: The first one.
            reattaching: Makes the next ones.
            session: What is told of them; its clock is used here, too.
            place: The daemon's, for reports.
            report: Called when the daemon goes and when it is back.
        """
        connection.setblocking(False)
        self.socket: socket.socket | None = connection
        self.number = connection.fileno()
        self.is_connected = True
        self.queue = WriteQueue()
        self.lines = LineAssembly()
        self.due: float | None = None
        self.is_away = False
        self._reattaching = reattaching
        self._session = session
        self._place = place
        self._report = report
        self._live_since = session.now()
        # The refusal that was reported last.
        self._told = ""
        self._is_shut = False
        # Writing has failed.
        self._is_broken = False

    def close(self) -> None:
        """Close the present connection, if there is one."""
        if self.socket is not None:
            self.socket.close()

    # ---- lines

    @property
    def can_write(self) -> bool:
        """Whether something is to be written, and may be taken."""
        return self.queue.size > 0 and not self._is_broken

    def send(self, lines: list[bytes]) -> bool:
        """Write lines, and take them away; nothing must be queued. What is not written is queued.

        Returns:
            Whether the connection goes on. If not, what the daemon said last can be read before it is lost.
        """
        connection = self.socket
        if connection is None or self._is_broken:
            self.queue.add(lines)
            return True
        data = lines[0] if len(lines) == 1 else b"".join(lines)
        try:
            written = connection.send(data)
        except BlockingIOError:
            written = 0
        except OSError:
            self.queue.add(lines)
            self._is_broken = True
            return False
        if written == len(data):
            lines.clear()
        else:
            self.queue.add(lines, written)
        return True

    def write_queued(self) -> bool:
        """Write what is queued, as far as it is taken; return as `send`."""
        if self.socket is None or self._is_broken:
            return True
        try:
            self.queue.write(self.socket.send)
        except BlockingIOError:
            pass
        except OSError:
            self._is_broken = True
            return False
        return True

    def receive(self) -> bytes | None:
        """Read what is there: None if nothing; empty at the end, and after an error."""
        if self.socket is None:
            return None
        try:
            return self.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def shut_down(self) -> None:
        """Tell the daemon that no more comes, once it has everything."""
        if self.socket is None or self._is_shut or self.queue or not self._session.is_live:
            return
        self._is_shut = True
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    # ---- one after the other

    def lose(self) -> None:
        """Close the connection, which must be there, and arrange for another if the session needs one."""
        self.close()
        self.socket = None
        self.number = -1
        self.is_connected = False
        self.lines.take_rest()
        session = self._session
        was_live, was_refused = session.is_live, session.greeting.is_refused
        session.lost(self.queue.take())
        now = session.now()
        if was_live and now >= self._live_since + STABLE_SECONDS:
            self._reattaching.reset()
        if session.has_client_ended and session.requests.is_idle:
            self.due = None
            return
        self.due = now + self._reattaching.pause(is_refused=was_refused)
        if not self.is_away:
            self.is_away = True
            self._report(f"the daemon at {self._place} closed the connection; waiting until it is back")

    def connect(self) -> bool:
        """Begin to connect; return whether it is done, and the daemon is greeted."""
        self.due = None
        try:
            connection, is_connected = self._reattaching.connect()
        except OSError:
            self.due = self._session.now() + self._reattaching.pause(is_refused=False)
            return False
        self.socket = connection
        self.number = connection.fileno()
        self._is_shut = self._is_broken = False
        if is_connected:
            self._greet()
        else:
            self.due = self._session.now() + CONNECT_SECONDS
        return is_connected

    def finish_connecting(self) -> bool:
        """Greet the daemon if the connection is made now; return False if it has failed."""
        if self.socket is None or self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            return False
        self._greet()
        return True

    def report(self) -> None:
        """Report what the session has noticed, and whether the daemon is back or refuses."""
        session = self._session
        for notice in session.notices:
            self._report(notice)
        session.notices.clear()
        if not self.is_away:
            return
        refusal = session.greeting.refusal
        if session.is_live:
            self.is_away = False
            self._live_since = session.now()
            self._told = ""
            self._report(f"the daemon at {self._place} is back")
        elif refusal not in ("", self._told):
            self._told = refusal
            self._report(f"the daemon at {self._place} cannot serve: {refusal}")

    def _greet(self) -> None:
        self.due = None
        self.is_connected = True
        self._session.greet()
