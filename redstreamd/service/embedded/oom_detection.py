"""Whether the kernel's OOM killer ended a process of this service: what its control group counts.

Owns the reading of the memory controller's counters, of both versions of control groups. The
counters only rise, so a kill is seen by reading before and after. Sources: cgroups(7), the kernel's
Documentation/admin-guide/cgroup-v2.rst (memory.events) and cgroup-v1/memory.rst (memory.oom_control).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Self

import msgspec

_MEMBERSHIP: Final = Path("/proc/self/cgroup")
_MOUNT: Final = Path("/sys/fs/cgroup")


class OomCounters(msgspec.Struct, frozen=True):
    """What the kernel has counted for one control group.

    Attributes:
        kills: Processes of it that the OOM killer has ended, for whatever lack of memory.
        limit_hits: How often it could not have more memory because of its own limit (MemoryMax=);
            None where the kernel does not count that.
    """

    kills: int
    limit_hits: int | None

    @classmethod
    def parsed(cls, text: str) -> Self:
        """Read ``memory.events`` (version 2) or ``memory.oom_control`` (version 1).

        Raises:
            ValueError: There is no count of kills in it; kernels before 4.13 have none.
        """
        counted = dict(line.split() for line in text.splitlines() if len(line.split()) == 2)
        if "oom_kill" not in counted:
            raise ValueError("no oom_kill in it")
        hits = counted.get("oom")
        return cls(int(counted["oom_kill"]), None if hits is None else int(hits))


def oom_counters(*, membership: Path = _MEMBERSHIP, mount: Path = _MOUNT) -> OomCounters | None:
    """Return the counters of this process's control group; None where they cannot be read.

    Args:
        membership: The file that names the control groups of this process.
        mount: Where control groups are mounted.
    """
    try:
        file = _counter_file(membership.read_text(), mount)
        return None if file is None else OomCounters.parsed(file.read_text())
    except (OSError, ValueError):
        return None


def _counter_file(membership: str, mount: Path) -> Path | None:
    """Return where the counters are; version 1 counts if it has the memory controller."""
    unified = None
    for line in membership.splitlines():
        number, controllers, group = line.split(":", 2)
        if "memory" in controllers.split(","):
            return mount / "memory" / group.lstrip("/") / "memory.oom_control"
        if number == "0":
            unified = mount / group.lstrip("/") / "memory.events"
    return unified


def killed_for_memory(before: OomCounters | None, after: OomCounters | None) -> str | None:
    """Return in words that the OOM killer was at work between two readings, and what to do; None if not.

    Args:
        before: Read while the process ran.
        after: Read after its end.
    """
    if before is None or after is None or after.kills <= before.kills:
        return None
    raise_limit = (
        "raise MemoryMax= and MemoryHigh= of the service (`systemctl edit redstreamd.service`), or keep less "
        "in the streams (stream_manage trims them)"
    )
    more_memory = "give the host more memory, or run less beside redstreamd"
    if before.limit_hits is None or after.limit_hits is None:
        return (
            "the kernel's OOM killer ended it, because the service reached its limit of memory or the host "
            f"ran out of it; {raise_limit}, or {more_memory}"
        )
    if after.limit_hits > before.limit_hits:
        return (
            "the kernel's OOM killer ended it, because the service reached its limit of memory; "
            f"{raise_limit}"
        )
    return f"the kernel's OOM killer ended it, because the host ran out of memory; {more_memory}"
