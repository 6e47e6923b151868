"""What the process says when it is killed for hanging: every thread's stack and the tree of trio tasks.

systemd ends a service whose watchdog was not served with SIGABRT; SIGQUIT is the same by
hand. Two layers, because they fail differently:

* faulthandler writes all Python stacks from inside the C signal handler, whatever state the
  interpreter is in. It cannot know about tasks.
* A handler written in Python adds the task tree, which is best effort: it runs only once the
  main thread executes bytecode again. A loop stuck in Python code, or in a system call, gets there.
  One stuck in C code does not, and then it is left to systemd's SIGKILL (TimeoutAbortSec=) to
  end the process.

Either way the text goes straight to the descriptor, past logging: whoever held a lock, holds it.
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
    """Say these last words on SIGABRT and SIGQUIT, and then die of the signal as without them.

    To be called in the main thread, which is trio's.

    Args:
        descriptor: Where to write: the standard error that becomes journal records.
    """

    def say(number: int, frame: FrameType | None) -> None:
        try:
            _write(descriptor, f"killed by {signal.Signals(number).name}; trio tasks:\n{_tree()}\n")
        finally:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
            # Still here: the first process of a PID namespace does not die of its own signals.
            os._exit(128 + number)

    # The order matters: faulthandler's C handlers have to be on top of ours, write, and pass the
    # signal on. If it is enabled already (PYTHONFAULTHANDLER), it would stay below.
    faulthandler.disable()
    signal.signal(signal.SIGABRT, say)
    faulthandler.enable(descriptor, all_threads=True)
    signal.signal(signal.SIGQUIT, say)
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
