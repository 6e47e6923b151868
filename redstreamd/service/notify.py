"""Sends messages to the service manager (sd_notify(3)), without blocking or raising.

When to send them is the caller's. The sdnotify package encodes and sends; added here is:

* It encodes latin-1 and ignores errors, so READY=1 in one message with other text would never arrive. Text is
  converted to printable ASCII on one line.
* It blocks while the manager does not read. Here the socket is non-blocking, and what stays relevant (READY,
  STATUS, ...) is kept and sent with the next message.
* It connects once. Here a failed socket is connected again with the next message.
* systemd drops a datagram of more than 4,096 bytes (NOTIFY_BUFFER_MAX in its sources). Status texts are cut.
"""

from __future__ import annotations

import contextlib
import enum
import os
import socket
import time

import msgspec
import sdnotify  # type: ignore[import-untyped]

from redstreamd.visible_text import visible

MAX_DATAGRAM_BYTES = 4096


class Sent(enum.Enum):
    """The result of sending a message."""

    SENT = enum.auto()
    DISABLED = enum.auto()  # there is no NOTIFY_SOCKET
    FULL = enum.auto()  # the manager does not read its socket
    GONE = enum.auto()  # the socket does not exist or does not work


class NotifyStatistics(msgspec.Struct, frozen=True):
    """Counts of messages so far.

    Attributes:
        sent: Messages sent.
        full: Attempts that failed because the manager does not read.
        gone: Attempts that failed because the socket does not work.
        pending: Messages kept for the next attempt.
        last_error: The error of the latest failed attempt; empty if none failed.
    """

    sent: int
    full: int
    gone: int
    pending: int
    last_error: str


def one_line(text: str) -> str:
    """Return `text` as printable ASCII on one line, as a field's value must be."""
    return visible(" ".join(text.split())).encode("ascii", "backslashreplace").decode("ascii")


class Notifier:
    """Sends state to the address in ``NOTIFY_SOCKET``.

    Behaviour:
        Every method returns at once. A state (READY, RELOADING, STOPPING) and a STATUS that could not be sent
        are kept, the latest of each, and sent before the next message, or by `flush`. WATCHDOG and
        EXTEND_TIMEOUT_USEC are not kept.

    Not thread-safe.
    """

    # Invariant: `_pending` holds at most one datagram for the state and one for the status.

    def __init__(self, address: str | None) -> None:
        """Prepare; nothing is sent or opened yet.

        Args:
            address: A path, or ``@`` and an abstract name, as in NOTIFY_SOCKET; None or empty to disable.
        """
        self._address = address or ""
        self._sender: sdnotify.SystemdNotifier | None = None
        self._pending: dict[str, str] = {}
        self._sent = self._full = self._gone = 0
        self._last_error = ""

    @classmethod
    def from_environment(cls) -> Notifier:
        """Use NOTIFY_SOCKET and remove it from the environment, so that child processes do not inherit it."""
        return cls(os.environ.pop("NOTIFY_SOCKET", None))

    @property
    def is_enabled(self) -> bool:
        """Whether there is a service manager."""
        return bool(self._address)

    def ready(self, status: str | None = None) -> Sent:
        """Report that the start, or a reload, is complete; optionally with a status text."""
        return self._notify("state", "READY=1", status)

    def reloading(self) -> Sent:
        """Report that a reload begins; `ready` has to follow, whatever its result.

        systemd requires the time in the same message, to tell this reload from an earlier one.
        """
        return self._notify("state", f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str | None = None) -> Sent:
        """Report that the daemon is stopping; optionally with a status text."""
        return self._notify("state", "STOPPING=1", status)

    def status(self, text: str) -> Sent:
        """Set the line that ``systemctl status`` shows."""
        return self._notify("status", _status_field(text))

    def extend_timeout(self, seconds: float) -> Sent:
        """Extend the timeout of the start, reload or stop under way to `seconds` from now.

        To be repeated before that has passed, while the work makes progress.
        """
        return self._notify(None, f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}")

    def watchdog(self) -> Sent:
        """Send a watchdog ping."""
        return self._notify(None, "WATCHDOG=1")

    def flush(self) -> Sent:
        """Try again to send the pending messages."""
        if not self._address:
            return Sent.DISABLED
        while self._pending:
            kind, message = next(iter(self._pending.items()))
            outcome = self._send(message)
            if outcome is not Sent.SENT:
                return outcome
            del self._pending[kind]
        return Sent.SENT

    def statistics(self) -> NotifyStatistics:
        """Return the counts so far."""
        return NotifyStatistics(self._sent, self._full, self._gone, len(self._pending), self._last_error)

    def close(self) -> None:
        """Close the socket; a later message opens it again."""
        if self._sender is not None:
            self._sender.socket.close()
            self._sender = None

    def _notify(self, kind: str | None, message: str, status: str | None = None) -> Sent:
        if not self._address:
            return Sent.DISABLED
        if status is not None:
            # In one datagram, so that the text is never shown with the former state.
            message = f"{message}\n{_status_field(status, room=len(message) + 1)}"
            self._pending.pop("status", None)
        if kind is None:
            outcome = self.flush()
            return self._send(message) if outcome is Sent.SENT else outcome
        # A newer message replaces the pending one, in its place.
        self._pending[kind] = message
        return self.flush()

    def _send(self, message: str) -> Sent:
        """Send one datagram; connect a failed socket again, once per call."""
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
    """The package's notifier on our own socket: non-blocking, and closed if it cannot be connected."""

    def __init__(self, address: str) -> None:
        # The package's __init__ reads the environment and leaks a socket that it failed to connect.
        self.debug = True  # makes notify() raise errors
        with contextlib.ExitStack() as stack:
            opened = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            opened.setblocking(False)
            opened.connect("\0" + address[1:] if address.startswith("@") else address)
            stack.pop_all()
        self.socket = opened


def _status_field(text: str, *, room: int = 0) -> str:
    return f"STATUS={one_line(text)}"[: MAX_DATAGRAM_BYTES - room]
