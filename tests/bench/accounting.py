"""What the kernel says of processes: CPU time, memory, and the machine that all this runs on."""

from __future__ import annotations

import os
import platform
import re
import statistics
import sys
import time
from pathlib import Path

import attrs


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far, all its threads together, to the nanosecond (clock_getcpuclockid(3))."""
    return time.clock_gettime((~pid << 3) | 2)


def pss_kib(pid: int) -> int:
    """Memory of a process in KiB, pages that it shares with others in parts (proc_pid_smaps(5))."""
    return _memory_kib(pid, "Pss")


def rss_kib(pid: int) -> int:
    """Memory of a process in KiB, with all pages that it shares."""
    return _memory_kib(pid, "Rss")


def _memory_kib(pid: int, kind: str) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii")
    return int(re.findall(rf"^{kind}: +(\d+) kB", text, re.MULTILINE)[0])


def wait_quiet(pid: int) -> None:
    """Return when a process has used less than 2 % of a core for a fifth of a second; 60 s at most.

    Raises:
        TimeoutError: It stayed busy.
    """
    deadline = time.monotonic() + 60
    while True:
        before = cpu_seconds(pid)
        time.sleep(0.2)
        if cpu_seconds(pid) - before < 0.004:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} stayed busy for a minute")


def busy_seconds() -> float:
    """CPU time of the whole machine so far, with what its host took from it (proc_stat(5))."""
    user, nice, system, _, _, *interrupts_and_stolen = map(
        int, Path("/proc/stat").read_text("ascii").split()[1:9]
    )
    return (user + nice + system + sum(interrupts_and_stolen)) / os.sysconf("SC_CLK_TCK")


@attrs.frozen
class Spent:
    """CPU time of some processes, and of the machine, since this was made."""

    before: dict[int, float]
    busy: float
    began: float

    @classmethod
    def by(cls, *pids: int) -> Spent:
        """Begin to count."""
        return cls({pid: cpu_seconds(pid) for pid in (*pids, os.getpid())}, busy_seconds(), time.monotonic())

    def seconds(self, pid: int) -> float:
        """What one of them has used since."""
        return cpu_seconds(pid) - self.before[pid]

    def others_cores(self, *, besides: float = 0.0) -> float:
        """How many cores all others kept busy; `besides` is CPU time of ours that is not counted here."""
        ours = sum(map(self.seconds, self.before)) + besides
        return max(0.0, busy_seconds() - self.busy - ours) / (time.monotonic() - self.began)


def quantiles_ms(seconds: list[float]) -> dict[str, float]:
    """Median and 99th percentile of times in seconds, in milliseconds."""
    ordered = sorted(seconds)
    return {
        "p50_ms": statistics.median(ordered) * 1e3,
        "p99_ms": ordered[int((len(ordered) - 1) * 0.99)] * 1e3,
    }


def machine() -> dict[str, str]:
    """Describe where this runs, and how much else was running there."""
    model = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE)
    system = platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    return {
        "processor": f"{os.cpu_count()} cores of {model[0] if model else platform.machine()}",
        "system": f"{system}, Linux {platform.release().split('-')[0]}",
        "python": f"{platform.python_version()} ({_interpreter()})",
        "load": " ".join(f"{each:.2f}" for each in os.getloadavg()),
    }


def _interpreter() -> str:
    """Name the interpreter: how it was built makes a fifth of a difference, and Debian's does not tell."""
    own = Path(sys.executable).resolve()
    # Others lie in places that say nothing to a reader.
    return str(own) if own.parent == Path("/usr/bin") else "not the system's"
