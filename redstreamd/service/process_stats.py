"""What this process has used so far, as the kernel counts it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

import attrs

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
# At most a second or two after the start of the process: the daemon imports this before it serves.
_STARTED: Final = time.monotonic()


@attrs.frozen
class ProcessStats:
    """A snapshot of the process.

    Attributes:
        pid: Its process ID.
        uptime_seconds: Seconds since it started.
        memory_bytes: Resident memory (proc(5), statm).
        cpu_seconds: CPU time of all its threads, user and system.
        descriptors: Open file descriptors.
    """

    pid: int
    uptime_seconds: float
    memory_bytes: int
    cpu_seconds: float
    descriptors: int


def process_stats() -> ProcessStats:
    """Return the statistics of the calling process, as of now."""
    resident = Path("/proc/self/statm").read_bytes().split()[1]
    return ProcessStats(
        pid=os.getpid(),
        uptime_seconds=round(time.monotonic() - _STARTED, 3),
        memory_bytes=int(resident) * _PAGE_BYTES,
        cpu_seconds=round(time.process_time(), 3),
        # Without the descriptor of the listing itself.
        descriptors=sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1,
    )
