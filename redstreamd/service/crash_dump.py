"""Writes the stacks of all threads and the tree of trio tasks when the process is killed for hanging.

systemd sends SIGABRT to a service whose watchdog pings stopped; SIGQUIT is for a person. Two handlers:

* faulthandler writes all Python stacks from the C signal handler, in any state of the interpreter. It does
  not know tasks.
* A Python handler adds the task tree. It runs once the main thread executes bytecode, so not if that is
  stuck in C code; then systemd ends the process with SIGKILL (TimeoutAbortSec=).

Both write to the descriptor without logging, whose locks may be held.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
from types import FrameType

import trio

from redstreamd.service.task_tree import format_task_tree


def install_crash_dump(descriptor: int = 2) -> None:
    """Write a dump on SIGABRT and SIGQUIT, and then end by the signal. To be called in trio's thread.

    Args:
        descriptor: Where to write; standard error goes to the journal.
    """

    def dump(number: int, frame: FrameType | None) -> None:
        try:
            _write(descriptor, f"killed by {signal.Signals(number).name}; trio tasks:\n{_tree()}\n")
        finally:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
            # Reached as the first process of a PID namespace, which its own signals do not end.
            os._exit(128 + number)

    # faulthandler's handlers must be installed last: they write, and call ours. If it was enabled before
    # (PYTHONFAULTHANDLER), it would be below ours.
    faulthandler.disable()
    signal.signal(signal.SIGABRT, dump)
    faulthandler.enable(descriptor, all_threads=True)
    signal.signal(signal.SIGQUIT, dump)
    faulthandler.register(signal.SIGQUIT, descriptor, all_threads=True, chain=True)


def _tree() -> str:
    try:
        root = trio.lowlevel.current_root_task()
    except RuntimeError:
        root = None
    return "(trio is not running)" if root is None else format_task_tree(root)


def _write(descriptor: int, text: str) -> None:
    data = text.encode("utf-8", "backslashreplace")
    with contextlib.suppress(OSError):
        while data:
            data = data[os.write(descriptor, data) :]
