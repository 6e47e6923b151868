"""``redstreamd status --watch``: shows the report again and again, until it is interrupted.

On a terminal it is drawn in place on the alternate screen, and drawn anew when the size changes. Elsewhere
reports follow each other, as text or as lines of JSON. A daemon that does not answer, or another one than
before, is told, and nothing ends.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, NoReturn

from redstreamd.cli.status_layout import Line, arranged, layout_of_stdout, terminal_size
from redstreamd.cli.status_request import NoReportError
from redstreamd.cli.status_text import report_lines
from redstreamd.cli.status_units import duration

# Of xterm and those like it (ctlseqs): the alternate screen, without a cursor, and back.
_ENTER: Final = "\x1b[?1049h\x1b[?25l"
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"
_HOME, _ERASE_LINE, _ERASE_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"

Ask = Callable[[], dict[str, Any]]


class _Seen:
    """What was seen of the daemon so far.

    Attributes:
        report: The last report; None before the first.
    """

    def __init__(self) -> None:
        self.report: dict[str, Any] | None = None
        self._at = 0.0
        self._absent = ""
        self._restarted = ""

    def ask(self, ask: Ask) -> None:
        """Ask for a report."""
        try:
            report = ask()
        except NoReportError as none:
            if none.exit_status != os.EX_TEMPFAIL:
                raise
            self._absent = str(none)
            return
        if self.report is not None and _is_another(self.report["process"], report["process"]):
            self._restarted = f"the daemon was restarted, seen at {time.strftime('%H:%M:%S')}"
        self.report, self._at, self._absent = report, time.monotonic(), ""

    def notices(self) -> Iterator[Line]:
        """Yield what is to be known of the report."""
        if self._absent:
            since = (
                ""
                if self.report is None
                else f"; what follows is {duration(time.monotonic() - self._at)} old"
            )
            yield Line("NO DAEMON", f"{self._absent}{since}", "alarm")
        if self._restarted:
            yield Line("restart", self._restarted, "warning")


def _is_another(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Return whether two reports on a process are not of the same one."""
    return bool(before["pid"] != now["pid"] or before["uptime_seconds"] > now["uptime_seconds"])


def watch(ask: Ask, seconds: float, *, as_json: bool) -> NoReturn:
    """Show the report every so many seconds.

    Args:
        ask: Returns it, or raises `NoReportError`.
        seconds: From one request to the next.
        as_json: Whether to print lines of JSON; while there is no report, they have the member `error`.

    Raises:
        KeyboardInterrupt: Ctrl-C, or SIGTERM or SIGHUP; the screen is as it was before.
        NoReportError: The address is not valid.
    """
    if as_json or not sys.stdout.isatty():
        _print(ask, seconds, as_json=as_json)
    with _wakeups() as wakeup, _alternate_screen():
        seen = _Seen()
        while True:
            due_at = time.monotonic() + seconds
            seen.ask(ask)
            _draw(seen, seconds)
            while (left := due_at - time.monotonic()) > 0:
                if select.select([wakeup], [], [], left)[0]:
                    wakeup.recv(4096)
                    _draw(seen, seconds)


def _print(ask: Ask, seconds: float, *, as_json: bool) -> NoReturn:
    seen = _Seen()
    while True:
        due_at = time.monotonic() + seconds
        at = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        if as_json:
            try:
                line = ask()
            except NoReportError as none:
                if none.exit_status != os.EX_TEMPFAIL:
                    raise
                line = {"error": str(none)}
            print(json.dumps({"at": at, **line}), flush=True)
        else:
            seen.ask(ask)
            print("\n".join((at, *_lines(seen), "")), flush=True)
        time.sleep(max(0.0, due_at - time.monotonic()))


def _lines(seen: _Seen) -> list[str]:
    layout = layout_of_stdout()
    lines = [*seen.notices(), *(report_lines(seen.report, layout.glyphs) if seen.report else ())]
    return list(arranged(lines, layout))


def _draw(seen: _Seen, seconds: float) -> None:
    size = terminal_size()
    lines = _lines(seen)
    last = f"every {seconds:g} s, {time.strftime('%H:%M:%S')}; Ctrl-C ends"
    if len(lines) > size.lines - 1:
        shown = max(0, size.lines - 2)
        lines = [*lines[:shown], f"... {len(lines) - shown} more lines: enlarge the window"]
    # A line is erased before it is written: after one that fills it, its last character would be.
    frame = "".join(f"{_ERASE_LINE}{line}\n" for line in lines)
    # Nothing after the last line, which would scroll.
    sys.stdout.write(f"{_HOME}{frame}{_ERASE_BELOW}{last[: size.columns]}")
    sys.stdout.flush()


@contextmanager
def _alternate_screen() -> Iterator[None]:
    """Use the alternate screen; what was there before is there again at the end, whatever ends this."""
    sys.stdout.write(_ENTER)
    try:
        yield
    finally:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()


@contextmanager
def _wakeups() -> Iterator[socket.socket]:
    """Yield a socket that can be read once the size has changed; let signals that end programs end this one.

    They raise KeyboardInterrupt, so that the screen is left.
    """

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    def resized(number: int, frame: FrameType | None) -> None:
        pass

    reading, writing = socket.socketpair()
    handlers = {signal.SIGWINCH: resized, signal.SIGTERM: interrupt, signal.SIGHUP: interrupt}
    with reading, writing:
        reading.setblocking(False)
        writing.setblocking(False)
        before_fd = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield reading
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(before_fd)
