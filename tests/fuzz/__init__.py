"""Random input of every kind that reaches redstreamd from outside: requests, settings, replies of Redis.

A run prints its seed, and ``FUZZ_SEED=<seed>`` repeats what it sends.
"""

from __future__ import annotations

import os
import random
from pathlib import Path


def seeded(what: str) -> tuple[random.Random, str]:
    """Return a source of randomness and a text that says how to repeat it."""
    seed = os.environ.get("FUZZ_SEED") or str(random.SystemRandom().randrange(10**9))
    return random.Random(f"{what} {seed}"), f"FUZZ_SEED={seed}"


def forget_peak(pid: int) -> None:
    """Count the most memory of a process from now on."""
    Path(f"/proc/{pid}/clear_refs").write_text("5", "ascii")


def peak_bytes(pid: int) -> int:
    """Return the most memory that a process had at once."""
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
