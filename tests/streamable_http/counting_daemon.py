"""Runs redstreamd, and tells how many tasks it has: ``counting_daemon.py serve ...``.

SIGUSR1 writes ``tasks:`` and their number to standard error. The product knows nothing of this.
"""

from __future__ import annotations

import runpy
import signal
import sys
from pathlib import Path

import trio


def count(*_: object) -> None:
    """Tell how many tasks there are now."""
    tasks, found = [trio.lowlevel.current_root_task()], 0
    while tasks:
        task = tasks.pop()
        if task is not None:
            found += 1
            tasks += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    print("tasks:", found, file=sys.stderr, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, count)
    sys.argv[0] = str(Path(sys.executable).with_name("redstreamd"))
    sys.path.pop(0)  # this directory, which a program run by its path begins with
    runpy.run_path(sys.argv[0], run_name="__main__")
