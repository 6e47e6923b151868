"""Runs redstreamd, and tells how many tasks it has: ``counting_daemon.py serve ...``.

SIGUSR1 writes ``tasks:``, their number and their names to standard error. The product knows nothing of this.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from pathlib import Path

import trio


def count(*_: object) -> None:
    """Tell how many tasks there are now."""
    tasks, found = [trio.lowlevel.current_root_task()], list[str]()
    while tasks:
        task = tasks.pop()
        if task is not None:
            found.append(task.name)
            tasks += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    # Who gives turns is there only while somebody waits for one, or a little longer.
    found = [name for name in found if name != "turns"]
    # Not by sys.stderr: the handler may run while that is being written to, which is an error.
    os.write(2, " ".join(("tasks:", str(len(found)), *sorted(found))).encode() + b"\n")


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, count)
    sys.argv[0] = str(Path(sys.executable).with_name("redstreamd"))
    sys.path.pop(0)  # this directory, which a program run by its path begins with
    runpy.run_path(sys.argv[0], run_name="__main__")
