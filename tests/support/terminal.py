"""A program on a terminal of its own: a pseudo-terminal whose size and keys the test has in hand."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self


class Terminal:
    """Runs a program as the foreground process of a terminal.

    Attributes:
        process: The program.
        shown: What it has written so far.
    """

    def __init__(
        self, words: Sequence[str], environ: Mapping[str, str], *, columns: int = 80, lines: int = 24
    ) -> None:
        """Start it."""
        self._master, end = pty.openpty()
        self.resize(columns, lines)
        self.shown = ""
        try:
            self.process = subprocess.Popen(
                words,
                stdin=end,
                stdout=end,
                stderr=end,
                env=dict(environ),
                start_new_session=True,
                # Keys and sizes reach the program as signals.
                preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            )
        finally:
            os.close(end)

    def __enter__(self) -> Self:
        """Return this."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill the program if it still runs, and close the terminal."""
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def resize(self, columns: int, lines: int) -> None:
        """Change the size, and have the program told so."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def press(self, keys: str) -> None:
        """Press keys; Ctrl-C is ``\\x03``."""
        os.write(self._master, keys.encode())

    def wait_for(self, text: str, seconds: float = 180.0) -> str:
        """Return what was shown since the last call of this, once `text` is among it."""
        return self._read(text, seconds)

    def end(self, seconds: float = 180.0) -> tuple[int, str]:
        """Return the exit status and what was shown since the last call of `wait_for`, once it has ended."""
        rest = self._read(None, seconds)
        return self.process.wait(seconds), rest

    def _read(self, text: str | None, seconds: float) -> str:
        deadline = time.monotonic() + seconds
        while text is None or text not in self.shown:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} was not shown: {self.shown[-2000:]!r}"
            if not select.select([self._master], [], [], left)[0]:
                continue
            data = b""
            with contextlib.suppress(OSError):  # EIO: the program has closed its end
                data = os.read(self._master, 1 << 16)
            if not data:
                assert text is None, f"the program ended: {self.shown[-2000:]!r}"
                break
            # Characters may be cut in two; a test looks at whole frames.
            self.shown += data.decode("utf-8", "replace")
        shown, self.shown = self.shown, ""
        return shown
