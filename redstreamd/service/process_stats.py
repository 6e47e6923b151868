"""What this process has used so far, as the kernel counts it."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path
from typing import Final

import msgspec

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
# At most a second or two after the start of the process: the daemon imports this before it serves.
_STARTED: Final = time.monotonic()


class ProcessStats(msgspec.Struct, frozen=True):
    """A snapshot of the process.

    Attributes:
        pid: Its process ID.
        uptime_seconds: Seconds since it started.
        memory_bytes: Resident memory (proc(5), statm); the most so far, if no descriptor is free to read it.
        cpu_seconds: CPU time of all its threads, user and system.
        descriptors: Open file descriptors; the most that it may have, if none is free to count them.
    """

    pid: int
    uptime_seconds: float
    memory_bytes: int
    cpu_seconds: float
    descriptors: int


def process_stats() -> ProcessStats:
    """Return the statistics of the calling process, as of now."""
    return ProcessStats(
        pid=os.getpid(),
        uptime_seconds=round(time.monotonic() - _STARTED, 3),
        memory_bytes=resident_bytes(),
        cpu_seconds=round(time.process_time(), 3),
        descriptors=descriptor_count(),
    )


def resident_bytes() -> int:
    """Return the resident memory of the calling process; see `ProcessStats.memory_bytes`."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * _PAGE_BYTES
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def descriptor_count() -> int:
    """Return the open file descriptors of the calling process; see `ProcessStats.descriptors`."""
    # Linux 6.2 and later count them (proc(5)); before, the size is 0.
    if counted := Path("/proc/self/fd").stat().st_size:
        return counted
    try:
        # Without the descriptor of the listing itself.
        return sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1
    except OSError:
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
