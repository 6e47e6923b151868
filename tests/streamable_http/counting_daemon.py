"""Runs redstreamd, and tells how many tasks it has: ``counting_daemon.py serve ...``.

SIGUSR1 writes ``tasks:``, their number and their names to standard error. The product knows nothing of this.
"""

from __future__ import annotations

import runpy
import signal
import sys
from pathlib import Path

import trio

from tests.support.signal_output import write_line


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
    write_line("tasks:", len(found), *sorted(found))


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, count)
    sys.argv[0] = str(Path(sys.executable).with_name("redstreamd"))
    sys.path.pop(0)  # this directory, which a program run by its path begins with
    runpy.run_path(sys.argv[0], run_name="__main__")
