"""Runs redstreamd, and tells what only the collector of cycles can free: ``garbage_daemon.py serve ...``.

SIGUSR1 collects everything, what is out of sight included, and writes ``everything:`` and the seconds that it
took to standard error. Nothing is collected from then on. SIGUSR2 writes ``garbage:`` and how many objects of
each type have become garbage since. The product knows nothing of this.
"""

from __future__ import annotations

import gc
import runpy
import signal
import sys
import time
from collections import Counter
from pathlib import Path


def begin(*_: object) -> None:
    """Collect everything now, and nothing from now on."""
    gc.disable()
    gc.unfreeze()
    began = time.thread_time()
    gc.collect()
    print("everything:", time.thread_time() - began, file=sys.stderr, flush=True)


def end(*_: object) -> None:
    """Tell what has become garbage since."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    types = Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.garbage)
    gc.garbage.clear()
    gc.enable()
    print("garbage:", dict(types.most_common(20)), file=sys.stderr, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, begin)
    signal.signal(signal.SIGUSR2, end)
    sys.argv[0] = str(Path(sys.executable).with_name("redstreamd"))
    sys.path.pop(0)  # this directory, which a program run by its path begins with
    runpy.run_path(sys.argv[0], run_name="__main__")
