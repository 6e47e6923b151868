"""Runs redstreamd, and tells what only the collector of cycles can free: ``garbage_daemon.py serve ...``.

SIGUSR1 writes ``seen at most:`` and the objects of the largest collection since the daemon has started to
standard error. Then it collects everything, what is out of sight included, and writes ``everything:`` and the
seconds that it took. Nothing is collected from then on. SIGUSR2 writes ``garbage:`` and how many objects of
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

from tests.support.signal_output import write_line

#: Of the interpreter; the daemon sets another once it has started.
USUAL_THRESHOLD = gc.get_threshold()[0]

seen_at_most = 0


def note(phase: str, _: object) -> None:
    """Count what a collection will look at."""
    global seen_at_most
    if phase == "start" and gc.get_threshold()[0] != USUAL_THRESHOLD:
        seen_at_most = max(seen_at_most, *(len(gc.get_objects(each)) for each in range(3)))


def begin(*_: object) -> None:
    """Collect everything now, and nothing from now on."""
    write_line("seen at most:", seen_at_most)
    gc.callbacks.remove(note)
    gc.disable()
    gc.unfreeze()
    began = time.thread_time()
    gc.collect()
    write_line("everything:", time.thread_time() - began)


def end(*_: object) -> None:
    """Tell what has become garbage since."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    types = Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.garbage)
    gc.garbage.clear()
    gc.enable()
    write_line("garbage:", dict(types.most_common(20)))


if __name__ == "__main__":
    gc.callbacks.append(note)
    signal.signal(signal.SIGUSR1, begin)
    signal.signal(signal.SIGUSR2, end)
    sys.argv[0] = str(Path(sys.executable).with_name("redstreamd"))
    sys.path.pop(0)  # this directory, which a program run by its path begins with
    runpy.run_path(sys.argv[0], run_name="__main__")
