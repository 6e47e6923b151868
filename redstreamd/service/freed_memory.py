"""Uses large blocks again, and gives memory that was freed back to the system.

By default glibc maps large blocks from the system one by one, and unmaps them when they are freed. Then each
copy of a message of 4 MiB meets a thousand pages that the system has to find and clear first, which takes
longer than the copy. So they are taken from the heap, whose pages are there, whatever their size.

glibc keeps what was freed for the next allocation, and so much that what an entry of 100 MiB takes is there
for the next one. After a peak it is given back, with what lies between
blocks in use (malloc_trim(3)), as soon as the process is idle, or after some time if it never is: it holds up
the event loop for some milliseconds.

Python's own small blocks lie in areas of a megabyte, each of which goes back by itself once nothing in it is
used. So what is kept for long must not be made during a peak, see `recent_maximum`; and what clients make the
daemon remember then is forgotten after it.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from typing import Final

import trio

from redstreamd.service.process_stats import resident_bytes

# malloc.h
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_MAX: Final = -4
#: So much may be free at the end of the heap without being given back at once.
_KEPT_BYTES: Final = 256 * 1024 * 1024
#: How much more than after the last time there must have been.
_PEAK_BYTES: Final = 16 * 1024 * 1024
#: How often that is tried after a peak, and again after so much was given back. What holds an area is often a
#: timer that ends soon, and the block of that is then kept for another object.
_TRIES: Final = 20
_WORTHWHILE_BYTES: Final = 512 * 1024
_TICK_SECONDS: Final = 1.0
#: How much of that time the process may have worked to count as idle.
_IDLE_SHARE: Final = 0.1
#: So many times it is waited for that.
_MOST_BUSY_TICKS: Final = 10
#: Of trio: DEADLINE_HEAP_MIN_PRUNE_THRESHOLD.
_KEPT_DEADLINES: Final = 1_000
#: Of cancel scopes that are made in one step, which takes 0.3 ms.
_DEADLINES_AT_ONCE: Final = 100

_malloc_trim: Final = getattr(ctypes.CDLL(None), "malloc_trim", None)


def reuse_large_blocks() -> bool:
    """Have large blocks taken from the heap from now on; return whether the C library can do that."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return (
        mallopt is not None and mallopt(_M_MMAP_MAX, 0) == 1 and mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES) == 1
    )


async def trim() -> None:
    """Give back at once what was freed, where the C library can do that; the event loop goes on."""
    if _malloc_trim is not None:
        # Without the lock of the interpreter.
        await trio.to_thread.run_sync(_malloc_trim, 0)


async def give_back_freed(
    collect: Callable[[], None], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Give memory back after each peak, once the process is idle or was busy for long; until cancelled.

    Args:
        collect: Frees what is kept to save time, and what the interpreter keeps for new objects.
        task_status: Told when it has begun.
    """
    task_status.started()
    kept = resident_bytes()
    tries = busy = 0
    while True:
        worked = time.process_time()
        await trio.sleep(_TICK_SECONDS)
        is_idle = time.process_time() - worked < _IDLE_SHARE * _TICK_SECONDS
        before = resident_bytes()
        if before > kept + _PEAK_BYTES:
            tries = _TRIES
        busy = 0 if is_idle or not tries else busy + 1
        if tries and (is_idle or busy > _MOST_BUSY_TICKS):
            busy = 0
            collect()
            await _drop_old_deadlines()
            await trim()
            kept = resident_bytes()
            tries = _TRIES if kept < before - _WORTHWHILE_BYTES else tries - 1
        elif not tries:
            kept = min(kept, before)


async def _drop_old_deadlines() -> None:
    """Have trio drop the deadlines of cancel scopes that have ended.

    It keeps up to a thousand more than are in force, with their scopes, until their time, which may be
    minutes later: some in each area that was used during a peak. So as many are made as exceed that.
    """
    left = _KEPT_DEADLINES + 2 * trio.lowlevel.current_statistics().tasks_living
    while left > 0:
        soon = trio.current_time() + _TICK_SECONDS
        for _ in range(_DEADLINES_AT_ONCE):
            with trio.CancelScope(deadline=soon):  # noqa: ASYNC100 - its deadline is all that is wanted
                pass
        left -= _DEADLINES_AT_ONCE
        await trio.lowlevel.checkpoint()
