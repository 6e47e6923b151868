"""Tells the service manager how the daemon is: sd_notify(3), without ever blocking or raising.

Owns the notify socket and the form of the messages. Refuses to know when something is to
be said: READY and STOPPING are the daemon's to say, WATCHDOG and STATUS the watchdog's.

The encoding and sending is the sdnotify package's; what it leaves open is settled here:

* It encodes latin-1 and swallows the error, so that READY=1 in one message with a STATUS
  outside latin-1 never arrives. Text is reduced to printable ASCII on one line before.
* It blocks when the manager does not read. The socket is non-blocking, and what matters
  later too (READY, STATUS, ...) is owed and sent with the next message.
* It connects once. A socket that has gone is connected anew with the next message.
* systemd drops a datagram of more than 4,096 bytes (NOTIFY_BUFFER_MAX in its sources) whole.
"""

from __future__ import annotations

import contextlib
import enum
import os
import socket
import time

import attrs
import sdnotify  # type: ignore[import-untyped]

MAX_DATAGRAM_BYTES = 4096


class Sent(enum.Enum):
    """What became of a message."""

    SENT = enum.auto()
    DISABLED = enum.auto()  # no NOTIFY_SOCKET: nobody asked to be told
    FULL = enum.auto()  # the manager does not read its socket at the moment
    GONE = enum.auto()  # the socket is not there, or not usable


@attrs.frozen
class NotifyStatistics:
    """How the conversation with the service manager goes.

    Attributes:
        sent: Messages handed to the kernel.
        full: Attempts that failed because the manager does not read.
        gone: Attempts that failed because the socket cannot be reached.
        owed: Messages that are waiting for the next attempt.
        last_error: Why the latest failed attempt failed; empty if none ever did.
    """

    sent: int
    full: int
    gone: int
    owed: int
    last_error: str


def one_line(text: str) -> str:
    """Return `text` as printable ASCII on a single line, which is all that a field's value may be."""
    escaped = " ".join(text.split()).encode("ascii", "backslashreplace").decode("ascii")
    return "".join(char if char.isprintable() else "?" for char in escaped)


class Notifier:
    """Sends state to the address in ``NOTIFY_SOCKET``.

    Behaviour:
        Every method returns at once and says what became of the message. If it could not be
        sent now, a state (READY, RELOADING, STOPPING) and the STATUS text are owed: the latest
        of each is kept and goes out before the next message, or on `flush`. WATCHDOG and
        EXTEND_TIMEOUT_USEC are only worth something now and are not kept.

    To be used from one thread.
    """

    # Invariant: `_owed` holds at most one datagram for the state and one for the status.

    def __init__(self, address: str | None) -> None:
        """Prepare to talk to an address; nothing is sent or opened yet.

        Args:
            address: A path, or ``@`` and an abstract name, as in NOTIFY_SOCKET; None or an
                empty string if nobody wants to be told.
        """
        self._address = address or ""
        self._sender: sdnotify.SystemdNotifier | None = None
        self._owed: dict[str, str] = {}
        self._sent = self._full = self._gone = 0
        self._last_error = ""

    @classmethod
    def from_environment(cls) -> Notifier:
        """Take the address out of the environment, so that child processes do not inherit it."""
        return cls(os.environ.pop("NOTIFY_SOCKET", None))

    @property
    def is_enabled(self) -> bool:
        """Whether a service manager wants to be told."""
        return bool(self._address)

    def ready(self, status: str | None = None) -> Sent:
        """Say that the start, or a reload, is complete; optionally with a status text."""
        return self._tell("state", "READY=1", status)

    def reloading(self) -> Sent:
        """Say that the settings are being read again; `ready` has to follow, whatever comes of it.

        systemd wants the time of the reload's beginning in the same message, so that it can
        tell an answer to this reload from an answer to an earlier one.
        """
        return self._tell("state", f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str | None = None) -> Sent:
        """Say that the daemon is on its way out; optionally with a status text."""
        return self._tell("state", "STOPPING=1", status)

    def status(self, text: str) -> Sent:
        """Set the line that ``systemctl status`` shows."""
        return self._tell("status", _status_field(text))

    def extend_timeout(self, seconds: float) -> Sent:
        """Ask for that much time from now on for the start, the reload or the stop under way.

        To be repeated before it is used up, for as long as the work makes progress.
        """
        return self._tell(None, f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}")

    def watchdog(self) -> Sent:
        """Say that the daemon is well."""
        return self._tell(None, "WATCHDOG=1")

    def flush(self) -> Sent:
        """Try again to send what is owed."""
        if not self._address:
            return Sent.DISABLED
        while self._owed:
            slot, message = next(iter(self._owed.items()))
            outcome = self._send(message)
            if outcome is not Sent.SENT:
                return outcome
            del self._owed[slot]
        return Sent.SENT

    def statistics(self) -> NotifyStatistics:
        """Return the counts so far."""
        return NotifyStatistics(self._sent, self._full, self._gone, len(self._owed), self._last_error)

    def close(self) -> None:
        """Close the socket; a later message opens it again."""
        if self._sender is not None:
            self._sender.socket.close()
            self._sender = None

    def _tell(self, slot: str | None, message: str, status: str | None = None) -> Sent:
        if not self._address:
            return Sent.DISABLED
        if status is not None:
            # Both in one datagram: the text is never seen with the state before it.
            message = f"{message}\n{_status_field(status, room=len(message) + 1)}"
            self._owed.pop("status", None)
        if slot is None:
            outcome = self.flush()
            return self._send(message) if outcome is Sent.SENT else outcome
        # A newer state or text replaces the one owed and takes its place in the order.
        self._owed[slot] = message
        return self.flush()

    def _send(self, message: str) -> Sent:
        """Send one datagram; a socket that has gone is connected anew, once per call."""
        for attempt in range(2):
            try:
                if self._sender is None:
                    self._sender = _Sender(self._address)
                self._sender.notify(message)
            except BlockingIOError as exc:
                self._full += 1
                self._last_error = str(exc)
                return Sent.FULL
            except OSError as exc:
                self.close()
                if attempt:
                    self._gone += 1
                    self._last_error = str(exc)
            else:
                self._sent += 1
                return Sent.SENT
        return Sent.GONE


class _Sender(sdnotify.SystemdNotifier):  # type: ignore[misc]
    """The package's notifier on a socket of ours: non-blocking, and closed if it cannot be connected."""

    def __init__(self, address: str) -> None:
        # Not the package's: it reads the environment, and drops a socket that it failed to connect.
        self.debug = True  # its notify() then raises what went wrong
        with contextlib.ExitStack() as stack:
            opened = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            opened.setblocking(False)
            opened.connect("\0" + address[1:] if address.startswith("@") else address)
            stack.pop_all()
        self.socket = opened


def _status_field(text: str, *, room: int = 0) -> str:
    return f"STATUS={one_line(text)}"[: MAX_DATAGRAM_BYTES - room]
