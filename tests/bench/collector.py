"""Runs redstreamd with a note of each pause of Python's collector: ``collector.py FILE serve ...``.

A line of the file is the generation, the time of the end (CLOCK_MONOTONIC) and the length, in seconds of the
thread's time: what else ran on the processor meanwhile is no pause of the collector. The product knows
nothing of this.
"""

from __future__ import annotations

import gc
import os
import runpy
import sys
import time
from pathlib import Path
from typing import Any


def watch(path: str) -> None:
    """Write down every collection from now on."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    began = 0.0

    def note(phase: str, facts: dict[str, Any]) -> None:
        nonlocal began
        used = time.thread_time()
        if phase == "start":
            began = used
        else:
            os.write(file, b"%d %f %f\n" % (facts["generation"], time.monotonic(), used - began))

    gc.callbacks.append(note)


def pauses(path: Path, since: float) -> list[tuple[int, float]]:
    """Return generation and length of each collection that ended after a time."""
    lines = (line.split() for line in path.read_text("ascii").splitlines())
    return [(int(generation), float(length)) for generation, end, length in lines if float(end) > since]


if __name__ == "__main__":
    watch(sys.argv.pop(1))
    sys.argv[0] = str(Path(sys.executable).with_name("redstreamd"))
    sys.path.pop(0)  # this directory, which a program run by its path begins with
    runpy.run_path(sys.argv[0], run_name="__main__")
