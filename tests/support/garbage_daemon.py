"""Runs redstreamd and tells which objects only the collector of cycles can free: ``garbage_daemon.py serve ...``.

SIGUSR1 begins: collections stop. SIGUSR2 ends: what is garbage by then is written to standard error as one line,
``garbage:`` and how many there are of each type. The product knows nothing of this.
"""

from __future__ import annotations

import gc
import runpy
import signal
import sys
from collections import Counter
from pathlib import Path


def begin(*_: object) -> None:
    """Collect no more, and forget what is garbage already."""
    gc.disable()
    gc.collect()


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
