"""SIGHUP: the wish that the daemon reads its settings again, or the end of the terminal that it runs on.

A closed terminal sends the same signal as `kill -HUP` and `systemctl reload`. The kernel takes the terminal
away from all processes of the session before it sends it (`tty_signal_session_leader` in its sources), so
whoever had one and has none any more lost it. A program started by nohup(1) ignores the signal, and so does a
daemon.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import trio


class Hangups:
    """The signals from the time it was opened on."""

    def __init__(self, signals: AsyncIterator[int]) -> None:
        """Made by `open_hangups`."""
        self._signals = signals
        self._had_terminal = has_terminal()

    async def next_reload(self) -> None:
        """Return when a reload is asked for; several signals before that are one.

        If it is the terminal that has closed, SIGTERM is sent to this process instead.
        """
        async for _ in self._signals:
            if self._had_terminal and not has_terminal():
                signal.raise_signal(signal.SIGTERM)
            else:
                return


@contextmanager
def open_hangups() -> Iterator[Hangups | None]:
    """Receive SIGHUP during the block, where it would end the process; None if it is ignored."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        yield None
        return
    with trio.open_signal_receiver(signal.SIGHUP) as signals:
        yield Hangups(signals)


def has_terminal() -> bool:
    """Return whether this process has a controlling terminal."""
    try:
        descriptor = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    os.close(descriptor)
    return True
